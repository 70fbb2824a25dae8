"""A weights file -> its layers, by the reader of its format; the content tells which.

No file is trusted: nothing in it is run, and a length that it claims is checked against its size before memory is set
aside. A reader is imported when its format comes.
"""

from __future__ import annotations

import codecs
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from vggfeat.errors import UnknownFormError, WeightsError
from vggfeat.nets.catalog import NETS
from vggfeat.nets.checkpoints import load_checked
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.caffemodel import read_caffemodel
from vggfeat.nets.formats.safetensors import looks_like_safetensors, read_safetensors
from vggfeat.nets.formats.state_dict import read_state_dict, unwrapped
from vggfeat.nets.formats.unread import unread_form
from vggfeat.nets.formats.vggfeat_checkpoint import read_checkpoint
from vggfeat.nets.identify import width_of
from vggfeat.nets.networks import CHECKPOINT_FORMAT, POOLED_SIDE

log = logging.getLogger(__name__)

FORMS = (
    "a vggfeat checkpoint, a state dict of torchvision, timm or jcjohnson (.pth, .safetensors), Keras' .h5 or .keras, "
    "a .caffemodel, .onnx, MatConvNet's .mat, .npz or .npy"
)


def read_weights(path: str | os.PathLike[str]) -> Contents:
    """The layers of a weights file of any known form: convolutions, then three fully-connected layers or none.

    Raises WeightsError with the reason.
    """
    path = Path(path)
    content = _read(path)
    content = replace(content, layers=_plain(content.layers))
    return _without_own_head(path, content) if content.any_head else content


def _read(path: Path) -> Contents:
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        from vggfeat.nets.formats.keras_h5 import read_keras

        return read_keras(path)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if start.startswith(b"MATLAB"):
        from vggfeat.nets.formats.matconvnet import read_matconvnet

        return read_matconvnet(path)
    if start.startswith(b"\x93NUMPY"):
        from vggfeat.nets.formats.named_arrays import read_npy

        return read_npy(path)
    if looks_like_safetensors(start):
        return read_state_dict(path, unwrapped(read_safetensors(path)))
    if reason := unread_form(path, start):
        raise WeightsError(f"{path}: {reason}")
    if _is_text(path):
        raise UnknownFormError(f"{path}: a text file; expected a weights file that vggfeat reads ({FORMS})")
    if start.startswith(b"\x80") or path.suffix in (".pth", ".pt"):  # torch's older format, or a stranger's pickle
        return _read_torch(path)
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a")):  # version, then a field
        from vggfeat.nets.formats.onnx_graph import read_onnx

        return read_onnx(path)
    if path.suffix == ".caffemodel" or start[:1] in (b"\x0a", b"\x12", b"\xa2"):  # fields name, layers, layer
        return Contents(read_caffemodel(path), "caffe")
    raise UnknownFormError(f"{path}: no weights file that vggfeat reads ({FORMS})")


def _is_text(path: Path) -> bool:
    """Whether the file begins with lines of text: notes, a web page, or a pointer that Git LFS left in its place."""
    with path.open("rb") as stream:
        start = stream.read(256)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # which may end within a letter
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter in "\t\r\n" for letter in text)


def _read_zip(path: Path) -> Contents:
    """torch's files, NumPy's .npz and Keras' .keras are all zip archives."""
    from vggfeat.nets.formats.keras_v3 import WEIGHTS_ENTRY, read_keras_archive
    from vggfeat.nets.formats.named_arrays import read_npz

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        names = []  # the suffix says whose damage it is
    if WEIGHTS_ENTRY in names or path.suffix == ".keras":
        return read_keras_archive(path)
    if path.suffix == ".npz" or (names and all(name.endswith(".npy") for name in names)):
        return read_npz(path)
    return _read_torch(path)


def _read_torch(path: Path) -> Contents:
    """A vggfeat checkpoint, or a state dict, bare or inside a training script's dict."""
    content = load_checked(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, no state dict")
    if content.get("format") == CHECKPOINT_FORMAT:
        return read_checkpoint(path, content)
    return read_state_dict(path, unwrapped(content))


def _plain(layers: list[Layer]) -> list[Layer]:
    """The layers in Table 1's form.

    Fully-connected layers stored as 7x7 and 1x1 convolutions become matrices. Where all three hold nothing but NaN, as
    in torchvision's features-only files, they are left out.
    """
    head = layers[-3:]
    if head and head[0].weight.shape[2:] in ((POOLED_SIDE, POOLED_SIDE), ()):
        whole = [(POOLED_SIDE, POOLED_SIDE), (1, 1), (1, 1)]  # kernels that see all of their input
        head = [
            layer._replace(weight=layer.weight.flatten(1)) if layer.weight.shape[2:] == kernel else layer
            for layer, kernel in zip(head, whole, strict=False)
        ]
    if all(layer.weight.ndim == 2 and _is_nan(layer.weight) for layer in head):
        head = []
    return [*layers[:-3], *head]


def _is_nan(weight: Tensor) -> bool:
    """Whether all values are NaN; mostly the first one, of a hundred million, says that they are not."""
    return bool(weight[:1, :1].isnan().all() and weight.isnan().all())


def _without_own_head(path: Path, content: Contents) -> Contents:
    """A whole model without its fully-connected layers, where these are the user's own and not the net's."""
    convs = [layer for layer in content.layers if layer.weight.ndim == 4]
    trunk = replace(content, layers=convs)
    foreign = len(convs) < len(content.layers) and not _fits(content) and _fits(trunk)
    if foreign or content.own_head:
        log.warning("%s: its fully-connected layers are not those of a net of Table 1 and are left out", path)
        return trunk
    return content


def _fits(content: Contents) -> bool:
    return any(width_of(spec, content.shapes) is not None for spec in NETS.values())
