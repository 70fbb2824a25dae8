"""How far a run is: what its last checkpoint and its metrics say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vggfeat.errors import TrainingError, WeightsError
from vggfeat.nets.checkpoints import load_checked
from vggfeat.nets.networks import VGG
from vggfeat.system.files import replacing

STATE_KEY = "training_state"
STATE_VERSION = 1


@dataclass
class RunState:
    """The progress of a run. Everything random follows from the recipe's seed and the step."""

    step: int = 0
    """Updates done, over all epochs."""
    epoch: int = 0
    """Epochs done, their validation included."""
    totals: list[float] = field(default_factory=lambda: [0.0] * 4)
    """Sums over the epoch so far: loss, wrong at top-1, wrong at top-5, images."""
    window: list[float] = field(default_factory=lambda: [0.0] * 4)
    """The same sums since the last line of updates in metrics.jsonl."""
    seconds: float = 0.0
    """Spent on this epoch's updates so far."""
    best: list[float] = field(default_factory=list)
    """(measure, loss) of the best epoch; empty before the first."""
    early_loss: float | None = None
    """Mean loss of the first updates, to detect a stalled start."""
    smooth_loss: float = 0.0
    """Running mean of the updates' losses."""
    moving: bool = False
    """Whether the loss is known to have left the start."""
    failed: list[str] = field(default_factory=list)
    """Ids of images that could not be read."""


def last_content(net: VGG, state: RunState, **rest: Any) -> dict[str, Any]:
    """The last checkpoint: a checkpoint of the net like any other, with the run's state added."""
    return net.checkpoint() | {STATE_KEY: {"version": STATE_VERSION, "progress": asdict(state), **rest}}


def load_last(path: Path) -> tuple[dict[str, Any], dict[str, Any], RunState]:
    """(checkpoint, rest, state) as `last_content` made them.

    Raises TrainingError for any other file.
    """
    try:
        content = load_checked(path)
    except WeightsError as error:
        raise TrainingError(f"{error}; cannot resume from it: `overwrite` starts anew") from error
    try:
        rest = content[STATE_KEY]
        if rest["version"] != STATE_VERSION:
            raise ValueError(f"state of version {rest['version']}, this vggfeat reads {STATE_VERSION}")
        return content, rest, RunState(**rest["progress"])
    except Exception as error:  # plain data of any shape
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TrainingError(f"{path}: cannot resume from it ({reason}); `overwrite` starts anew") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without those that are none: a last one that was cut short, or a damaged one."""
    return [row for row in map(_metrics_row, _lines(path)) if row is not None]


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return [line for line in text.split("\n") if line]


def _metrics_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return row if isinstance(row["kind"], str) and row["step"] >= 0 and row["epoch"] >= 0 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def cut_metrics(path: Path, state: RunState) -> int:
    """Drops the lines that a resumed run will write again: updates after its step, epochs after its epoch.

    Returns the number of lines that make no sense, which are dropped too.
    """
    rows = read_metrics(path)
    senseless = len(_lines(path)) - len(rows)
    kept = [
        row for row in rows if row["step"] <= state.step and (row["kind"] != "epoch" or row["epoch"] <= state.epoch)
    ]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8", newline="\n")
    return senseless
