"""What a checkpoint records of its training, as plain data that torch.load reads with weights_only."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from vggfeat.datasets.split import TrainingSet, data_digest
from vggfeat.training.augment import Colours
from vggfeat.training.observer import Errors
from vggfeat.training.recipe import Recipe, completed
from vggfeat.training.state import RunState


def training_record(
    recipe: Recipe, dataset: TrainingSet, colours: Colours, origin: str, run_seed: int, state: RunState, val: Errors
) -> dict[str, Any]:
    """How a net's values were trained, kept in its checkpoint.

    The images' origin, where they have one, changes no value: a resumed run may read them elsewhere, and records that.
    """
    named = None if dataset.origin is None else dataset.origin.as_text()
    return {
        **({} if named is None else {"origin": named}),
        "recipe": plain(recipe),
        "dataset": dataset.name,
        "class_names": list(dataset.class_names),
        "mean_box": mean_box(dataset),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.val),
        "images_sha256": data_digest(dataset),
        "colours": plain(colours),
        "init_from": origin,
        "run_seed": run_seed,
        "epoch": state.epoch,
        "step": state.step,
        "validation": {"view": "centre", "Q": recipe.augment.Q, **dataclasses.asdict(val)},
    }


def mean_box(dataset: TrainingSet) -> list[float] | None:
    """The training images' average box, the baseline of localisation; None without boxes."""
    boxes = [sample.boxes[0] for sample in dataset.train if sample.boxes]
    return [sum(side) / len(boxes) for side in zip(*boxes, strict=True)] if boxes else None


def files_digest(dataset: TrainingSet) -> str:
    """A hash of the images' boxes and files: each one's size and time of change, its tar file's for a member.

    A copy of the data differs here, and not in `data_digest`.
    """

    @cache  # a tar file holds many images
    def version(path: str) -> str:
        try:
            status = Path(path).stat()
        except (OSError, ValueError):  # ValueError: NUL in a name
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"

    digest = hashlib.sha256()
    for sample in (*dataset.train, *dataset.val):
        digest.update(f"{version(sample.path)}\t{sample.span}\t{sample.boxes}\n".encode())
    return digest.hexdigest()


def comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The part of a recorded recipe that a resumed run must share: without its length and the limits that stop it."""
    out: dict[str, Any] = _lists(completed(recipe))
    for section, key in (("schedule", "epochs"), ("data", "unreadable_limit"), ("init", "stall_steps")):
        out[section].pop(key, None)
    return out


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as a dict, its tuples as lists."""
    entries: dict[str, Any] = _lists(dataclasses.asdict(settings))
    return entries


def frozen(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, for frozen dataclasses."""
    return {key: _tuples(value) for key, value in fields.items()}


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
