"""Flips and scales -> one descriptor (Appendix B). Pure functions on (N, ...) float32 arrays."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import UsageError
from vggfeat.nets.catalog import INPUT_SIDE
from vggfeat.store.choices import AGGREGATES as AGGREGATES
from vggfeat.store.choices import Aggregate as Aggregate
from vggfeat.system.values import one_of

Array = NDArray[np.float32]


@dataclass
class Described:
    """Descriptors of some samples; a failed one's row is NaN and its reason stands in `failures`."""

    descriptors: Array
    """(N, D), unit L2 norm unless raw values were asked for."""
    scales: Array
    """(N, sum of S * D_layer over the parts) before aggregation and normalisation, scale by scale within a part."""
    failures: dict[int, str] = field(default_factory=dict)
    unread: frozenset[int] = frozenset()
    """Failed rows whose bytes could not be read (ReadError)."""
    by_layer: Array | None = None
    """(N, D) with each layer's descriptor at unit length, as a file keeps several; None where there is one layer."""


BEYOND_FLOAT16 = "a value beyond 65,504, float16's largest: store it as float32"
"""Why a row fails."""


def beyond_float16(parts: Iterable[Array]) -> NDArray[np.bool_]:
    """(N,) whether a row of one of these (N, D) has a finite value that float16 would make infinite.

    Descriptors have unit length, but kept scales are a layer's own values.
    """
    with np.errstate(over="ignore"):
        return np.any([(np.isinf(part.astype(np.float16)) & np.isfinite(part)).any(axis=1) for part in parts], axis=0)


def as_scales(scales: int | Sequence[int]) -> tuple[int, ...]:
    """One scale or several, as a tuple. Raises UsageError for what are no whole numbers."""
    found = tuple(scales) if isinstance(scales, Iterable) and not isinstance(scales, str) else (scales,)
    if not all(isinstance(Q, numbers.Integral) for Q in found):
        raise UsageError(f"scales {scales!r}: give whole numbers of pixels, such as 256 or (256, 384, 512)")
    return tuple(map(int, found))


def check_distinct_scales(scales: Sequence[int]) -> None:
    """Raises UsageError unless there is at least one scale and none is named twice."""
    if not scales:
        raise UsageError("no scales: name at least one smallest side, such as 256")
    if len(set(scales)) < len(scales):
        raise UsageError(f"scales {','.join(map(str, scales))}: one is named twice")


def check_scales(scales: Sequence[int], least: int = INPUT_SIDE, what: str = "fully-connected layers") -> None:
    """Raises UsageError for scales that are not distinct, and for smallest sides Q under `least` pixels.

    what: says in the message what needs that many, by default fc6's window of 224x224 pixels.
    """
    for Q in scales:
        if least > Q:
            raise UsageError(f"scale {Q} is under {least}, the smallest for {what}")
    check_distinct_scales(scales)


def pool_flips(image: Array, mirrored: Array) -> Array:
    """Average of the image's and the mirror image's descriptors."""
    return (image + mirrored) * np.float32(0.5)


def pool_scales(per_scale: Array, aggregate: Aggregate) -> Array:
    """(N, S, D) -> (N, S * D) stacked in the order of the scales, or (N, D) averaged or maximised over them.

    Raises UsageError for another aggregation.
    """
    one_of("aggregation", aggregate, AGGREGATES)
    if aggregate == "stack":
        n, scales, dim = per_scale.shape
        return per_scale.reshape(n, scales * dim)
    return per_scale.mean(axis=1) if aggregate == "average" else per_scale.max(axis=1)


def normalise(descriptors: Array) -> Array:
    """Rows at unit L2 norm (summed in float64); a zero row stays zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", descriptors, descriptors, dtype=np.float64))
    return (descriptors / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def stack_unit(parts: Sequence[Array]) -> Array:
    """Unit descriptors of several nets or regions -> one unit descriptor: side by side, divided by sqrt(number)."""
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


def aggregated_dim(dim: int, scales: int, aggregate: Aggregate) -> int:
    """Length of one net's descriptor from the layer's length and the number of scales."""
    return dim * scales if aggregate == "stack" else dim


def combine(parts: Sequence[Array], aggregate: Aggregate, *, raw: bool = False) -> Array:
    """Per part (n, S, D) activations -> (n, D') descriptors: aggregated over scales, normalised, stacked.

    `raw`: side by side as they are, without normalisation.
    """
    pooled = [pool_scales(part, aggregate) for part in parts]
    return np.concatenate(pooled, axis=1) if raw else stack_unit([normalise(one) for one in pooled])
