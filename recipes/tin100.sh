#!/usr/bin/env bash
# Do learned features beat random ones, deeper nets shallower ones, several scales one? On images that are free to have:
# nets A, D and E trained on 100 classes of ILSVRC at 64x64 pixels, then Caltech-101 by its whole protocol.
#
#   TIN100=DIR DATA=DIR recipes/tin100.sh OUT
#
# TIN100: a folder with tin100-{train-0..3,val,bbox}.tar.gz, ILSVRC's folders inside. DATA: the data root of caltech101.
# OUT takes everything: nets, descriptors, one JSON file a score, and table.md in the end. Whatever is there already is
# not made again, so a run that was stopped goes on by the same command.
#
# WIDTH (1), EPOCHS_A (20), EPOCHS (10, of D and E), BATCH (64) and RATE (0.01) fit it to a machine. On 2 cores, in hours:
#   WIDTH=0.25 EPOCHS_A=4 EPOCHS=2 BATCH=32
# Expected of published nets, which saw 1.2 million images of 1,000 classes at full size: D 91.8, E 92.3, both 92.7 (Table 11).
set -euo pipefail

out=${1:?usage: TIN100=DIR DATA=DIR recipes/tin100.sh OUT}
width=${WIDTH:-1} batch=${BATCH:-64} rate=${RATE:-0.01}
mkdir -p "$out"/{data/ilsvrc2012,nets,descriptors,svm,evaluate}

unpack() {
    for archive in "${TIN100:?}"/tin100-*.tar.gz; do
        local done_mark="$out/data/$(basename "$archive").unpacked"
        [[ -e $done_mark ]] || { tar -xzf "$archive" -C "$out/data/ilsvrc2012" && touch "$done_mark"; }
    done
}

train_net() { # NAME EPOCHS FLAGS...
    local name=$1 epochs=$2
    shift 2
    [[ -e "$out/nets/$name.done" ]] && return
    # Batch, weights that suit the data, and when the rate falls are not the paper's, whose values need its 370,000 updates.
    vggfeat train --net "$name" --width "$width" --data "$out/data" --epochs "$epochs" --batch-size "$batch" \
        --learning-rate "$rate" --init data-dependent --set schedule.patience=1 --set schedule.least_gain=2 \
        --set "sgd.dropout=${DROPOUT:-0.5}" --resume -o "$out/nets/$name" "$@"
    touch "$out/nets/$name.done"
}

describe() { # NAME FLAGS... -> descriptors/NAME.h5 and svm/NAME.json
    local file="$out/descriptors/$1.h5"
    shift
    vggfeat extract --dataset caltech101 --data "${DATA:?}" -o "$file" --resume "$@"
}

score() { # NAME FLAGS AND FILES... -> svm/NAME.json
    local file="$out/svm/$1.json"
    shift
    [[ -s $file ]] || { vggfeat svm --json "$@" >"$file.part" && mv "$file.part" "$file"; }
}

errors() { # NAME FLAGS AND FILES... -> evaluate/NAME.json
    local file="$out/evaluate/$1.json"
    shift
    [[ -s $file ]] || { vggfeat evaluate --json "$@" >"$file.part" && mv "$file.part" "$file"; }
}

unpack
train_net A "${EPOCHS_A:-20}"
for net in ${NETS:-D E}; do
    train_net "$net" "${EPOCHS:-10}" --init-from "$out/nets/A/best.pt"
done

for net in A ${NETS:-D E}; do
    for kind in trained untrained; do
        weights="$out/nets/$net/best.pt" name="$net-$kind"
        [[ $kind == trained ]] || weights=none
        source=(--net "$net" --weights "$weights")
        [[ $kind == trained ]] || source+=(--width "$width")
        describe "$name-256" "${source[@]}" --scales 256
        score "$name-256" "$out/descriptors/$name-256.h5"
        [[ $kind == trained ]] || continue
        describe "$name-256-no-flip" "${source[@]}" --scales 256 --no-flip
        score "$name-256-no-flip" "$out/descriptors/$name-256-no-flip.h5"
        describe "$name-multi" "${source[@]}" --scales "${SCALES:-256,384,512}" --keep-scales
        for aggregate in stack average max; do
            score "$name-$aggregate" --aggregate "$aggregate" "$out/descriptors/$name-multi.h5"
        done
    done
done
trained=("$out"/descriptors/?-trained-multi.h5)
[[ ${#trained[@]} -lt 2 ]] || score fused-stack --aggregate stack "${trained[@]}"
trained=("$out"/descriptors/?-trained-256.h5)
[[ ${#trained[@]} -lt 2 ]] || score fused-256 "${trained[@]}"

kept=()
for net in A ${NETS:-D E}; do
    for view in dense crops; do
        for scales in single multi; do
            file="$out/evaluate/$net-$view-$scales"
            errors "$net-$view-$scales" --data "$out/data" --weights "$out/nets/$net/best.pt" --view "$view" \
                --scales "$scales" -o "$file.h5" --resume
            [[ $scales == single ]] || kept+=("$file.h5")
        done
    done
    errors "$net-both-multi" "$out/evaluate/$net-dense-multi.h5" "$out/evaluate/$net-crops-multi.h5"
done
errors fused-both-multi "${kept[@]}"

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
