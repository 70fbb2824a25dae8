"""Boxes over whole images and their scores: nets with known answers, so that every coordinate can be computed by hand."""

from __future__ import annotations

import errno
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from located import WNIDS, annotation
from making import commands_on
from PIL import Image
from scipy.io import savemat

from vggfeat.boxes import best_merged
from vggfeat.cli import run
from vggfeat.datasets import Dataset, Sample
from vggfeat.datasets.images import decode, rescale, write_outlined
from vggfeat.errors import OutageError, UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.localisation import Answer
from vggfeat.inference.localiser import Candidates, Localiser, best_boxes, box_head, positions
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.page.localisation import write_page
from vggfeat.stages.localise import localise
from vggfeat.store import FAILED, read_descriptors

FLAGS = ["--device", "cpu", "--precision", "fp32", "--quiet", "--workers", "1"]


def answering(bias, head="scr", names=WNIDS, seed=0) -> VGG:
    """A localisation net that predicts the same targets whatever it sees."""
    net = glorot_(VGG("A", width=1 / 64, num_classes=len(bias)), seed=seed).eval()
    torch.nn.init.zeros_(net.classifier[6].weight)
    net.classifier[6].bias.data = torch.tensor(bias, dtype=torch.float32)
    recipe = {"task": "localise", "localise": {"head": head}, "augment": {"S": [256, 256]}}
    net.training_record = {"recipe": recipe, "class_names": list(names), "mean_box": [0.25, 0.25, 0.75, 0.75]}
    return net


def guessing(scores, names=WNIDS) -> VGG:
    """A classifier that gives every window the same scores."""
    net = glorot_(VGG("A", width=1 / 64, num_classes=len(scores), class_names=tuple(names)), seed=1).eval()
    torch.nn.init.zeros_(net.classifier[6].weight)
    net.classifier[6].bias.data = torch.tensor(scores, dtype=torch.float32)
    return net


@pytest.fixture
def wide(tmp_path) -> Sample:
    """A 100x50 picture: at Q = 256 it is 512x256, with 10x2 windows of the dense form."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return Sample("a", str(tmp_path / "a.png"), 1)


def candidates(localiser: Localiser, *samples: Sample) -> list[Candidates]:
    located = localiser.describe(samples)
    localiser.close()
    assert not located.failures
    return located.candidates


def given(*classes):
    return lambda sample: (np.array(classes), np.linspace(0.9, 0.1, len(classes)))


# Windows


@pytest.mark.parametrize("size", [(224, 224), (256, 341), (300, 225), (250, 512)])
def test_there_are_as_many_windows_as_the_nets_map_has_positions(size):
    net = glorot_(VGG("A", width=1 / 64), seed=0).eval()
    with torch.no_grad():
        mapped = net.dense(torch.zeros(1, 3, *size), "scores")
    assert mapped.shape[1:3] == tuple(map(positions, size))


def test_each_windows_box_is_mapped_back_to_the_image(wide):
    # The window's left half, inset: x from 0 to 112, y from 56 to 168 of 224 pixels; the picture is at 5.12 times its size.
    localiser = Localiser([answering([0.25, 0.5, 0.5, 0.5])], scales=[256], guesses=given(1), flip=False)
    (found,) = candidates(localiser, wide)
    assert found.size == (100, 50)
    expected = [
        [(x + a) / 5.12 for x, a in zip((left, top, left, top), (0, 56, 112, 168), strict=True)]
        for top in (0, 32)
        for left in range(0, 320, 32)
    ]
    assert found.boxes[0] == pytest.approx(np.array(expected), abs=1e-6)
    assert (found.ratings == 0.9).all()


def test_boxes_of_the_mirrored_image_are_mirrored_back(wide):
    net = answering([0.25, 0.5, 0.5, 0.5])
    (plain,) = candidates(Localiser([net], scales=[256], guesses=given(1), flip=False), wide)
    (both,) = candidates(Localiser([net], scales=[256], guesses=given(1), flip=True), wide)
    assert both.boxes[0, :20] == pytest.approx(plain.boxes[0])
    mirrored = both.boxes[0, 20:]
    # Windows lie symmetrically here, and a mirrored view's run from right to left: the mirror images, in order.
    back = np.stack([100 - mirrored[:, 2], mirrored[:, 1], 100 - mirrored[:, 0], mirrored[:, 3]], axis=1)
    assert back == pytest.approx(plain.boxes[0])
    assert not np.allclose(mirrored, plain.boxes[0])


def test_a_box_found_in_the_mirror_image_lies_where_the_object_is(tmp_path):
    """A net that predicts anything predicts the mirrored target for a mirrored picture: both must name one place."""
    pixels = np.random.default_rng(1).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    for name, values in (("a", pixels), ("b", pixels[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / f"{name}.png")
    net = answering([0.3, 0.4, 0.3, 0.3])
    torch.nn.init.normal_(net.classifier[6].weight, std=0.02, generator=torch.Generator().manual_seed(0))
    samples = [Sample(name, str(tmp_path / f"{name}.png"), 0) for name in "ab"]
    here, there = candidates(Localiser([net], scales=[224], guesses=given(0), flip=True), *samples)
    mirror = [
        56 - there.boxes[0, ::-1, 2],
        there.boxes[0, ::-1, 1],
        56 - there.boxes[0, ::-1, 0],
        there.boxes[0, ::-1, 3],
    ]
    assert here.boxes[0] == pytest.approx(np.stack(mirror, axis=1), abs=1e-3)
    assert np.abs(here.boxes[0, 0] - here.boxes[0, 1]).max() > 0.1


def test_boxes_are_cut_at_the_pictures_border(wide):
    (found,) = candidates(Localiser([answering([0.5, 0.5, 3, 3])], scales=[256], guesses=given(1)), wide)
    assert found.boxes.min() >= 0
    assert (found.boxes.max(axis=(0, 1)) <= [100, 50, 100, 50]).all()


def test_the_central_view_is_the_middle_of_the_picture(wide):
    localiser = Localiser([answering([0.5, 0.5, 1, 1])], scales=[256], view="center", guesses=given(1), flip=False)
    (found,) = candidates(localiser, wide)
    assert found.boxes[0] == pytest.approx(np.array([[144, 16, 368, 240]]) / 5.12)


def test_per_class_nets_answer_for_the_guessed_classes_in_whichever_order_they_keep_them(wide):
    boxes = [[0.1 * k, 0.5, 0.2, 0.2] for k in (1, 2, 3)]
    one = answering(np.ravel(boxes).tolist(), "pcr")
    other = answering(np.ravel(boxes[::-1]).tolist(), "pcr", names=WNIDS[::-1])
    (found,) = candidates(Localiser([one, other], scales=[224], guesses=given(2, 0), flip=False), wide)
    assert found.classes.tolist() == [2, 0]
    windows = positions(448)
    assert found.boxes.shape == (2, 2 * windows, 4), "the nets' boxes are united"
    assert found.boxes[:, :windows] == pytest.approx(found.boxes[:, windows:])
    centre = (found.boxes[:, 0, 0] + found.boxes[:, 0, 2]) / 2 * 4.48 / 224
    assert centre == pytest.approx([0.3, 0.1])


def test_scales_and_nets_are_united(wide):
    nets = [answering([0.5, 0.5, 0.5, 0.5]), answering([0.4, 0.5, 0.5, 0.5])]
    (found,) = candidates(Localiser(nets, scales=[224, 256], guesses=given(1), flip=True), wide)
    assert found.boxes.shape == (1, 2 * 2 * (8 * 1 + 10 * 2), 4)
    assert found.ratings.shape == found.boxes.shape[:2]


def test_each_net_may_have_scales_of_its_own(wide):
    nets = [answering([0.5, 0.5, 0.5, 0.5], seed=0), answering([0.4, 0.5, 0.5, 0.5])]
    classifier = glorot_(VGG("A", width=1 / 64, num_classes=3, class_names=WNIDS), seed=3).eval()

    def found(nets, scales):
        (found,) = candidates(Localiser(nets, scales=scales, guesses=given(1), classifier=classifier), wide)
        return found

    both, one, other = found(nets, [[256], [224, 288]]), found(nets[:1], [256]), found(nets[1:], [224, 288])
    assert both.boxes.shape == (1, 2 * 20 + 2 * (8 + 3 * 12), 4)
    assert both.boxes[0] == pytest.approx(np.concatenate([one.boxes[0], other.boxes[0]]))
    assert both.ratings[0] == pytest.approx(np.concatenate([one.ratings[0], other.ratings[0]]), abs=1e-6)
    assert both.ratings[0].std() > 1e-4, "ratings that differ, so that a window at another scale's would be seen"


def test_a_classifier_rates_every_window_by_its_posterior_there(wide):
    classifier = glorot_(VGG("A", width=1 / 64, num_classes=3, class_names=WNIDS[::-1]), seed=3).eval()
    (found,) = candidates(
        Localiser([answering([0.5, 0.5, 0.5, 0.5])], scales=[256], classifier=classifier, flip=False), wide
    )
    picture = rescale(decode(wide.path), 256, "bilinear")
    dense = DenseNet(classifier, "scores")
    with torch.no_grad():
        scores = classifier.dense(dense.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None]), "scores")[0]
    posteriors = scores.reshape(-1, 3).softmax(1).numpy()[:, ::-1]  # in the localisation net's order of classes
    whole = scores.mean((0, 1)).softmax(0).numpy()[::-1]
    assert found.classes.tolist() == np.argsort(-whole).tolist()
    assert found.ratings == pytest.approx(posteriors[:, found.classes].T, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_finds_the_boxes_of_the_cpu(wide):
    net = answering([0.3, 0.4, 0.5, 0.6])
    torch.nn.init.normal_(net.classifier[6].weight, std=0.02)
    (expected,) = candidates(Localiser([net], scales=[224, 256], guesses=given(0)), wide)
    (found,) = candidates(Localiser([net.to("cuda")], scales=[224, 256], guesses=given(0)), wide)
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-2)


def test_images_merged_side_by_side_give_what_each_gives_alone():
    """Of two sizes, so that they fall into groups of four, of one and of two."""
    rng = np.random.default_rng(0)
    images = []
    for i, n in enumerate([12, 12, 7, 12, 12, 7, 12]):
        corner = rng.random((3, n, 2)) * 40
        boxes = np.concatenate([corner, corner + 30 + rng.random((3, n, 2)) * 20], axis=2)
        images.append(Candidates(str(i), (90, 90), np.arange(3), boxes, rng.random((3, n))))
    thresholds = [0.0, 0.5, 1.0]
    for image, best in zip(images, best_boxes(images, thresholds), strict=True):
        assert np.array_equal(best, best_merged(image.boxes, image.ratings, thresholds))
    assert best_boxes([], thresholds) == []


# Nets that do not fit


def test_nets_that_predict_no_boxes_or_other_classes_are_refused():
    classifier = guessing([0.0, 1.0, 2.0])
    classifier.weights_name = "net.pt"
    with pytest.raises(UsageError) as caught:
        Localiser([classifier], scales=[224], guesses=given(0))
    assert str(caught.value) == ("net.pt predicts classes, no boxes")
    other = answering([0.5] * 12, "pcr", names=(*WNIDS[:2], "n09999999"))
    other.weights_name = "other.pt"
    with pytest.raises(UsageError) as caught:
        Localiser([answering([0.5] * 12, "pcr"), other], scales=[224], guesses=given(0))
    assert str(caught.value) == ("other.pt has 3 classes, the first localisation net 3: 'n02119789' is in one alone")
    with pytest.raises(UsageError, match=r"^none: 8 outputs do not fit its 3 classes$"):
        box_head(answering([0.5] * 8, "pcr"))
    with pytest.raises(UsageError, match=r"^localisation needs guesses of the classes: a classifier, or posteriors$"):
        Localiser([answering([0.5] * 4)], scales=[224])


# Protocols


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """56x56 pictures: at Q = 224 one window, which is the whole picture. True boxes: the left half, or the lower half."""
    base = tmp_path_factory.mktemp("data") / "ilsvrc2012"
    (base / "bbox" / "val").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        (base / "val" / wnid).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(10 * label + i).integers(0, 256, (56, 56, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(base / "val" / wnid / f"{wnid}_{i}.JPEG")
            box = (0, 0, 27, 55) if i < 3 else (0, 28, 55, 55)
            (base / "bbox" / "val" / f"{wnid}_{i}.xml").write_text(annotation((56, 56), (wnid, box)))
    return base.parent


LEFT, LOWER = [0.25, 0.5, 0.5, 1.0], [0.5, 0.75, 1.0, 0.5]


def test_protocol_1_asks_the_own_class_at_the_central_crop(root):
    # PCR: right for the left halves of the first two classes, and for the lower halves of the third.
    net = answering(LEFT + LEFT + LOWER, "pcr")
    result = localise(data=root, weights=net, protocol="1", scales=[224], workers=1)
    assert result["images"] == 12
    assert result["top1_error"] == pytest.approx(100 * (1 + 1 + 3) / 12)
    assert result["top5_error"] is None
    assert result["whole_image"] == 100.0, "an IoU of exactly one half is wrong"
    assert result["mean_box"] == 100.0
    assert localise(data=root, weights=net, protocol="1", workers=1)["scales"] == [256], "its training scale"


def test_protocol_2_needs_the_class_and_the_box(root):
    # All windows say: second class, then first, then third. Boxes: left halves.
    arguments = {"data": root, "scales": [224], "flip": False, "threshold": 0.5, "workers": 1}
    result = localise(weights=answering(LEFT), classifier=guessing([1.0, 2.0, 0.0]), **arguments)
    assert result["top1_error"] == pytest.approx(100 * (12 - 3) / 12)
    assert result["top5_error"] == pytest.approx(100 * 3 / 12), (
        "three classes: one of the guesses is always the own one"
    )
    assert (result["threshold"], result["thresholds"]) == (0.5, {})
    whole = localise(weights=answering([0.5, 0.5, 1, 1]), classifier=guessing([1.0, 2.0, 0.0]), **arguments)
    assert whole["top5_error"] == whole["whole_image"] == 100.0


def test_the_threshold_is_chosen_on_images_that_the_errors_leave_out(root):
    # One net is right and one is wrong; merged they are wrong too, and unmerged the first one's box comes first.
    nets = [answering(LEFT), answering([0.35, 0.5, 0.7, 1.0])]
    found = localise(data=root, weights=nets, classifier=guessing([1.0, 2.0, 0.0]), scales=[224], flip=False, workers=1)
    # IoU of the second net's box with the left half is 0.71: right. Of their mean: right. So pick a worse one.
    assert found["images"] == 10, "every tenth of twelve chose"
    assert set(found["thresholds"]) == {"0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8", "1", "1.5", "2"}
    assert found["threshold"] == 0.0, "the lowest of equals"
    # Left half and right half, twice as sure of the right one by two nets that agree: merging all is no better here.
    right = [0.75, 0.5, 0.5, 1.0]
    worse = [answering(right), answering([0.15, 0.5, 0.5, 1.0]), answering([0.35, 0.5, 0.5, 1.0])]
    chosen = localise(
        data=root, weights=worse, classifier=guessing([1.0, 2.0, 0.0]), scales=[224], flip=False, workers=1
    )
    # Unmerged the right half comes first (a tie). The other two, from 0 (cut) to 0.4 and from 0.1 to 0.6 of the width,
    # merge at 0.15 / sqrt(0.45) + 1 - 0.3 / 0.6 = 0.72 to a box from 0.05 to 0.5, which is right and rated twice.
    assert chosen["thresholds"]["0.6"] == 100.0
    assert chosen["thresholds"]["0.8"] == 0.0
    assert chosen["threshold"] == 0.8


def test_scales_are_given_once_or_once_a_net(root, tmp_path, capsys):
    for name in "ab":
        answering(LEFT).save(tmp_path / f"{name}.pt")
    guessing([1.0, 2.0, 0.0]).save(tmp_path / "net.pt")
    command = ["localise", "--data", str(root), "--classifier", str(tmp_path / "net.pt"), "--threshold", "0.5", *FLAGS]
    command += ["--weights", str(tmp_path / "a.pt"), "--weights", str(tmp_path / "b.pt"), "--json"]

    def scales(*flags):
        assert run([*command, *flags]) == 0
        result = json.loads(capsys.readouterr().out)
        return [net["scales"] for net in result["nets"]], result["scales"]

    assert scales("--scales", "224", "--scales", "224,288") == ([[224], [224, 288]], [224, 288])
    assert scales("--scales", "224,256") == ([[224, 256], [224, 256]], [224, 256])
    assert scales() == ([[256], [256]], [256])
    for text, expected in (("[224, 256]", [[224, 256]] * 2), ("[[224], [224, 288]]", [[224], [224, 288]])):
        (tmp_path / "r.toml").write_text(f"[localise]\nscales = {text}\n")
        assert scales("--recipe", str(tmp_path / "r.toml"))[0] == expected
    assert run([*command, *["--scales", "224"] * 3]) == 2
    assert capsys.readouterr().err == ("vggfeat: 3 lists of scales for 2 nets: give one for all, or one for each net\n")
    assert run([*command, "--scales", "200"]) == 2
    assert capsys.readouterr().err == ("vggfeat: scale 200 is under 224, the smallest for fully-connected layers\n")


def test_posteriors_of_evaluate_give_the_classes(root, tmp_path, capsys):
    guessing([1.0, 2.0, 0.0]).save(tmp_path / "net.pt")
    answering(LEFT).save(tmp_path / "loc.pt")
    kept = ["-o", str(tmp_path / "p.h5"), "--scales", "224", "--data", str(root), *FLAGS]
    assert run(["evaluate", "--weights", str(tmp_path / "net.pt"), *kept]) == 0
    base = ["localise", "--weights", str(tmp_path / "loc.pt"), "--scales", "224", "--data", str(root), *FLAGS, "--json"]
    capsys.readouterr()
    assert run([*base, "--posteriors", str(tmp_path / "p.h5"), "--threshold", "0.3"]) == 0
    from_file = json.loads(capsys.readouterr().out)
    assert run([*base, "--classifier", str(tmp_path / "net.pt"), "--threshold", "0.3"]) == 0
    on_the_fly = json.loads(capsys.readouterr().out)
    assert from_file == on_the_fly
    assert from_file["top5_error"] == 25.0
    opened = read_descriptors(tmp_path / "p.h5")
    options = {"weights": tmp_path / "loc.pt", "scales": 224, "threshold": 0.3, "device": "cpu", "precision": "fp32"}
    in_python = localise(data=root, posteriors=opened, report=tmp_path / "page", **options)
    assert in_python.top5_error == 25.0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert f" --posteriors {tmp_path}/p.h5 " in commands_on(page)[0]
    (root / "ilsvrc2012" / "val" / WNIDS[0] / "extra.JPEG").write_bytes(
        (root / "ilsvrc2012" / "val" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").read_bytes()
    )
    (root / "ilsvrc2012" / "bbox" / "val" / "extra.xml").write_text(annotation((56, 56), (WNIDS[0], (0, 0, 9, 9))))
    try:
        assert run([*base, "--posteriors", str(tmp_path / "p.h5")]) == 1
        assert capsys.readouterr().err == (
            f"vggfeat: {tmp_path}/p.h5 has no posteriors of val/{WNIDS[0]}/extra.JPEG: not in the file\n"
        )
    finally:
        (root / "ilsvrc2012" / "val" / WNIDS[0] / "extra.JPEG").unlink()
        (root / "ilsvrc2012" / "bbox" / "val" / "extra.xml").unlink()
    failed = f"val/{WNIDS[1]}/{WNIDS[1]}_1.JPEG"
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        row = file["ids"].asstr()[:].tolist().index(failed)
        file["status"][row], file["errors"][row] = FAILED, b"damaged image"
    assert run([*base, "--posteriors", str(tmp_path / "p.h5"), "--threshold", "0.3"]) == 3
    assert json.loads(capsys.readouterr().out)["failed"] == {failed: "no posteriors: damaged image"}


def test_the_submission_has_a_line_an_image_with_five_numbers_a_guess(root, tmp_path, capsys):
    devkit = root / "ilsvrc2012" / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True, exist_ok=True)
    synsets = np.zeros((3, 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, (number, wnid) in enumerate([(1, WNIDS[2]), (2, WNIDS[0]), (3, WNIDS[1])]):
        synsets[row, 0] = (number, wnid, "words")
    savemat(devkit / "meta.mat", {"synsets": synsets})
    guessing([1.0, 2.0, 0.0]).save(tmp_path / "net.pt")
    answering(LEFT + LOWER + LEFT, "pcr").save(tmp_path / "loc.pt")
    files = ["--weights", str(tmp_path / "loc.pt"), "--classifier", str(tmp_path / "net.pt"), "--data", str(root)]
    made = ["--submission", str(tmp_path / "boxes.txt"), "--draw", str(tmp_path / "drawn")]
    assert run(["localise", *files, *made, "--scales", "224", "--no-flip", "--threshold", "0.5", *FLAGS]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/boxes.txt\n{tmp_path}/drawn\n"
    lines = (tmp_path / "boxes.txt").read_text().splitlines()
    assert lines == ["3 0 28 55 55 2 0 0 27 55 1 0 0 27 55"] * 12
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert len(drawn) == 12
    assert drawn[0] == f"val_{WNIDS[0]}_{WNIDS[0]}_0.jpg"
    picture = np.asarray(Image.open(tmp_path / "drawn" / drawn[0])).astype(int)
    assert picture.shape == (480, 480, 3)
    orange = (picture[..., 0] > 200) & (abs(picture[..., 1] - 165) < 60) & (picture[..., 2] < 90)
    assert orange[238:246].sum() > 3 * 300, "the guess's upper edge, at half the picture's height"
    white = (picture > 230).all(axis=2)
    assert white[5:475, 234:242].sum() > 400, "the true box's right edge, at half its width"


def test_an_unreadable_image_is_told_and_costs_exit_code_3(root, tmp_path, capsys):
    broken = root / "ilsvrc2012" / "val" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    answering(LEFT).save(tmp_path / "loc.pt")
    try:
        flags = [flag for flag in FLAGS if flag != "--quiet"]
        command = ["localise", "--protocol", "1", "--weights", str(tmp_path / "loc.pt"), "--scales", "224"]
        assert run([*command, "--data", str(root), *flags, "--json"]) == 3
    finally:
        broken.write_bytes(content)
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    id = f"val/{WNIDS[0]}/{WNIDS[0]}_3.JPEG"
    assert result["failed"] == {id: "empty file"}
    assert (result["images"], result["tried"]) == (11, 12)
    assert result["top1_error"] == pytest.approx(100 * 2 / 11)
    assert f"skipped {id}: empty file" in captured.err
    assert "1 of 12 images skipped" in captured.err
    assert "the whole image" in captured.err
    assert re.search(r"^A, width 1/64 \(loc\.pt\),  224 .*\nscr +$", captured.err, re.MULTILINE)


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_a_lost_disk_stops_the_run(root, tmp_path, protocol):
    """Eight pictures of a disk that stays, then 30 of one that has gone."""
    there = sorted((root / "ilsvrc2012" / "val" / WNIDS[0]).glob("*.JPEG"))[:4]
    paths = [str(path) for path in there * 2] + [str(tmp_path / f"{i:02}.JPEG") for i in range(30)]
    box = ((0.0, 0.0, 0.5, 1.0),)
    samples = tuple(Sample(f"{i:02}", path, 0, boxes=box) for i, path in enumerate(paths))
    gone = Dataset("ilsvrc2012", samples, WNIDS)
    settings = {"weights": answering(LEFT), "protocol": protocol, "scales": [224], "workers": 1}
    if protocol == "2":
        settings |= {"classifier": guessing([1.0, 0.0, 0.0]), "threshold": 0.5}
    with pytest.raises(OutageError) as caught:
        localise(gone, max_read_failures=20, draw=tmp_path / "drawn", **settings)
    assert str(caught.value) == (
        "20 images in a row cannot be read, the last 27: no such file or directory; their rows stay pending: when the "
        "disk is back, run it again (if they are truly gone, `max_read_failures=0` records them as "
        "failed)"
    )
    assert not (tmp_path / "drawn").exists() or not list((tmp_path / "drawn").iterdir()), "none of a run that failed"
    for most in (0, 31):
        result = localise(gone, max_read_failures=most, **settings)
        assert (result["images"], len(result["failed"]), result["top1_error"]) == (8, 30, 0.0)


def test_an_output_that_cannot_be_written_is_told_before_any_work(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "no.pt").write_text("")  # no net, which its reader would tell
    command = ["localise", "--protocol", "1", "--weights", str(tmp_path / "no.pt"), "--data", str(root), *FLAGS]
    assert run([*command, "--draw", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"vggfeat: {tmp_path}/file/picture: cannot write here: File exists\n"


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(root, tmp_path, monkeypatch, capsys):
    """It has gone when its turn comes, hours after the nets saw it."""

    def full(file, *rest):
        if "_1" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_outlined(file, *rest)

    monkeypatch.setattr("vggfeat.datasets.images.write_outlined", full)
    answering(LEFT).save(tmp_path / "loc.pt")
    command = ["localise", "--protocol", "1", "--weights", str(tmp_path / "loc.pt"), "--scales", "224"]
    flags = [flag for flag in FLAGS if flag != "--quiet"]
    assert run([*command, "--data", str(root), "--draw", str(tmp_path / "drawn"), *flags, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["images"], result["tried"]) == (12, 12)
    ids = [f"val/{wnid}/{wnid}_1.JPEG" for wnid in WNIDS]
    assert result["not_drawn"] == dict.fromkeys(ids, "[Errno 28] No space left on device")
    assert f"3 pictures could not be drawn, the first {ids[0]}: " in captured.err
    assert len(list((tmp_path / "drawn").iterdir())) == 9


def test_the_page_shows_boxes_with_their_iou_lowest_first_and_a_command_that_repeats_it(root, tmp_path, capsys):
    answering(LEFT).save(tmp_path / "loc.pt")
    command = ["localise", "--protocol", "1", "--weights", str(tmp_path / "loc.pt"), "--scales", "224"]
    flags = [*FLAGS, "--data", str(root)]
    assert run([*command, *flags, "--report", str(tmp_path / "page"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(tmp_path / "page" / "index.html")
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert f"{result['top1_error']:.1f} %" in page
    found = [float(value) for value in re.findall(r"JPEG: IoU ([\d.]+);[^<]*</li>", page)]
    # The left half against itself, or against the lower half: a quarter of the picture out of three quarters.
    assert found == sorted(found) == pytest.approx([0.33] * 3 + [1.0] * 9, abs=0.005)
    assert page.count(", right</li>") == 9
    assert page.count(", wrong</li>") == 3
    boxes = re.search(r"<ul[^>]*class=.boxes.>.*?</ul>", page, flags=re.S)
    assert boxes is not None
    assert boxes[0].count('class="true"') == boxes[0].count("<image") == 12
    assert all(words in page for words in ("true box", "surest guess, right", "surest guess, wrong"))
    (line,) = commands_on(page)
    assert run([*shlex.split(line)[1:], "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == result


def test_the_page_sets_off_the_chosen_threshold_and_names_the_true_class_of_a_wrong_guess(tmp_path):
    sample = Sample("a.png", "gone.png", 0, boxes=((0, 0, 0.5, 1),))
    answer = Answer((40, 30), np.array([1]), np.array([[0.0, 0.0, 20.0, 30.0]]))
    errors = {"top1_error": 50.0, "top5_error": 50.0, "whole_image": 90.0, "mean_box": None}
    chosen = {"threshold": 0.5, "thresholds": {"0": 60.0, "0.5": 50.0}}
    result = {"dataset": "ilsvrc2012", "protocol": "2", "nets": [], "images": 1, "failed": {}, **errors, **chosen}
    text = write_page(tmp_path, result, [sample], {"a.png": answer}, ["cat", "dog"], [], exif=False).read_text()
    assert '<tr class="ours"><th scope="row">0.5</th><td>50.0</td></tr>' in text
    assert "a.png: IoU 1.00; guess dog, in fact cat, wrong</li>" in text
    answer = replace(answer, boxes=np.array([[1.0, 0.0, 1.0, 0.0]]))
    text = write_page(tmp_path, result, [sample], {"a.png": answer}, ["cat", "dog"], [], exif=False).read_text()
    assert "a.png: IoU 0.00; guess dog with an empty box, in fact cat, wrong</li>" in text, "there is nothing to see"


def test_the_page_comes_without_pictures_that_have_gone(root, tmp_path, monkeypatch):
    monkeypatch.setattr("vggfeat.page.localisation.Pictures.uri", lambda self, id: None)
    page = localise(data=root, weights=answering(LEFT), protocol="1", scales=[224], workers=1, report=tmp_path).report
    text = Path(page).read_text(encoding="utf-8")
    assert text.count(": IoU ") == 12
    assert "<image" not in text
    assert "<dt>net 1</dt><dd>A, width 1/64, random weights at Q 224</dd>" in text


def test_pictures_are_drawn_as_the_nets_saw_them(tmp_path):
    """A picture that EXIF turns by a quarter: its box is drawn where it lies in the turned picture."""
    turned = Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    mine = Dataset("mine", (Sample("a", str(tmp_path / "a.jpg"), 0, boxes=((0.0, 0.0, 1.0, 0.5),)),), WNIDS, exif=True)
    localise(mine, weights=answering(LEFT), protocol="1", scales=[224], workers=1, draw=tmp_path / "drawn")
    picture = np.asarray(Image.open(tmp_path / "drawn" / "a.jpg")).astype(int)
    assert picture.shape == (960, 480, 3)
    white = (picture > 230).all(axis=2)
    assert white[474:482].sum() > 3 * 300, "the true box's lower edge, at half the picture's height"


def test_images_without_a_box_are_counted_and_left_out(root):
    file = root / "ilsvrc2012" / "bbox" / "val" / f"{WNIDS[2]}_0.xml"
    content = file.read_text()
    file.unlink()
    try:
        result = localise(data=root, weights=answering(LEFT), protocol="1", scales=[224], workers=1)
    finally:
        file.write_text(content)
    assert (result["images"], result["unlocated"]) == (11, 1)


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "protocol 2 takes its classes from --posteriors FILE.h5 or from --classifier CKPT: give one"),
        (
            ["--posteriors", "p.h5", "--classifier", "n.pt"],
            "protocol 2 takes its classes from --posteriors FILE.h5 or from --classifier CKPT: give one",
        ),
        (
            ["--protocol", "1", "--classifier", "n.pt"],
            "protocol 1 is told the class: it takes no posteriors, no classifier, no submission, no test set",
        ),
        (
            ["--protocol", "1", "--scales", "256,384"],
            "protocol 1 looks at the central crop at one scale: name one, or take --protocol 2",
        ),
        (["--classifier", "n.pt", "--threshold", "-1"], "threshold -1.0 is not 0 or more"),
        (
            ["--classifier", "n.pt", "--subset", "test"],
            "the test set has no boxes here to choose or score with: give --threshold and --submission",
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys):
    assert run(["localise", "--weights", "loc.pt", *arguments]) == 2
    assert capsys.readouterr().err == f"vggfeat: {message}\n"


def test_a_net_that_predicts_no_boxes_is_named_before_missing_data(tmp_path, capsys):
    guessing([1.0, 2.0, 0.0]).save(tmp_path / "net.pt")
    command = ["localise", "--protocol", "1", "--weights", str(tmp_path / "net.pt"), "--data", str(tmp_path), *FLAGS]
    assert run(command) == 2
    said = "net.pt predicts classes, no boxes: 'vggfeat train --task localise' makes a net that does"
    assert capsys.readouterr().err == f"vggfeat: {said}\n"
    answering(LEFT).save(tmp_path / "net.pt")
    assert run(command) == 1
    assert capsys.readouterr().err.startswith(f"vggfeat: no ilsvrc2012 at {tmp_path}/ilsvrc2012 (val/ missing)")


def test_missing_data_and_missing_nets_are_named(root, tmp_path, capsys):
    for data in (root, tmp_path):  # a slip in a name is mended sooner than missing data
        assert run(["localise", "--protocol", "1", "--weights", str(tmp_path / "no.pt"), "--data", str(data)]) == 2
        assert capsys.readouterr().err == (
            f"vggfeat: no weights '{tmp_path}/no.pt': no such file, and not one of published, oxford, oxford-keras, "
            "torchvision, none\n"
        )
    there = str(answering(LEFT).save(tmp_path / "x.pt"))
    assert run(["localise", "--protocol", "1", "--weights", there, "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: no ilsvrc2012 at {tmp_path}/ilsvrc2012 (val/ missing): put its images there as train/<wnid>/*.JPEG "
        "and val/<wnid>/*.JPEG (image-net.org gives them to holders of an account), or name another data root with "
        "--data DIR\n"
    ), "pictures of one's own have no boxes, and localise has no --dataset"
    few = answering(LEFT, names=WNIDS[:2])
    few.save(tmp_path / "few.pt")
    assert run(["localise", "--protocol", "1", "--weights", str(tmp_path / "few.pt"), "--data", str(root), *FLAGS]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: the localisation net has no class {WNIDS[2]!r}, which ilsvrc2012 has\n"
    )
