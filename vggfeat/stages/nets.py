"""Table 1 and 2 as plain data."""

from __future__ import annotations

from typing import Any

from vggfeat.nets.catalog import NETS, Conv, NetSpec, weights_rows


def nets() -> list[dict[str, Any]]:
    """One row a net: its layers, depth, number of parameters (Table 2) and published weights."""
    return [_row(spec) for spec in NETS.values()]


def _row(spec: NetSpec) -> dict[str, Any]:
    sources = ("oxford", "torchvision")
    return {
        "net": spec.name,
        "weight_layers": spec.weight_layers,
        "layers": [_layer(layer) for layer in spec.layers],
        "parameters": spec.parameters(),
        "weights": [
            {
                "source": row.source,
                "format": row.format,
                "url": row.url,
                "hash": row.digest,
                "license": row.license,
                "top1_error": row.score.top1 if row.score else None,
                "top5_error": row.score.top5 if row.score else None,
                "setting": row.score.setting if row.score else None,
            }
            for source in sources
            for row in weights_rows(spec.name, source)
        ],
    }


def _layer(layer: Conv | str) -> str:
    return layer if isinstance(layer, str) else f"conv{layer.kernel}-{layer.channels}"
