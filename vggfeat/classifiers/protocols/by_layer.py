"""The score of each layer of a descriptor file by itself, on the same splits: the curve of transfer over depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vggfeat.classifiers.groups import Count
from vggfeat.classifiers.protocols.fusion import Features
from vggfeat.classifiers.protocols.results import LayerScore
from vggfeat.classifiers.protocols.selection import run_split
from vggfeat.classifiers.protocols.settings import Settings
from vggfeat.classifiers.protocols.splits import Split
from vggfeat.errors import UsageError


def layer_names(features: Features) -> list[str]:
    """The layers of the files, in order.

    Raises UsageError where there is only one, StoreError where a file lacks one.
    """
    names = [layer.name for layer in features.files[0].layers]
    if len(names) < 2:
        raise UsageError(
            f"{features.files[0].path} has the layer {names[0]} alone: `by_layer` compares several, which one "
            "extraction gives (`layer`)"
        )
    for file in features.files:
        file.choose(names)
    return names


def scores_by_layer(
    features: Features, splits: Sequence[Split], settings: Settings, progress: Count
) -> Iterator[LayerScore]:
    """The score of each layer, C chosen anew for each.

    Args:
        features: files of several layers.
        splits: those of the whole descriptor.
        settings: how classifiers are fitted.
        progress: called as in `run_split`.
    """
    for name in layer_names(features):
        alone = replace(features, files=tuple(file.choose(name) for file in features.files), layers=(name,))
        values = tuple(run_split(alone, split, settings, progress).value for split in splits)
        yield LayerScore(name, alone.dim, values)
