"""What a descriptor file, a model or a weights file is, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vggfeat.classifiers.model_file import MODEL_FORMAT, Model, read_model
from vggfeat.errors import StoreError, UnknownFormError, VggfeatError
from vggfeat.metrics import TOP, chance_topk_error
from vggfeat.nets.wording import nets_words
from vggfeat.page.commands import (
    extract_command,
    fit_command,
    making_command,
    note_on,
    note_on_calibration,
    note_on_images,
    resumed,
    shard_command,
    train_again,
)
from vggfeat.results import Result
from vggfeat.store import DONE, FAILED, PENDING, read_descriptors
from vggfeat.store.choices import POSTERIORS
from vggfeat.store.merging import Head
from vggfeat.store.naming import NAMES, Naming
from vggfeat.store.shard_states import ShardState, State, shard_states
from vggfeat.store.shards import whole_path
from vggfeat.system.files import folder_error, no_file
from vggfeat.system.hdf5 import DAMAGE, is_hdf5, open_to_read
from vggfeat.training.files import RunFiles


@dataclass(frozen=True)
class Info(Result):
    """A file's path and kind, its facts under their published names, and the command that makes it again."""

    path: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    notes: tuple[str, ...] = ()
    """What a reader should know of the command."""

    def as_json(self) -> dict[str, Any]:
        """Path, kind, the facts, and the command and the notes if there are any."""
        command = {} if self.command is None else {"command": self.command}
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"path": self.path, "kind": self.kind, **self.facts, **command, **notes}


@dataclass(frozen=True)
class ShardInfo(Result):
    """The state of one shard of an extraction."""

    shard: str
    path: str
    state: State
    rows: int | None
    """None where no file tells."""
    done: int
    failed: int
    pending: int | None
    writer: str | None
    """The process that is writing it."""
    command: str | None
    """What finishes or makes it; None for one that is done or running, and where no shard tells how it was made."""
    error: str = ""
    """Why its file is unreadable, or how it differs from the others."""


@dataclass(frozen=True)
class ShardsInfo(Result):
    """The state of all shards of an extraction."""

    output: str
    total_rows: int | None
    """Rows of the whole list; None where no shard tells."""
    shards: tuple[ShardInfo, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows done and failed, and shards done, in all."""
        return {
            "done": sum(one.done for one in self.shards),
            "failed": sum(one.failed for one in self.shards),
            "shards_done": sum(one.state == "done" for one in self.shards),
        }

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the counts."""
        return super().as_json() | self.counts | {"shards": [one.as_json() for one in self.shards]}


def shards(output: str | Path) -> ShardsInfo:
    """The state of all shards of an extraction, given its output (`feats.h5`) or one of the shards.

    A shard is done, running (a process is writing it), unfinished (rows to do, and no process at work), missing,
    unreadable, or different: made with other settings, or from another list, than most. Shards of several numbers (of
    8, of 16) are all listed.

    Raises StoreError where there are no shards.
    """
    if Path(output).is_dir():
        raise folder_error(StoreError, Path(output), (".h5",), "the output of an extraction")
    states = shard_states(Path(output))
    usual = [one.head for one in states if one.head is not None and one.head.portion is not None and not one.error]
    known = usual[0] if usual else None
    whole = whole_path(Path(output))
    total = known.portion.total_rows if known is not None and known.portion is not None else None
    return ShardsInfo(str(whole), total, tuple(_shard_info(one, whole, known) for one in states))


MODES: dict[State, Literal["", "resume", "overwrite"]] = {
    "missing": "",
    "unfinished": "resume",
    "unreadable": "overwrite",
    "different": "overwrite",
}
"""How to run a shard again, by its state."""


def _shard_info(one: ShardState, whole: Path, known: Head | None) -> ShardInfo:
    head, command = one.head, None
    if one.state not in ("done", "running") and known is not None and known.portion is not None:
        attributes = known.attributes
        mode = MODES[one.state]
        command = shard_command(attributes["settings"], attributes["dataset"], known.naming, whole, one.shard, mode)
    return ShardInfo(
        shard=str(one.shard),
        path=str(one.path),
        state=one.state,
        rows=None if head is None else head.rows,
        done=one.done,
        failed=0 if head is None or one.error else head.failed,
        pending=None if head is None else head.pending,
        writer=one.writer,
        command=command,
        error=one.error,
    )


def failures(path: str | Path) -> dict[str, str]:
    """The ids of a descriptor file's failed images and their reasons, in the file's order.

    Raises StoreError for any other file.
    """
    return read_descriptors(path).errors()


def info(path: str | Path) -> Info:
    """Describes a file of vggfeat's, or a weights file of any form: its kind, contents and provenance.

    Raises VggfeatError for any other file.
    """
    path = Path(path)
    if path.is_dir():
        raise folder_error(VggfeatError, path, _KNOWN, "descriptors, models or nets")
    if not path.is_file():
        raise VggfeatError(f"{path}: {no_file(path)}")
    if not is_hdf5(path):
        return _weights(path)
    try:
        return _descriptors(path)
    except StoreError as error:
        return _model(path, error)


_KNOWN = (".h5", ".pt", ".pth")
"""How files of descriptors, models and nets are usually named."""


_IN_COMMAND = ("format", "settings", *NAMES)
"""Attributes that the command shows better."""

_STATUS = {"done": DONE, "pending": PENDING, "failed": FAILED}


def _descriptors(path: Path) -> Info:
    made = read_descriptors(path)
    kind = POSTERIORS if made.holds_posteriors else "descriptors"
    facts = {
        "nets": made.nets,
        "rows": len(made),
        "dim": made.dim,
        **{name: int((made.status == code).sum()) for name, code in _STATUS.items()},
        "classes": len(made.class_names),
        "failed_images": made.errors(),
        **{name: value for name, value in made.attributes.items() if name not in _IN_COMMAND},
    }
    kind = kind if made.portion is None else f"{kind}, {made.portion}"
    note = note_on(made)
    return Info(str(path), kind, facts, making_command(made), (note,) if note else ())


def _weights(path: Path) -> Info:
    """A checkpoint of vggfeat's, or weights of another form; their preprocessing is None where nothing tells it."""
    from vggfeat.nets.weights import open_weights

    try:
        net, own, told = open_weights(path)
    except UnknownFormError:
        raise VggfeatError(f"{path} is not a descriptor file, checkpoint, model or weights file") from None
    origin = net.origin
    facts = {
        "net": net.net,
        "width": net.width,
        "num_classes": net.num_classes,
        "parameters": sum(p.numel() for p in net.parameters()),
        "preprocessing": vars(net.preprocessing) if told else None,
        "weights_sha256": net.fingerprint(),
        **({} if origin is None else {"source": origin.title, "license": origin.license}),
        **({} if net.has_top else {"layers": list(net.spec.layer_names[:-2])}),
        "class_names": list(net.class_names),
        "training": _trained(net.training_record),
    }
    kind = "checkpoint" if own else "weights"
    if not net.training_record.get("recipe"):
        return Info(str(path), kind, facts)
    command, note = train_again(path, net.training_record, str(RunFiles.output_of(path)))
    return Info(str(path), kind, facts, resumed(command), (note,) if note else ())


def _trained(record: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's training record, with what guessing its classes would score beside the errors (see `_beside`)."""
    told = {name: value for name, value in record.items() if name not in _IN_COMMAND}
    recipe, classes, errors = (record.get(name) for name in ("recipe", "class_names", "validation"))
    if not (isinstance(recipe, Mapping) and isinstance(classes, list | tuple) and isinstance(errors, Mapping)):
        return told
    if recipe.get("task", "classify") != "classify":  # boxes cannot be guessed
        return told
    return {**told, "validation": _beside(errors, len(classes))}


def _beside(errors: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Errors in %, each with its chance level; None for a top-5 error among so few classes that it says nothing."""
    told: dict[str, Any] = {}
    for name, value in errors.items():
        k = {"top1": 1, "top5": TOP}.get(name)
        told[name] = value if k is None or k < classes else None
        if k is not None and k < classes:
            told[f"chance_{name}"] = chance_topk_error(classes, k)
    return told


def _model(path: Path, error: StoreError) -> Info:
    """A fitted SVM's file, or weights in HDF5. For any other file raises `error`: why it is not a descriptor file."""
    try:
        with open_to_read(path) as file:
            fitted = file.attrs.get("format") == MODEL_FORMAT
            holds_weights = "layer_names" in file.attrs or "model_weights" in file or "layers" in file
    except DAMAGE:
        raise error from None
    if holds_weights:
        return _weights(path)
    if not fitted:
        raise error
    model = read_model(path)
    facts = {"nets": "; ".join(nets_words(one["nets"]) for one in model.inputs), **model.describe()}
    try:
        command, notes = _model_command(path, model)
    except DAMAGE:  # an older model, or a stranger's, whose record does not say
        return Info(str(path), "model", facts)
    return Info(str(path), "model", facts, command, notes)


def _model_command(path: Path, model: Model) -> tuple[str, tuple[str, ...]]:
    """The command lines that make the model again, from the descriptors on, and the notes on them."""
    record = model.record
    files = record["descriptors"]
    namings = model.namings or [Naming()] * len(files)  # older models do not tell
    lines = [
        extract_command(settings, record["dataset"], naming, output=file)
        for settings, naming, file in zip(record.get("made_by", model.inputs), namings, files, strict=True)
    ]
    notes = [
        note
        for file, naming in zip(files, namings, strict=True)
        for note in (note_on_images(file, record["dataset"], naming), note_on_calibration(file, naming))
    ]
    return " && ".join([*lines, fit_command(record["command"], str(path))]), tuple(filter(None, notes))
