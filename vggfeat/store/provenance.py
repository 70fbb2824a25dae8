"""The recorded settings of descriptors, checked before anything relies on an untrusted file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vggfeat.store.choices import POSTERIORS

_NET = {"net": str, "weights": str, "weights_sha256": str, "width": float, "preprocessing": dict}
_SETTINGS = {
    "nets": list,
    "scales": list,
    "aggregate": str,
    "flip": bool,
    "layer": str,
    "region": str,
    "exif": bool,
    "precision": str,
}

LATER = {"pool": str, "view": str, "pre_relu": bool, "normalise": str}
"""Settings that are recorded only where they are not the usual ones."""


def check_provenance(recorded: Any) -> None:
    """Raises ValueError, naming the entry, unless the data are what `Extractor.provenance` records."""
    _check_types("settings", recorded, _SETTINGS)
    _check_types("settings", recorded, {name: kind for name, kind in LATER.items() if name in recorded})
    posteriors = recorded["layer"] == POSTERIORS
    if posteriors:
        _check_types("settings", recorded, {"view": str})
    for net in recorded["nets"]:
        _check_types("nets", net, _NET | ({"scales": list} if posteriors else {}))
        if type(net.get("seed", 0)) is not int or abs(net.get("seed", 0)) >= 2**63:
            raise ValueError(f"nets has {net['seed']!r} as seed"[:200])
        maxima = net.get("input_maxima", {})
        if not isinstance(maxima, dict) or not all(
            type(one) is float and 0 < one < math.inf for one in maxima.values()
        ):
            raise ValueError(f"nets has {maxima!r} as input_maxima"[:200])
    if not recorded["nets"]:
        raise ValueError("nets is empty")
    if not recorded["scales"] or any(type(Q) is not int for Q in recorded["scales"]):
        raise ValueError(f"scales {recorded['scales']!r} are not whole numbers")


def _check_types(name: str, recorded: Any, types: Mapping[str, type]) -> None:
    if not isinstance(recorded, dict):
        raise ValueError(f"{name} holds a {type(recorded).__name__}")
    for key, wanted in types.items():
        value = recorded.get(key)
        if not isinstance(value, wanted) and not (wanted is float and type(value) is int):
            raise ValueError(f"{name} has {value!r} as {key}"[:200])
