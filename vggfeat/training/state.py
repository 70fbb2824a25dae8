"""A run's files: the best and the last checkpoint, the resolved recipe, the metrics."""

from __future__ import annotations

import glob
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vggfeat.errors import TrainingError, UsageError, WeightsError
from vggfeat.nets.checkpoints import load_checked
from vggfeat.nets.networks import VGG
from vggfeat.system.files import replacing

STATE_KEY = "training_state"
STATE_VERSION = 1


@dataclass(frozen=True)
class RunFiles:
    """The paths of a run's files, all in one folder; those of a run named by a file share its stem."""

    folder: Path
    stem: str | None = None

    @classmethod
    def of(cls, output: str | Path) -> RunFiles:
        """`DIR`: best.pt, last.pt, recipe.toml, ... in it. `FILE.pt`: FILE.pt, FILE.last.pt, FILE.recipe.toml, ..."""
        path = Path(output)
        return cls(path.parent, path.stem) if path.suffix == ".pt" else cls(path)

    @staticmethod
    def output_of(checkpoint: Path) -> Path:
        """The output (`of`) of the run that wrote a checkpoint."""
        if checkpoint.name in ("best.pt", "last.pt"):
            return checkpoint.parent
        return checkpoint.with_name(checkpoint.name.removesuffix(".pt").removesuffix(".last") + ".pt")

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the least validation error: the command's result."""
        return self.folder / (f"{self.stem}.pt" if self.stem else "best.pt")

    @property
    def last(self) -> Path:
        """The newest checkpoint, with the state that `resume` needs."""
        return self._named("last.pt")

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self._named("recipe.toml")

    @property
    def metrics(self) -> Path:
        """One JSON object a line: an epoch's, or some updates'."""
        return self._named("metrics.jsonl")

    @property
    def curves(self) -> Path:
        """Loss and errors over the epochs, as a picture."""
        return self._named("curves.png")

    @property
    def features(self) -> Path:
        """The frozen layers' outputs."""
        return self._named("features.f16")

    def _named(self, name: str) -> Path:
        return self.folder / (f"{self.stem}.{name}" if self.stem else name)

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raises UsageError where an earlier run would be lost and neither `resume` nor `overwrite` was chosen."""
        if resume and overwrite:
            raise UsageError("`resume` and `overwrite`: choose one")
        there = next((path for path in (self.best, self.last) if path.exists()), None)
        if there is not None and not (resume or overwrite):
            raise UsageError(f"{there} exists: go on with it by `resume`, or replace it by `overwrite`")

    def sweep(self) -> None:
        """Removes temporary files that a killed run left."""
        for path in (self.best, self.last, self.recipe, self.metrics, self.curves, self.features):
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
                left.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes an earlier run's files; outputs of frozen layers stay, as another run may use them."""
        for path in (self.best, self.last, self.recipe, self.metrics, self.curves):
            path.unlink(missing_ok=True)


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
    """The lines of metrics.jsonl, without a last one that was cut short."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def cut_metrics(path: Path, state: RunState) -> None:
    """Drops the lines that a resumed run will write again: updates after its step, epochs after its epoch."""
    kept = [
        row
        for row in read_metrics(path)
        if row["step"] <= state.step and (row["kind"] != "epoch" or row["epoch"] <= state.epoch)
    ]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8", newline="\n")
