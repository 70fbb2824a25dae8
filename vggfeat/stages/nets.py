"""Table 1 and 2 as plain data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vggfeat.nets.catalog import NETS, Conv, NetSpec, WeightsRow, weights_rows
from vggfeat.results import Result


@dataclass(frozen=True)
class NetRow(Result):
    """A net of Table 1, and its published weights."""

    spec: NetSpec
    weights: tuple[WeightsRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Name, depth, layers in Table 1's notation, number of parameters (Table 2), and the weights."""
        return {
            "net": self.spec.name,
            "weight_layers": self.spec.weight_layers,
            "layers": [_layer(layer) for layer in self.spec.layers],
            "parameters": self.spec.parameters(),
            "weights": [_weights(row) for row in self.weights],
        }


def nets() -> list[NetRow]:
    """The nets of Table 1, each with its published weights."""
    return [
        NetRow(spec, tuple(row for source in ("oxford", "torchvision") for row in weights_rows(spec.name, source)))
        for spec in NETS.values()
    ]


def _layer(layer: Conv | str) -> str:
    return layer if isinstance(layer, str) else f"conv{layer.kernel}-{layer.channels}"


def _weights(row: WeightsRow) -> dict[str, Any]:
    return {
        "source": row.source,
        "format": row.format,
        "url": row.url,
        "hash": row.digest,
        "license": row.license,
        "top1_error": row.score.top1 if row.score else None,
        "top5_error": row.score.top5 if row.score else None,
        "setting": row.score.setting if row.score else None,
    }
