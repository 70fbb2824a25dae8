"""What may not change a number does not, and a number that is none is found where it arises, by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import clusters, two_classes, write_descriptors
from PIL import Image

import vggfeat
from vggfeat.classifiers.estimator import LinearSVM
from vggfeat.cli import run
from vggfeat.datasets.listing import from_paths
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import TrainingError
from vggfeat.inference.blocks import blocks_of, describe_blocks
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.metrics import average_precision, topk_error
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.merge import merge
from vggfeat.stages.train import train
from vggfeat.training.recipe import load_recipe

COUNT = 36
SCALES = (224,)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """36 files of six pictures of as many sizes: three blocks, the last one smaller than the others."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    sizes = [(60, 40), (40, 60), (50, 50), (60, 40), (80, 30), (33, 47)]
    kinds = [
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]
    for i in range(COUNT):
        kinds[i % 6].save(folder / f"{i:02}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def plain(pictures: list[str], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Their descriptors, in one run of one process."""
    return described(pictures, tmp_path_factory.mktemp("plain") / "a.h5")


def narrow() -> VGG:
    return glorot_(VGG("A", width=1 / 16), seed=1).eval()


def described(pictures: list[str], out: Path, **options: Any) -> np.ndarray:
    """Descriptors (N, D) of a narrow net, in the order of `pictures`."""
    made = vggfeat.read_descriptors(vggfeat.extract(pictures, net=narrow(), scales=SCALES, output=out, **options))
    return made.read()


def by_shards(pictures: list[str], folder: Path) -> np.ndarray:
    for shard in ("0/3", "1/3", "2/3"):
        described(pictures, folder / "a.h5", shard=shard)
    merge(sorted(folder.glob("a.shard-*")), folder / "a.h5")
    return vggfeat.read_descriptors(folder / "a.h5").read()


def resumed(pictures: list[str], folder: Path) -> np.ndarray:
    def stop(done: int, total: int, failed: int) -> None:
        if done == 16 and not (folder / "again").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        described(pictures, folder / "a.h5", progress=stop)
    (folder / "again").touch()
    return described(pictures, folder / "a.h5", resume=True)


def in_blocks_of_7(pictures: list[str], folder: Path) -> np.ndarray:
    extractor = Extractor([narrow()], DescriptorSettings(SCALES))
    blocks = describe_blocks(extractor, from_paths(pictures).samples, blocks_of(COUNT, 7))
    values = np.concatenate([block.descriptors for _, block in blocks])
    extractor.close()
    return values


def backwards(pictures: list[str], folder: Path) -> np.ndarray:
    return described(pictures[::-1], folder / "a.h5")[::-1]


def alone(pictures: list[str], folder: Path) -> np.ndarray:
    """Six of them one by one, which are all that differ."""
    rows = [described([path], folder / f"{i}.h5") for i, path in enumerate(pictures[:6])]
    return np.concatenate([rows[i % 6] for i in range(COUNT)])


ELSEWHERE = """
import sys
from vggfeat.nets.networks import VGG, glorot_
import vggfeat
net = glorot_(VGG("A", width=1 / 16), seed=1).eval()
vggfeat.extract(sys.argv[2:], net=net, scales=(224,), output=sys.argv[1])
"""


def with_threads(count: int) -> Callable[[list[str], Path], np.ndarray]:
    def elsewhere(pictures: list[str], folder: Path) -> np.ndarray:
        env = {**os.environ, "OMP_NUM_THREADS": str(count)}
        subprocess.run([sys.executable, "-c", ELSEWHERE, str(folder / "a.h5"), *pictures], env=env, check=True)
        return vggfeat.read_descriptors(folder / "a.h5").read()

    return elsewhere


@pytest.mark.parametrize(
    ("how", "within"),
    [
        # The same blocks of the same pictures: the same bits.
        (lambda pictures, folder: described(pictures, folder / "a.h5"), 0.0),
        (lambda pictures, folder: described(pictures, folder / "a.h5", workers=1), 0.0),
        (lambda pictures, folder: described(pictures, folder / "a.h5", workers=7), 0.0),
        (by_shards, 0.0),
        (resumed, 0.0),
        # Other sums in another order: rounding of unit vectors in fp32.
        (in_blocks_of_7, 1e-6),
        (backwards, 1e-6),
        (alone, 1e-6),
        (with_threads(1), 1e-6),
        (with_threads(2), 1e-6),
    ],
    ids=[
        "again",
        "1 worker",
        "7 workers",
        "3 shards",
        "resumed",
        "blocks of 7",
        "backwards",
        "one by one",
        "1 thread",
        "2 threads",
    ],
)
def test_what_may_not_change_a_descriptor_does_not(
    pictures: list[str], plain: np.ndarray, tmp_path: Path, how: Callable[[list[str], Path], np.ndarray], within: float
) -> None:
    assert not np.allclose(plain[0], plain[1], atol=1e-4), "so that a row in another's place shows"
    assert np.abs(how(pictures, tmp_path) - plain).max() <= within


def test_what_may_not_change_an_svm_does_not() -> None:
    """Classes alone or together, rows in another order, float64: scores agree to the solver's tolerance."""
    dataset, values = clusters([30, 40, 50], dim=20)
    X = values[:, 0].astype(np.float32)
    y = np.array([sample.labels for sample in dataset.samples])
    plain = LinearSVM(tol=1e-9).fit(X, y).decision_function(X)
    order = np.random.default_rng(0).permutation(len(y))
    for other in (
        LinearSVM(tol=1e-9).fit(X[order], y[order]).decision_function(X),
        LinearSVM(tol=1e-9).fit(X.astype(np.float64), y).decision_function(X),
        np.stack([LinearSVM(tol=1e-9).fit(X, y == k).decision_function(X) for k in range(3)], axis=1),
    ):
        assert np.abs(other - plain).max() < 1e-3
    assert np.array_equal(LinearSVM(tol=1e-9).fit(X, y).decision_function(X), plain)


# Numbers that are none.


def test_an_image_whose_activations_overflow_fails_by_name_and_the_others_do_not(photos: Path, tmp_path: Path) -> None:
    """White is beyond what this net's weights bear; the photos are not."""
    Image.new("RGB", (40, 40), "white").save(photos / "white.png")
    net = glorot_(VGG("A", width=1 / 16), seed=1).eval()
    with torch.no_grad():
        first = net.features[0]
        first.weight.fill_(1e19)
        first.bias.fill_(-27 * 1e19 * 125)  # above 0 where a patch is nearly white alone
        for layer in net.features[3:]:
            if hasattr(layer, "weight"):
                layer.weight.fill_(1e19)
    made = vggfeat.read_descriptors(vggfeat.extract(photos, net=net, scales=[224], output=tmp_path / "a.h5"))
    white = str(photos / "white.png")
    assert made.errors() == {white: "the net's activations are not finite"}
    assert np.isfinite(made.read(made.done)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_descriptor_that_is_not_finite_is_named_by_the_command(
    tmp_path: Path, bad: float, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    dataset, values = clusters([10, 12])
    path = write_descriptors(tmp_path / "a.h5", dataset, values)
    with h5py.File(path, "r+") as file:
        file["descriptors"][7, 3] = bad
    assert run(["svm", str(path), "--quiet"]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {path}: the descriptor of 'class000/0007.jpg' is not finite (NaN); extract it again\n"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_svms_row_that_is_not_finite_is_named(bad: float) -> None:
    X = np.random.default_rng(0).random((20, 5))
    y = np.arange(20) % 2
    fitted = LinearSVM().fit(X, y)
    X[13, 2] = X[17, 0] = bad
    for use in (lambda: LinearSVM().fit(X, y), lambda: fitted.decision_function(X)):
        with pytest.raises(ValueError, match=r"^Input X contains NaN or infinity, the first in row 13$"):
            use()


def test_large_rows_whose_sum_overflows_are_finite_all_the_same() -> None:
    X = np.full((4, 3), 3e38, dtype=np.float32)
    assert LinearSVM().fit(np.eye(4, 3), [0, 0, 1, 1]).decision_function(X).shape == (4,)


def test_a_score_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="^the score of image 2 is NaN$"):
        average_precision([1, 0, 1], [0.1, 0.2, np.nan])
    with pytest.raises(ValueError, match="^a score of image 1 is NaN$"):
        topk_error([0, 1], [[0.1, 0.2], [np.nan, 0.2]], k=1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "tree", 20)


def tiny(tree: Path, **changes: Any) -> tuple[Any, Any]:
    recipe = load_recipe(
        None,
        {
            "net": "A",
            "width": 1 / 64,
            "precision": "fp32",
            "data.dataset": "folder",
            "sgd.batch_size": 16,
            "augment.S": 224,
            "schedule.epochs": 2,
            **changes,
        },
    )
    return recipe, load_training_set("folder", tree, fraction=0.2, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sgd.learning_rate": 1e38}, "the validation loss became nan at update 1 (rate 1e+38): "),
        ({"sgd.learning_rate": 1e20, "sgd.weight_decay": 1e30}, " became NaN or infinite by update 1 (rate 1e+20): "),
    ],
)
def test_an_update_that_spoils_the_weights_is_named_and_what_it_left_never_kept(
    tree: Path, tmp_path: Path, changes: dict[str, float], message: str
) -> None:
    """The loss of the epoch's only update is finite: it is the step after it that goes wrong."""
    recipe, data = tiny(tree, **changes)
    with pytest.raises(TrainingError) as caught:
        train(recipe, data, output=tmp_path / "run", device="cpu")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; nothing was saved yet")
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_loss_that_is_none_names_its_update_and_the_last_good_state(tree: Path, tmp_path: Path) -> None:
    recipe, data = tiny(tree)
    good = train(recipe, data, output=tmp_path / "run", device="cpu").last
    before = good.read_bytes()
    content = torch.load(good, weights_only=True)
    content["state_dict"]["classifier.6.bias"][0] = torch.nan
    torch.save(content, good)
    longer, data = tiny(tree, **{"schedule.epochs": 3})
    with pytest.raises(TrainingError, match=rf"^the loss became nan at update 3 .*; {good} holds the last good state$"):
        train(longer, data, output=tmp_path / "run", device="cpu", resume=True)
    good.write_bytes(before)
    assert train(longer, data, output=tmp_path / "run", device="cpu", resume=True).finished


def test_a_seed_repeats_a_training_run_and_another_seed_does_not(tree: Path, tmp_path: Path) -> None:
    def weights(name: str, **changes: Any) -> torch.Tensor:
        recipe, data = tiny(tree, **{"schedule.epochs": 1, **changes})
        last = train(recipe, data, output=tmp_path / name, device="cpu", workers=2).last
        return torch.load(last, weights_only=True)["state_dict"]["classifier.6.weight"]

    plain = weights("a")
    assert torch.equal(weights("b"), plain)
    assert not torch.equal(weights("c", seed=1), plain)
