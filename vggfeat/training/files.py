"""A run's files: the best and the last checkpoint, the resolved recipe, the metrics. Imports no torch."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from vggfeat.errors import UsageError
from vggfeat.nets.sources import SUFFIXES
from vggfeat.system.files import followed

FILE_SUFFIXES = (*SUFFIXES, ".hdf5", ".ckpt", ".bin")
"""Suffixes of names that are meant as a net's file: a new folder of such a name would be a surprise."""


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
        """Raises UsageError for a folder that is named like a file, where an earlier run would be lost and neither
        `resume` nor `overwrite` was chosen, and for one to resume whose state is gone."""
        if self.stem is None and str(self.folder) == "-":
            raise UsageError("`output=-`: a run writes several files: name a folder, or FILE.pt")
        if self.stem is None and self.folder.suffix.lower() in FILE_SUFFIXES and not self.folder.is_dir():
            raise UsageError(
                f"`output={self.folder}`: a run's net is written as .pt: name {self.folder.with_suffix('.pt')}, or a "
                "folder"
            )
        if resume and overwrite:
            raise UsageError("`resume` and `overwrite`: choose one")
        if overwrite:
            return
        if self.best.exists() and not self.last.exists():  # a run that begins removes an earlier best net
            raise UsageError(
                f"{self.best} exists without {self.last}: `resume` cannot go on with it; `overwrite` begins anew"
            )
        if self.last.exists() and not resume:
            there = self.best if self.best.exists() else self.last
            raise UsageError(f"{there} exists: go on with it by `resume`, or replace it by `overwrite`")

    def sweep(self) -> None:
        """Removes temporary files that a killed run left."""
        for path in map(followed, (self.best, self.last, self.recipe, self.metrics, self.curves, self.features)):
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
                left.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes an earlier run's files, but no link to them; outputs of frozen layers stay, as another run may use
        them. The recipe goes last: it tells that the others are a run's."""
        for path in map(followed, (self.best, self.last, self.metrics, self.curves, self.recipe)):
            path.unlink(missing_ok=True)
