"""Whose weights a file holds, and which input they expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from vggfeat.errors import PreprocessingError
from vggfeat.nets.contents import Contents
from vggfeat.nets.known import FILES, MISSING_MEANS, Known, by_layout, by_values
from vggfeat.nets.preprocessing import NAMED, Preprocessing
from vggfeat.system.hashes import algorithm, digests, matches

log = logging.getLogger(__name__)


def recognised(path: Path, content: Contents, sha256: str) -> Known | None:
    """The published weights that a file holds, by its hash or by its first layer's values; None for others."""
    known = _by_hash({"sha256": sha256})
    if known is None and content.layers:
        first = content.layers[0]
        if first.weight.ndim == 4 and first.weight.numel() and first.bias.numel():
            known = by_values(first.weight[0, :, 0, 0].float().tolist(), float(first.bias.flatten()[0]))
    if known is None:  # other algorithms cost a pass over the file, so only those of published files like this one
        others = {algorithm(row.digest) for row in FILES if row.layout == content.layout} - {"sha256"}
        known = _by_hash(digests(path, *sorted(others))) if others else None
    return known


def decided(what: str, content: Contents, known: Known | None, chosen: Preprocessing | None) -> Preprocessing:
    """The preprocessing of a file's weights: the chosen one, or what the file, its values or its layout say.

    Raises PreprocessingError, with the choices, where nothing decides it.
    """
    outputs = content.outputs
    found = content.preprocessing or (known.preprocessing if known else by_layout(content.layout, outputs))
    if chosen is not None:
        said = content.preprocessing or (known and known.preprocessing)
        if said and said != chosen:
            log.warning("%s: %s is taken; its own preprocessing is %s", what, _told(chosen), _told(said))
        return chosen
    if found is None:
        missing = MISSING_MEANS.get(outputs or 0)
        reason = f" ({outputs} outputs: {missing})" if missing else ""
        choices = ", ".join(f"{name} ({_told(one)})" for name, one in NAMED.items())
        raise PreprocessingError(
            f"{what}: neither its layout nor its values tell which input it expects{reason}; say it with "
            f"`preprocessing`: {choices}, or a TOML file with channels, scale, mean, std and filter"
        )
    return found


def _by_hash(found: Mapping[str, str]) -> Known | None:
    """The published file with one of these hashes."""
    return next((row for row in FILES if matches(row.digest, found.get(algorithm(row.digest), "-"))), None)


def _told(one: Preprocessing) -> str:
    """`BGR less 103.939 116.779 123.68`, in few words."""
    scale = "" if one.scale == 1 else "/255" if one.scale == 1 / 255 else f" times {one.scale:g}"
    mean = " ".join(f"{value:g}" for value in one.mean)
    std = " ".join(f"{value:g}" for value in one.std)
    std = "" if one.std == (1.0,) * 3 else ", over 1/255" if one.std == (1 / 255,) * 3 else f", over {std}"
    return f"{one.channels}{scale} less {mean}{std}"
