"""Whole models whose weights are a net's, and which compute something else; and numbers that take less room."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from weights_forms import hwio, keras_model, matconvnet_v73, onnx_zoo, random_state

from vggfeat.errors import WeightsError
from vggfeat.nets.catalog import NETS
from vggfeat.nets.formats.keras_config import steps_of
from vggfeat.nets.weights import load_net

FORMS = ["net.h5", "net.keras"]
HEAD_LEFT_OUT = "its fully-connected layers are not those of a net of Table 1 and are left out"


def keras_net(
    *, first: Any = None, activation: str = "relu", pooling: str = "MaxPooling2D", padding: str = "same"
) -> Any:
    """keras.applications' layers of net A without its top, with one of them changed."""
    import keras

    inputs = x = keras.Input((224, 224, 3))
    x = x if first is None else first(x)
    for name in NETS["A"].layer_names[:-2]:
        block, _, index = name[4:].partition("_")
        if name.startswith("pool"):
            x = getattr(keras.layers, pooling)(2, strides=2, name=f"block{block}_pool")(x)
            continue
        out = {"1": 4, "2": 8, "3": 16}.get(block, 32)
        x = keras.layers.Conv2D(out, 3, padding=padding, activation=activation, name=f"block{block}_conv{index}")(x)
    return keras.Model(inputs, x)


def saved(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def rescaling() -> Any:
    import keras

    return keras.layers.Rescaling(1 / 127.5, offset=-1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: {"first": rescaling()}, "its step 1 is Rescaling, not Conv"),
        (lambda: {"activation": "elu"}, "its step 2 is elu, not Relu"),
        (lambda: {"activation": "linear"}, "its step 2 is MaxPool 2x2 of stride 2x2, not Relu"),
        (
            lambda: {"pooling": "AveragePooling2D"},
            "its step 3 is AveragePooling2D, not MaxPool 2x2 of stride 2x2",
        ),
        (lambda: {"padding": "valid"}, "its step 1 is Conv without padding, not Conv"),
    ],
    ids=["a rescaling", "elu", "no activation", "average pooling", "no padding"],
)
def test_a_keras_model_that_computes_something_else_is_refused(
    tmp_path: Path, form: str, change: Any, said: str
) -> None:
    path = saved(keras_net(**change()), tmp_path / form)
    with pytest.raises(WeightsError) as caught:
        load_net(weights=path, preprocessing="oxford")
    assert str(caught.value) == f"{path}: has the weights of net A (VGG-11), but computes something else: {said}"


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_keras_model_is_read_and_so_is_one_with_augmentation(tmp_path: Path, form: str) -> None:
    import keras

    for first in (None, keras.layers.RandomFlip(), keras.layers.Dropout(0.1)):
        assert load_net(weights=saved(keras_net(first=first), tmp_path / form), preprocessing="oxford").net == "A"


@pytest.mark.parametrize("form", FORMS)
def test_keras_fully_connected_layers_with_another_activation_are_left_out(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = keras_model("A", random_state("A"))
    assert load_net(weights=saved(model, tmp_path / form), preprocessing="oxford").has_top
    import keras

    model.get_layer("fc2").activation = keras.activations.tanh
    path = saved(model, tmp_path / form)
    caplog.clear()  # Keras' own words
    with caplog.at_level(logging.WARNING):
        assert not load_net(weights=path, preprocessing="oxford").has_top
    assert caplog.messages == [f"{tmp_path / form}: {HEAD_LEFT_OUT}"]


def layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": config}


def test_a_keras_configuration_is_told_in_onnxs_words() -> None:
    layers = [
        layer("InputLayer"),
        layer("ZeroPadding2D", padding=[[1, 1], [1, 1]]),
        layer("Conv2D", kernel_size=[3, 3], padding="valid", activation="relu"),
        layer("Conv2D", kernel_size=[3, 3], padding="same", activation="linear", strides=[1, 1]),
        layer("Activation", activation="relu"),
        layer("Conv2D", kernel_size=[3, 3], padding="same", activation={"class_name": "mine"}, strides=[2, 2]),
        layer("MaxPooling2D", pool_size=[3, 3], strides=None),
        {"class_name": "Sequential", "config": [layer("Flatten"), layer("Dense", activation="softmax")]},
        layer("ReLU"),
    ]
    told = steps_of(json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
    assert told == (
        "Conv",
        "Relu",
        "Conv",
        "Relu",
        "Conv with strides, dilation or groups",
        "another activation",
        "MaxPool 3x3 of stride 3x3",
        "Flatten",
        "Gemm",
        "Softmax",
        "Relu",
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"class_name": 5}', "[" * 100_000, '{"class_name":"Model","config":1}']
)
def test_a_configuration_that_cannot_be_read_says_nothing(text: str) -> None:
    assert steps_of(text) == ()


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
@pytest.mark.parametrize("form", [*FORMS, "net.weights.h5"])
def test_keras_half_precision_is_read(tmp_path: Path, form: str, policy: str) -> None:
    import keras

    state = random_state("A", width=1 / 32, classes=20)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = keras_model("A", state)
    finally:
        keras.config.set_dtype_policy(before)
    path = tmp_path / form
    if form.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        saved(model, path)
    found = load_net(weights=path, preprocessing="oxford").state_dict()
    for name, value in state.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compressed_hdf5_is_read_and_what_claims_more_than_it_can_hold_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    state = random_state("A", width=1 / 32, classes=1000)
    plain = h5py.Group.create_dataset

    def compressed(self: h5py.Group, name: str, *args: Any, data: Any = None, **settings: Any) -> h5py.Dataset:
        if data is not None and getattr(data, "ndim", 0) > 1 and data.dtype.kind == "f":
            return plain(self, name, data=data.astype(dtype), compression="gzip", shuffle=True)
        return plain(self, name, *args, data=data, **settings)

    monkeypatch.setattr(h5py.Group, "create_dataset", compressed)
    path = matconvnet_v73(tmp_path, "A", state)
    monkeypatch.undo()
    found = load_net(weights=path).state_dict()
    for name, value in state.items():
        torch.testing.assert_close(found[name], value)
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        group = file.create_group("conv")
        file.attrs["layer_names"], group.attrs["weight_names"] = ["conv"], ["k"]
        group.create_dataset("k", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(WeightsError, match=r"'k' claims 4000000000000 bytes, more than the file has$"):
        load_net(weights=tmp_path / "huge.h5")


@pytest.mark.parametrize(
    ("change", "has_top"),
    [
        (lambda head: head, True),
        (lambda head: head.append(nn.Softmax(1)), True),
        (lambda head: head.append(nn.ReLU()), False),
        (lambda head: head.__setitem__(1, nn.Identity()), False),
        (lambda head: head.__setitem__(4, nn.Identity()), False),
    ],
    ids=["as it is", "a soft-max", "a ReLU at the end", "no ReLU after fc6", "no ReLU after fc7"],
)
def test_an_onnx_head_counts_only_as_table_1_has_it(
    tmp_path: Path, change: Any, has_top: bool, caplog: pytest.LogCaptureFixture
) -> None:
    net = load_net("A", None, width=1 / 32, num_classes=10, device="cpu", precision="fp32")
    change(net.classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.zeros(1, 3, 224, 224), str(tmp_path / "net.onnx"), dynamo=False)
    with caplog.at_level(logging.WARNING, logger="vggfeat"):
        assert load_net(weights=tmp_path / "net.onnx", preprocessing="torchvision").has_top == has_top
    assert caplog.messages == ([] if has_top else [f"{tmp_path / 'net.onnx'}: {HEAD_LEFT_OUT}"])


def test_the_model_zoos_head_is_read(tmp_path: Path) -> None:
    assert load_net(weights=onnx_zoo(tmp_path, "A", random_state("A"))).has_top


def test_biases_may_come_first_in_a_pickled_dictionary(tmp_path: Path) -> None:
    state = random_state("A", width=1 / 32)
    layers = {name: {"biases": bias, "weights": weight} for name, (weight, bias) in hwio(state, "A").items()}
    np.save(tmp_path / "a.npy", layers, allow_pickle=True)  # type: ignore[arg-type]
    found = load_net(weights=tmp_path / "a.npy", preprocessing="oxford").state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
