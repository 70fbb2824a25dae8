"""The scales at which nets are tested, from those at which they were trained (Sect. 3.1, 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vggfeat.errors import UsageError
from vggfeat.inference.settings import ScaleRule

if TYPE_CHECKING:  # imports torch
    from vggfeat.nets.networks import VGG

JITTER = 32
"""How far below and above a fixed training scale the multi-scale rule goes, in pixels."""

PUBLISHED_S = {"oxford": (256, 512), "oxford-keras": (256, 512), "torchvision": (256, 256)}
"""Training scales of published weights. Oxford released the jittered nets (Table 4); torchvision's training knows no S,
but its publishers test at 256."""


def scales_for(S: tuple[int, int], rule: ScaleRule) -> tuple[int, ...]:
    """Smallest sides Q at which to test a net that was trained at smallest sides from S[0] to S[1] (Sect. 4.1, 4.2).

    "single": S where it is fixed, else the middle of its range. "multi": S - 32, S, S + 32 where it is fixed, else the
    range's ends and middle.
    """
    low, high = S
    middle = (low + high) // 2
    if rule == "single":
        return (middle,)
    return (low - JITTER, low, low + JITTER) if low == high else (low, middle, high)


def training_scale(weights: str, record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Least and greatest S that a net was trained at, from its weights' name and its checkpoint's training record.

    None where neither says it.
    """
    if weights in PUBLISHED_S:
        return PUBLISHED_S[weights]
    recipe = record.get("recipe")
    augment = recipe.get("augment") if isinstance(recipe, Mapping) else None
    S = augment.get("S") if isinstance(augment, Mapping) else None
    sound = isinstance(S, list | tuple) and len(S) == 2 and all(isinstance(side, int) for side in S)
    return (S[0], S[1]) if sound else None  # type: ignore[index]


def own_scales(net: VGG, rule: ScaleRule) -> tuple[int, ...]:
    """Smallest sides Q at which to test a net. Raises UsageError for one that does not say how it was trained."""
    S = training_scale(net.weights_name, net.training_record)
    if S is None:
        raise UsageError(
            f"net {net.net} ({net.weights_name}) does not say at which scale it was trained: give `scales`, such as 256"
        )
    return scales_for(S, rule)
