"""The command lines that make files again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggfeat.store import Descriptors
from vggfeat.training.recipe import Recipe


def making_command(made: Descriptors) -> str:
    """The command line that would make such a file of descriptors or posteriors again."""
    settings, dataset = made.attributes["settings"], str(made.attributes["dataset"])
    if made.attributes["layer"] == "posteriors":
        return evaluate_command(settings, dataset)
    return extract_command(settings, dataset, shard=str(made.portion.shard) if made.portion else None)


def extract_command(
    settings: Mapping[str, Any], dataset: str, output: str | None = None, shard: str | None = None
) -> str:
    """The `vggfeat extract` that would make such a descriptor file, or that shard of it, again.

    Args:
        settings: what the file, or a model's input, records of how its images were described.
        dataset: the data set's name; "images" for a list of the user's own, which the command then reads from stdin,
            or as a shard from a file, for which FILE stands.
        output: where to.
        shard: which one, such as "2/8".
    """
    words = ["vggfeat", "extract", *_nets(settings)]
    words += ["--scales", ",".join(map(str, settings["scales"])), "--aggregate", settings["aggregate"]]
    words += [] if settings["flip"] else ["--no-flip"]
    words += ["--exif"] if settings["exif"] else ["--no-exif"]
    for name, default in (("layer", "fc7"), ("region", "image"), ("store", "float32")):
        if settings.get(name, default) != default:
            words += [f"--{name}", settings[name]]
    words += ["--keep-scales"] if settings.get("keep_scales") else []
    words += ["--precision", settings["precision"]]
    words += ["-o", output] if output else []
    words += ["--shard", shard] if shard else []
    if dataset != "images":
        words += ["--dataset", dataset]
    else:
        words += ["--list", "FILE"] if shard else ["-"]
    return shlex.join(words)


def evaluate_command(settings: Mapping[str, Any], dataset: str, output: str | None = None) -> str:
    """The `vggfeat evaluate` that would make such a file of posteriors again.

    Args:
        settings: what the file records of how its images were scored.
        dataset: the data set's name.
        output: where to; FILE.h5 stands for it otherwise.
    """
    words = ["vggfeat", "evaluate", *_nets(settings), "--view", settings["view"]]
    of_nets = [net["scales"] for net in settings["nets"]]
    scales = ",".join(map(str, of_nets[0]))
    if any(its != of_nets[0] for its in of_nets):  # then the paper's rule chose them from each net's training scale
        scales = "single" if len(of_nets[0]) == 1 else "multi"
    words += ["--scales", scales, "--precision", settings["precision"]]
    return shlex.join([*words, "--dataset", dataset, "-o", output or "FILE.h5"])


def fuse_command(files: Sequence[str | Path]) -> str:
    """The `vggfeat evaluate` that would score such files of posteriors, and their fusion, again."""
    return shlex.join(["vggfeat", "evaluate", *map(str, files)])


def with_report(command: str, folder: str | Path) -> str:
    """The command that also writes its page into a folder."""
    return f"{command} --report {shlex.quote(str(folder))}"


def train_command(recipe: Mapping[str, Any], output: str | None = None) -> str:
    """The `vggfeat train` that would train such a net again.

    Args:
        recipe: the resolved recipe that the checkpoint records.
        output: where to.
    """
    words = ["vggfeat", "train", "--net", recipe["net"], "--dataset", recipe["data"]["dataset"]]
    for key, value in _changes(recipe, asdict(Recipe())):
        if key not in ("net", "data.dataset"):
            words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join([*words, "-o", output] if output else words)


def _changes(recipe: Mapping[str, Any], usual: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys whose values are not the usual ones."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _changes(value, usual.get(key, {}), f"{above}{key}.")
        elif json.dumps(value) != json.dumps(usual.get(key)):
            yield f"{above}{key}", value


def _nets(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for net in settings["nets"]:
        words += ["--net", net["net"], "--weights", net["weights"]]
    random = [net for net in settings["nets"] if net["weights"] == "none"]
    words += ["--width", f"{random[0]['width']:g}"] if random else []
    seed = random[0].get("seed", 0) if random else 0
    return [*words, "--seed", str(seed)] if seed else words
