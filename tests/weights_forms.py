"""Writes VGG weights in the forms that go around, each by a writer that shares nothing with vggfeat's readers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from vggfeat.nets.catalog import NETS
from vggfeat.nets.networks import VGG

State = Mapping[str, Tensor]
Writer = Callable[[Path, str, State], Path]
"""(folder, net, tensors under torchvision's names) -> the file."""

WIDTH = 1 / 16


def random_state(net: str = "D", width: float = WIDTH, classes: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """Tensors under torchvision's names, with biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    names = VGG(net, width=width, num_classes=classes).state_dict()
    return {name: torch.randn(value.shape, generator=generator) for name, value in names.items()}


def without_top(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("features")}


def pairs(state: State) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of each layer in order, as torch lays them out."""
    values = [value.numpy() for value in state.values()]
    return list(zip(values[::2], values[1::2], strict=True))


def names(net: str, top: bool = True) -> list[str]:
    """conv1_1 .. fc8."""
    convs = [name for name in NETS[net].layer_names if name.startswith("conv")]
    return convs + ["fc6", "fc7", "fc8"] * top


def hwio(state: State, net: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels H W I O, matrices (in, out), the first of which reads H, W, C order."""
    out = {}
    channels = 0
    for name, (weight, bias) in zip(names(net, len(state) > 2 * len(names(net, False))), pairs(state), strict=True):
        if weight.ndim == 4:
            channels = len(weight)
            out[name] = weight.transpose(2, 3, 1, 0), bias
        elif name == "fc6":
            out[name] = weight.reshape(-1, channels, 7, 7).transpose(2, 3, 1, 0).reshape(-1, len(weight)), bias
        else:
            out[name] = weight.T, bias
    return out


# --- torch and safetensors ---


def torch_file(folder: Path, net: str, state: State) -> Path:
    torch.save(dict(state), folder / "net.pth")
    return folder / "net.pth"


def timm_names(state: State) -> dict[str, Tensor]:
    """As timm.models.vgg names and shapes them: ConvMlp's 7x7 and 1x1 convolutions, ClassifierHead's fc."""
    out = {}
    for name, value in state.items():
        if name.startswith("classifier.0"):
            value = value.reshape(len(value), -1, 7, 7) if value.ndim == 2 else value
        elif name.startswith("classifier.3"):
            value = value[:, :, None, None] if value.ndim == 2 else value
        for ours, theirs in (("0", "pre_logits.fc1"), ("3", "pre_logits.fc2"), ("6", "head.fc")):
            name = name.replace(f"classifier.{ours}.", f"{theirs}.")
        out[name] = value.contiguous()
    return out


def safetensors_file(folder: Path, net: str, state: State) -> Path:
    from safetensors.torch import save_file

    save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


def timm_safetensors(folder: Path, net: str, state: State) -> Path:
    return safetensors_file(folder, net, timm_names(state))


def timm_bin(folder: Path, net: str, state: State) -> Path:
    torch.save(timm_names(state), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def jcjohnson(folder: Path, net: str, state: State) -> Path:
    moved = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    renamed = {}
    for name, value in state.items():
        layer, _, part = name.rpartition(".")
        renamed[f"{moved.get(layer, layer)}.{part}"] = value
    return torch_file(folder, net, renamed)


def bare_trunk(folder: Path, net: str, state: State) -> Path:
    return torch_file(folder, net, {name.removeprefix("features."): value for name, value in state.items()})


def mcn(folder: Path, net: str, state: State) -> Path:
    layers = zip(names(net), pairs(state), strict=True)
    return torch_file(
        folder,
        net,
        {
            f"{name}.{part}": torch.from_numpy(v)
            for name, both in layers
            for part, v in zip(("weight", "bias"), both, strict=True)
        },
    )


# --- Keras 3 ---


def keras_model(net: str, state: State, *, top: bool = True, head: tuple[int, ...] = ()) -> Any:
    """keras.applications' layers under their names; `head`: other fully-connected layers in place of the top."""
    import keras

    values = hwio(state, net)
    inputs = keras.Input((224, 224, 3))
    x = inputs
    for name in NETS[net].layer_names[:-2]:
        block, _, index = name[4:].partition("_")
        if name.startswith("pool"):
            x = keras.layers.MaxPooling2D(2, strides=2, name=f"block{block}_pool")(x)
        else:
            out = values[name][0].shape[-1]
            layer = keras.layers.Conv2D(out, 3, padding="same", activation="relu", name=f"block{block}_conv{index}")
            x = layer(x)
    if top or head:
        x = keras.layers.Flatten(name="flatten")(x)
    for width in head:
        x = keras.layers.Dense(width, activation="relu")(x)
    if top and not head:
        for name, keras_name in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
            activation = "softmax" if name == "fc8" else "relu"
            x = keras.layers.Dense(values[name][0].shape[-1], activation=activation, name=keras_name)(x)
            x = keras.layers.Dropout(0.5)(x)
    model = keras.Model(inputs, x)
    weighted = [layer for layer in model.layers if layer.weights]
    for name, layer in zip(names(net, top and not head), weighted, strict=False):
        layer.set_weights(list(values[name]))
    return model


def keras_weights(folder: Path, net: str, state: State) -> Path:
    keras_model(net, state, top="classifier.0.weight" in state).save_weights(folder / "vgg.weights.h5")
    return folder / "vgg.weights.h5"


def keras_archive(folder: Path, net: str, state: State) -> Path:
    model = keras_model(net, state, top="classifier.0.weight" in state)
    model.compile(optimizer="adam", loss="mse")
    model.save(folder / "vgg.keras")
    return folder / "vgg.keras"


def keras_legacy(folder: Path, net: str, state: State) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras_model(net, state, top="classifier.0.weight" in state).save(folder / "vgg.h5")
    return folder / "vgg.h5"


# --- ONNX ---


def onnx_zoo(folder: Path, net: str, state: State) -> Path:
    """As the model zoo's vgg16-7.onnx: names by MXNet, Conv with bias, Flatten, Gemm."""
    from onnx import helper

    nodes, weights, below = [], {}, "data"
    layers = iter(pairs(state))
    count = 0

    def add(kind: str, *more: str, **settings: Any) -> None:
        nonlocal below
        name = f"vgg0_{len(nodes)}_fwd"
        nodes.append(helper.make_node(kind, [below, *more], [name], name=name, **settings))
        below = name

    for name in NETS[net].layer_names[:-2]:
        if name.startswith("pool"):
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
            continue
        weights[f"vgg0_conv{count}_weight"], weights[f"vgg0_conv{count}_bias"] = next(layers)
        both = [f"vgg0_conv{count}_weight", f"vgg0_conv{count}_bias"]
        add("Conv", *both, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1], dilations=[1, 1], group=1)
        add("Relu")
        count += 1
    if "classifier.0.weight" in state:
        for number, (weight, bias) in enumerate(layers):
            add("Flatten")
            weights[f"vgg0_dense{number}_weight"], weights[f"vgg0_dense{number}_bias"] = weight, bias
            add("Gemm", f"vgg0_dense{number}_weight", f"vgg0_dense{number}_bias", transB=1, alpha=1.0, beta=1.0)
            if number < 2:
                add("Relu")
                add("Dropout")
    return _onnx_model(folder, nodes, weights, below, "data", [1, 3, 224, 224])


def onnx_keras(folder: Path, net: str, state: State, *, constants: bool = False, turns: bool = False) -> Path:
    """As tf2onnx writes Keras' nets: transposes around, MatMul with (in, out) and Add; several ways to hold weights.

    `constants`: weights as Constant nodes. `turns`: kernels kept HWIO with a Transpose, and a bias added apart.
    """
    from onnx import helper, numpy_helper

    values, nodes, weights = hwio(state, net), [], {}
    below = "input"

    def add(kind: str, *more: str, **settings: Any) -> None:
        nonlocal below
        nodes.append(helper.make_node(kind, [below, *more], [f"n{len(nodes)}"], **settings))
        below = f"n{len(nodes) - 1}"

    def hold(name: str, array: np.ndarray) -> str:
        if constants:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            weights[name] = array
        return name

    add("Transpose", perm=[0, 3, 1, 2])
    for name in NETS[net].layer_names[:-2]:
        if name.startswith("pool"):
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
            continue
        kernel, bias = values[name]
        settings = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
        if turns:
            turned = f"{name}/turned"
            nodes.append(helper.make_node("Transpose", [hold(f"{name}/W", kernel)], [turned], perm=[3, 2, 0, 1]))
            add("Conv", turned, **settings)
            add("Transpose", perm=[0, 2, 3, 1])
            add("Add", hold(f"{name}/b", bias))
            add("Transpose", perm=[0, 3, 1, 2])
        else:
            add("Conv", hold(f"{name}/W", kernel.transpose(3, 2, 0, 1)), hold(f"{name}/b", bias), **settings)
        add("Relu")
    if "fc6" in values:
        add("Transpose", perm=[0, 2, 3, 1])
        weights["shape"] = np.array([1, -1], np.int64)
        add("Reshape", "shape")
        for name in ("fc6", "fc7", "fc8"):
            add("MatMul", hold(f"{name}/W", values[name][0]))
            add("Add", hold(f"{name}/b", values[name][1]))
            add("Relu" if name != "fc8" else "Softmax")
    return _onnx_model(folder, nodes, weights, below, "input", [1, 224, 224, 3])


def _onnx_model(
    folder: Path, nodes: list[Any], weights: Mapping[str, np.ndarray], end: str, start: str, shape: list[int]
) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "vgg",
        [helper.make_tensor_value_info(start, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", "K"])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save_model(model, folder / "vgg.onnx")
    return folder / "vgg.onnx"


# --- MatConvNet ---


def matlab_layers(net: str, state: State) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, kernel H W I O, bias); fully-connected layers as 7x7 and 1x1 convolutions."""
    out = []
    channels = 0
    for name, (weight, bias) in zip(names(net, "classifier.0.weight" in state), pairs(state), strict=True):
        if weight.ndim == 2:
            side = 7 if name == "fc6" else 1
            weight = weight.reshape(len(weight), channels if side == 7 else -1, side, side)
        channels = len(weight)
        out.append((name, weight.transpose(2, 3, 1, 0), bias))
    return out


MEAN_RGB = (123.68, 116.779, 103.939)


def matconvnet(folder: Path, net: str, state: State, *, mean: Any = MEAN_RGB, old: bool = False) -> Path:
    """By SciPy. `old`: fields `filters` and `biases`, and `normalization` at the top."""
    from scipy.io import savemat

    cells = []
    for name, kernel, bias in matlab_layers(net, state):
        weights = np.empty((1, 2), object)
        weights[0, 0], weights[0, 1] = kernel, bias[:, None]
        held = {"filters": kernel, "biases": bias[None]} if old else {"weights": weights}
        cells.append({"name": name, "type": "conv", "stride": [1.0, 1.0], "pad": [1.0] * 4, **held})
        cells.append({"name": f"relu_{name}", "type": "relu"})
    layers = np.empty((1, len(cells)), object)
    layers[0, :] = cells
    content: dict[str, Any] = {"layers": layers}
    if mean is not None:
        image = np.broadcast_to(np.float32(mean), (1, 1, 3) if not old else (4, 4, 3))
        holder = {"averageImage": image, "imageSize": [224.0, 224.0, 3.0]}
        content |= {"normalization": holder} if old else {"meta": {"normalization": holder}}
    savemat(folder / "vgg.mat", content)
    return folder / "vgg.mat"


def matconvnet_v73(folder: Path, net: str, state: State) -> Path:
    """MATLAB 7.3's layout by hand: a header of 512 bytes, HDF5 after it, cells as references, axes reversed."""
    path = folder / "vgg73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")

        def kept(array: np.ndarray) -> h5py.Reference:
            return references.create_dataset(str(len(references)), data=array).ref

        cells = []
        for name, kernel, bias in matlab_layers(net, state):
            layer = references.create_group(f"layer_{name}")
            both = np.array([[kept(kernel.T)], [kept(bias[None])]], dtype=h5py.ref_dtype)
            layer.create_dataset("weights", data=both, dtype=h5py.ref_dtype)
            layer["name"] = np.array([[ord(letter)] for letter in name], np.uint16)
            cells.append([layer.ref])
        file.create_dataset("layers", data=np.array(cells, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        file["meta/normalization/averageImage"] = np.float32(MEAN_RGB).reshape(3, 1, 1)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


# --- NumPy ---


def npz(folder: Path, net: str, state: State, *, form: str = "{}_W {}_b", compressed: bool = False) -> Path:
    arrays = {}
    for name, both in hwio(state, net).items():
        weight, bias = form.format(name, name).split()
        arrays[weight], arrays[bias] = both
    (np.savez_compressed if compressed else np.savez)(folder / "vgg.npz", **arrays)
    return folder / "vgg.npz"


def slim_npz(folder: Path, net: str, state: State) -> Path:
    """TF-slim's variables as the advice on TensorFlow checkpoints writes them."""
    arrays: dict[str, Any] = {"global_step": np.int64(0), "vgg_16/mean_rgb": np.float32(MEAN_RGB)}
    for name, kernel, bias in matlab_layers(net, state):
        block = f"conv{name[4]}/" if name.startswith("conv") else ""
        arrays[f"vgg_16/{block}{name}/weights"], arrays[f"vgg_16/{block}{name}/biases"] = kernel, bias
    np.savez(folder / "slim.npz", **arrays)
    return folder / "slim.npz"


def npy(folder: Path, net: str, state: State) -> Path:
    content = {name: [np.ascontiguousarray(w), b] for name, (w, b) in hwio(state, net).items()}
    np.save(folder / "vgg16.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder / "vgg16.npy"


WRITERS: dict[str, Writer] = {
    "torch": torch_file,
    "safetensors": safetensors_file,
    "timm safetensors": timm_safetensors,
    "timm bin": timm_bin,
    "jcjohnson": jcjohnson,
    "mcn": mcn,
    "keras legacy": keras_legacy,
    "keras weights": keras_weights,
    "keras archive": keras_archive,
    "onnx zoo": onnx_zoo,
    "onnx keras": onnx_keras,
    "onnx constants": lambda *args: onnx_keras(*args, constants=True),
    "onnx turned": lambda *args: onnx_keras(*args, turns=True),
    "matconvnet": matconvnet,
    "matconvnet old": lambda *args: matconvnet(*args, old=True),
    "matconvnet 7.3": matconvnet_v73,
    "npz": npz,
    "npz compressed": lambda *args: npz(*args, compressed=True),
    "slim npz": slim_npz,
    "npy": npy,
}
