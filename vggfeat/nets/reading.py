"""A weights file -> its layers, by the reader of its format; the content tells which.

No file is trusted: nothing in it is run, and a length that it claims is checked against its size before memory is set
aside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vggfeat.errors import WeightsError
from vggfeat.nets.catalog import OXFORD, TORCHVISION
from vggfeat.nets.checkpoints import load_checked
from vggfeat.nets.contents import Contents
from vggfeat.nets.formats.caffemodel import read_caffemodel
from vggfeat.nets.formats.state_dict import read_state_dict, unwrapped
from vggfeat.nets.formats.vggfeat_checkpoint import read_checkpoint
from vggfeat.nets.networks import CHECKPOINT_FORMAT


def read_weights(path: str | os.PathLike[str]) -> Contents:
    """The layers of a weights file of any known format. Raises WeightsError with the reason."""
    path = Path(path)
    with path.open("rb") as stream:
        start = stream.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        from vggfeat.nets.formats.keras_h5 import read_keras  # h5py

        return Contents(read_keras(path), OXFORD)
    # torch's zip format, or pickles: torch's older format, or a stranger's that is refused there.
    if start.startswith((b"PK\x03\x04", b"\x80")) or path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    if path.suffix == ".caffemodel" or start[:1] in (b"\x0a", b"\x12", b"\xa2"):  # fields name, layers, layer
        return Contents(read_caffemodel(path), OXFORD)
    raise WeightsError(
        f"{path}: no weights file that vggfeat reads "
        "(a vggfeat checkpoint, torchvision's .pth, Keras' .h5 or a .caffemodel)"
    )


def _read_torch(path: Path) -> Contents:
    """A vggfeat checkpoint, or a state dict with torchvision's names, bare or inside a training script's dict."""
    content = load_checked(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, no state dict")
    if content.get("format") == CHECKPOINT_FORMAT:
        return read_checkpoint(path, content)
    return Contents(read_state_dict(path, unwrapped(content)), TORCHVISION)
