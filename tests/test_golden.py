"""Files of format version 1, kept as they were written: every later vggfeat must read them, and refuse newer ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from making import clusters

from vggfeat.classifiers.model_file import read_model
from vggfeat.classifiers.protocols.splits import read_splits
from vggfeat.errors import ModelError, StoreError, TrainingError, WeightsError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.stages.info import info
from vggfeat.store import read_descriptors
from vggfeat.training.state import load_last

GOLDEN = Path(__file__).parent / "golden"


def test_a_descriptor_file_of_version_1_is_read() -> None:
    made = read_descriptors(GOLDEN / "descriptors-v1.h5")
    _, values = clusters([3, 3], dim=4)
    expected = values[:, 0] / np.linalg.norm(values[:, 0], axis=1, keepdims=True)
    assert made.status.tolist() == [1, 2, 1, 1, 1, 0]
    assert np.allclose(made.read(made.done), expected[made.done], atol=1e-6)
    assert np.allclose(made.read_parts(made.done)[0], values[made.done], atol=1e-6)
    assert made.labels is not None and made.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.errors() == {"class000/0001.jpg": "cannot be read"}
    assert made.attributes["format_version"] == 1
    assert info(GOLDEN / "descriptors-v1.h5")["kind"] == "descriptors"


def test_a_model_of_version_1_is_read() -> None:
    rng = np.random.default_rng(0)
    model = read_model(GOLDEN / "model-v1.h5")
    assert np.array_equal(model.coef, rng.random((2, 4), dtype=np.float32))
    assert np.array_equal(model.intercept, rng.random(2, dtype=np.float32))
    assert (model.class_names, model.record["mean"]) == (("a", "b"), 0.5)


def test_checkpoints_of_version_1_are_read() -> None:
    expected = glorot_(VGG("A", width=1 / 4096, num_classes=2), seed=3).state_dict()
    for name in ("checkpoint-v1.pt", "last-v1.pt"):
        net = load_net(None, GOLDEN / name, device="cpu")
        assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())
        assert net.class_names == ("a", "b")
    assert load_last(GOLDEN / "last-v1.pt")[2].step == 7


def test_splits_of_version_1_are_read() -> None:
    (split,) = read_splits(GOLDEN / "splits-v1.json", "folder", ["a", "b", "c"])
    assert (split.train, split.val, split.test, split.seed) == (("a",), ("b",), ("c",), 0)


def test_newer_files_are_refused_with_advice(tmp_path: Path) -> None:
    for name, error, read in (
        ("descriptors-v1.h5", StoreError, read_descriptors),
        ("model-v1.h5", ModelError, read_model),
    ):
        path = Path(shutil.copy(GOLDEN / name, tmp_path))
        with h5py.File(path, "r+") as file:
            file.attrs["format_version"] = 2
        with pytest.raises(error) as caught:
            read(path)
        assert str(caught.value) == f"{path} has format version 2, this vggfeat reads up to 1: update it"
    content = torch.load(GOLDEN / "last-v1.pt", weights_only=True)
    content["training_state"]["version"] = 2
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="version 2, this vggfeat reads 1"):
        load_last(tmp_path / "last.pt")
    content["format_version"] = 2
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(WeightsError, match="written by a newer vggfeat .* update vggfeat$"):
        load_net(None, tmp_path / "last.pt")
