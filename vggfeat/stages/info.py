"""What a descriptor file, checkpoint or model is, and how it was made."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import Any

import h5py

from vggfeat.classifiers.model_file import MODEL_FORMAT, Model, read_model
from vggfeat.errors import StoreError, VggfeatError
from vggfeat.page.commands import extract_command, making_command, train_command
from vggfeat.store import DONE, FAILED, PENDING, read_descriptors
from vggfeat.system.hdf5 import DAMAGE


def info(path: str | Path) -> dict[str, Any]:
    """Plain data that describes a file of vggfeat's: its kind, contents and provenance.

    Raises VggfeatError where it is none.
    """
    path = Path(path)
    if not path.is_file():
        raise VggfeatError(f"{path}: no such file")
    if zipfile.is_zipfile(path):
        return _checkpoint(path)
    if not h5py.is_hdf5(path):
        raise VggfeatError(f"{path} is no descriptor file, checkpoint or model of vggfeat's")
    try:
        return _descriptors(path)
    except StoreError as error:
        return _model(path, error)


def _descriptors(path: Path) -> dict[str, Any]:
    made = read_descriptors(path)
    counts = {name: int((made.status == code).sum()) for name, code in _STATUS.items()}
    hidden = ("settings", "format")
    kind = "posteriors" if made.attributes["layer"] == "posteriors" else "descriptors"
    return {
        "path": str(path),
        "kind": kind if made.portion is None else f"{kind}, {made.portion}",
        "rows": len(made),
        "dim": made.dim,
        **counts,
        "classes": len(made.class_names),
        "failed_images": made.errors(),
        **{name: value for name, value in made.attributes.items() if name not in hidden},
        "command": making_command(made),
    }


_STATUS = {"done": DONE, "pending": PENDING, "failed": FAILED}


def _checkpoint(path: Path) -> dict[str, Any]:
    from vggfeat.nets.weights import load_net
    from vggfeat.training.state import RunFiles  # torch, only for a checkpoint

    net = load_net(None, path, device="cpu")
    recipe = net.training_record.get("recipe")
    return {
        "path": str(path),
        "kind": "checkpoint",
        "net": net.net,
        "width": net.width,
        "num_classes": net.num_classes,
        "parameters": sum(p.numel() for p in net.parameters()),
        "preprocessing": vars(net.preprocessing),
        "weights_sha256": net.fingerprint(),
        "class_names": list(net.class_names),
        "training": net.training_record,
        **({"command": train_command(recipe, output=str(RunFiles.output_of(path)))} if recipe else {}),
    }


def _model(path: Path, error: StoreError) -> dict[str, Any]:
    """A fitted SVM's file, or else the reason why the file is no descriptor file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            is_model = bool(file.attrs.get("format") == MODEL_FORMAT)
    except DAMAGE:
        raise error from None
    if not is_model:
        raise error
    model = read_model(path)
    described = {"path": str(path), "kind": "model", **model.describe()}
    try:
        return {**described, "command": _model_command(path, model)}
    except DAMAGE:  # its record does not say: an older model, or a stranger's
        return described


def _model_command(path: Path, model: Model) -> str:
    """The command lines that would make the model again, from the descriptors on."""
    record = model.record
    lines = [
        extract_command(settings, record["dataset"], output=file)
        for settings, file in zip(model.inputs, record["descriptors"], strict=True)
    ]
    return " && ".join([*lines, f"{record['command']} -o {shlex.quote(str(path))}"])
