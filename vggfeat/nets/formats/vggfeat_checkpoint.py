"""Reads what `VGG.save` wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vggfeat.errors import UsageError, WeightsError
from vggfeat.nets.catalog import Preprocessing, net_spec
from vggfeat.nets.contents import Contents
from vggfeat.nets.formats.state_dict import read_state_dict
from vggfeat.nets.networks import CHECKPOINT_VERSION


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
        return Contents(
            read_state_dict(path, content["state_dict"]),
            _preprocessing(content["preprocessing"]),
            net_spec(content["net"]).name,
            float(content["width"]),
            tuple(str(name) for name in content["class_names"]),
            dict(content["training"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise WeightsError(f"{path}: a damaged vggfeat checkpoint ({type(error).__name__}: {error})") from error


def _preprocessing(record: Mapping[str, Any]) -> Preprocessing:
    """The recorded preprocessing. Raises ValueError, TypeError or KeyError for anything else."""
    mean, std = (tuple(float(value) for value in record[key]) for key in ("mean", "std"))
    scale = float(record["scale"])
    sound = (
        len(mean) == len(std) == 3
        and all(math.isfinite(value) for value in (*mean, *std, scale))
        and all(std)
        and record["channels"] in ("RGB", "BGR")
        and record["filter"] in ("bilinear", "bicubic")
        and set(record) == {"channels", "scale", "mean", "std", "filter"}
    )
    if not sound:
        raise ValueError(f"preprocessing {dict(record)}")
    return Preprocessing(record["channels"], scale, mean, std, record["filter"])  # type: ignore[arg-type]
