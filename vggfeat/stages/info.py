"""What a descriptor file, checkpoint or model is, and how it was made."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py

from vggfeat.errors import StoreError, VggfeatError
from vggfeat.store import DONE, FAILED, PENDING, read_descriptors


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
    return {
        "path": str(path),
        "kind": "descriptors",
        "rows": len(made),
        "dim": made.dim,
        **counts,
        "classes": len(made.class_names),
        "failed_images": made.errors(),
        **{name: value for name, value in made.attributes.items() if name not in hidden},
        "command": command(made.attributes),
    }


_STATUS = {"done": DONE, "pending": PENDING, "failed": FAILED}


def command(attributes: dict[str, Any]) -> str:
    """The command line that would make such a descriptor file again."""
    settings = attributes["settings"]
    words = ["vggfeat", "extract"]
    for net in settings["nets"]:
        words += ["--net", net["net"], "--weights", net["weights"]]
        if net["weights"] == "none":
            words += ["--width", f"{net['width']:g}"]
    words += ["--scales", ",".join(map(str, settings["scales"])), "--aggregate", settings["aggregate"]]
    words += [] if settings["flip"] else ["--no-flip"]
    words += ["--exif"] if settings["exif"] else ["--no-exif"]
    for name, default in (("layer", "fc7"), ("region", "image"), ("store", "float32")):
        if settings[name] != default:
            words += [f"--{name}", settings[name]]
    words += ["--keep-scales"] if settings["keep_scales"] else []
    words += ["--precision", settings["precision"]]
    dataset = attributes["dataset"]
    return " ".join([*words, "-"] if dataset == "images" else [*words, "--dataset", dataset])


def _checkpoint(path: Path) -> dict[str, Any]:
    from vggfeat.weights import load_net  # torch, only for a checkpoint

    net = load_net(None, path, device="cpu")
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
    }


def _model(path: Path, error: StoreError) -> dict[str, Any]:
    """A fitted SVM's file, or else the reason why the file is no descriptor file."""
    from vggfeat.model import MODEL_FORMAT, read_model

    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != MODEL_FORMAT:
            raise error
    return {"path": str(path), "kind": "model", **read_model(path).describe()}
