"""Each reader of weights.py against another implementation: same input, same fc7 and soft-max."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe_writer
import cv2
import h5py
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from needs import need_hdf5_that_survives_damage
from torch import Tensor, nn

import vggfeat
from vggfeat.errors import UsageError, VggfeatError, WeightsError
from vggfeat.nets.catalog import NETS, OXFORD, RANDOM, TORCHVISION, WEIGHTS, Preprocessing, scaled
from vggfeat.nets.formats.state_dict import unwrapped
from vggfeat.nets.identify import layer_shapes, width_of
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.reading import read_weights
from vggfeat.nets.weights import load_net
from vggfeat.system import devices, processor
from vggfeat.system.devices import resolve_device, resolve_precision

WIDTH = 1 / 16
CLASSES = 1000
"""As the published weights have, whose layouts tell their preprocessing."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Two preprocessed crops, (2, 3, 224, 224), with structure in them."""
    rng = np.random.default_rng(5)
    coarse = rng.normal(0, 60, (2, 14, 14, 3)).astype(np.float32)
    fine = np.stack([cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.ascontiguousarray(fine.transpose(0, 3, 1, 2)) + rng.normal(0, 5, (2, 3, 224, 224)).astype(np.float32)


def outputs(net: VGG, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Our fc7 and soft-max."""
    with torch.inference_mode():
        images = torch.from_numpy(crops)
        return net.dense(images)[:, 0, 0].numpy(), net(images).softmax(1).numpy()


def assert_same(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> None:
    """Equal to 1e-4 of the output's scale, and outputs that would show a difference."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        error = float(np.abs(mine - other).max() / np.abs(other).max())
        print(f"largest relative difference {error:.1e}")
        assert error < TOLERANCE
    fc7, probabilities = theirs
    assert (fc7 > 0).mean() > 0.1
    assert np.ptp(probabilities, axis=1).min() > 1 / CLASSES
    assert np.abs(fc7[0] - fc7[1]).max() > 0.05 * fc7.max()


def random_layers(net: str, seed: int = 0, width: float = WIDTH) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of each layer, of a size that keeps the signal's through the net."""
    rng = np.random.default_rng(seed)
    state = VGG(net, width=width, num_classes=CLASSES).state_dict()
    weights = [value for name, value in state.items() if name.endswith("weight")]
    return [
        (
            rng.normal(0, (2 / weight[0].numel()) ** 0.5, tuple(weight.shape)).astype(np.float32),
            rng.normal(0, 5, len(weight)).astype(np.float32),
        )
        for weight in weights
    ]


def scores_tamed(layers: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The last layer made small, so that the soft-max is not all at one class."""
    weight, bias = layers[-1]
    return [*layers[:-1], (weight / 50, bias / 50)]


# --- torchvision ---


def torchvision_net(net: str, seed: int = 0) -> nn.Module:
    """torchvision's own module, narrow, with random weights: `make_layers` takes any table, the classifier is fixed."""
    table: list[Any] = [part if part == "M" else scaled(part.channels, WIDTH) for part in NETS[net].layers]
    hidden = scaled(4096, WIDTH)
    with torch.device("meta"):
        module = torchvision.models.VGG(torchvision.models.vgg.make_layers(table), CLASSES, init_weights=False)
        module.classifier[0] = nn.Linear(49 * table[-2], hidden)
        module.classifier[3] = nn.Linear(hidden, hidden)
        module.classifier[6] = nn.Linear(hidden, CLASSES)
    values = [torch.from_numpy(array) for pair in scores_tamed(random_layers(net, seed)) for array in pair]
    module.load_state_dict(dict(zip(module.state_dict(), values, strict=True)), assign=True)
    return module.eval()


def torchvision_outputs(module: nn.Module, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        images = torch.from_numpy(crops)
        pooled = module.avgpool(module.features(images)).flatten(1)  # type: ignore[operator]
        return module.classifier[:5](pooled).numpy(), module(images).softmax(1).numpy()  # type: ignore[index]


@pytest.mark.parametrize("net", ["A", "B", "D", "E"])
def test_a_torchvision_file_gives_torchvisions_outputs(net: str, crops: np.ndarray, tmp_path: Path) -> None:
    module = torchvision_net(net)
    path = tmp_path / "net.pth"
    torch.save(module.state_dict(), path)
    loaded = load_net(None, path, device="cpu")
    assert (loaded.net, loaded.num_classes, loaded.width) == (net, CLASSES, WIDTH)
    assert loaded.preprocessing == TORCHVISION
    assert loaded.weights_name == "net.pth"
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.training
    assert_same(outputs(loaded, crops), torchvision_outputs(module, crops))


def test_a_full_size_torchvision_file_gives_torchvisions_outputs(crops: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = torchvision.models.vgg11(weights=None, init_weights=False).eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):  # torch's own initial values let the signal die
                layer.weight.mul_(6**0.5)
            elif isinstance(layer, nn.Linear):
                layer.weight.mul_(2.4)
    path = tmp_path / "vgg11.pth"
    torch.save(module.state_dict(), path)
    loaded = load_net("A", path, device="cpu")
    path.unlink()
    assert (loaded.width, loaded.num_classes) == (1.0, 1000)
    theirs = torchvision_outputs(module, crops)
    mine = outputs(loaded, crops)
    for ours, other in zip(mine, theirs, strict=True):
        error = float(np.abs(ours - other).max() / np.abs(other).max())
        print(f"largest relative difference {error:.1e}")
        assert error < TOLERANCE


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_a_training_scripts_wrapping_and_dataparallels_prefix_are_taken_off(wrap: str, tmp_path: Path) -> None:
    module = nn.DataParallel(torchvision_net("B"))
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, wrap: module.state_dict(), "arch": "vgg13"}, path)
    loaded = load_net("B", path, device="cpu")
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name.removeprefix("module.")], value)


def test_torchs_older_file_format_and_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in torchvision_net("A").state_dict().items()}
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    loaded = load_net("A", path, device="cpu")
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float())


@pytest.mark.parametrize("values", ["missing", "nan"])
def test_a_features_only_file_gives_a_net_without_its_top(values: str, crops: np.ndarray, tmp_path: Path) -> None:
    module = torchvision_net("D")
    state = {
        name: value * torch.nan if name.startswith("classifier") else value
        for name, value in module.state_dict().items()
        if values == "nan" or name.startswith("features")
    }
    path = tmp_path / "vgg16_features.pth"
    torch.save(state, path)
    loaded = load_net("D", path, device="cpu", preprocessing="torchvision")
    assert (loaded.has_top, loaded.num_classes, loaded.width, loaded.classifier) == (False, 0, WIDTH, None)
    images = torch.from_numpy(crops)
    with torch.inference_mode():
        assert torch.equal(loaded.features(images), module.features(images))  # type: ignore[operator]
    wanted = {
        "no fc6; take `layer=pool5`": lambda: loaded.dense(images, "fc6"),
        "no fc7; take `layer=pool5`": lambda: loaded.dim("fc7"),
        "it scores no classes": lambda: loaded(images),
    }
    for what, ask in wanted.items():
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(caught.value) == f"vgg16_features.pth has no fully-connected layers, so {what}"
    again = load_net(None, loaded.save(tmp_path / "again.pt"), device="cpu")
    assert (again.has_top, again.net, again.num_classes) == (False, "D", 0)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in loaded.state_dict().items())


def test_one_or_two_fully_connected_layers_are_refused(tmp_path: Path) -> None:
    state = torchvision_net("D").state_dict()
    for layers, dropped in (
        ("2 fully-connected layers", ["classifier.6"]),
        ("1 fully-connected layer", ["classifier.3", "classifier.6"]),
    ):
        left = {name: value for name, value in state.items() if not name.startswith(tuple(dropped))}
        torch.save(left, tmp_path / "net.pth")
        with pytest.raises(WeightsError) as caught:
            load_net("D", tmp_path / "net.pth")
        assert str(caught.value) == (
            f"{tmp_path}/net.pth: has {layers}; a net of Table 1 has three, a features-only file 0"
        )


def test_an_infinite_value_anywhere_is_named(tmp_path: Path) -> None:
    state = torchvision_net("A").state_dict()
    state["features.3.weight"][0, 0, 0, 0] = torch.inf
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: features\.3 has values that are NaN or infinite$"):
        load_net("A", tmp_path / "net.pth")


def test_batch_normalisation_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        names = torchvision.models.vgg11_bn().state_dict()
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "bn.pth")
    with pytest.raises(WeightsError, match=r"'features\.1\.running_mean' is not a parameter .*batch normalisation"):
        load_net("A", tmp_path / "bn.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": "x"}, "progress 'x' is not True, False or a function"),
        ({"layers": 5}, "`layers` 5 is neither a name nor several names"),
        ({"weights": 3.5}, "`weights` 3.5 is neither a name nor a path"),
    ],
)
def test_a_net_is_not_made_from_values_of_another_kind(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_net("A", **{"weights": None, "width": 0.0625, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize("row", [row for row in WEIGHTS if row.source == "torchvision"], ids=lambda row: row.net)
def test_the_catalogs_torchvision_rows_are_torchvisions(row: Any) -> None:
    depth = {"A": 11, "B": 13, "D": 16, "E": 19}[row.net]
    theirs = torchvision.models.get_model_weights(f"vgg{depth}").IMAGENET1K_V1  # type: ignore[attr-defined]
    assert row.url == theirs.url
    assert row.filename == theirs.url.rpartition("/")[2]
    assert row.digest == "sha256-prefix:" + re.findall(r"-([0-9a-f]{8})\.pth", theirs.url)[0]
    measured = theirs.meta["_metrics"]["ImageNet-1K"]
    assert row.score.top1 == pytest.approx(100 - measured["acc@1"], abs=5e-4)
    assert row.score.top5 == pytest.approx(100 - measured["acc@5"], abs=5e-4)
    presets = theirs.transforms()
    assert (row.preprocessing.mean, row.preprocessing.std) == (tuple(presets.mean), tuple(presets.std))
    assert row.preprocessing.filter == presets.interpolation.value
    assert theirs.meta["num_params"] == NETS[row.net].parameters()


# --- vggfeat checkpoints ---


@pytest.mark.parametrize("net", NETS)
def test_a_checkpoint_knows_its_net_and_all_that_belongs_to_it(net: str, tmp_path: Path) -> None:
    odd = Preprocessing("BGR", 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bicubic")
    names = ("cat", "dog", "Å")
    # At this width the number of hidden units alone would give another one.
    saved = glorot_(VGG(net, width=0.0303, num_classes=3, preprocessing=odd, class_names=names), seed=4)
    saved.training_record = {"epochs": 2, "top1_error": 31.5}
    path = saved.save(tmp_path / "net.ckpt")
    loaded = load_net(None, path, device="cpu")
    assert (loaded.net, loaded.width, loaded.num_classes) == (net, 0.0303, 3)
    assert (loaded.preprocessing, loaded.class_names) == (odd, names)
    assert loaded.training_record == {"epochs": 2, "top1_error": 31.5}
    assert loaded.weights_name == "net.ckpt"
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in saved.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def spoiled(tmp_path: Path, **changes: Any) -> Path:
    content = glorot_(VGG("A", width=1 / 64, num_classes=3)).checkpoint() | changes
    torch.save(content, tmp_path / "net.ckpt")
    return tmp_path / "net.ckpt"


def test_a_newer_checkpoint_is_refused_with_advice(tmp_path: Path) -> None:
    path = spoiled(tmp_path, format_version=2)
    with pytest.raises(WeightsError) as caught:
        load_net(None, path)
    assert str(caught.value) == (
        f"{path}: written by a newer vggfeat (checkpoint format 2, this one reads 1): update vggfeat"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "one"}, "a vggfeat checkpoint of no known version ('one')"),
        ({"net": "Q"}, "a damaged vggfeat checkpoint (UsageError: no net 'Q'"),
        ({"net": 7}, "a damaged vggfeat checkpoint (AttributeError"),
        ({"width": 1e300}, "its layers' shapes are not those of net A at width 1e+300"),
        ({"width": float("nan")}, "its layers' shapes are not those of net A at width nan"),
        ({"net": "B"}, "its layers' shapes are not those of net B at width 0.015625"),
        ({"state_dict": 3}, "a damaged vggfeat checkpoint (TypeError"),
        ({"state_dict": {}}, "its layers' shapes are not those of net A at width 0.015625"),
        ({"preprocessing": {"mean": [1, 2]}}, "a damaged vggfeat checkpoint (KeyError: 'std')"),
        ({"preprocessing": {}}, "a damaged vggfeat checkpoint (KeyError: 'mean')"),
        ({"class_names": ["a", "b"]}, "names 2 classes and scores 3"),
    ],
)
def test_a_spoiled_checkpoint_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = spoiled(tmp_path, **changes)
    with pytest.raises(WeightsError, match=f"^{re.escape(f'{path}: {message}')}"):
        load_net(None, path)


def test_another_net_than_the_files_is_refused_naming_both(tmp_path: Path) -> None:
    path = spoiled(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_net("D", path)
    assert str(caught.value) == f"{path}: holds net A (VGG-11), not D (VGG-16)"
    with pytest.raises(UsageError, match=r"holds net A \(VGG-11\), not A-LRN"):
        load_net("A-LRN", path)


def test_another_width_or_number_of_classes_than_the_files_is_refused(tmp_path: Path) -> None:
    path = spoiled(tmp_path)
    assert load_net("A", path, width=1 / 64, num_classes=3).num_classes == 3
    for width in (0.5, 1.0):  # the second is a random net's
        with pytest.raises(UsageError, match=rf"a net of width 0\.015625, not {width:g}; a file knows its own `width`"):
            load_net("A", path, width=width)
    for classes in (20, 1000):
        with pytest.raises(UsageError, match=f"a net of 3 classes, not {classes}"):
            load_net("A", path, num_classes=classes)


# --- which net a file without a name is ---


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(NETS)), st.floats(0.001, 0.12), st.none() | st.integers(1, 30))
def test_shapes_tell_the_net_at_any_width(net: str, width: float, classes: int | None) -> None:
    shapes = layer_shapes(NETS[net], width, classes)
    alike = {name for name in NETS if width_of(NETS[name], shapes) is not None}
    assert alike == ({"A", "A-LRN"} if net in ("A", "A-LRN") else {net})
    found = width_of(NETS[net], shapes)
    assert found is not None
    assert layer_shapes(NETS[net], found, classes) == shapes


def test_as_shapes_are_a_unless_told_or_named_a_lrn(tmp_path: Path) -> None:
    plain, lrn = tmp_path / "a.pth", tmp_path / "lrn.pth"
    torch.save(VGG("A", width=1 / 64).state_dict(), plain)
    torch.save(VGG("A-LRN", width=1 / 64).state_dict(), lrn)
    assert load_net(None, plain).net == "A"
    assert load_net("A-LRN", plain).net == "A-LRN"
    assert load_net(None, lrn).net == "A-LRN"
    with pytest.raises(UsageError, match=r"holds net A-LRN, not A \(VGG-11\)$"):
        load_net("A", lrn)


def test_alexnet_is_no_net_of_table_1(tmp_path: Path) -> None:
    state = {name: value[:1, :1] if value.ndim > 1 else value[:1] for name, value in _alexnet().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    with pytest.raises(WeightsError, match="its 8 layers have the shapes of no net of Table 1, at no width factor"):
        load_net(None, tmp_path / "alexnet.pth")


def _alexnet() -> dict[str, Tensor]:
    state = {f"features.{i}.weight": torch.zeros(4, 4, 3, 3) for i in (0, 3, 6, 8, 10)}
    state |= {f"features.{i}.bias": torch.zeros(4) for i in (0, 3, 6, 8, 10)}
    state |= {f"classifier.{i}.weight": torch.zeros(4, 4) for i in (1, 4, 6)}
    return state | {f"classifier.{i}.bias": torch.zeros(4) for i in (1, 4, 6)}


# --- Keras ---


def keras_model(net: str = "D", seed: int = 0) -> Any:
    """keras.applications.VGG16 or 19, narrow: the same layers under the same names."""
    import keras

    inputs = keras.Input((224, 224, 3), name="input_1")
    x = inputs
    stage, index = 1, 1
    for part in NETS[net].layers:
        if part == "M":
            x = keras.layers.MaxPooling2D(2, strides=2, name=f"block{stage}_pool")(x)
            stage, index = stage + 1, 1
        else:
            name = f"block{stage}_conv{index}"
            x = keras.layers.Conv2D(scaled(part.channels, WIDTH), 3, padding="same", activation="relu", name=name)(x)
            index += 1
    x = keras.layers.Flatten(name="flatten")(x)
    for name in ("fc1", "fc2"):
        x = keras.layers.Dense(scaled(4096, WIDTH), activation="relu", name=name)(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax", name="predictions")(x), name="vgg")
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            spread = (2 / kernel[..., 0].size) ** 0.5 / (50 if layer.name == "predictions" else 1)
            layer.set_weights([rng.normal(0, spread, kernel.shape), rng.normal(0, 5 * spread, bias.shape)])
    return model


def keras_outputs(model: Any, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import keras

    both = keras.Model(model.inputs, [model.get_layer("fc2").output, model.outputs[0]])
    with torch.inference_mode():
        fc7, probabilities = both(np.ascontiguousarray(crops.transpose(0, 2, 3, 1)), training=False)
    return fc7.cpu().numpy(), probabilities.cpu().numpy()


def write_keras(model: Any, path: Path) -> Path:
    """The legacy layout, by Keras' own writer."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)
    return path


def renamed(path: Path, name: Callable[[str, str], str]) -> Path:
    """Gives each data set of a Keras file another name: name(layer, "kernel" or "bias")."""
    with h5py.File(path, "r+") as file:
        for layer in file.attrs["layer_names"]:
            group, names = file[layer], []
            for old, part in zip(list(group.attrs["weight_names"]), ("kernel", "bias"), strict=False):
                values = group[old][()]
                names.append(name(layer, part).encode())
                group.create_dataset(names[-1].decode(), data=values)
            group.attrs["weight_names"] = np.array(names) if names else np.zeros(0)
        file.attrs["layer_names"] = np.array([layer.encode() for layer in file.attrs["layer_names"]])
    return path


@pytest.fixture(scope="module")
def keras_d() -> Any:
    return keras_model("D")


@pytest.fixture
def keras_file(keras_d: Any, tmp_path: Path) -> Path:
    return write_keras(keras_d, tmp_path / "vgg16.h5")


def test_a_keras_file_gives_keras_outputs(keras_d: Any, keras_file: Path, crops: np.ndarray) -> None:
    loaded = load_net(None, keras_file, device="cpu")
    assert (loaded.net, loaded.width, loaded.num_classes, loaded.preprocessing) == ("D", WIDTH, CLASSES, OXFORD)
    assert_same(outputs(loaded, crops), keras_outputs(keras_d, crops))


def test_kerass_vgg19_is_net_e(crops: np.ndarray, tmp_path: Path) -> None:
    model = keras_model("E", seed=2)
    loaded = load_net(None, write_keras(model, tmp_path / "vgg19.h5"), device="cpu")
    assert loaded.net == "E"
    assert_same(outputs(loaded, crops), keras_outputs(model, crops))


@pytest.mark.parametrize(
    "name",
    [lambda layer, part: f"{layer}_{part[0].replace('k', 'W')}_1:0", lambda layer, part: f"{layer}/{part}:0"],
    ids=["block1_conv1_W_1:0", "block1_conv1/kernel:0"],
)
def test_the_published_files_namings_are_read(
    keras_d: Any, keras_file: Path, crops: np.ndarray, name: Callable[[str, str], str]
) -> None:
    renamed(keras_file, name)
    with h5py.File(keras_file) as file:
        assert name("block1_conv1", "kernel").encode() in list(file["block1_conv1"].attrs["weight_names"])
    assert_same(outputs(load_net("D", keras_file, device="cpu"), crops), keras_outputs(keras_d, crops))


def test_a_whole_keras_model_in_hdf5_is_read(keras_d: Any, crops: np.ndarray, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras_d.save(tmp_path / "model.h5")
    assert_same(outputs(load_net("D", tmp_path / "model.h5", device="cpu"), crops), keras_outputs(keras_d, crops))


def test_a_keras_file_without_its_top_gives_a_net_without_it(keras_d: Any, keras_file: Path, tmp_path: Path) -> None:
    import keras

    path = write_keras(keras.Model(keras_d.inputs, keras_d.get_layer("block5_pool").output), tmp_path / "notop.h5")
    loaded, whole = load_net("D", path, device="cpu"), load_net("D", keras_file, device="cpu")
    assert not loaded.has_top
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in loaded.state_dict().items())


def replace_kernel(path: Path, make: Callable[[h5py.Group, str, Path], None]) -> Path:
    """Puts something else in the place of the first kernel."""
    with h5py.File(path, "r+") as file:
        name = file["block1_conv1"].attrs["weight_names"][0]
        group, _, last = name.rpartition("/")
        parent = file["block1_conv1"][group]
        with h5py.File(path.with_name("elsewhere.h5"), "w") as other:
            other["kernel"] = parent[last][()]
        parent[last][()].tofile(path.with_name("elsewhere.raw"))
        del parent[last]
        make(parent, last, path)
    return path


def external_link(parent: h5py.Group, name: str, path: Path) -> None:
    parent[name] = h5py.ExternalLink(str(path.with_name("elsewhere.h5")), "kernel")


def soft_link(parent: h5py.Group, name: str, _: Path) -> None:
    parent[name] = h5py.SoftLink("/block1_conv2")


def virtual(parent: h5py.Group, name: str, path: Path) -> None:
    shape = (3, 3, 3, 4)
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource(path.with_name("elsewhere.h5"), "kernel", shape)
    parent.create_virtual_dataset(name, layout)


def external_raw(parent: h5py.Group, name: str, path: Path) -> None:
    parent.create_dataset(name, (3, 3, 3, 4), "f4", external=[(str(path.with_name("elsewhere.raw")), 0, 432)])


def claims_much(parent: h5py.Group, name: str, _: Path) -> None:
    parent.create_dataset(name, (1 << 20, 1 << 20, 3, 4), "f4", chunks=(1, 1, 3, 4))


def text(parent: h5py.Group, name: str, _: Path) -> None:
    parent.create_dataset(name, data=[b"not", b"numbers"])


def missing(parent: h5py.Group, name: str, _: Path) -> None:
    pass


def group(parent: h5py.Group, name: str, _: Path) -> None:
    parent.create_group(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_link, "is a link and not data of this file: refused"),
        (soft_link, "is a link and not data of this file: refused"),
        (virtual, "has its values in another file: refused"),
        (external_raw, "has its values in another file: refused"),
        (claims_much, "claims 52776558133248 bytes, more than the file has"),
        (text, "holds object, no floating-point numbers"),
        (missing, "is named and not there"),
        (group, "is not a data set"),
    ],
)
def test_hdf5_that_leads_elsewhere_or_lies_is_refused(
    keras_file: Path, make: Callable[[h5py.Group, str, Path], None], message: str
) -> None:
    replace_kernel(keras_file, make)
    with pytest.raises(WeightsError, match=re.escape(message) + "$"):
        load_net("D", keras_file)


def test_a_descriptor_file_as_weights_is_named_for_what_it_is_not(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "descriptors.h5", "w") as file:
        file["descriptors"] = np.zeros((3, 4))
    with pytest.raises(
        WeightsError,
        match=r"an HDF5 file, but not Keras' weights \(it has neither the attribute layer_names nor a group layers\)$",
    ):
        load_net("D", tmp_path / "descriptors.h5")


@pytest.mark.parametrize("kind", ["descriptors", "model"])
def test_a_file_of_vggfeats_own_that_holds_no_weights_is_told_as_such(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.attrs["format"] = f"vggfeat-{kind}"
    with pytest.raises(WeightsError, match=r"own\.h5: a file of descriptors, posteriors or an SVM, not of weights$"):
        load_net("D", tmp_path / "own.h5")


# --- Caffe ---


def opencv_outputs(
    net: str, layers: list[tuple[np.ndarray, np.ndarray]], model: bytes, crops: np.ndarray, fc_as_conv: bool
) -> tuple[np.ndarray, np.ndarray]:
    reader = cv2.dnn.readNetFromCaffe(
        np.frombuffer(caffe_writer.prototxt(net, layers, fc_as_conv), np.uint8), np.frombuffer(model, np.uint8)
    )
    fc7, probabilities = [], []
    for crop in crops:
        reader.setInput(crop[None], "data")
        found = reader.forward(["relu_fc7", "prob"])
        fc7.append(found[0].reshape(-1))
        probabilities.append(found[1].reshape(-1))
    return np.stack(fc7), np.stack(probabilities)


@pytest.mark.parametrize(
    ("net", "v1", "style", "fc_as_conv"),
    [
        ("D", True, "legacy", False),
        ("E", True, "legacy", False),
        ("D", False, "shape", False),
        ("D", False, "split", False),
        ("D", True, "unpacked", False),
        ("D", False, "shape", True),
        ("D", True, "legacy", True),
        ("C", True, "legacy", False),
        ("shallow-B", False, "shape", True),
    ],
)
def test_a_caffemodel_gives_opencvs_outputs(
    net: str, v1: bool, style: str, fc_as_conv: bool, crops: np.ndarray, tmp_path: Path
) -> None:
    layers = scores_tamed(random_layers(net, seed=3))
    model = caffe_writer.caffemodel(net, layers, v1=v1, style=style, fc_as_conv=fc_as_conv)
    (tmp_path / "net.caffemodel").write_bytes(model)
    loaded = load_net(None, tmp_path / "net.caffemodel", device="cpu")
    assert (loaded.net, loaded.width, loaded.num_classes, loaded.preprocessing) == (net, WIDTH, CLASSES, OXFORD)
    assert_same(outputs(loaded, crops), opencv_outputs(net, layers, model, crops, fc_as_conv))


def test_values_of_double_precision_are_read(tmp_path: Path) -> None:
    """OpenCV reads only `data`, so the written values themselves are the reference."""
    layers = random_layers("A", width=1 / 64)
    (tmp_path / "net.caffemodel").write_bytes(caffe_writer.caffemodel("A", layers, v1=False, style="double"))
    found = read_weights(tmp_path / "net.caffemodel").layers
    assert [layer.name for layer in found] == caffe_writer.layer_names("A")
    for layer, (weight, bias) in zip(found, layers, strict=True):
        assert np.array_equal(layer.weight.numpy(), weight)
        assert np.array_equal(layer.bias.numpy(), bias)


def small_caffemodel(**settings: Any) -> bytes:
    return caffe_writer.caffemodel("A", random_layers("A", width=1 / 256), **settings)


BLOB = caffe_writer.blob(np.ones((2, 3)), (2, 3), "shape")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no caffemodel with weights: no layer in it has any"),
        (small_caffemodel()[:-100], "runs past its end: damaged or cut short"),
        (caffe_writer.varint(2 << 3 | 2) + b"\xff" * 9 + b"\x01" + b"x" * 50, "runs past its end"),
        (b"\x0a" + b"\xff" * 40, "the number at byte 1 does not end: damaged or cut short"),
        (b"\x0b\x01\x02", "byte 0 starts no field"),
        (caffe_writer.number(1, 1) * 200_000, "it has more than 100000 fields"),
        (
            caffe_writer.layer("c", "Convolution", [caffe_writer.blob(np.ones(6), (1 << 40, 1 << 30), "shape")], True),
            "a blob of shape (1099511627776, 1073741824) has 6 values",
        ),
        (caffe_writer.layer("c", "Convolution", [BLOB], True), "layer 'c' has 1 blob where a weight and a bias"),
        (
            caffe_writer.layer("bn", "BatchNorm", [BLOB] * 3, False),
            "layer 'bn' of type BatchNorm has weights; Table 1's nets have none such",
        ),
        (
            caffe_writer.layer("c", "Convolution", [caffe_writer.blob(np.ones(1), (1,) * 5, "shape")] * 2, False),
            "a blob has more than four dimensions",
        ),
        (
            caffe_writer.layer("c", "Convolution", [caffe_writer.block(5, b"12345"), BLOB], False),
            "5 bytes are not a whole number of values",
        ),
        (caffe_writer.layer("c", "Convolution", [b"", BLOB], False), "a blob has no values"),
    ],
)
def test_a_caffemodel_that_lies_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        load_net("D", path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("net", ["D", "C"])  # C ends with a 1x1 convolution, as a head of convolutions would
def test_a_caffemodel_without_its_top_gives_a_net_without_it(net: str, tmp_path: Path) -> None:
    layers = random_layers(net, width=1 / 64)
    parts = [
        caffe_writer.layer(
            name, "Convolution", [caffe_writer.blob(weight, weight.shape), caffe_writer.blob(bias, bias.shape)], True
        )
        for name, (weight, bias) in zip(caffe_writer.layer_names(net), layers, strict=True)
    ]
    (tmp_path / "conv.caffemodel").write_bytes(b"".join(parts[:-3]))
    loaded = load_net(net, tmp_path / "conv.caffemodel", device="cpu", preprocessing="oxford")
    assert not loaded.has_top
    values = [torch.from_numpy(values) for pair in layers[:-3] for values in pair]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded.state_dict().values(), values, strict=True))


# --- hostile and damaged files ---


class _Runs:
    """A pickle that runs a function when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("write", ["torch", "torch-old", "pickle", "pickle-2"])
def test_a_pickle_with_code_is_never_run_and_the_reason_said(write: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "net.pth", tmp_path / "proof"
    content = {"features.0.weight": _Runs(proof)}
    if write.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=write == "torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if write == "pickle-2" else 4))
    with pytest.raises(WeightsError, match=r"net\.pth: not read, because its pickle asks for more than tensors"):
        load_net("D", path)
    assert not proof.exists()


def test_tensors_that_repeat_one_number_for_ever_are_refused(tmp_path: Path) -> None:
    state = VGG("A", width=1 / 64).state_dict()
    state["features.0.weight"] = torch.zeros(1).expand(1 << 40)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"claims \d{13} bytes of tensors, more than the file has$"):
        load_net("A", tmp_path / "net.pth")


def test_a_compressed_archive_that_swells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\0" * (1 << 24))
    with pytest.raises(WeightsError, match=r"claims 16777216 bytes of content, more than the file has$"):
        load_net("A", path)


def test_a_torch_file_cut_short_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(VGG("A", width=1 / 64).state_dict(), path)
    content = path.read_bytes()
    for tenth in range(1, 10):
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(
            WeightsError, match=r"net\.pth: no readable torch file, damaged or cut short \((?!.*\. ).*\)$"
        ):
            load_net("A", path)


@pytest.mark.parametrize("content", [[1, 2], {"features.0.weight": 3}, {"fc.weight": torch.ones(2)}, torch.ones(3)])
def test_other_content_than_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"no state dict$|is not a plain tensor|is not a parameter of torchvision's"):
        load_net("A", tmp_path / "net.pth")


@pytest.mark.parametrize("kind", ["caffemodel", "keras", "torch"])
def test_damaged_files_raise_nothing_but_the_projects_own_errors(
    kind: str, tmp_path_factory: pytest.TempPathFactory, keras_d: Any
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / {"caffemodel": "x.caffemodel", "keras": "x.h5", "torch": "x.pth"}[kind]
    if kind == "caffemodel":
        path.write_bytes(small_caffemodel())
    elif kind == "keras":
        need_hdf5_that_survives_damage(path.parent)
        write_keras(keras_d, path)
    else:
        torch.save(VGG("A", width=1 / 256, num_classes=2).state_dict(), path)
    sound = path.read_bytes()
    # Headers and names lie at the start; the flips go there and anywhere.
    places = st.one_of(st.integers(0, min(4000, len(sound) - 1)), st.integers(0, len(sound) - 1))

    # HDF5's own library loops for ever on about one damaged file in a thousand, so its files are the same every time;
    # test_fuzz.py has others, in child processes.
    fixed = kind == "keras"

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=fixed)
    @given(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 9))
    def damage(changes: list[tuple[int, int]], cut: int) -> None:
        content = bytearray(sound)
        for place, value in changes:
            content[place] = value
        path.write_bytes(content[: len(content) * (10 - cut) // 10] if cut < 5 else content)
        try:
            assert isinstance(load_net(None, path, device="cpu"), VGG)
        except VggfeatError as error:
            assert str(path) in str(error)

    damage()


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "music.mp3").write_bytes(b"ID3\x04\0\0\0\0\0\x21")
    with pytest.raises(WeightsError, match=r"music\.mp3: no weights file that vggfeat reads \(a vggfeat checkpoint, "):
        load_net("A", tmp_path / "music.mp3")


# --- names, random weights, device, precision ---


def test_a_name_that_is_no_file_lists_the_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_net("D", "oxfrod")
    assert str(caught.value) == (
        "no weights 'oxfrod': no such file, and not one of published, oxford, oxford-keras, torchvision, none; "
        "did you mean 'oxford'?"
    )
    with pytest.raises(UsageError, match=r"no weights 'nets/d\.pth': no such file"):
        load_net("D", Path("nets/d.pth"))
    with pytest.raises(WeightsError, match=r" is a folder without weights files$"):
        load_net("D", tmp_path)


@pytest.mark.parametrize("weights", [None, "none"])
def test_random_weights_are_glorots_and_repeat_with_their_seed(weights: str | None) -> None:
    one, same, other = (load_net(None, weights, width=1 / 32, num_classes=7, seed=seed) for seed in (3, 3, 4))
    assert (one.net, one.num_classes, one.weights_name, one.preprocessing) == ("D", 7, "none", RANDOM)
    assert one.weights_sha256 is None
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    weight = one.classifier[0].weight
    limit = (6 / sum(weight.shape)) ** 0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    assert not one.classifier[0].bias.any()
    assert not one.training


def test_an_unknown_net_is_named_whatever_the_weights() -> None:
    for weights in (None, "published"):
        with pytest.raises(
            UsageError, match=r"no net 'VGG-15'; did you mean 'vgg1[169]'\? valid: A \(VGG-11\), A-LRN, B"
        ):
            load_net("VGG-15", weights)


@pytest.mark.parametrize("name", ["net.pt", "runs/net.PTH", "vgg16.caffemodel", Path("net.pt")])
def test_a_file_in_a_nets_place_is_sent_to_weights(name: Any, tmp_path: Path) -> None:
    text = f"no net {str(name)!r}; a file is given as `weights={str(name)!r}`"
    (tmp_path / "a.jpg").touch()
    calls: list[Callable[[], object]] = [
        lambda: load_net(name),
        lambda: vggfeat.extract(tmp_path / "a.jpg", net=name),
        lambda: vggfeat.evaluate("ilsvrc2012", net=name),
        lambda: vggfeat.VGGFeatures(net=name).fit(["a.jpg"]),
    ]
    for call in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == text


def test_a_file_of_any_name_in_a_nets_place_is_known_by_its_being_there(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.touch()
    with pytest.raises(UsageError, match=rf"^no net '{path}'; a file is given as `weights='{path}'`$"):
        load_net(str(path))


def test_the_net_carries_its_precision_and_stays_float32() -> None:
    net = load_net("A", None, width=1 / 64, device="cpu", precision="bf16")
    assert net.precision == "bf16"
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert load_net("A", None, width=1 / 64, device="cpu", precision="fp32").precision == "fp32"


@pytest.mark.parametrize(
    ("has", "auto"), [({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32"), ({"bf16": True}, "bf16")]
)
def test_auto_is_bf16_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], auto: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == auto


def test_an_older_torch_is_asked_the_older_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(processor, "linux_flags", frozenset)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == "bf16"
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(("capability", "auto"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_is_bf16_on_gpus_of_capability_8(monkeypatch: pytest.MonkeyPatch, capability: int, auto: str) -> None:
    monkeypatch.setattr(devices, "_capability", lambda _: capability)
    assert resolve_precision("auto", torch.device("cuda")) == auto
    if capability == 7:
        with pytest.raises(UsageError, match="tf32` needs a CUDA device of capability 8 or later, not cuda: take `p"):
            resolve_precision("tf32", torch.device("cuda"))
    else:
        assert resolve_precision("tf32", torch.device("cuda")) == "tf32"


def test_formats_that_a_cpu_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_native", lambda *_: False)
    cpu = torch.device("cpu")
    with pytest.raises(UsageError, match="`precision=tf32` needs a CUDA device of capability 8 or later, not cpu"):
        resolve_precision("tf32", cpu)
    with pytest.raises(UsageError, match=r"`precision=fp16`: this CPU has no fp16 arithmetic; take `precision=auto`$"):
        resolve_precision("fp16", cpu)
    with pytest.raises(UsageError, match="no precision 'int4'; did you mean 'int8'"):
        resolve_precision("int4", cpu)


@pytest.mark.parametrize("has", [True, False])
def test_emulated_bf16_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: Any, has: bool) -> None:
    devices._warn_of_emulation.cache_clear()
    monkeypatch.setattr(devices, "_native", lambda *_: has)
    for _ in range(2):
        assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
        assert resolve_precision("auto", torch.device("cpu")) == ("bf16" if has else "fp32")
    said = (
        "`precision=bf16`: this CPU has no bf16 arithmetic and emulates it, which takes 3 to 17 times as long as fp32; "
        "`precision=auto` takes fp32 here"
    )
    assert caplog.messages == ([] if has else [said])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu"])
def test_a_device_that_is_not_here_is_a_usage_error(device: str) -> None:
    with pytest.raises(UsageError, match=f"no device '?{device}"):
        load_net("A", None, width=1 / 64, device=device)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "content", ["ten images, described on Monday\n", "cposix\nsystem\n(S'true'\ntR.", "<!DOCTYPE html>"]
)
@pytest.mark.parametrize("name", ["notes.pt", "notes.pth", "notes"])
def test_a_text_file_is_no_weights_file_whatever_its_suffix(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=rf"/{name}: a text file; expected a weights file that vggfeat reads \("):
        load_net("A", tmp_path / name)


def test_a_dict_that_holds_itself_ends():
    looped = {"weight": 1}
    looped["state_dict"] = looped
    assert unwrapped(looped) is looped
    assert unwrapped({"model": {"state_dict": {"a": 1}}}) == {"a": 1}


def test_one_layer_may_be_named_alone() -> None:
    assert load_net("A", None, width=1 / 64, layers="fc7").net == "A"
    with pytest.raises(UsageError, match=r"net A \(VGG-11\) has no layer 'conv9_9'; it has conv1_1, "):
        load_net("A", None, width=1 / 64, layers="conv9_9")
