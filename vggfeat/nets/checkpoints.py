"""Reads torch's files: nothing in them is run, and no size that they claim is believed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.formats.unread import TORCHSCRIPT


def load_checked(path: str | Path) -> Any:
    """The content of a file that torch.save wrote: tensors on the CPU and plain data.

    Raises WeightsError for a file that is damaged, cut short or asks for more than tensors and plain data, and for one
    that claims more bytes than it has: compressed archives, or tensors that repeat one number by a stride of zero.
    """
    path = Path(path)
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            content = torch.load(path, map_location="cpu", weights_only=True)
        for tensor in _tensors(content):
            _check_size(path, tensor)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise WeightsError(
            f"{path}: not read, because its pickle asks for more than tensors and plain data{what} and so could run "
            "code; save the state dict alone with torch.save(net.state_dict(), ...)"
        ) from error
    except WeightsError:
        raise
    except Exception as error:  # a damaged file makes torch and pickle raise almost anything
        reason = first_line(error).partition(". ")[0]  # torch goes on about what may have happened to the file
        raise WeightsError(f"{path}: no readable torch file, damaged or cut short ({reason})") from error
    return content


def first_line(error: Exception) -> str:
    """The first line of an error's text, or else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(f"{path}: {TORCHSCRIPT}")
    if claimed > path.stat().st_size:  # torch stores its tensors uncompressed
        raise WeightsError(f"{path}: claims {claimed} bytes of content, more than the file has")


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested plain data."""
    waiting, seen = [content], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping | list | tuple | set) and id(item) not in seen:
            seen.add(id(item))  # plain data may contain itself
            waiting.extend(item.values() if isinstance(item, Mapping) else item)


def _check_size(path: Path, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_meta:
        return
    claimed = tensor.numel() * tensor.element_size()
    if claimed > tensor.untyped_storage().nbytes():
        raise WeightsError(f"{path}: claims {claimed} bytes of tensors, more than the file has")
