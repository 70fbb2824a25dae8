"""VOC from devkit to score through the commands: label files in the real format, stand-in pictures, a narrow net."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devkit import action_files, annotation, main_files, stand_in
from PIL import Image
from sklearn.metrics import average_precision_score

from vggfeat.cli import run
from vggfeat.datasets import load_dataset
from vggfeat.datasets.voc import ACTIONS, CLASSES
from vggfeat.store import read_descriptors

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--precision", "fp32", "--quiet"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the test's folder and returns what it printed on stdout; it has to end well."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> str:
        capsys.readouterr()
        assert run(list(args)) == 0, capsys.readouterr().err
        return capsys.readouterr().out.strip()

    return call


def first_lines(source: Path, target: Path, subset: str, count: int) -> None:
    """The first lines of each of a subset's files, byte for byte."""
    target.mkdir(parents=True, exist_ok=True)
    for file in [source / f"{subset}.txt", *(source / f"{name}_{subset}.txt" for name in CLASSES)]:
        lines = file.read_bytes().splitlines(keepends=True)
        (target / file.name).write_bytes(b"".join(lines[:count]))


def test_voc2007_from_its_real_label_files_to_map(tmp_path: Path, shared_data: Path, command: Any) -> None:
    root = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for subset, count in (("train", 150), ("val", 150), ("test", 200)):
        first_lines(
            shared_data / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main", root / "ImageSets" / "Main", subset, count
        )
    (root / "JPEGImages").mkdir()
    dataset = load_dataset("voc2007", tmp_path / "data")
    for number, sample in enumerate(dataset.samples):
        kinds = [k for k, label in enumerate(sample.labels) if label >= 0]  # type: ignore[union-attr, arg-type]
        stand_in(Path(sample.path), kinds, len(CLASSES), number)

    path = command("extract", "--dataset", "voc2007", "--data", "data", *NARROW)
    assert path == "descriptors/voc2007-A-none-224-stack.h5"
    result = json.loads(command("svm", "--dataset", "voc2007", "--json"))
    assert (result["measure"], result["definition"]) == ("mAP", "voc2007")
    [split] = result["splits"]
    assert (split["train"], split["val"], split["test"]) == (150, 150, 200)
    labels = np.array([sample.labels for sample in dataset.samples if sample.subset == "test"])
    chance = np.mean([(labels[:, k] == 1).mean() for k in range(len(CLASSES)) if (labels[:, k] == 1).any()])
    assert result["mean"] > chance + 0.15
    assert set(split["C"]) == set(CLASSES)


def test_voc2012_to_the_servers_archive(tmp_path: Path, command: Any) -> None:
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for subset, count in (("train", 120), ("val", 40), ("test", 15)):
        ids = [f"2010_{subset}{number:03}" for number in range(count)]
        main = {id: number % 20 for number, id in enumerate(ids)}
        labels = {name: {id: 1 for id in ids if main[id] == k} for k, name in enumerate(CLASSES)}
        main_files(root, subset, ids, labels)
        for number, id in enumerate(ids):
            stand_in(root / "JPEGImages" / f"{id}.jpg", [main[id]], 20, number)
    for file in (root / "ImageSets" / "Main").glob("*_test.txt"):
        file.unlink()  # the server alone knows them
    command("extract", "--dataset", "voc2012", "--data", "data", *NARROW)
    result = json.loads(command("svm", "--dataset", "voc2012", "--archive", "comp2.tar", "--json"))
    assert (result["definition"], result["splits"][0]["test"]) == ("voc2010", 40)
    with tarfile.open(tmp_path / "comp2.tar") as archive:
        assert len(archive.getnames()) == 20
        for name in CLASSES:
            file = archive.extractfile(f"results/VOC2012/Main/comp2_cls_test_{name}.txt")
            rows = [line.split() for line in file.read().decode().splitlines()]  # type: ignore[union-attr]
            assert [id for id, _ in rows] == [f"2010_test{number:03}" for number in range(15)]
            assert np.isfinite([float(score) for _, score in rows]).all()


def test_action_from_persons_boxes_to_the_servers_archive(tmp_path: Path, command: Any) -> None:
    """Two persons an image, each with a patch of his own action inside of his box."""
    root, rng = tmp_path / "data" / "VOCdevkit" / "VOC2012", np.random.default_rng(1)
    boxes = [(1, 1, 40, 60), (41, 1, 80, 60)]  # 1-based, inclusive
    truth: dict[str, int] = {}
    for subset, count in (("train", 60), ("val", 60), ("test", 10)):
        persons, labels = [], {name: set[int]() for name in ACTIONS}
        for number in range(count):
            id = f"2011_{subset}{number:03}"
            annotation(root, id, [("person", box) for box in boxes])
            halves = root / "JPEGImages" / f"{id}.jpg"
            kinds = rng.integers(0, 10, 2).tolist()
            paint_halves(halves, kinds, number)
            for index, kind in enumerate(kinds, start=1):
                labels[ACTIONS[kind]].add(len(persons))
                truth[f"{id}_{index}"] = kind
                persons.append((id, index))
        action_files(root, subset, persons, labels)
    for file in (root / "ImageSets" / "Action").glob("*_test.txt"):
        # The server's list names the persons; their labels mean nothing.
        file.write_text("".join(" ".join([*line.split()[:2], "-1"]) + "\n" for line in file.read_text().splitlines()))

    scores: dict[str, float] = {}
    for region in ("image", "both"):
        out = command(
            "extract",
            "--dataset",
            "voc2012-action",
            "--data",
            "data",
            "--region",
            region,
            *NARROW,
            "-o",
            f"{region}.h5",
        )
        assert read_descriptors(out).dim == 256 * (2 if region == "both" else 1)
        result = json.loads(command("svm", out, "--archive", f"{region}.tar", "--json"))
        scores[region] = result["mean"]
    # Whole images cannot tell the two persons apart: the box is what the paper's Table 12 gains by.
    assert scores["both"] > scores["image"] + 0.1
    columns, ids = [], []
    with tarfile.open(tmp_path / "both.tar") as archive:
        for name in ACTIONS:
            file = archive.extractfile(f"results/VOC2012/Action/comp10_action_test_{name}.txt")
            rows = [line.split() for line in file.read().decode().splitlines()]  # type: ignore[union-attr]
            ids = [f"{id}_{index}" for id, index, _ in rows]
            columns.append([float(score) for *_, score in rows])
    assert ids == [f"2011_test{number:03}_{index}" for number in range(10) for index in (1, 2)]
    # The archive's scores rank the persons' true actions, which the command never saw.
    positive = np.array([[truth[id] == k for id in ids] for k in range(10)])
    some = positive.any(axis=1)
    aps = [average_precision_score(p, s) for p, s in zip(positive[some], np.array(columns)[some], strict=True)]
    assert np.mean(aps) > positive.mean() + 0.15


def paint_halves(path: Path, kinds: list[int], seed: int) -> None:
    """A picture of two stand-ins of 40x60 side by side."""
    whole = Image.new("RGB", (80, 60))
    for at, kind in enumerate(kinds):
        part = path.with_name(f"part{at}.png")
        stand_in(part, [kind], 10, 2 * seed + at, size=(40, 60))
        with Image.open(part) as half:
            whole.paste(half, (40 * at, 0))
        part.unlink()
    whole.save(path, quality=90)
