"""Exceptions whose messages tell the reader what to do.

Messages speak of parameters, in backticks: `` `resume` `` or `` `precision='bf16'` ``, never of flags. The command line
(`vggfeat.cli.advice`) turns those into flags, adds the advice of a shell, and prints one line on stderr.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class VggfeatError(Exception):
    """A failure that the user can fix; the message names the cause and the remedy (exit code 1).

    Args:
        message: parameters of the Python functions in backticks.
        advice: which advice the command line adds: a key of `vggfeat.cli.advice.ADVICE`.
        facts: what that advice speaks of, such as `dataset="caltech101"`.
    """

    def __init__(self, message: str, *, advice: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.advice = advice
        self.facts = facts


class InUseError(VggfeatError):
    """A file cannot be replaced because another program has it open, as Windows has it.

    Args:
        path: the file as it was.
        kept: where its new content is.
    """

    def __init__(self, path: Path, kept: Path) -> None:
        super().__init__(f"{path}: cannot replace it; is it open in another program? The result is in {kept}")
        self.path, self.kept = path, kept

    def __reduce__(self) -> tuple[type[InUseError], tuple[Path, Path]]:
        return type(self), (self.path, self.kept)


class UsageError(VggfeatError):
    """A wrong request: an unknown name, or settings that contradict each other (exit code 2)."""


class WeightsError(VggfeatError):
    """A weights file or name cannot be used; the message says why."""


class UnknownFormError(WeightsError):
    """A file is not a weights file of any known form."""


class PreprocessingError(WeightsError):
    """Nothing tells what a file's weights expect of an image."""


class DownloadError(VggfeatError):
    """A file could not be fetched, or what came is not what was published."""


class DeviceError(VggfeatError):
    """A device cannot do what is asked of it, such as hold one picture's activations."""


class ImageError(VggfeatError):
    """One image cannot be used. Only its row fails, never the run."""


class ReadError(ImageError):
    """An image's bytes cannot be read: a missing file, a lost disk. Many in a row mean a storage outage."""


class OutageError(VggfeatError):
    """Too many images in a row could not be read, so the disk is probably gone."""


class DatasetError(VggfeatError):
    """A data set is missing, incomplete or not laid out as its protocol says."""


class StoreError(VggfeatError):
    """A descriptor file cannot be opened, resumed, read or written."""


class RecipeError(UsageError):
    """A recipe has an invalid key or value."""


class TrainingError(VggfeatError):
    """Training cannot go on (NaN, a stalled start, too many unreadable images); the message advises."""


class ModelError(VggfeatError):
    """A fitted model file cannot be read or does not suit the descriptors."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UsageError:
    """The error for a name that is not among the valid ones; it suggests the nearest and lists them all."""
    choices = list(valid)
    near = nearest(name, choices) if isinstance(name, str) else None
    hint = f"did you mean {near!r}? " if near else ""
    return UsageError(f"no {kind} {name!r}; {hint}valid: {', '.join(choices)}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like this one; None where none does."""
    folded = {choice.casefold(): choice for choice in valid}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[near[0]] if near else None
