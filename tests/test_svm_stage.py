"""Descriptor files to scores: every protocol, late fusion, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from making import clusters, write_descriptors
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import LinearSVC

from vggfeat.classifiers import estimator, newton, primal_engine
from vggfeat.classifiers.calibration import held_out_folds
from vggfeat.classifiers.choices import C_GRID
from vggfeat.classifiers.estimator import LinearSVM
from vggfeat.classifiers.gram_engine import GramEngine
from vggfeat.classifiers.liblinear_engine import LiblinearEngine
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.model_file import read_model
from vggfeat.classifiers.primal_engine import PrimalEngine
from vggfeat.classifiers.protocols.fusion import open_features
from vggfeat.classifiers.protocols.rules import Rounds, make_splits, protocol_of
from vggfeat.classifiers.protocols.selection import choose
from vggfeat.classifiers.protocols.splits import read_splits
from vggfeat.cli import run
from vggfeat.datasets import Dataset, Sample, load_dataset
from vggfeat.datasets.voc import ACTIONS, CLASSES
from vggfeat.errors import DatasetError, StoreError, UsageError, VggfeatError
from vggfeat.metrics import average_precision, mean_class_recall
from vggfeat.stages.svm import SVMResult, svm


def multi_label(
    n: int, classes: tuple[str, ...], subsets: tuple[str, ...], dim: int = 16, seed: int = 0, name: str = "folder"
) -> tuple[Dataset, np.ndarray]:
    """A multi-label set whose classes are noisy linear functions of the activations; some labels are 0."""
    rng = np.random.default_rng(seed)
    values = np.abs(rng.standard_normal((n, dim)))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    scores = (unit - unit.mean(axis=0)) @ rng.standard_normal((dim, len(classes)))
    scores += 0.3 * scores.std() * rng.standard_normal(scores.shape)
    labels = np.where(scores > np.quantile(scores, 0.8, axis=0), 1, -1)
    labels[rng.random(labels.shape) < 0.03] = 0
    samples = tuple(
        Sample(f"{i:05}", f"{i}.jpg", tuple(int(v) for v in labels[i]), subset=subsets[i % len(subsets)])
        for i in range(n)
    )
    return Dataset(name, samples, classes), values[:, None, :]


def message(kind: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        svm(*args, **options)
    return str(caught.value)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    dataset, values = clusters([20, 25, 30, 40])
    return write_descriptors(tmp_path / "toy.h5", dataset, values)


# The protocol of seeded splits.


def test_caltech101_follows_its_protocol_with_either_solver(tmp_path: Path) -> None:
    dataset, values = clusters([31, 60, 90, 35], dim=150, noise=2.0, name="caltech101")
    path = write_descriptors(tmp_path / "c.h5", dataset, values)
    results = {solver: svm([path], solver=solver) for solver in ("newton", "liblinear")}
    newton = results["newton"]
    assert (newton["dataset"], newton["measure"]) == ("caltech101", "mean_class_recall")
    assert [(s["seed"], s["train"], s["val"], s["test"]) for s in newton["splits"]] == [
        (seed, 4 * 24, 4 * 6, 1 + 30 + 50 + 5) for seed in range(3)
    ]
    values_ = [split["value"] for split in newton["splits"]]
    assert newton["mean"] == pytest.approx(np.mean(values_))
    assert newton["std"] == pytest.approx(np.sqrt(np.sum((values_ - np.mean(values_)) ** 2) / 2))
    assert set(newton["per_class"]) == set(dataset.class_names)
    assert [len(split["validation"]) for split in newton["splits"]] == [8, 8, 8]
    assert all(split["duality_gap"] <= 1e-5 for split in newton["splits"])
    for ours, theirs in zip(newton["splits"], results["liblinear"]["splits"], strict=True):
        assert ours["C"] == theirs["C"]
        assert ours["value"] == pytest.approx(theirs["value"])


def test_a_split_by_hand_gives_the_same_cost_and_recall(tmp_path: Path) -> None:
    dataset, values = clusters([40, 50, 45], dim=30, noise=2.0)
    path = write_descriptors(tmp_path / "c.h5", dataset, values)
    result = svm([path], rounds=Rounds(number=1, train_per_class=20), write_splits=tmp_path / "s.json")
    [split] = read_splits(tmp_path / "s.json", "folder", [s.id for s in dataset.samples])
    features = open_features([path])
    X, y = features.read(np.arange(len(features.ids))), features.labels
    rows = {
        part: np.array([features.ids.index(id) for id in getattr(split, part)]) for part in ("train", "val", "test")
    }
    recalls = []
    for C in C_GRID:
        fitted = LinearSVC(C=C, tol=1e-8, max_iter=100_000, random_state=0).fit(X[rows["train"]], y[rows["train"]])
        recalls.append(mean_class_recall(y[rows["val"]], fitted.predict(X[rows["val"]])))
    best = C_GRID[int(np.argmax(np.round(recalls, 12)))]
    both = np.concatenate([rows["train"], rows["val"]])
    fitted = LinearSVC(C=best, tol=1e-8, max_iter=100_000, random_state=0).fit(X[both], y[both])
    [one] = result["splits"]
    assert one["C"] == best
    assert [point["value"] for point in one["validation"]] == pytest.approx(recalls)
    assert one["value"] == pytest.approx(mean_class_recall(y[rows["test"]], fitted.predict(X[rows["test"]])))
    assert result["std"] is None


def test_caltech256_tests_on_all_that_is_left(tmp_path: Path) -> None:
    dataset, values = clusters([80, 61, 200], name="caltech256")
    result = svm([write_descriptors(tmp_path / "c.h5", dataset, values)], C=1)
    assert [(s["train"], s["val"], s["test"]) for s in result["splits"]] == [(144, 36, 20 + 1 + 140)] * 3
    assert [split["validation"] for split in result["splits"]] == [None] * 3
    assert [split["C"] for split in result["splits"]] == [1.0] * 3


def test_users_images_are_split_in_shares_folds_or_numbers(toy: Path) -> None:
    shares = svm([toy], C=1, rounds=Rounds(number=2, seed=5))
    assert [(s["seed"], s["test"]) for s in shares["splits"]] == [(5, 5 + 6 + 8 + 10), (6, 5 + 6 + 8 + 10)]
    folds = svm([toy], C=1, rounds=Rounds(folds=4))
    assert [split["fold"] for split in folds["splits"]] == [0, 1, 2, 3]
    assert sum(split["test"] for split in folds["splits"]) == 115
    numbers = svm([toy], C=1, rounds=Rounds(number=1, train_per_class=10, test_per_class=3))
    assert [(s["train"], s["val"], s["test"]) for s in numbers["splits"]] == [(32, 8, 12)]


@pytest.mark.parametrize(
    ("name", "parts", "counts"),
    [
        ("folder", ("train", "train", "test"), (32, 8, 20)),
        ("folder", ("train", "val", "test"), (20, 20, 20)),
        ("ilsvrc2012", ("train", "train", "val"), (32, 8, 20)),
    ],
)
def test_a_data_sets_own_subsets_are_its_split(
    tmp_path: Path, name: str, parts: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    dataset, values = clusters([30, 30], name=name)
    samples = tuple(replace(s, subset=parts[i % 3]) for i, s in enumerate(dataset.samples))
    path = write_descriptors(tmp_path / "s.h5", replace(dataset, samples=samples), values)
    [split] = svm([path])["splits"]
    assert (split["train"], split["val"], split["test"]) == counts
    assert len(svm([path], rounds=Rounds(folds=3))["splits"]) == 3


def test_a_splits_file_repeats_a_result(toy: Path, tmp_path: Path) -> None:
    first = svm([toy], rounds=Rounds(seed=9), write_splits=tmp_path / "s.json")
    again = svm([toy], splits=tmp_path / "s.json")

    def timeless(result: SVMResult) -> SVMResult:
        return replace(result, seconds=0, splits=tuple(replace(split, seconds={}) for split in result.splits))

    assert timeless(again) == timeless(first)
    assert message(UsageError, [toy], splits=tmp_path / "s.json", rounds=Rounds(folds=3)) == (
        "`splits` names the splits: leave out `number`, `folds`, `train_per_class` and `test_fraction`"
    )


# Multi-label sets.


def test_voc2007_with_its_real_label_files(tmp_path: Path, shared_data: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2007"
    root.mkdir(parents=True)
    (root / "ImageSets").symlink_to(shared_data / "VOCdevkit" / "VOC2007" / "ImageSets", target_is_directory=True)
    (root / "JPEGImages").mkdir()
    dataset = load_dataset("voc2007", tmp_path)
    labels = np.array([sample.labels for sample in dataset.samples])
    rng = np.random.default_rng(0)
    # Stand-ins for descriptors: noise around each image's positive and difficult classes.
    values = np.maximum(
        np.maximum(labels + 0.3, 0) @ rng.standard_normal((20, 64)) + 2 * rng.standard_normal((9963, 64)), 0
    )
    path = tmp_path / "v.h5"
    test = [row for row, s in enumerate(dataset.samples) if s.subset == "test"]
    write_rows(path, dataset, values, failed=test[:1])
    result = svm([path])
    assert (result["dataset"], result["measure"], result["definition"]) == ("voc2007", "mAP", "voc2007")
    [split] = result["splits"]
    assert (split["train"], split["val"], split["test"]) == (2501, 2510, 4952)
    assert result["left_out"] == [dataset.samples[test[0]].id]
    assert tuple(result["per_class"]) == CLASSES
    assert result["std"] is None

    # One class again, by hand: difficult images trained on by no means, C by AP on val, the failed image last.
    k = CLASSES.index("aeroplane")
    X, y, subset = open_features([path]), labels[:, k], np.array([s.subset for s in dataset.samples])
    matrix = X.read(np.flatnonzero(X.described))
    X_all = np.full((len(y), matrix.shape[1]), np.nan, dtype=np.float32)
    X_all[X.described] = matrix

    def fitted(subsets: tuple[str, ...], C: float) -> LinearSVC:
        rows = np.isin(subset, subsets) & (y != 0)
        return LinearSVC(C=C, dual=False, tol=1e-9, max_iter=10_000).fit(X_all[rows], y[rows])

    assert (np.isin(subset, ("train", "val")) & (y != 0)).sum() == 238 + 4771
    val = subset == "val"
    aps = [average_precision(y[val], fitted(("train",), C).decision_function(X_all[val])) for C in C_GRID]
    curve = [point["per_class"]["aeroplane"] for point in split["validation"]]
    assert curve == pytest.approx(aps, abs=2e-3)  # near-ties in float32 scores may swap
    C = split["C"]["aeroplane"]
    assert curve[C_GRID.index(C)] == max(curve)
    scores = np.full(len(y), -np.inf)
    scores[X.described] = fitted(("train", "val"), C).decision_function(X_all[X.described])
    assert result["per_class"]["aeroplane"] == pytest.approx(average_precision(y[test], scores[test]), abs=2e-3)


def write_rows(path: Path, dataset: Dataset, values: np.ndarray, failed: list[int]) -> None:
    """As write_descriptors, in one block: the real VOC has 9,963 images."""
    from making import settings

    from vggfeat.store import DescriptorWriter
    from vggfeat.store.pooling import Described, combine

    descriptors = combine([values[:, None].astype(np.float32)], "stack")
    n, d = descriptors.shape
    with DescriptorWriter(path, dataset, settings(), dim=d, layer_dims=[d]) as out:
        out.write(range(n), Described(descriptors, descriptors, dict.fromkeys(failed, "cannot be read")))


def test_voc2012_reports_val_and_writes_the_servers_archive(tmp_path: Path) -> None:
    dataset, values = multi_label(600, CLASSES, ("train", "val", "test"), name="voc2012")
    samples = tuple(replace(s, labels=(0,) * 20) if s.subset == "test" else s for s in dataset.samples)
    path = write_descriptors(tmp_path / "v.h5", replace(dataset, samples=samples), values, failed=[5])
    result = svm([path], archive=tmp_path / "out.tar", output=tmp_path / "m.h5")
    [split] = result["splits"]
    assert (split["train"] + split["val"], split["test"]) == (200, 200)
    assert result["definition"] == "voc2010"
    assert result["archive"] == str(tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = archive.getnames()
        text = archive.extractfile("results/VOC2012/Main/comp2_cls_test_cat.txt").read().decode()  # type: ignore[union-attr]
    assert sorted(names) == [f"results/VOC2012/Main/comp2_cls_test_{name}.txt" for name in CLASSES]
    lines = [line.split(" ") for line in text.splitlines()]
    expected = [s.id for row, s in enumerate(samples) if s.subset == "test" and row != 5]
    assert [line[0] for line in lines] == expected  # the failed one is left to the server
    # The scores are the kept model's, which was fitted on trainval.
    model = read_model(tmp_path / "m.h5")
    assert model.record["fitted_on"] == 400
    rows = np.array([int(id) for id in expected])
    scores = model.scores(open_features([path]).read(rows))[:, CLASSES.index("cat")]
    assert [float(line[1]) for line in lines] == pytest.approx(scores.tolist(), rel=1e-5, abs=1e-6)


def test_action_archives_name_persons_by_image_and_index(tmp_path: Path) -> None:
    dataset, values = multi_label(300, ACTIONS, ("train", "val", "test"), name="voc2012-action")
    samples = tuple(
        replace(s, id=f"2011_{i // 2:06}_{1 + i % 2}", labels=(0,) * 10 if s.subset == "test" else s.labels)
        for i, s in enumerate(dataset.samples)
    )
    path = write_descriptors(tmp_path / "v.h5", replace(dataset, samples=samples), values)
    result = svm([path], C=(0.1, 1, 10), archive=tmp_path / "out.tar")
    assert tuple(result["per_class"]) == ACTIONS
    with tarfile.open(tmp_path / "out.tar") as archive:
        file = archive.extractfile("results/VOC2012/Action/comp10_action_test_walking.txt")
        lines = file.read().decode().splitlines()  # type: ignore[union-attr]
        assert len(archive.getnames()) == 10
    assert len(lines) == 100
    assert lines[0].split(" ")[:2] == ["2011_000001", "1"]
    assert np.isfinite(float(lines[0].split(" ")[2]))


def test_an_archive_needs_the_right_data_set_and_its_test_images(tmp_path: Path, toy: Path) -> None:
    dataset, values = multi_label(200, CLASSES, ("train", "val"), name="voc2012")
    path = write_descriptors(tmp_path / "v.h5", dataset, values)
    assert message(DatasetError, [path], archive=tmp_path / "a.tar") == (
        f"{path} has no test images: unpack VOC2012test.tar into the VOCdevkit and extract again"
    )
    assert message(UsageError, [toy], archive=tmp_path / "a.tar") == (
        "`archive` is for voc2012 and voc2012-action, whose test labels only a server has, not folder"
    )
    assert not (tmp_path / "a.tar").exists()


def test_users_multi_label_images_are_scored_by_the_later_definition(tmp_path: Path) -> None:
    dataset, values = multi_label(400, ("x", "y", "z"), ("",))
    result = svm([write_descriptors(tmp_path / "m.h5", dataset, values)], output=tmp_path / "model.h5")
    assert (result["measure"], result["definition"], len(result["splits"])) == ("mAP", "voc2010", 3)
    assert set(result["splits"][0]["C"]) == {"x", "y", "z"}
    model = read_model(tmp_path / "model.h5")
    assert model.multi_label
    assert model.record["fitted_on"] == 400


def test_the_smallest_of_equally_good_costs_is_chosen() -> None:
    Cs = (0.1, 1.0, 10.0)
    curve = np.array([[0.5, 0.9, np.nan], [0.7, 0.7, np.nan], [0.7, 0.9 - 1e-15, np.nan]])
    assert choose(curve, Cs, multi_label=True, num_classes=3).tolist() == [1.0, 0.1, 10.0]
    assert choose(curve, Cs, multi_label=False, num_classes=3).tolist() == [10.0] * 3
    tied = np.array([[0.6, 0.8], [0.8, 0.6], [0.7, 0.7]])
    assert choose(tied, Cs, multi_label=False, num_classes=2).tolist() == [0.1, 0.1]
    assert choose(None, (3.0,), multi_label=True, num_classes=2).tolist() == [3.0, 3.0]


# Late fusion.


def test_files_are_joined_by_id_as_unit_vectors_divided_by_the_root_of_their_number(tmp_path: Path) -> None:
    dataset, values = clusters([10, 12])
    order = np.random.default_rng(1).permutation(22)
    turned = replace(dataset, samples=tuple(dataset.samples[i] for i in order))
    a = write_descriptors(tmp_path / "a.h5", dataset, values, net="D")
    b = write_descriptors(tmp_path / "b.h5", turned, (values**2)[order], net="E")
    both = open_features([a, b]).read(np.arange(22))
    one, two = open_features([a]).read(np.arange(22)), values[:, 0] ** 2
    expected = np.hstack([one, two / np.linalg.norm(two, axis=1, keepdims=True)]) / np.sqrt(2)
    assert both == pytest.approx(expected, abs=1e-6)
    assert [file["net"] for file in svm([a, b], C=1)["descriptors"]] == ["D", "E"]


def test_images_that_one_file_lacks_a_descriptor_of_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, values = clusters([10, 12])
    a = write_descriptors(tmp_path / "a.h5", dataset, values, net="D", failed=[3])
    b = write_descriptors(tmp_path / "b.h5", dataset, values, net="E", failed=[0])
    assert run(["svm", str(a), str(b), "--C", "1"]) == 0
    assert "left out, without a descriptor: 2, class000/0000.jpg first" in capsys.readouterr().err


def test_files_that_do_not_fit_name_the_first_offender(tmp_path: Path) -> None:
    dataset, values = clusters([10, 12])
    a = write_descriptors(tmp_path / "a.h5", dataset, values)

    def other(file: str, net: str = "E", **changes: Any) -> Path:
        changed = replace(dataset, **changes)
        return write_descriptors(tmp_path / file, changed, values[: len(changed.samples)], net=net)

    renamed = tuple(replace(s, id="x.jpg") if i == 4 else s for i, s in enumerate(dataset.samples))
    b = other("b.h5", samples=renamed)
    assert message(StoreError, [a, b]) == f"{b} lacks 'class000/0004.jpg', which {a} has"
    c = other("c.h5", samples=dataset.samples[:-1])
    assert message(StoreError, [a, c]) == f"{c} lacks 'class001/0021.jpg', which {a} has"
    assert message(StoreError, [c, a]) == f"{c} lacks 'class001/0021.jpg', which {a} has"
    relabelled = tuple(replace(s, labels=1) if i == 2 else s for i, s in enumerate(dataset.samples))
    d = other("d.h5", samples=relabelled)
    assert message(StoreError, [a, d]) == f"{a} and {d} have other labels for 'class000/0002.jpg'"
    e = other("e.h5", class_names=("class000", "zebra"))
    assert message(StoreError, [a, e]) == f"{a} and {e} have other classes: 'class001' is in one alone"
    h = other("h.h5", class_names=("class001", "class000"))
    assert message(StoreError, [a, h]) == f"{a} and {h} have their classes in another order"
    assert message(StoreError, [a, tmp_path / "." / "a.h5"]) == f"{a} is given twice"
    f = other("f.h5", net="D")
    assert message(StoreError, [a, f]) == f"{a} and {f} hold the same descriptors: give one of them"
    lacking = write_descriptors(tmp_path / "lacking.h5", dataset, values, failed=[3])
    one = f"{a} and {lacking} hold the same descriptors, but for images that failed in one: give one of them"
    assert message(StoreError, [a, lacking]) == one
    g = other("g.h5", name="caltech101")
    assert message(DatasetError, [a, g]) == f"{g} has descriptors of 'caltech101', the first file is of 'folder'"
    assert message(DatasetError, [g], dataset="folder") == f"{g} has descriptors of 'caltech101', `dataset` is 'folder'"


def test_kept_scales_are_aggregated_anew(tmp_path: Path) -> None:
    dataset, _ = clusters([12, 12])
    values = np.abs(np.random.default_rng(0).standard_normal((24, 3, 5)))
    path = write_descriptors(tmp_path / "k.h5", dataset, values, keep_scales=True)
    for aggregate, pooled in (
        ("average", values.mean(axis=1)),
        ("max", values.max(axis=1)),
        ("stack", values.reshape(24, 15)),
    ):
        read = open_features([path], aggregate=aggregate).read(np.arange(24))  # type: ignore[arg-type]
        assert read == pytest.approx(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), abs=1e-6)
    result = svm([path], aggregate="max", C=1, output=tmp_path / "m.h5")
    assert result["descriptors"][0]["aggregate"] == "max"
    assert read_model(tmp_path / "m.h5").inputs[0]["aggregate"] == "max"
    plain = write_descriptors(tmp_path / "p.h5", dataset, values)
    assert message(StoreError, [plain], aggregate="max") == (
        f"{plain} keeps no single scales, so `aggregate` cannot change it: extract with `keep_scales`"
    )


def test_the_result_says_how_a_layer_was_pooled_where_not_as_usual(tmp_path: Path) -> None:
    dataset, values = clusters([12, 12])
    later = {"pool": "max", "view": "center", "pre_relu": True, "normalise": "none"}
    usual = write_descriptors(tmp_path / "u.h5", dataset, values)
    other = write_descriptors(tmp_path / "o.h5", dataset, values, layer="conv5_3", **later)
    first, second = svm([usual, other], C=1)["descriptors"]
    assert not set(later) & set(first) and first["layer"] == "fc7"
    assert {name: second[name] for name in ("layer", *later)} == {"layer": "conv5_3", **later}


def test_some_of_the_kept_scales_serve_alone(tmp_path: Path) -> None:
    dataset, _ = clusters([12, 12])
    values = np.abs(np.random.default_rng(0).standard_normal((24, 3, 5)))
    path = write_descriptors(tmp_path / "k.h5", dataset, values, keep_scales=True)
    for flags, pooled in (
        ({"scales": (384,)}, values[:, 1]),
        ({"scales": (512, 256)}, values[:, [0, 2]].reshape(24, 10)),
        ({"scales": (256, 384), "aggregate": "average"}, values[:, :2].mean(axis=1)),
        ({"scales": (256, 384, 512)}, values.reshape(24, 15)),
    ):
        features = open_features([path], **flags)  # type: ignore[arg-type]
        assert features.dim == pooled.shape[1]
        wanted = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        assert features.read(np.arange(24)) == pytest.approx(wanted, abs=1e-6)
    result = svm([path], scales=(384, 256), aggregate="max", C=1, output=tmp_path / "m.h5")
    assert result["descriptors"][0]["scales"] == [256, 384]
    model = read_model(tmp_path / "m.h5")
    assert model.inputs[0]["scales"] == [256, 384], "new images are described at these alone"
    assert model.record["command"].endswith("--aggregate max --scales 384,256")
    assert message(UsageError, [path], scales=()) == "no scales: name at least one smallest side, such as 256"
    assert message(UsageError, [path], scales=(256, 256)) == "scales 256,256: one is named twice"
    assert message(StoreError, [path], scales=(256, 300)) == f"{path} has no scale 300; it has 256, 384, 512"
    plain = write_descriptors(tmp_path / "p.h5", dataset, values)
    assert message(StoreError, [plain], scales=(256,)) == (
        f"{plain} keeps no single scales, so `scales` cannot change it: extract with `keep_scales`"
    )


def test_a_file_that_is_as_wanted_need_not_keep_its_scales(tmp_path: Path) -> None:
    dataset, _ = clusters([12, 12])
    values = np.abs(np.random.default_rng(0).standard_normal((24, 3, 5)))
    stacked = write_descriptors(tmp_path / "s.h5", dataset, values)
    one = write_descriptors(tmp_path / "o.h5", dataset, values[:, :1])
    for path, flags in (
        (stacked, {"scales": (512, 384, 256)}),
        (stacked, {"aggregate": "stack"}),
        (one, {"scales": (256,)}),
        (one, {"aggregate": "max"}),
    ):
        features = open_features([path], **flags)  # type: ignore[arg-type]
        assert features.dim == open_features([path]).dim
        assert np.array_equal(features.read(np.arange(24)), open_features([path]).read(np.arange(24)))


# What is refused.


def test_descriptors_that_are_nan_or_missing_or_unlabelled_are_errors(tmp_path: Path) -> None:
    dataset, values = clusters([10, 12])
    nan = write_descriptors(tmp_path / "nan.h5", dataset, values, nan=[7])
    assert (
        message(StoreError, [nan])
        == f"{nan}: the descriptor of 'class000/0007.jpg' is not finite (NaN); extract it again"
    )
    part = write_descriptors(tmp_path / "part.h5", dataset, values, pending=[3, 4, 5])
    assert message(StoreError, [part]) == (
        f"{part} is not finished: 3 of 22 images are still to do; extract again with `resume`"
    )
    bare = replace(dataset, name="images", samples=tuple(replace(s, labels=None) for s in dataset.samples))
    unlabelled = write_descriptors(tmp_path / "bare.h5", bare, values)
    assert message(DatasetError, [unlabelled]) == (
        f"{unlabelled} has no labels: extract with `dataset` (for your own <class>/*.jpg tree or CSV of path,label: "
        "`dataset=folder` `data=DIR`)"
    )
    assert message(StoreError, [tmp_path / "none.h5"]) == f"{tmp_path}/none.h5: no such file"


@pytest.mark.parametrize("rounds", [Rounds(number=4), Rounds(folds=3)])
def test_a_rare_tag_is_scored_where_it_has_an_image_to_train_on(tmp_path: Path, caplog, rounds: Rounds) -> None:
    dataset, values = multi_label(60, ("a", "b"), ("",))
    tagged = tuple(
        replace(sample, labels=(*sample.labels, 1 if row == 7 else -1)) for row, sample in enumerate(dataset.samples)
    )
    file = write_descriptors(
        tmp_path / "tags.h5", replace(dataset, samples=tagged, class_names=("a", "b", "rare")), values
    )
    result = svm(file, C=(0.1, 1.0), rounds=rounds, output=tmp_path / "model.h5")
    assert np.isnan(result.per_class["rare"]), "an image to train on leaves none to test on"
    assert result.mean == pytest.approx(np.mean([result.per_class["a"], result.per_class["b"]]), abs=0.02)
    untrained = [one for one in result.splits if "00007" in one_test(file, rounds, one.seed, one.fold)]
    assert len([text for text in caplog.messages if "rare" in text]) == len(untrained)
    for one, text in zip(untrained, caplog.messages, strict=True):
        which = f"seed {one.seed}" if one.fold is None else f"fold {one.fold}"
        assert text == f"{which}: not scored in this split, for lack of a training image: rare"
    assert untrained or rounds.folds is None
    assert read_model(tmp_path / "model.h5").class_names == ("a", "b", "rare")


def one_test(file: Path, rounds: Rounds, seed: int | None, fold: int | None) -> tuple[str, ...]:
    """The test part of one split."""
    features = open_features([file], "folder")
    found = make_splits(features, protocol_of("folder"), rounds)
    return next(split.test for split in found if (split.seed, split.fold) == (seed, fold))


def test_a_class_with_too_few_images_is_an_error(tmp_path: Path) -> None:
    dataset, values = clusters([40, 30], name="caltech101")
    few = write_descriptors(tmp_path / "few.h5", dataset, values)
    assert message(DatasetError, [few]) == (
        "class 'class001' has 30 images, this protocol needs 31 (30 to train on and at least one to test on)"
    )
    one, values = clusters([40])
    assert message(DatasetError, [write_descriptors(tmp_path / "one.h5", one, values)]).endswith(
        "one.h5 has images of only one class; a classifier needs two"
    )
    labels = np.full((40, 2), -1)
    labels[:20, 0] = 1
    samples = tuple(Sample(f"{i}", "x", tuple(map(int, row))) for i, row in enumerate(labels))
    empty = write_descriptors(tmp_path / "empty.h5", Dataset("folder", samples, ("a", "b")), values)
    assert message(DatasetError, [empty]) == "class 'b' has no training image with a descriptor"
    parts = ["train", "val"] * 15 + ["test"] * 10
    named = tuple(replace(one, subset=part) for part, one in zip(parts, samples, strict=True))
    labels[35, 1] = 1
    voc = tuple(replace(one, labels=tuple(map(int, row))) for one, row in zip(named, labels, strict=True))
    lacking = write_descriptors(tmp_path / "voc.h5", Dataset("voc2007", voc, ("a", "b")), values)
    assert message(DatasetError, [lacking], C=1.0) == "class 'b' has no training image with a descriptor"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"C": (1, 0.1)}, "`C=1,0.1`: the grid must ascend without repetition"),
        ({"C": 0}, "`C=0`: every value must be above 0 and finite"),
        ({"C": float("nan")}, "`C=nan`: every value must be above 0 and finite"),
        ({"loss": "hinge", "solver": "newton"}, "the plain hinge has no Newton solver"),
        ({"rounds": Rounds(folds=3, train_per_class=5)}, "`folds`, `train_per_class` and `test_fraction`: choose one"),
        ({"rounds": Rounds(test_per_class=5)}, "`test_per_class` needs `train_per_class`"),
        ({"rounds": {"folds": 3}}, "dict is not Rounds: give vggfeat.Rounds(folds=3), say"),
    ],
)
def test_settings_that_make_no_sense_are_usage_errors(toy: Path, options: dict[str, Any], text: str) -> None:
    assert message(UsageError, [toy], **options).startswith(text)


def test_a_benchmark_keeps_its_splits(tmp_path: Path) -> None:
    dataset, values = clusters([40, 40], name="caltech101")
    path = write_descriptors(tmp_path / "c.h5", dataset, values)
    assert message(UsageError, [path], rounds=Rounds(folds=3)) == (
        "caltech101 prescribes its splits: `folds` and `test_fraction` are for your own images"
    )
    assert svm([path], C=1, rounds=Rounds(train_per_class=15))["splits"][0]["train"] == 24


def test_a_grid_without_validation_images_is_a_usage_error(toy: Path, tmp_path: Path) -> None:
    svm([toy], C=1, write_splits=tmp_path / "s.json")
    content = json.loads((tmp_path / "s.json").read_text())
    for split in content["splits"]:
        split["train"] += split["val"]
        split["val"] = []
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert message(UsageError, [toy], splits=tmp_path / "s.json") == (
        "the split has no validation images to choose C with: give one value, such as `C=1`"
    )
    assert svm([toy], splits=tmp_path / "s.json", C=1)["splits"][0]["val"] == 0


# The command.


def test_the_data_sets_only_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message(UsageError, dataset="caltech256") == (
        "no descriptors/caltech256-*.h5 here: name the files, or extract the data set"
    )
    assert message(UsageError) == "no descriptors: name descriptor files, or the data set by `dataset`"
    dataset, values = clusters([61, 61], name="caltech256")
    write_descriptors(tmp_path / "descriptors" / "caltech256-D-oxford-256-stack.h5", dataset, values)
    assert svm(dataset="caltech256", C=1)["descriptors"][0]["path"] == "descriptors/caltech256-D-oxford-256-stack.h5"
    write_descriptors(tmp_path / "descriptors" / "caltech256-E-oxford-256-stack.h5", dataset, values, net="E")
    assert message(UsageError, dataset="caltech256") == (
        "several descriptor files of caltech256: name one, or those to stack: "
        "descriptors/caltech256-D-oxford-256-stack.h5 descriptors/caltech256-E-oxford-256-stack.h5"
    )
    (tmp_path / "descriptors" / "voc2012-action-D.h5").write_bytes(b"")
    assert message(UsageError, dataset="voc2012").startswith("no descriptors/voc2012-*.h5 here")


def test_the_command_prints_json_or_the_models_path_alone(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["svm", str(toy), "--C", "0.1,1", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    for name in ("dataset", "measure", "mean", "std", "splits", "per_class", "descriptors", "seconds"):
        assert name in result
    assert set(result["splits"][0]) >= {"seed", "C", "value"}
    assert set(result["descriptors"][0]) >= {"path", "net", "weights", "scales", "aggregate"}
    score = f"mean class recall {100 * result['mean']:.1f} +- {100 * result['std']:.1f} % (chance 25.0)"
    assert f"folder: {score} over 3 splits\nnet D (oxford); " in err
    assert result["chance"] == 0.25
    model = tmp_path / "m.h5"
    assert run(["svm", str(toy), "--C", "1", "-o", str(model), "--quiet"]) == 0
    assert capsys.readouterr() == (f"{model}\n", "")


def test_the_command_reports_what_liblinear_stands_in_for_and_errors_in_one_line(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["svm", str(toy), "--C", "1", "--loss", "hinge", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "the plain hinge is fitted with LIBLINEAR" in err
    assert json.loads(out)["splits"][0]["duality_gap"] is None
    assert run(["svm", str(toy), "--dataset", "caltech101"]) == 1
    assert capsys.readouterr().err == f"vggfeat: {toy} has descriptors of 'folder', --dataset is 'caltech101'\n"
    assert run(["svm", str(toy), "--C", "1,x"]) == 2


def test_a_model_is_kept_whole_or_not_at_all(toy: Path, tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:  # whom no mode stops
        (tmp_path / "file").write_bytes(b"")
        target = tmp_path / "file" / "m.h5"
    else:
        (tmp_path / "shut").mkdir(mode=0o500)
        target = tmp_path / "shut" / "m.h5"
    assert "cannot write" in message(VggfeatError, [toy], C=1, output=target)


@pytest.mark.parametrize("options", [["-o", "{}/m.h5"], ["--report", "{}/report"], ["--write-splits", "{}/s.json"]])
def test_an_output_that_cannot_be_is_refused_before_any_fit(
    toy: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("vggfeat.stages.svm.run_split", lambda *_: pytest.fail("fitted"))
    assert run(["svm", str(toy), *(option.format(tmp_path / "file") for option in options)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"vggfeat: {tmp_path / 'file'}/")
    assert ": cannot write here: " in error


def test_a_folder_is_no_output_and_said_so_before_any_fit(toy: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vggfeat.stages.svm.run_split", lambda *_: pytest.fail("fitted"))
    folder = f"{tmp_path}: cannot write: it is a folder, name a file in it"
    assert (
        message(VggfeatError, [toy], output=tmp_path) == message(VggfeatError, [toy], write_splits=tmp_path) == folder
    )


def test_a_users_model_is_fitted_on_all_images_and_a_benchmarks_on_the_first_split(toy: Path, tmp_path: Path) -> None:
    result = svm([toy], output=tmp_path / "m.h5")
    model = read_model(tmp_path / "m.h5")
    assert model.record["fitted_on"] == 115
    assert model.record["mean"] == result["mean"]
    curves = np.mean([[p["value"] for p in s["validation"]] for s in result["splits"]], axis=0)
    assert set(model.C) == {C_GRID[int(np.round(curves, 12).argmax())]}
    features = open_features([toy])
    X = features.read(np.arange(115))
    reference = LinearSVC(C=model.C[0], tol=1e-9, max_iter=100_000, random_state=0).fit(X, features.labels)
    assert model.scores(X) == pytest.approx(reference.decision_function(X), abs=5e-3)
    dataset, values = clusters([40, 40], name="caltech101")
    svm([write_descriptors(tmp_path / "c.h5", dataset, values)], C=1, output=tmp_path / "b.h5")
    assert read_model(tmp_path / "b.h5").record["fitted_on"] == 60


def progress_of(path: Path, **options: Any) -> tuple[list[int], int]:
    """The numbers of steps done that `svm` tells, which must ascend, and of all steps."""
    heard: list[tuple[int, int, int]] = []
    svm([path], progress=lambda *step: heard.append(step), **{"rounds": Rounds(2)} | options)
    done, totals, failed = zip(*heard, strict=True)
    assert len(set(totals)) == 1 and not any(failed)
    assert list(done) == sorted(set(done))
    return list(done), totals[0]


SOLVED = {
    PrimalEngine: ({"solver": "newton"}, Limits()),
    GramEngine: ({"solver": "newton"}, Limits(primal_features=0, many_features=0)),
    LiblinearEngine: ({"solver": "liblinear"}, Limits()),
}
"""Options and limits that lead to each engine."""


@pytest.mark.parametrize("engine", SOLVED)
def test_progress_moves_with_each_cost_while_one_is_chosen(engine, toy, monkeypatch):
    options, limits = SOLVED[engine]
    engines = []
    choose_engine = estimator.choose_engine
    monkeypatch.setattr(estimator, "choose_engine", lambda *args: engines.append(choose_engine(*args)) or engines[-1])
    monkeypatch.setattr("vggfeat.classifiers.protocols.selection.Budget.limits", lambda _: limits)
    for module in (newton, primal_engine):
        monkeypatch.setattr(module, "available_cores", lambda: 1)
    done, total = progress_of(toy, C=(0.1, 1.0, 10.0), **options)
    assert {type(one) for one in engines} == {engine}
    read, choose, fit, score = 1, 3 * 4, 4, 1  # of 4 classes
    split = read + choose + fit + score
    assert done[0] == 0 and done[-1] == total == 2 * split
    for begin in (0, split):
        within = [at - begin - read for at in done if read < at - begin <= read + choose]
        assert within == (list(range(1, 13)) if engine is LiblinearEngine else [4, 8, 12])


@pytest.mark.parametrize("C", [1.0, (0.1, 1.0)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_progress_includes_the_fit_of_a_users_model(C, probabilities, toy, tmp_path):
    done, of_splits = progress_of(toy, C=C)
    assert done[-1] == of_splits == 2 * (1 + (8 if C != 1.0 else 0) + 4 + 1)
    done, total = progress_of(toy, C=C, output=tmp_path / "m.h5", probabilities=probabilities)
    assert done[-1] == total == of_splits + 1 + 4 * (6 if probabilities else 1)


def test_progress_ends_at_its_total_where_few_images_are_calibrated_on_fewer_folds(tmp_path):
    path = write_descriptors(tmp_path / "few.h5", *clusters([3, 3]))
    rounds = Rounds(1, train_per_class=2)
    done, total = progress_of(path, C=1.0, rounds=rounds, output=tmp_path / "m.h5", probabilities=True)
    assert done[-1] == total


def test_lines_of_progress_stay_few_without_a_terminal(toy, monkeypatch, capsys):
    arguments = ["svm", str(toy), "--num-splits", "2", "--solver", "liblinear"]
    assert run(arguments) == 0
    assert "steps" not in capsys.readouterr().err, "a short run prints no progress"
    seconds = itertools.count(0, 0.5)  # a clock that moves by half a second at each call
    monkeypatch.setattr("vggfeat.cli.progress.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert run(arguments) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " steps" in line]
    assert [line.split()[1] for line in lines] == ["19/76", "39/76", "59/76"], "one every ten seconds"


# A fit far from its optimum is no result.


@pytest.mark.parametrize("solver", ["newton", "liblinear"])
def test_costs_whose_fits_stopped_short_while_choosing_are_named(
    toy: Path, solver: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="vggfeat"):
        svm([toy], C=(0.1, 1.0, 1e20, 1e24), solver=solver, rounds=Rounds(1))
    if solver == "liblinear":  # it knows no gaps until the fit
        assert caplog.messages == []
        return
    assert caplog.messages == [
        "C 1e+20, 1e+24: the validation values are not those of the optimum, because fits stopped short (largest "
        "duality gap 1.0e+00, allowed 0.01); scale the features, or take a smaller C"
    ]


@pytest.mark.parametrize("C", ["1e300", "1e200", "1,1e300", "1e-300,1e150"])
@pytest.mark.parametrize("solver", ["newton", "liblinear"])
def test_a_cost_at_which_no_svm_is_found_ends_the_command(
    toy: Path, tmp_path: Path, C: str, solver: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["svm", str(toy), "--C", C, "--solver", solver, "-o", str(tmp_path / "m.h5"), "--num-splits", "1"])
    out, err = capsys.readouterr()
    if code == 0:  # solved after all: then the gap proves it
        assert read_model(tmp_path / "m.h5").record["mean"] > 0.5
        return
    assert code == 1 and out == ""
    assert err.splitlines()[-1] == (
        f"vggfeat: --C {float(C.split(',')[-1]):g}: no SVM found, the duality gap stays above 1%; take a smaller C"
    )
    assert not (tmp_path / "m.h5").exists()


def calibrated(X: np.ndarray, y: np.ndarray, C: float, folds: Any = 5) -> CalibratedClassifierCV:
    svc = LinearSVC(C=C, tol=1e-10, max_iter=200_000, random_state=0)
    return CalibratedClassifierCV(svc, cv=folds, ensemble=False).fit(X, y)


def test_a_users_model_has_the_probabilities_of_calibrated_classifier_cv_on_all_images(
    toy: Path, tmp_path: Path
) -> None:
    svm(toy, C=1.0, output=tmp_path / "m.h5", probabilities=True)
    features = open_features([toy])
    X = features.read(np.arange(115))
    model = read_model(tmp_path / "m.h5")
    expected = calibrated(X.astype(np.float64), features.labels, 1.0).predict_proba(X)
    assert model.probabilities(X) == pytest.approx(expected, abs=1e-3)


def test_a_benchmarks_probabilities_come_from_the_first_splits_training_images(tmp_path: Path) -> None:
    dataset, values = clusters([80, 95], name="caltech101")
    path = write_descriptors(tmp_path / "c.h5", dataset, values)
    result = svm(path, C=1.0, output=tmp_path / "m.h5", write_splits=tmp_path / "s.json", probabilities=True)
    plain = svm(path, C=1.0, output=tmp_path / "plain.h5")
    assert [split.value for split in result.splits] == [split.value for split in plain.splits]
    features = open_features([path])
    first = read_splits(tmp_path / "s.json", "caltech101", features.ids)[0]
    # The rows of the fit: first those that trained, then those that chose C.
    rows = np.array(
        [row for part in (first.train, first.val) for row, id in enumerate(features.ids) if id in set(part)]
    )
    X = features.read(rows).astype(np.float64)
    y, new = features.labels[rows], features.read(np.arange(175))
    found = read_model(tmp_path / "m.h5").probabilities(new)
    assert found == pytest.approx(calibrated(X, y, 1.0).predict_proba(new), abs=1e-3)


def test_images_of_several_classes_are_calibrated_without_their_difficult_labels(tmp_path: Path) -> None:
    dataset, values = multi_label(160, ("a", "b", "c"), ("train", "val", "test"))
    path = write_descriptors(tmp_path / "m.h5", dataset, values)
    svm(path, C=[0.5, 2.0], output=tmp_path / "model.h5", probabilities=True)
    model = read_model(tmp_path / "model.h5")
    features = open_features([path])
    X, labels = features.read(np.arange(160)), features.labels
    folds = held_out_folds(labels == 1, "abc")
    for k in range(3):
        known = np.flatnonzero(labels[:, k])
        place = {row: at for at, row in enumerate(known)}
        inside = [np.array([place[row] for row in fold if row in place]) for fold in folds]
        cv = [(np.setdiff1d(np.arange(len(known)), fold), fold) for fold in inside]
        other = calibrated(X[known].astype(np.float64), labels[known, k] == 1, float(model.C[k]), cv)
        assert model.probabilities(X)[:, k] == pytest.approx(other.predict_proba(X)[:, 1], abs=1e-3)


def test_the_server_splits_model_has_probabilities(tmp_path: Path) -> None:
    dataset, values = multi_label(120, CLASSES[:4], ("train", "val"), name="voc2012")
    path = write_descriptors(tmp_path / "v.h5", dataset, values)
    svm(path, C=1.0, output=tmp_path / "m.h5", probabilities=True)
    features = open_features([path])
    X = features.read(np.arange(120))
    fitted = LinearSVM(probability=True).fit(X, features.labels == 1, features.labels != 0)
    # The rows come in another order, train before val, so the folds and the sigmoids differ a little.
    difference = read_model(tmp_path / "m.h5").probabilities(X) - fitted.predict_proba(X)
    assert np.abs(difference).mean() < 0.05


def test_probabilities_need_a_model_and_two_images_of_a_class(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message(UsageError, toy, probabilities=True) == (
        "`probabilities` are kept in the model: name its file with `output`"
    )
    assert run(["svm", str(toy), "--probabilities"]) == 2
    assert capsys.readouterr().err == "vggfeat: --probabilities are kept in the model: name its file with -o\n"
    dataset, values = multi_label(60, ("a", "b"), ("train", "val"))
    samples = tuple(
        replace(one, labels=(1 - 2 * (i % 2), 1 if i == 2 else -1)) for i, one in enumerate(dataset.samples)
    )
    path = write_descriptors(tmp_path / "rare.h5", replace(dataset, samples=samples), values)
    text = message(DatasetError, path, C=1.0, output=tmp_path / "m.h5", probabilities=True)
    assert text == (
        "no probabilities for class 'b': they need at least 2 training samples of it, in different folds; it has 1"
    )


def test_the_command_keeps_probabilities_and_names_the_next_one(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "m.h5")
    assert run(["svm", str(toy), "--C", "1", "--probabilities", "-o", model]) == 0
    assert capsys.readouterr().err.endswith(f"next: vggfeat predict {model} PICTURES --probabilities\n")
    assert read_model(model).record["command"] == f"vggfeat svm {toy} --C 1.0 --probabilities"
