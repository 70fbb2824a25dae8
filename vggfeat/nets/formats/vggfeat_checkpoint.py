"""Reads what `VGG.save` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggfeat.errors import UsageError, WeightsError
from vggfeat.nets.catalog import net_spec
from vggfeat.nets.contents import Contents
from vggfeat.nets.formats.state_dict import read_state_dict
from vggfeat.nets.networks import CHECKPOINT_VERSION
from vggfeat.nets.preprocessing import Preprocessing


def read_checkpoint(path: Path, content: Mapping[Any, Any]) -> Contents:
    """The contents of a vggfeat checkpoint, already loaded as plain data.

    Raises WeightsError for a damaged one and for one of a newer version.
    """
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise WeightsError(f"{path}: a vggfeat checkpoint of no known version ({version!r})")
    if version > CHECKPOINT_VERSION:
        raise WeightsError(
            f"{path}: written by a newer vggfeat (checkpoint format {version}, this one reads {CHECKPOINT_VERSION}): "
            "update vggfeat"
        )
    try:
        return replace(
            read_state_dict(path, content["state_dict"]),
            preprocessing=Preprocessing.from_record(content["preprocessing"]),
            net=net_spec(content["net"]).name,
            width=float(content["width"]),
            class_names=tuple(str(name) for name in content["class_names"]),
            training_record=dict(content["training"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise WeightsError(f"{path}: a damaged vggfeat checkpoint ({type(error).__name__}: {error})") from error
