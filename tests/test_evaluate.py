"""ILSVRC evaluation: views, scales, averaging of posteriors, kept files and their fusion, errors, submissions."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from making import clusters, commands_on, write_descriptors
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torch import nn

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets import Dataset, Sample, load_dataset
from vggfeat.datasets.split import evaluation_part, load_evaluation_set, load_training_set
from vggfeat.errors import DatasetError, StoreError, UsageError
from vggfeat.inference.classes import aligned
from vggfeat.inference.crops import grid_crops
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.posteriors import Made, Posteriors, TopKErrors, joined
from vggfeat.inference.scales import scales_for
from vggfeat.inference.scorer import Scorer
from vggfeat.nets.catalog import NETS, RANDOM, TORCHVISION
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.page.commands import making_command
from vggfeat.stages.evaluate import evaluate, evaluate_files
from vggfeat.store import DescriptorWriter, read_descriptors
from vggfeat.store.pooling import Described

WNIDS = ("n01440764", "n01443537", "n02119789", "n02123045", "n03100240", "n07583066")
IDS = (4, 2, 6, 1, 5, 3)
"""ILSVRC2012_IDs of the WNIDS: not their order."""
SIZES = ((60, 40), (40, 60), (50, 50))


def narrow(name="A", seed=0, names=WNIDS, preprocessing=RANDOM, **recorded) -> VGG:
    """A small net with random weights."""
    net = VGG(name, width=1 / 16, num_classes=len(WNIDS), class_names=names, preprocessing=preprocessing)
    glorot_(net, seed=seed)
    net.training_record = recorded
    return net.eval()


def picture(seed, size):
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path) -> Path:
    """A data root with ilsvrc2012/val: three small pictures of each of six classes."""
    root = tmp_path / "data"
    for k, wnid in enumerate(WNIDS):
        folder = root / "ilsvrc2012" / "val" / wnid
        folder.mkdir(parents=True)
        for i, size in enumerate(SIZES):
            picture(10 * k + i, size).save(folder / f"{i}.JPEG", quality=95)
    return root


@pytest.fixture
def checkpoint(tmp_path) -> str:
    narrow(recipe={"augment": {"S": [256, 256]}}).save(tmp_path / "net.pt")
    return str(tmp_path / "net.pt")


def of_images(root: Path, net: VGG, rows=slice(None), **options) -> np.ndarray:
    """(N, K) posteriors of these images by way of the file."""
    images, out = load_dataset("ilsvrc2012", root, parts=("val",)), root.parent / "posteriors.h5"
    evaluate(replace(images, samples=images.samples[rows]), net=net, output=out, overwrite=True, **options)
    (made,) = joined([out])
    return made.values


def rescaled(path: str, Q: int) -> np.ndarray:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    short, long = min(image.size), max(image.size)
    size = (Q, Q * long // short) if image.width <= image.height else (Q * long // short, Q)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def batch(pixels: np.ndarray, preprocessing=RANDOM) -> torch.Tensor:
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() * preprocessing.scale
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (x - mean) / std


@torch.inference_mode()
def dense_by_hand(net: VGG, path: str, Q: int) -> np.ndarray:
    """The paper's words: class score map, spatial average, soft-max, average with the mirror image's posteriors."""
    x = batch(rescaled(path, Q))
    views = [torch.softmax(net.dense(view, "scores").mean((1, 2))[0], 0) for view in (x, x.flip(3))]
    return ((views[0] + views[1]) / 2).numpy()


def paths(root: Path) -> list[str]:
    return [sample.path for sample in load_dataset("ilsvrc2012", root, parts=("val",)).samples]


# Views, flips, scales


def test_dense_scores_at_224_are_the_classifiers():
    net = narrow("D", preprocessing=TORCHVISION)
    pixels = np.asarray(picture(1, (224, 224)))
    with torch.inference_mode():
        expected = net(batch(pixels, TORCHVISION))[0].numpy()
    assert np.allclose(DenseNet(net, "scores")([pixels])[0], expected, rtol=1e-4, atol=1e-4)


def test_dense_posteriors_are_the_papers_averages(data):
    """Soft-max after the spatial average, then averages of posteriors, over flips and scales; never of scores."""
    net = narrow()
    got = of_images(data, net, slice(0, 5), scales=(224, 288), precision="fp32")
    expected = [np.mean([dense_by_hand(net, path, Q) for Q in (224, 288)], axis=0) for path in paths(data)[:5]]
    assert np.allclose(got, expected, atol=1e-5)
    with torch.inference_mode():
        x = batch(rescaled(paths(data)[1], 288))
        score_map = net.dense(x, "scores")
        of_positions = torch.softmax(score_map, -1).mean((1, 2))[0].numpy()
        scores = [net.dense(view, "scores").mean((1, 2))[0] for view in (x, x.flip(3))]
        of_scores = torch.softmax((scores[0] + scores[1]) / 2, 0).numpy()
    (ours,) = of_images(data, net, slice(1, 2), scales=(288,), precision="fp32")
    assert np.abs(ours - of_scores).max() > 1e-3, "an average of scores would be another number"
    assert np.abs(ours - of_positions).max() > 1e-3, "and so would an average of the positions' posteriors"


def torchvision_twin(net: VGG) -> torch.nn.Module:
    """torchvision's own module, as narrow, with the same values."""
    config = [layer if layer == "M" else max(1, round(layer.channels * net.width)) for layer in NETS[net.net].layers]
    with torch.device("meta"):
        theirs = torchvision.models.VGG(torchvision.models.vgg.make_layers(config), init_weights=False)
    theirs.classifier = torch.nn.Sequential(
        torch.nn.Linear(net.classifier[0].in_features, 256),
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        torch.nn.Linear(256, net.num_classes),
    )
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.load_state_dict(net.state_dict())
    return theirs


@torch.inference_mode()
def crops_by_hand(net: VGG, path: str, Q: int) -> np.ndarray:
    """torchvision's module on one crop after the other: 5 x 5 at regular distances, each with its mirror image."""
    theirs, image = torchvision_twin(net), rescaled(path, Q)
    height, width, _ = image.shape
    found = []
    for row in range(5):
        for column in range(5):
            top, left = round(row * (height - 224) / 4), round(column * (width - 224) / 4)
            for crop in (image[top : top + 224, left : left + 224], image[top : top + 224, left : left + 224][:, ::-1]):
                found.append(torch.softmax(theirs(batch(crop))[0], 0).numpy())
    assert len(found) == 50
    return np.mean(found, axis=0)


def test_multi_crop_equals_a_naive_loop_over_crops_with_torchvision(data):
    net = narrow()
    got = of_images(data, net, slice(0, 2), view="crops", scales=(232, 256), precision="fp32")
    expected = [np.mean([crops_by_hand(net, path, Q) for Q in (232, 256)], axis=0) for path in paths(data)[:2]]
    assert np.allclose(got, expected, atol=1e-5)


def test_crops_reach_from_border_to_border():
    pixels = np.arange(260 * 301 * 3, dtype=np.uint64).reshape(260, 301, 3)
    crops = grid_crops(pixels)  # type: ignore[arg-type]
    assert len(crops) == 25
    assert {crop.shape for crop in crops} == {(224, 224, 3)}
    corners = [np.argwhere((pixels == crop[0, 0]).all(-1))[0].tolist() for crop in crops]
    assert sorted({top for top, _ in corners}) == [0, 9, 18, 27, 36]
    assert sorted({left for _, left in corners}) == [0, 19, 38, 58, 77]


def test_both_is_the_average_of_dense_and_crops(data):
    net = narrow()
    dense, crops, both = (
        of_images(data, net, slice(0, 2), view=view, scales=(232,), precision="fp32")
        for view in ("dense", "crops", "both")
    )
    assert np.allclose(both, (dense + crops) / 2, atol=1e-6)
    assert np.abs(dense - crops).max() > 1e-3


def test_center_is_the_single_central_crop_without_its_mirror_image(data):
    net = narrow()
    got = of_images(data, net, view="center", scales=(256,), precision="fp32")
    for row, path in enumerate(paths(data)[:3]):
        image = rescaled(path, 256)
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        with torch.inference_mode():
            expected = torch.softmax(net(batch(image[top : top + 224, left : left + 224]))[0], 0)
        assert np.allclose(got[row], expected, atol=1e-5)


def test_the_papers_scales():
    assert scales_for((256, 256), "single") == (256,)
    assert scales_for((384, 384), "multi") == (352, 384, 416)
    assert scales_for((256, 512), "single") == (384,)
    assert scales_for((256, 512), "multi") == (256, 384, 512)


def test_each_net_is_tested_at_the_scales_of_its_own_training(data, tmp_path):
    fixed = narrow(recipe={"augment": {"S": [256, 256]}})
    jittered = narrow("B", seed=1, recipe={"augment": {"S": [256, 512]}})
    out = tmp_path / "both.h5"
    evaluate(data=data, net=[fixed, jittered], output=out, view="center", precision="fp32")
    made = vggfeat.read_descriptors(out)
    assert [net["scales"] for net in made.attributes["settings"]["nets"]] == [[256], [384]]
    alone = [
        of_images(data, net, view="center", scales=Q, precision="fp32")
        for net, Q in ((fixed, [256]), (jittered, [384]))
    ]
    assert np.allclose(made.read(), (alone[0] + alone[1]) / 2, atol=1e-6)
    assert "--scales single" in making_command(made)
    many = evaluate(data=data, net=jittered, scales="multi", view="center")
    assert many["rows"][0]["scales"] == [256, 384, 512]


def test_a_net_that_does_not_say_its_training_scale_needs_scales(data):
    with pytest.raises(UsageError) as error:
        evaluate(data=data, net=narrow())
    assert str(error.value) == ("net A (none) does not say at which scale it was trained: give `scales`, such as 256")


# Errors


def posteriors(labels, values, names, failures=None) -> Posteriors:
    ids = [f"{row}" for row in range(len(values))]
    return Posteriors(
        "made",
        ids,
        labels,
        names,
        np.asarray(values, dtype=np.float32),
        failures or {},
        1,
        Made("A", "A, random weights", "none", "dense", (256,)),
    )


def test_errors_are_one_minus_scikit_learns_top_k_accuracy():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(12), 300)
    labels = rng.integers(0, 12, 300)
    labels[:12] = np.arange(12)
    names = tuple(f"c{k}" for k in range(12))
    errors = posteriors(labels, values, names).errors()
    assert errors.images == 300
    for k, error in ((1, errors.top1_error), (5, errors.top5_error)):
        expected = 100 * (1 - top_k_accuracy_score(labels, values, k=k, labels=range(12)))
        assert error == pytest.approx(expected)


def test_errors_by_class_and_the_worst_confusions_are_the_confusion_matrixs():
    rng = np.random.default_rng(1)
    values, labels = rng.dirichlet(np.ones(5), 200), rng.integers(0, 4, 200)  # the fifth class has no image
    names = ("a", "b", "c", "d", "e")
    by_class, confusions = posteriors(labels, values, names).per_class()
    matrix = confusion_matrix(labels, values.argmax(1), labels=range(5))
    for k in range(4):
        assert by_class[names[k]] == pytest.approx(100 * (1 - matrix[k, k] / matrix[k].sum()))
    assert by_class["e"] is None
    np.fill_diagonal(matrix, 0)
    assert [pair.count for pair in confusions] == sorted(matrix[matrix > 0].tolist(), reverse=True)[:10]
    for pair in confusions:
        assert matrix[names.index(pair.true), names.index(pair.predicted)] == pair.count


def test_fewer_than_five_classes_have_no_top_5_error():
    errors = posteriors(np.array([0, 1]), [[0.9, 0.1], [0.8, 0.2]], ("a", "b")).errors()
    assert errors == TopKErrors(2, 50.0, None)


def test_failed_images_are_listed_and_never_counted(data, checkpoint, capsys):
    (data / "ilsvrc2012/val" / WNIDS[1] / "0.JPEG").write_bytes(b"<html>not found</html>")
    args = ["evaluate", "--data", str(data), "--weights", checkpoint, "--view", "center"]
    assert run([*args, "--json"]) == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    reason = "no image: an HTML or XML page"
    assert result["failed"] == {f"val/{WNIDS[1]}/0.JPEG": reason}
    assert result["rows"][0]["images"] == 17
    assert f"skipped val/{WNIDS[1]}/0.JPEG: {reason}\n1 of 18 images skipped" in captured.err
    kept = data.parent / "kept.h5"
    assert run([*args, "-o", str(kept)]) == 3
    (made,) = joined([kept])
    right = sum(
        made.values[row].argmax() == made.labels[row] for row, id in enumerate(made.ids) if id not in made.failures
    )
    assert result["rows"][0]["top1_error"] == pytest.approx(100 * (1 - right / 17))


# Classes


def test_outputs_are_matched_to_classes_by_name(data):
    net = narrow(names=WNIDS)
    expected = of_images(data, net, view="center", scales=(224,))
    order = [3, 0, 5, 1, 4, 2]
    shuffled = narrow(names=tuple(WNIDS[k] for k in order))
    with torch.no_grad():
        for ours, source in zip(shuffled.classifier[6].parameters(), net.classifier[6].parameters(), strict=True):
            ours.copy_(source[order])
    assert np.allclose(of_images(data, shuffled, view="center", scales=(224,)), expected, atol=1e-6)


def test_classes_that_only_the_net_knows_stay_and_may_be_guessed(data):
    images = load_dataset("ilsvrc2012", data, parts=("val",))
    few = replace(images, class_names=WNIDS[1:3], samples=tuple(replace(s, labels=0) for s in images.samples[3:6]))
    wider, (columns,) = aligned(few, [narrow()])
    assert wider.class_names == (*WNIDS[1:3], WNIDS[0], *WNIDS[3:])
    assert columns.tolist() == [1, 2, 0, 3, 4, 5]
    assert [sample.labels for sample in wider.samples] == [0, 0, 0]


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (narrow(names=(*WNIDS[:5], "n09999999")), f"net A (none) has no class {WNIDS[5]!r}, which ilsvrc2012 has"),
        (
            VGG("B", width=1 / 16, num_classes=9),
            "net B (none) scores 9 classes without naming them, and ilsvrc2012 has 6",
        ),
    ],
)
def test_a_net_of_other_classes_is_refused(data, net, message):
    with pytest.raises(DatasetError) as error:
        evaluate(data=data, net=net, scales=[224])
    assert str(error.value) == message


def test_fused_nets_have_the_same_classes(data):
    other = VGG("B", width=1 / 16, num_classes=7, class_names=(*WNIDS, "n09999999"))
    with pytest.raises(DatasetError) as error:
        evaluate(data=data, net=[narrow(), other], scales=[224])
    assert str(error.value) == "net A (none) has no class 'n09999999', which another net has"


# What was held out


def test_val_of_a_set_without_one_is_what_training_held_out(tmp_path):
    for k, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            picture(100 * k + i, (50, 40)).save(tmp_path / "photos" / name / f"{i}.jpg")
    trained = load_training_set("folder", tmp_path / "photos", fraction=0.3, seed=5)
    record = {
        "dataset": "folder",
        "recipe": {"data": {"validation_fraction": 0.3}, "seed": 5},
        "train_images": len(trained.train),
        "validation_images": len(trained.val),
    }
    images = load_evaluation_set("folder", tmp_path / "photos")
    assert evaluation_part(images, "val", [record]).samples == trained.val
    assert len(evaluation_part(images, "all", []).samples) == 16
    with pytest.raises(UsageError) as error:
        evaluation_part(images, "val", [])
    assert str(error.value) == "folder has no val images here: `subset=all` takes all of its images"
    (tmp_path / "photos/cats/0.jpg").unlink()
    (tmp_path / "photos/cats/1.jpg").unlink()
    with pytest.raises(DatasetError) as changed:
        evaluation_part(load_evaluation_set("folder", tmp_path / "photos"), "val", [record])
    assert str(changed.value) == (
        "the net was trained on 12 images of folder, with 4 held out; here are 14 images, so the ones it has not "
        "seen are unknown: `subset=all` takes them all"
    )


def test_a_folder_with_train_and_val_trees_is_tested_on_val(tmp_path):
    for part, number in (("train", 3), ("val", 2)):
        for k, name in enumerate(("cats", "dogs")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(number):
                picture(10 * k + i, (50, 40)).save(tmp_path / part / name / f"{i}.jpg")
    chosen = evaluation_part(load_evaluation_set("folder", tmp_path), "val", [])
    assert [sample.id for sample in chosen.samples] == [
        f"val/{name}/{i}.jpg" for name in ("cats", "dogs") for i in (0, 1)
    ]


# Files and fusion


def test_fusing_files_equals_fusing_on_the_fly(data, tmp_path):
    nets = [narrow(), narrow("B", seed=1), narrow(seed=2)]
    options = {"data": data, "scales": [224], "precision": "fp32", "per_class": True, "view": "center"}
    for name, its in (("ab", nets[:2]), ("c", nets[2:]), ("abc", nets)):
        evaluate(net=its, output=tmp_path / f"{name}.h5", **options)
    together = evaluate(net=nets, **options)
    fused = evaluate_files([tmp_path / "ab.h5", tmp_path / "c.h5"], per_class=True)
    assert [row["images"] for row in fused["rows"]] == [18, 18, 18]
    for name in ("top1_error", "top5_error"):
        assert fused["rows"][-1][name] == together["rows"][0][name]
    assert fused["per_class"] == together["per_class"]
    alone = [of_images(data, net, scales=[224], precision="fp32", view="center") for net in nets]
    (abc,) = joined([tmp_path / "abc.h5"])
    assert np.allclose(abc.values, np.mean(alone, axis=0), atol=1e-6), "every net weighs the same"
    parts = list(joined([tmp_path / "ab.h5", tmp_path / "c.h5"]))
    assert np.allclose((2 * parts[0].values + parts[1].values) / 3, abc.values, atol=1e-6)
    assert [part.nets for part in parts] == [2, 1]


def test_files_are_joined_by_id(tmp_path):
    first, second = kept(tmp_path / "a.h5", seed=1), kept(tmp_path / "b.h5", seed=2, order=[3, 1, 0, 2])
    members = list(joined([first, second]))
    assert members[0].ids == members[1].ids == [f"{i}.jpg" for i in range(4)]
    assert np.array_equal(members[1].values, vggfeat.read_descriptors(second).read()[[2, 1, 3, 0]])
    assert members[1].labels.tolist() == [0, 1, 0, 1]


def test_an_image_that_failed_in_one_file_fails_in_their_fusion(tmp_path):
    first, second = kept(tmp_path / "a.h5", seed=1), kept(tmp_path / "b.h5", seed=2, failed=[2])
    result = evaluate_files([first, second])
    assert [row["images"] for row in result["rows"]] == [4, 3, 3]
    assert result["failed"] == {"2.jpg": "cannot be read"}


def kept(
    path, seed=0, order=None, names=("x", "y"), labels=(0, 1, 0, 1), ids=None, failed=(), pending=(), view="dense"
):
    """A small file of posteriors of four images."""
    order = order or list(range(4))
    ids = ids or [f"{i}.jpg" for i in range(4)]
    rows = [Sample(ids[i], ids[i], None if labels is None else labels[i]) for i in order]
    values = np.random.default_rng(seed).dirichlet(np.ones(len(names)), 4)
    settings = {
        "nets": [
            {
                "net": "A",
                "weights": "w",
                "weights_sha256": f"sha-{seed}",
                "width": 1.0,
                "preprocessing": {},
                "scales": [256],
            }
        ],
        "scales": [256],
        "aggregate": "average",
        "flip": True,
        "layer": "posteriors",
        "region": "image",
        "exif": False,
        "precision": "fp32",
        "view": view,
    }
    dataset = Dataset("folder", tuple(rows), names)
    with DescriptorWriter(path, dataset, settings, dim=len(names), layer_dims=(len(names),)) as writer:
        for row, i in enumerate(order):
            if i not in pending:
                block = Described(values[i : i + 1].astype(np.float32), np.empty((1, 0), np.float32))
                block.failures.update({0: "cannot be read"} if i in failed else {})
                writer.write(range(row, row + 1), block)
    return path


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"ids": ["0.jpg", "1.jpg", "9.jpg", "3.jpg"]}, "{b} lacks '2.jpg', which {a} has"),
        ({"labels": (0, 1, 1, 1)}, "{a} and {b} have other labels for '2.jpg'"),
        ({"labels": None}, "{b} has no labels, {a} has"),
        ({"names": ("x", "z")}, "{a} and {b} have other classes: 'y' is in one alone"),
        ({"names": ("y", "x")}, "{a} and {b} have their classes in another order"),
        ({"seed": 0}, "{a} and {b} hold the same posteriors: give one of them"),
        (
            {"pending": [1, 3]},
            "{b} is not finished: 2 of 4 images are still to do; run the same evaluation with --resume",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, capsys, other, message):
    a, b = kept(tmp_path / "a.h5"), kept(tmp_path / "b.h5", **{"seed": 1, **other})
    assert run(["evaluate", str(a), str(b)]) == 1
    assert capsys.readouterr().err == f"vggfeat: {message.format(a=a, b=b)}\n"


def test_a_file_given_twice_is_refused(tmp_path):
    a = kept(tmp_path / "a.h5")
    with pytest.raises(StoreError, match=f"^{a} is given twice$"):
        evaluate_files([a, a])


def test_opened_files_are_as_good_as_their_paths(tmp_path):
    paths = [kept(tmp_path / "a.h5"), kept(tmp_path / "b.h5", seed=1)]
    opened = [read_descriptors(path) for path in paths]
    assert evaluate_files(opened) == evaluate_files([opened[0], paths[1]]) == evaluate_files(paths)
    assert evaluate_files(opened[0]) == evaluate_files(paths[0]) == evaluate_files([paths[0]])
    evaluate_files(opened, report=tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert commands_on(page)[0].startswith(f"vggfeat evaluate {paths[0]} {paths[1]} --report ")
    with pytest.raises(UsageError) as caught:
        evaluate_files([opened[0].read()])
    assert str(caught.value) == (
        "ndarray is not a descriptor file: give its path, or what vggfeat.read_descriptors gave"
    )


def test_descriptors_are_no_posteriors(tmp_path, capsys):
    dataset, values = clusters([2, 2])
    path = write_descriptors(tmp_path / "d.h5", dataset, values)
    assert run(["evaluate", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {path} holds fc7 descriptors, no posteriors: 'vggfeat evaluate -o FILE' keeps those\n"
    )


def test_posteriors_are_no_descriptors(tmp_path, capsys):
    path = kept(tmp_path / "a.h5")
    assert run(["svm", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {path} holds posteriors, not descriptors: 'vggfeat evaluate {path}' scores them\n"
    )


def test_a_file_that_does_not_say_its_view_is_damaged(tmp_path, capsys):
    path = kept(tmp_path / "a.h5", view=None)
    for verb in ("evaluate", "info"):
        assert run([verb, str(path)]) == 1
        assert capsys.readouterr().err == f"vggfeat: {path}: damaged descriptor file (settings has None as view)\n"


def test_an_interrupted_run_resumes_to_the_same_bytes(data, checkpoint, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    args = ["evaluate", "--data", str(data), "--weights", checkpoint, "--scales", "224,256", "-o"]
    assert run([*args, str(whole)]) == 0
    write, written = DescriptorWriter.write, []

    def interrupted(self, rows, described):
        if written:
            raise KeyboardInterrupt
        written.append(rows)
        write(self, rows, described)

    monkeypatch.setattr(DescriptorWriter, "write", interrupted)
    capsys.readouterr()
    assert run([*args, str(broken)]) == 130
    assert "stopped; what is done is kept, and the same command with --resume goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert len(vggfeat.read_descriptors(broken).done) == 16 < 18
    assert run([*args, str(broken)]) == 1
    assert run([*args, str(broken), "--resume"]) == 0
    assert broken.read_bytes() == whole.read_bytes()


def test_resuming_with_other_settings_is_refused(data, checkpoint, tmp_path, capsys):
    out = str(tmp_path / "a.h5")
    args = ["evaluate", "--data", str(data), "--weights", checkpoint, "-o", out, "--resume", "--view"]
    assert run([*args, "center"]) == 0
    capsys.readouterr()
    assert run([*args, "dense"]) == 1
    assert "was made with other settings" in capsys.readouterr().err


def test_posteriors_whose_classes_changed_places_are_not_resumed(data, tmp_path):
    """The net names no classes, so its outputs are the data set's in their order: columns would be mixed."""
    images, out = load_dataset("ilsvrc2012", data, parts=("val",)), tmp_path / "a.h5"
    options = {"net": narrow(names=()), "view": "center", "scales": 256, "output": out}
    evaluate(images, **options)
    with pytest.raises(StoreError) as error:
        evaluate(replace(images, class_names=images.class_names[::-1]), resume=True, **options)
    assert str(error.value) == (
        f"{out} was made with other classes (class 0 is 'n01440764' there, 'n07583066' here): "
        "`overwrite` describes anew, `output` names another file"
    )


def test_info_tells_the_command_that_makes_such_a_file_again(data, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate", "--data", str(data), "--weights", checkpoint, "--view", "center", "-o", "first.h5"]) == 0
    capsys.readouterr()
    assert run(["info", "first.h5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["dim"], result["done"]) == ("posteriors", 6, 18)
    before = Path("first.h5").rename("before.h5")
    assert run(shlex.split(result["command"])[1:]) == 0
    assert Path("first.h5").read_bytes() == before.read_bytes()


def test_files_are_scored_without_torch(tmp_path):
    kept(tmp_path / "a.h5"), kept(tmp_path / "b.h5", seed=1)
    code = "import sys; from vggfeat.cli import run; assert run(['evaluate', 'a.h5', 'b.h5']) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


# Submissions


@pytest.fixture
def test_part(data) -> Path:
    folder = data / "ilsvrc2012" / "test"
    folder.mkdir()
    for i in (3, 1, 2):
        picture(i, (50, 40)).save(folder / f"ILSVRC2012_test_0000000{i}.JPEG")
    return folder


def add_devkit(data, wnids=WNIDS):
    rows = [(id, wnid) for id, wnid in zip(IDS, wnids, strict=False)]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    folder = data / "ilsvrc2012" / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": synsets})


def test_a_submission_has_the_five_best_classes_of_each_image_as_ilsvrcs_numbers(
    data, test_part, checkpoint, tmp_path, capsys
):
    add_devkit(data)
    (test_part / "ILSVRC2012_test_00000002.JPEG").write_bytes(b"")
    out, kept_file = tmp_path / "submission.txt", tmp_path / "test.h5"
    args = ["evaluate", "--data", str(data), "--subset", "test", "--weights", checkpoint, "--view", "center"]
    assert run([*args, "--submission", str(out), "-o", str(kept_file)]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{kept_file}\n{out}\n"
    assert "1 of 3 images skipped" in captured.err
    (made,) = joined([kept_file])
    assert made.labels is None
    assert [id[-9:] for id in made.ids] == ["0001.JPEG", "0002.JPEG", "0003.JPEG"]
    lines = [list(map(int, line.split())) for line in out.read_text().splitlines()]
    assert lines[1] == [0, 0, 0, 0, 0]
    for row in (0, 2):
        ranked = sorted(range(6), key=lambda k: -made.values[row][k])
        assert lines[row] == [IDS[k] for k in ranked[:5]]
    assert run(["evaluate", str(kept_file), "--data", str(data), "--submission", str(tmp_path / "again.txt")]) == 3
    assert (tmp_path / "again.txt").read_bytes() == out.read_bytes()
    capsys.readouterr()
    other = ["--data", str(data), "--submission", str(tmp_path / "other.txt"), "--report", str(tmp_path / "page")]
    assert run(["evaluate", str(kept_file), *other]) == 2
    assert capsys.readouterr().err == "vggfeat: ilsvrc2012 has no labels here, so no report\n"
    assert not (tmp_path / "other.txt").exists(), "refused before it is written"


def test_the_devkit_names_the_classes_of_a_net_that_does_not(data, test_part):
    add_devkit(data)
    net = narrow(names=())
    result = evaluate(data=data, subset="test", net=net, scales=[224], submission=data / "s.txt")
    assert result["rows"][0] | {"top1_error": 0, "images": 0} == result["rows"][0] | {"top1_error": 0, "images": 0}
    assert result["rows"][0]["top1_error"] is None
    assert len((data / "s.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("devkit", "args", "message"),
    [
        (
            None,
            ["--submission", "s.txt"],
            "a submission needs meta.mat of ILSVRC's devkit, for its class numbers are not the order of the wnids: put "
            "the devkit at {data}/ilsvrc2012/ILSVRC2012_devkit_t12",
        ),
        (
            WNIDS[:5],
            ["--submission", "s.txt", "--subset", "val"],
            "class 'n07583066' has no ILSVRC2012_ID, so no submission can name it",
        ),
        (WNIDS, [], "ilsvrc2012 has no labels here, so no errors: give --submission FILE or -o FILE"),
        (WNIDS, ["--per-class", "-o", "x.h5"], "ilsvrc2012 has no labels here, so no errors per class"),
    ],
)
def test_what_a_test_set_cannot_give_is_refused(
    data, test_part, checkpoint, tmp_path, monkeypatch, capsys, devkit, args, message
):
    monkeypatch.chdir(tmp_path)
    if devkit:
        add_devkit(data, devkit)
    wanted = [
        "evaluate",
        "--data",
        str(data),
        "--subset",
        "test",
        "--weights",
        checkpoint,
        "--view",
        "center",
        "--quiet",
    ]
    assert run([*wanted, *args]) in (1, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"vggfeat: {message.format(data=data)}\n")
    assert not Path("s.txt").exists()


# The command


def test_the_result_as_json_and_as_a_table(data, checkpoint, capsys):
    args = ["evaluate", "--data", str(data), "--weights", checkpoint, "--view", "center", "--per-class"]
    assert run([*args, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    (row,) = result["rows"]
    assert {name: row[name] for name in ("net", "weights", "view", "scales", "images")} == {
        "net": "A",
        "weights": "net.pt",
        "view": "center",
        "scales": [256],
        "images": 18,
    }
    assert 0 <= row["top5_error"] <= row["top1_error"] <= 100
    assert (result["dataset"], result["classes"], result["failed"]) == ("ilsvrc2012", 6, {})
    assert np.mean(list(result["per_class"].values())) == pytest.approx(row["top1_error"])
    assert f"{row['top1_error']:.1f}" in captured.err
    assert "true class" in captured.err
    assert run(args) == 0
    assert capsys.readouterr().out == "", "no file is written, so stdout stays empty"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume"], "--resume is about the file that -o names: give -o FILE"),
        (["--resume", "--overwrite", "-o", "x.h5"], "--resume and --overwrite: choose one"),
        (["--scales", "200"], "scale 200 is under 224, the smallest for fully-connected layers"),
        (["--scales", "256,256"], "scales 256,256: one is named twice"),
        (
            ["--dataset", "voc2007"],
            "voc2007 has several labels an image; top-1 and top-5 errors take one class an image",
        ),
        (["a.h5", "--view", "crops"], "--view goes with images; FILES are posteriors that are scored as they are"),
        (["a.h5", "-o", "x.h5"], "--output goes with images; FILES are posteriors that are scored as they are"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(data, checkpoint, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    kept(Path("a.h5"))
    voc = Dataset("voc2007", (Sample("1", "1.jpg", (1, -1)),), ("a", "b"))
    monkeypatch.setattr(
        "vggfeat.datasets.split.load_dataset", lambda *_a, **_k: voc if "voc2007" in args else load_dataset(*_a, **_k)
    )
    weights = [] if args[0].endswith(".h5") else ["--weights", checkpoint]
    assert run(["evaluate", "--data", str(data), *weights, *args]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"vggfeat: {message}\n")


def test_missing_data_are_told_before_any_net_is_loaded(tmp_path, capsys):
    code = "import sys; from vggfeat.cli import run; assert run(['evaluate', '--net', 'E']) == 1; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stderr.startswith("vggfeat: no ilsvrc2012 at data/ilsvrc2012 (val/ missing)")
    assert done.stderr.count("\n") == 1


def test_python_has_it_as_one_call(data, checkpoint):
    result = vggfeat.evaluate(data=data, weights=checkpoint, view="center")
    assert result["rows"][0]["images"] == 18


def test_an_unknown_view_or_rule_is_refused(data):
    with pytest.raises(
        UsageError, match="^no view 'centre'; did you mean 'center'\\? valid: dense, crops, both, center$"
    ):
        evaluate(data=data, net=narrow(), view="centre")
    with pytest.raises(UsageError, match="^no rule for scales 'paper'; valid: single, multi$"):
        evaluate(data=data, net=narrow(), scales="paper")


def test_scores_that_are_not_finite_fail_their_image_by_name(data):
    net = narrow()
    with torch.no_grad():
        net.classifier[6].bias[0] = float("nan")
    result = evaluate(data=data, net=net, scales=[224], view="center")
    assert set(result["failed"].values()) == {"the net's class scores are not finite"}
    assert result["rows"][0]["images"] == 0
    assert result["rows"][0]["top1_error"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("view", ["dense", "crops", "both", "center"])
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_cuda_agrees_with_the_cpu(data, view, precision, within):
    samples = load_dataset("ilsvrc2012", data, parts=("val",)).samples[:6]

    def on(device, its_precision):
        net = narrow("D").to(device)
        net.precision = its_precision
        scorer = Scorer([net], [(224, 256)], [np.arange(6)], view=view)
        values = scorer.describe(samples).descriptors
        scorer.close()
        return values

    assert np.abs(on("cpu", "fp32") - on("cuda", precision)).max() < within


def test_a_last_layer_of_ones_own_needs_names_of_its_own():
    net = load_net("A", None, width=1 / 64, num_classes=3, device="cpu", precision="fp32")
    net.class_names = ("a", "b", "c")
    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, 2)
    images = Dataset("folder", (Sample("x.jpg", "x.jpg", labels=0),), ("a", "b"), exif=True)
    with pytest.raises(UsageError) as caught:
        aligned(images, [net])
    assert str(caught.value) == "net A (none) has 2 outputs and 3 class names: name those of its last layer"
    net.class_names = ("b", "a")
    assert [columns.tolist() for columns in aligned(images, [net])[1]] == [[1, 0]]
