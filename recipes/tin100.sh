#!/usr/bin/env bash
# Do learned features beat random ones, deeper nets shallower ones, several scales a single one? On free images:
# nets A, D and E trained on 100 classes of ILSVRC at 64x64 pixels, then Caltech-101 by its whole protocol.
#
#   TIN100=DIR DATA=DIR recipes/tin100.sh OUT
#
# TIN100: a folder with tin100-{train-0..3,val,bbox}.tar.gz, ILSVRC's folders inside. DATA: the data root of caltech101.
# OUT receives nets, descriptors, a JSON file per score, and at the end table.md. Existing files are kept, so the same
# command continues an interrupted run.
#
# To fit it to a machine: WIDTH (1), EPOCHS_A (20), EPOCHS (10, of D and E), TRAIN and TRAIN_DEEP (further flags of training,
# for all nets, for D and E), NETS ("D E"), SCALES (256,384,512) and DEEP_SCALES (of D and E), which begin with the same one,
# VAL (50 validation images a class) and CROPS ("single multi"). On 2 cores, without E, in two to three hours:
#   WIDTH=0.25 EPOCHS_A=8 EPOCHS=3 TRAIN='--batch-size 32 --set sgd.dropout=0' NETS=D DEEP_SCALES=256 VAL=10 CROPS=single \
#   TRAIN_DEEP='--learning-rate 0.005 --set schedule.patience=1 --set schedule.least_gain=100'
# With --init identity in TRAIN_DEEP, D and E begin by computing what A does; else they take the paper's layers of A.
# Expected of published nets, which saw 1.2 million images of 1,000 classes at full size: D 91.8, E 92.3, both 92.7 (Table 11).
set -euo pipefail

mkdir -p "${1:?usage: TIN100=DIR DATA=DIR recipes/tin100.sh OUT}"
out=$(cd "$1" && pwd)
width=${WIDTH:-1} scales=${SCALES:-256,384,512}
nets="A ${NETS-D E}"
mkdir -p "$out"/{data/ilsvrc2012,nets,descriptors,svm,evaluate}

unpack() {
    local archive mark
    for archive in "${TIN100:?}"/tin100-*.tar.gz; do
        mark=$out/data/$(basename "$archive").unpacked
        [[ ! -e $mark ]] || continue
        tar -xzf "$archive" -C "$out/data/ilsvrc2012"
        touch "$mark"
    done
}

run() { # a verb of vggfeat; 3 means done, but some images could not be read
    vggfeat "$@" || [[ $? == 3 ]]
}

first_of_each_class() { # -> val.csv: evaluation takes as many images of each class as there is time for
    local folder
    echo path,label
    for folder in "$out"/data/ilsvrc2012/val/*; do
        find "$folder/" -name '*.JPEG' | LC_ALL=C sort | sed -n "1,${VAL:-50}s|\$|,$(basename "$folder")|p"
    done
}

train_net() { # NAME EPOCHS FLAGS...
    local name=$1 epochs=$2
    shift 2
    [[ ! -e "$out/nets/$name.done" ]] || return 0
    # Batch, weights that suit the data, and when the rate falls are not the paper's, whose values need its 370,000 updates.
    # shellcheck disable=SC2086
    run train --net "$name" --width "$width" --data "$out/data" --epochs "$epochs" --batch-size 64 --init data-dependent \
        --set schedule.patience=2 --set schedule.least_gain=1 --resume -o "$out/nets/$name" ${TRAIN:-} "$@"
    touch "$out/nets/$name.done"
}

describe() { # NAME FLAGS... -> descriptors/NAME.h5
    local file="$out/descriptors/$1.h5"
    shift
    run extract --dataset caltech101 --data "${DATA:?}" -o "$file" --resume "$@"
}

answer() { # FOLDER/NAME VERB FLAGS AND FILES... -> FOLDER/NAME.json
    local file="$out/$1.json"
    shift
    [[ ! -s $file ]] || return 0
    run "$@" --json >"$file.part"
    mv "$file.part" "$file"
}

unpack
first_of_each_class >"$out/val.csv"
train_net A "${EPOCHS_A:-20}"
for net in ${nets#A}; do
    # shellcheck disable=SC2086
    train_net "$net" "${EPOCHS:-10}" --init-from "$out/nets/A/best.pt" ${TRAIN_DEEP:-}
done

trained=()
first=${scales%%,*}
for net in $nets; do
    [[ $net == A ]] && Qs=$scales || Qs=${DEEP_SCALES:-$scales}
    file="$out/descriptors/$net.h5"
    trained+=("$file")
    describe "$net" --weights "$out/nets/$net/best.pt" --scales "$Qs" --keep-scales
    for Q in ${Qs//,/ }; do
        answer "svm/$net-$Q" svm --scales "$Q" "$file"
    done
    if [[ $Qs == *,* ]]; then
        for aggregate in stack average max; do
            answer "svm/$net-$aggregate" svm --aggregate "$aggregate" "$file"
        done
    fi
    describe "$net-no-flip" --weights "$out/nets/$net/best.pt" --scales "$first" --no-flip
    answer "svm/$net-$first-no-flip" svm "$out/descriptors/$net-no-flip.h5"
    describe "$net-untrained" --net "$net" --weights none --width "$width" --scales "$first"
    answer "svm/$net-$first-untrained" svm "$out/descriptors/$net-untrained.h5"
done
if [[ ${#trained[@]} -gt 1 ]]; then
    answer "svm/fused-$first" svm --scales "$first" "${trained[@]}"
    answer "svm/fused" svm "${trained[@]}"
fi

kept=()
for net in $nets; do
    for rule in single multi; do
        for view in dense crops; do
            [[ $view == dense || " ${CROPS:-single multi} " == *" $rule "* ]] || continue
            answer "evaluate/$net-$view-$rule" evaluate --dataset folder --data "$out/val.csv" --subset all \
                --weights "$out/nets/$net/best.pt" --view "$view" --scales "$rule" -o "$out/evaluate/$net-$view-$rule.h5" --resume
        done
        both=("$out/evaluate/$net"-{dense,crops}-"$rule.h5")
        [[ ! -e ${both[1]} ]] || answer "evaluate/$net-both-$rule" evaluate "${both[@]}"
    done
    kept+=("$out/evaluate/$net-dense-multi.h5")
done
[[ ${#kept[@]} -lt 2 ]] || answer evaluate/fused-dense-multi evaluate "${kept[@]}"

python - "$out" >"$out/table.md" <<'PYTHON'
"""One row a score, from the JSON files."""
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
print("| descriptors of Caltech-101 | mean class recall, % |\n|---|---|")
for path in sorted((out / "svm").glob("*.json")):
    found = json.loads(path.read_text())
    print(f"| {path.stem} | {100 * found['mean']:.1f} +- {100 * found['std']:.1f} |")
print("\n| validation images | top-1/top-5 error, % |\n|---|---|")
for path in sorted((out / "evaluate").glob("*.json")):
    found = json.loads(path.read_text())["rows"][-1]  # the last is the fusion of the others
    print(f"| {path.stem} | {found['top1_error']:.1f}/{found['top5_error']:.1f} |")
PYTHON
cat "$out/table.md"
