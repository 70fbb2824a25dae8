#!/usr/bin/env bash
# Appendix B on Oxford's own convolutional layers of net D (VGG-16): Caltech-101 by its whole protocol, layer by layer,
# with several poolings, flips and scales, beside an untrained net; then a head learnt on 100 classes of ILSVRC over the
# frozen layers, its evaluation as in Tables 3 to 6, localisation as in Tables 8 and 9, and fc7's transfer beside pool5's.
#
#   TRUNK=FILE TIN100=DIR DATA=DIR recipes/oxford-trunk.sh OUT
#
# TRUNK: the convolutional layers of Oxford's net D in any form that vggfeat reads, such as Keras' vgg16 without its top.
# TIN100: a folder with tin100-{train-0..3,val,bbox}.tar.gz, ILSVRC's folders inside. DATA: the data root of caltech101.
# OUT receives descriptors, nets, a JSON file per score, and at the end table.md. Existing files are kept, so the same
# command continues an interrupted run. Without TIN100 the second half is left out.
#
# Costs on 2 cores with AVX2 alone (fp32): net D takes about 0.2 s for a 256x341 picture, so 30 minutes for Caltech-101
# without flips, 60 with, 0.8 times as much again for Q = 128 and 192, and 8 times for five scales up to 512; a third of
# that with native bf16, a fifth with PRECISION=int8 (VNNI). The head of 50,000 pictures: 33 minutes of frozen layers
# and 19 of training with native bf16, and 4 GB while it trains. Disk beside that: 2 GB. To fit it to a machine:
# PRECISION (of descriptors and scores, auto), EACH (pictures of each class for several scales, whole by default; 20
# train on 10), CLASS (training pictures of each class for the head, 500), CROPS (1 crop of each), EPOCHS (10), VAL (50
# validation pictures of each class), CROPPED (fewer of them for several scales and crops, which take 50 to 150 times a
# crop each).
set -euo pipefail

mkdir -p "${1:?usage: TRUNK=FILE TIN100=DIR DATA=DIR recipes/oxford-trunk.sh OUT}"
out=$(cd "$1" && pwd)
trunk=${TRUNK:?TRUNK names the file of the convolutional layers}
precision=${PRECISION:-auto}
mkdir -p "$out"/{descriptors,svm,evaluate}

run() { # a verb of vggfeat; 3 means done, but some images could not be read
    vggfeat "$@" || [[ $? == 3 ]]
}

describe() { # NAME FLAGS... -> descriptors/NAME.h5
    local file="$out/descriptors/$1.h5"
    shift
    run extract -o "$file" --resume --net D --precision "$precision" "$@"
}

answer() { # FOLDER/NAME VERB FLAGS AND FILES... -> FOLDER/NAME.json
    local file="$out/$1.json"
    shift
    [[ ! -s $file ]] || return 0
    run "$@" --json >"$file.part"
    mv "$file.part" "$file"
}

score() { # NAME FILE FLAGS... -> svm/NAME.json
    local name=$1 file="$out/descriptors/$2.h5"
    shift 2
    answer "svm/$name" svm "$file" "$@"
}

poolings() { # NAME FILE FLAGS... -> the scores of pool5's poolings, alone and stacked
    local name=$1 file=$2
    shift 2
    score "$name-average" "$file" --layer pool5 "$@"
    score "$name-max" "$file" --layer pool5:max "$@"
    score "$name-gem" "$file" --layer pool5:gem "$@"
    score "$name-average+max" "$file" --layer pool5 --layer pool5:max "$@"
    score "$name-average+max+gem" "$file" --layer pool5 --layer pool5:max --layer pool5:gem "$@"
}

few_of_each_class() { # COUNT -> a tree of links: the first pictures of each class
    local folder
    for folder in "${DATA:?}"/caltech101/101_ObjectCategories/*/; do
        mkdir -p "$out/few/$(basename "$folder")"
        find "$folder" -name '*.jpg' | LC_ALL=C sort | sed -n "1,$1p" |
            xargs -I{} ln -sf {} "$out/few/$(basename "$folder")/"
    done
}

validation_list() { # COUNT FILE: that many of each class of TIN100's validation pictures
    local folder
    {
        echo path,label
        for folder in "$images"/all/ilsvrc2012/val/*/; do
            find "$folder" -name '*.JPEG' | LC_ALL=C sort | sed -n "1,$1s|\$|,$(basename "$folder")|p"
        done
    } >"$2"
}

evaluated() { # VIEW SINGLE|MULTI LIST PREFIX -> evaluate/PREFIX-VIEW-SCALES.json
    answer "evaluate/$4$1-$2" evaluate --dataset folder --data "$3" --subset all --weights "$out/head/best.pt" \
        --precision "$precision" --view "$1" --scales "$2" -o "$out/evaluate/$4$1-$2.h5" --resume
}

pool5=(--layer pool5 --layer pool5:max --layer pool5:gem)
blocks=(--layer conv1_2 --layer conv2_2 --layer conv3_3 --layer conv4_3 --layer conv5_3)
caltech=(--dataset caltech101 --data "${DATA:?DATA is the data root of caltech101}")

# Without flips: Q = 256, and beside it scales under 224, as pictures of Caltech-101 are about 300x200; then with flips,
# and untrained.
describe noflip "${caltech[@]}" --weights "$trunk" --scales 128,192,256 --keep-scales --no-flip "${blocks[@]}" \
    --layer conv4_3:gem "${pool5[@]}"
for Q in 128 192 256 128,256 192,256 128,192,256; do
    poolings "q$Q-noflip" noflip --scales "$Q"
    score "q$Q-noflip-average+max+gem+conv4_3" noflip --scales "$Q" --layer conv4_3:gem "${pool5[@]}"
done
score q256-noflip-conv5_3+pool5+max noflip --scales 256 --layer conv5_3 --layer pool5 --layer pool5:max
answer svm/q256-noflip-by-layer svm "$out/descriptors/noflip.h5" --scales 256 --by-layer --layer conv1_2 \
    --layer conv2_2 --layer conv3_3 --layer conv4_3 --layer conv5_3 --layer pool5 --report "$out/by-layer" \
    --data "$DATA"
describe untrained-noflip "${caltech[@]}" --weights none --scales 256 --no-flip "${pool5[@]}"
poolings untrained-noflip untrained-noflip
describe q256 "${caltech[@]}" --weights "$trunk" --scales 256 "${pool5[@]}"
poolings q256 q256

# Several scales, larger ones too.
scaled=("${caltech[@]}") fewer=()
if [[ -n ${EACH:-} ]]; then
    few_of_each_class "$EACH"
    scaled=(--dataset folder --data "$out/few") fewer=(--train-per-class $((EACH / 2)))
fi
describe five "${scaled[@]}" --weights "$trunk" --scales 128,192,256,384,512 --keep-scales --no-flip \
    --layer conv4_3:gem "${pool5[@]}"
for Q in 256 384 512; do
    poolings "scales-$Q" five --scales "$Q" "${fewer[@]}"
done
for aggregate in stack average max; do
    poolings "scales-$aggregate" five --scales 256,384,512 --aggregate "$aggregate" "${fewer[@]}"
done
poolings five five "${fewer[@]}"
score five-average+max+gem+conv4_3 five --layer conv4_3:gem "${pool5[@]}" "${fewer[@]}"

# A head for the trunk.
if [[ -n ${TIN100:-} ]]; then
    images="$out/images"
    if [[ ! -e $images/done ]]; then
        mkdir -p "$images/all/ilsvrc2012"
        for archive in "$TIN100"/tin100-*.tar.gz; do
            tar -xzf "$archive" -C "$images/all/ilsvrc2012"
        done
        mkdir -p "$images/ilsvrc2012/train"
        for folder in "$images"/all/ilsvrc2012/train/*/; do
            mkdir -p "$images/ilsvrc2012/train/$(basename "$folder")"
            find "$folder" -name '*.JPEG' | LC_ALL=C sort | sed -n "1,${CLASS:-500}p" |
                xargs -I{} ln -sf {} "$images/ilsvrc2012/train/$(basename "$folder")/"
        done
        for part in "$images"/all/ilsvrc2012/*; do
            [[ $(basename "$part") == train ]] || ln -sfn "$part" "$images/ilsvrc2012/"
        done
        touch "$images/done"
    fi
    run train --net D --init-from "$trunk" --trainable fc --data "$images" --crops "${CROPS:-1}" \
        --epochs "${EPOCHS:-10}" --resume -o "$out/head"
    validation_list "${VAL:-50}" "$out/val.csv"
    views=("$out/val.csv" "")
    evaluated dense single "${views[@]}"
    if [[ -n ${CROPPED:-} ]]; then
        validation_list "$CROPPED" "$out/cropped.csv"
        views=("$out/cropped.csv" "cropped-")
    fi
    for rule in single multi; do
        for view in dense crops; do
            evaluated "$view" "$rule" "${views[@]}"
        done
        answer "evaluate/${views[1]}both-$rule" evaluate "$out/evaluate/${views[1]}"{dense,crops}-"$rule.h5"
    done
    # The head's activations are large: at its rate of 0.001 the loss of boxes becomes infinite, and a last layer of the
    # usual size answers with noise to pictures that it has not learnt.
    run train --task localise --net D --init-from "$out/head/best.pt" --trainable fc --learning-rate 0.0003 \
        --set sgd.dropout=0 --set init.scheme=gaussian --set init.std=0.00001 --data "$images" \
        --crops "${CROPS:-1}" --epochs "${EPOCHS:-10}" --resume -o "$out/boxes"
    answer evaluate/localise-protocol-1 localise --weights "$out/boxes/best.pt" --data "$images" --protocol 1
    answer evaluate/localise localise --weights "$out/boxes/best.pt" --classifier "$out/head/best.pt" --data "$images"
    describe head "${scaled[@]}" --weights "$out/head/best.pt" --scales 256 --layer fc6 --layer fc7 "${pool5[@]}"
    score head-fc6 head --layer fc6 "${fewer[@]}"
    score head-fc7 head --layer fc7 "${fewer[@]}"
    poolings head head "${fewer[@]}"
    score head-fc7+pool5 head --layer fc7 --layer pool5 "${fewer[@]}"
    score head-fc7+average+max head --layer fc7 --layer pool5 --layer pool5:max "${fewer[@]}"
fi

python - "$out" >"$out/table.md" <<'PYTHON'
"""One row a score, from the JSON files."""
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
print("| descriptors of Caltech-101 | mean class recall, % |\n|---|---|")
for path in sorted((out / "svm").glob("*.json")):
    found = json.loads(path.read_text())
    print(f"| {path.stem} | {100 * found['mean']:.1f} +- {100 * found['std']:.1f} |")
    for one in found.get("by_layer", ()):
        print(f"| {path.stem}, {one['layer']} | {100 * one['mean']:.1f} +- {100 * one['std']:.1f} |")
print("\n| validation images | top-1/top-5 error, % |\n|---|---|")
for path in sorted((out / "evaluate").glob("*.json")):
    found = json.loads(path.read_text())
    row = found["rows"][-1] if "rows" in found else found
    print(f"| {path.stem} | {row['top1_error']}/{row['top5_error']} |")
PYTHON
cat "$out/table.md"
