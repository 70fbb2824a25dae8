"""Several layers in one descriptor file: which of its columns are whose, and how they become one descriptor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vggfeat.errors import StoreError, UsageError
from vggfeat.store.choices import LAYER_SEPARATOR
from vggfeat.store.pooling import Array, aggregated_dim, stack_unit
from vggfeat.system.numbers import number_of


@dataclass(frozen=True)
class StoredLayer:
    """One layer's place in a descriptor file."""

    name: str
    dims: tuple[int, ...]
    """Length of each of its parts: net by net, region by region."""
    columns: slice
    """Of the descriptors."""
    kept: slice
    """Of the kept scales, where there are any."""

    @property
    def length(self) -> int:
        """Length of its descriptor."""
        return int(self.columns.stop - self.columns.start)


def stored_layers(attributes: Mapping[str, Any]) -> tuple[StoredLayer, ...]:
    """The layers of a file, from its attributes (`layer`, `layer_dims`, `scales`, `aggregate`), in order.

    Raises ValueError where these do not fit each other.
    """
    names, dims = str(attributes["layer"]).split(LAYER_SEPARATOR), [int(dim) for dim in attributes["layer_dims"]]
    count, scales = len(dims) // len(names), len(attributes["scales"])
    if count * len(names) != len(dims) or len(set(names)) < len(names):
        raise ValueError(f"{number_of(len(dims), 'length')} for the layers {', '.join(names)}")
    found, column, kept = [], 0, 0
    for place, name in enumerate(names):
        its = tuple(dims[place * count : (place + 1) * count])
        length = sum(aggregated_dim(dim, scales, attributes["aggregate"]) for dim in its)
        width = sum(its) * scales
        found.append(StoredLayer(name, its, slice(column, column + length), slice(kept, kept + width)))
        column, kept = column + length, kept + width
    return tuple(found)


def chosen_layers(
    path: object, there: Sequence[StoredLayer], names: Sequence[str], *, narrowed: bool = False
) -> tuple[StoredLayer, ...]:
    """The layers of these names, in this order. Raises StoreError for one that is not there, UsageError for a second.

    `narrowed`: the file may have others, which an earlier choice left out.
    """
    by_name = {layer.name: layer for layer in there}
    for name in names:
        if name not in by_name and narrowed:
            kept = ", ".join(by_name)
            raise StoreError(
                f"{path} was opened and narrowed to {kept}: choose {name} from the whole file, by its path"
            )
        if name not in by_name:
            raise StoreError(f"{path} has no layer {name}; it has {', '.join(by_name)}")
    if len(set(names)) < len(names):
        raise UsageError(f"layers {', '.join(names)}: one is named twice")
    return tuple(by_name[name] for name in names)


def joined(parts: Sequence[Array], *, raw: bool) -> Array:
    """The descriptors of several layers as one: stacked, each at unit length; raw values side by side."""
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    return np.concatenate(parts, axis=1) if raw else stack_unit(parts)
