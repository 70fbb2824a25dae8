"""Reads ONNX models: the model zoo's VGG nets, exports from PyTorch, and tf2onnx's from Keras.

The graph is walked in its order, which ONNX fixes: Conv, Gemm and MatMul give the layers, whatever their names. Weights
may be initialisers or constants, transposed or reshaped on their way; a bias may be a separate Add. Keras' exports turn
the last map to H, W, C order before they flatten it, which the walk notices. A convolutional part that computes
something else than a net of Table 1 is refused, here or by the order of its operators (`identify`); a head of another
form is left out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vggfeat.errors import WeightsError
from vggfeat.nets.catalog import LRN
from vggfeat.nets.checkpoints import first_line
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.heads import is_usual_head

Array = np.ndarray[Any, Any]

MAX_NODES = 10_000
"""Operators; a VGG net has about 60."""

_IDLE = {"Identity", "Dropout", "Cast", "Transpose", "Constant"}
"""Operators that change no value."""
_PASSIVE = _IDLE | {"Relu", "MaxPool", "LRN"}
"""Operators that a trunk has besides Conv and the Add of a bias."""
_FLATTENING = {"Reshape", "Flatten", "Shape", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze"}
"""Operators that may also stand between a net's fully-connected layers."""
_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class _RefusedError(Exception):
    """The graph is not a net that vggfeat reads; the text says why."""


def read_onnx(path: Path) -> Contents:
    """The layers of an ONNX model. Raises WeightsError with the reason, also where the package onnx is missing."""
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(f"{path}: ONNX files are read by the package onnx: pip install vggfeat[formats]") from error
    try:
        graph = _Graph(onnx.load_model(path, format="protobuf", load_external_data=False).graph)
        graph.walk()
    except _RefusedError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file makes protobuf and numpy raise almost anything
        raise WeightsError(f"{path}: no readable ONNX file, damaged or cut short ({first_line(error)})") from error
    if not graph.layers:
        raise WeightsError(f"{path}: an ONNX model without convolutions")
    zoo = graph.layers[0].name.startswith("vgg0_conv0")
    return Contents(
        graph.layers, "mxnet" if zoo else "other", any_head=True, own_head=graph.own_head, steps=tuple(graph.steps)
    )


class _Graph:
    """A walk through a graph: the constants known so far, and the layers found."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.constants: dict[str, Array] = {}
        self.layers: list[Layer] = []
        self.steps: list[str] = []
        """What the operators compute, in order, as `catalog.NetSpec.steps` tells it."""
        self.newest = ""
        """Output of the newest operator."""
        self.open_output = ""
        """Output of the newest layer while its bias may still come as an Add."""
        self.channels_last = False
        self.own_head = False
        """Whether something stands among the fully-connected layers that a net of Table 1 does not have."""

    def walk(self) -> None:
        """Collects the layers. Raises _RefusedError for a trunk that computes something else."""
        kinds = [node.op_type for node in self.graph.node]
        if len(kinds) > MAX_NODES:
            raise _RefusedError(f"it has {len(kinds)} operators, more than {MAX_NODES}")
        last_conv = max((place for place, kind in enumerate(kinds) if kind == "Conv"), default=-1)
        last_product = max((place for place, kind in enumerate(kinds) if kind in ("Gemm", "MatMul")), default=-1)
        for place, node in enumerate(self.graph.node):
            if self._folded(node):
                continue
            before, self.newest = self.newest, node.output[0]
            if node.op_type == "Conv":
                self._convolution(node)
            elif node.op_type in ("Gemm", "MatMul"):
                self._product(node)
            elif node.op_type == "Add" and self._bias(node):
                continue
            elif place < last_conv and node.op_type not in _PASSIVE:
                raise _RefusedError(f"its convolutional part has {_told(node)}, which no net of Table 1 has")
            elif node.op_type == "Transpose":
                self._turn(node)
            elif place < last_product and node.op_type not in _PASSIVE | _FLATTENING and not _idle_pool(node):
                self.own_head = True
            idle = node.op_type in _IDLE or _idle_pool(node)
            if not idle or before not in ("", *node.input):
                self.steps.append(_step(node) if before in ("", *node.input) else f"{node.op_type} of an earlier map")
            if (
                self.open_output
                and self.open_output in node.input
                and node.op_type in ("Transpose", "Identity", "Cast")
            ):
                self.open_output = node.output[0]
        if self.own_head or not is_usual_head(self.steps):
            self.own_head = True
            self.layers = [layer for layer in self.layers if layer.weight.ndim == 4]

    def _convolution(self, node: Any) -> None:
        kernel = self._constant(node.input[1])
        settings = _attributes(node)
        plain = all(set(settings.get(name) or [1]) == {1} for name in ("strides", "dilations")) and (
            settings.get("group", 1) == 1
        )
        if kernel is None or kernel.ndim != 4 or not plain:
            raise _RefusedError(f"it has {_told(node)} that is not a convolution of stride 1 with stored weights")
        side = kernel.shape[2]
        padding = settings.get("auto_pad") or b"NOTSET"
        same = padding in (b"SAME_UPPER", b"SAME_LOWER")
        explicit = set(settings.get("pads") or [0]) if padding == b"NOTSET" else {0}
        if not same and explicit != {side // 2}:
            raise _RefusedError(f"it has {_told(node)} whose padding does not keep the size")
        bias = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        self._add(node, kernel, bias)

    def _product(self, node: Any) -> None:
        matrix = self._constant(node.input[1])
        settings = _attributes(node)
        if matrix is None or matrix.ndim != 2 or settings.get("transA"):
            self.own_head = True
            return
        if settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
            self.own_head = True
            return
        bias = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        matrix = matrix.T if settings.get("transB") else matrix  # (in, out)
        if self.channels_last and self.layers:
            ordered = Layer.from_hwio(
                "", torch.from_numpy(matrix.copy()), torch.zeros(0, dtype=torch.float32), self.layers[-1:]
            )
            matrix = ordered.weight.numpy().T
        self.channels_last = False
        self._add(node, np.ascontiguousarray(matrix.T), bias)

    def _add(self, node: Any, weight: Array, bias: Array | None) -> None:
        values = torch.from_numpy(np.array(weight, np.float32))
        zeros = torch.zeros(len(values), dtype=torch.float32)
        self.layers.append(Layer(node.input[1], values, zeros if bias is None else _flat(bias)))
        self.open_output = node.output[0] if bias is None else ""

    def _bias(self, node: Any) -> bool:
        """Whether an Add is the bias of the newest layer, which it then gets."""
        if not self.open_output or self.open_output not in node.input:
            return False
        other = next((name for name in node.input if name != self.open_output), "")
        bias = self._constant(other)
        if bias is None or bias.size != len(self.layers[-1].bias):
            return False
        self.layers[-1] = self.layers[-1]._replace(bias=_flat(bias))
        self.open_output = ""
        return True

    def _turn(self, node: Any) -> None:
        order = list(_attributes(node).get("perm", []))
        if order == _TO_CHANNELS_LAST:
            self.channels_last = True
        elif order == _TO_CHANNELS_FIRST:
            self.channels_last = False
        else:
            raise _RefusedError(f"it has {_told(node)} of order {order}")

    def _folded(self, node: Any) -> bool:
        """Computes a node on constants alone, as far as weights need it."""
        if node.op_type == "Constant":
            tensor = _attributes(node).get("value")
            if tensor is not None:
                self.stored[node.output[0]] = tensor
            return True
        source = self._constant(node.input[0]) if node.input else None
        if source is None:
            return False
        settings = _attributes(node)
        if node.op_type in ("Identity", "Cast", "Dropout"):
            self.constants[node.output[0]] = source
        elif node.op_type == "Transpose":
            self.constants[node.output[0]] = source.transpose(settings.get("perm"))
        elif node.op_type in ("Squeeze", "Unsqueeze", "Reshape"):
            shape = self._constant(node.input[1]) if len(node.input) > 1 else None
            if node.op_type != "Reshape" or shape is None:
                return False
            self.constants[node.output[0]] = source.reshape([int(side) for side in shape])
        else:
            return False
        return True

    def _constant(self, name: str) -> Array | None:
        """The values of an initialiser or of a node on constants; None where they come from the input."""
        if name not in self.constants and name in self.stored:
            from onnx import TensorProto, numpy_helper

            tensor = self.stored[name]
            if tensor.data_location == TensorProto.EXTERNAL:
                raise _RefusedError(
                    f"{name!r} has its values in another file: join them with onnx.save_model(onnx.load(FILE), NEW)"
                )
            self.constants[name] = numpy_helper.to_array(tensor)
        return self.constants.get(name)


def _step(node: Any) -> str:
    """What an operator computes, in the words of `catalog.NetSpec.steps` where Table 1 has it."""
    settings = _attributes(node)
    if node.op_type == "MaxPool":
        kernel, strides = ("x".join(map(str, settings.get(name) or [1, 1])) for name in ("kernel_shape", "strides"))
        plain = not any(settings.get("pads") or []) and set(settings.get("dilations") or [1]) == {1}
        return f"MaxPool {kernel} of stride {strides}" + ("" if plain else ", padded or dilated")
    if node.op_type == "LRN":
        found = {"alpha": 1e-4, "beta": 0.75, "k": settings.get("bias", 1.0), **settings}  # with ONNX' defaults
        same = all(math.isclose(found[name], value, rel_tol=1e-6) for name, value in LRN.items())
        return "LRN" if same else "LRN of other constants"
    return str(node.op_type)[:40]


def _idle_pool(node: Any) -> bool:
    """Whether a node is torchvision's adaptive pooling, which does nothing to a 7x7 map."""
    return node.op_type == "AveragePool" and set(_attributes(node).get("kernel_shape", [])) == {1}


def _flat(bias: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(bias, np.float32).ravel())


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _told(node: Any) -> str:
    return f"an operator {node.op_type[:40]} ({(node.name or next(iter(node.output), ''))[:60]!r})"
