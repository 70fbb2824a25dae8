"""What a descriptor file, a model or a weights file is, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from vggfeat.classifiers.model_file import MODEL_FORMAT, Model, read_model
from vggfeat.errors import StoreError, UnknownFormError, VggfeatError
from vggfeat.nets.wording import nets_words
from vggfeat.page.commands import extract_command, fit_command, making_command, train_command
from vggfeat.results import Result
from vggfeat.store import DONE, FAILED, PENDING, read_descriptors
from vggfeat.system.hdf5 import DAMAGE


@dataclass(frozen=True)
class Info(Result):
    """A file's path and kind, its facts under their published names, and the command that makes it again."""

    path: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    command: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Path, kind, the facts, and the command if there is one."""
        command = {} if self.command is None else {"command": self.command}
        return {"path": self.path, "kind": self.kind, **self.facts, **command}


def info(path: str | Path) -> Info:
    """Describes a file of vggfeat's, or a weights file of any form: its kind, contents and provenance.

    Raises VggfeatError for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise VggfeatError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        return _weights(path)
    try:
        return _descriptors(path)
    except StoreError as error:
        return _model(path, error)


_STATUS = {"done": DONE, "pending": PENDING, "failed": FAILED}


def _descriptors(path: Path) -> Info:
    made = read_descriptors(path)
    kind = "posteriors" if made.attributes["layer"] == "posteriors" else "descriptors"
    facts = {
        "nets": nets_words(made.attributes["settings"]["nets"]),
        "rows": len(made),
        "dim": made.dim,
        **{name: int((made.status == code).sum()) for name, code in _STATUS.items()},
        "classes": len(made.class_names),
        "failed_images": made.errors(),
        **{name: value for name, value in made.attributes.items() if name not in ("settings", "format")},
    }
    return Info(str(path), kind if made.portion is None else f"{kind}, {made.portion}", facts, making_command(made))


def _weights(path: Path) -> Info:
    """A checkpoint of vggfeat's, or weights of another form; their preprocessing is None where nothing tells it."""
    from vggfeat.nets.weights import open_weights
    from vggfeat.training.state import RunFiles  # torch, only for weights

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
        "training": net.training_record,
    }
    recipe = net.training_record.get("recipe")
    command = train_command(recipe, output=str(RunFiles.output_of(path))) if recipe else None
    return Info(str(path), "checkpoint" if own else "weights", facts, command)


def _model(path: Path, error: StoreError) -> Info:
    """A fitted SVM's file, or weights in HDF5. For any other file raises `error`: why it is not a descriptor file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            is_model = bool(file.attrs.get("format") == MODEL_FORMAT)
            holds_weights = "layer_names" in file.attrs or "model_weights" in file or "layers" in file
    except DAMAGE:
        raise error from None
    if holds_weights:
        return _weights(path)
    if not is_model:
        raise error
    model = read_model(path)
    facts = {"nets": "; ".join(nets_words(one["nets"]) for one in model.inputs), **model.describe()}
    try:
        command = _model_command(path, model)
    except DAMAGE:  # an older model, or a stranger's, whose record does not say
        command = None
    return Info(str(path), "model", facts, command)


def _model_command(path: Path, model: Model) -> str:
    """The command lines that make the model again, from the descriptors on."""
    record = model.record
    lines = [
        extract_command(settings, record["dataset"], output=file)
        for settings, file in zip(model.inputs, record["descriptors"], strict=True)
    ]
    return " && ".join([*lines, fit_command(record["command"], str(path))])
