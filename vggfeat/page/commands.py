"""Command lines that reproduce files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from vggfeat.datasets import Dataset
from vggfeat.datasets.listing import NAME
from vggfeat.datasets.origin import LONGEST, Origin
from vggfeat.datasets.split import TrainingSet
from vggfeat.inference.calibration_list import PROGRAMS_LIST
from vggfeat.nets.catalog import WEIGHTS_NAMES
from vggfeat.nets.layers import POOLING_MARK
from vggfeat.nets.preprocessing import NAMED, RANDOM
from vggfeat.store import Descriptors
from vggfeat.store.choices import LAYER_SEPARATOR
from vggfeat.store.naming import Naming
from vggfeat.store.shards import Shard, whole_path
from vggfeat.system.files import exists
from vggfeat.system.numbers import number_of
from vggfeat.system.text import as_argument
from vggfeat.training.recipe import Recipe, completed, load_recipe

LIST = "LIST"
"""Stands in a command for a list of calibration images that only a program knew."""


def making_command(made: Descriptors) -> str:
    """The command line that reproduces a file of descriptors or posteriors."""
    settings, dataset = made.made_by, str(made.attributes["dataset"])
    if made.holds_posteriors:
        return evaluate_command(settings, dataset, made.naming, str(made.path))
    if made.portion is not None:
        return shard_command(settings, dataset, made.naming, whole_path(made.path), made.portion.shard)
    return extract_command(settings, dataset, made.naming, str(made.path))


def data_root(data: str | Path | None, naming: Naming) -> str | Path:
    """Where the images of a file are: as given, else where the file says that they were, if that is still there."""
    recorded = naming.origin.data if naming.origin is not None else ""
    return data or (recorded if recorded and exists(recorded) else "data")


def keeping_command(made: Descriptors, data: str | Path | None) -> str:
    """The `vggfeat extract` that makes a file of descriptors again, or keeps it if it is finished.

    Args:
        made: the file, or a shard.
        data: where the images of a data set are now, None: where they were; those of a user's own list have no data
            root.
    """
    dataset, naming = str(made.attributes["dataset"]), made.naming
    if made.portion is not None:
        return resumed(making_command(made))
    if dataset != NAME:
        naming = replace(naming, origin=Origin(data=str(data_root(data, naming))))
    return resumed(extract_command(made.made_by, dataset, naming, str(made.path)))


def note_on_images(
    file: str | Path, dataset: str, naming: Naming, rows: int | None = None, list_: str = "- stands for a list of them"
) -> str:
    """What a reader should know of the command of a file that cannot name its images; "": it names them.

    Args:
        file, dataset, naming: the file of descriptors, and what it records.
        rows: the number of its images, if known.
        list_: what stands for their list in the command, in words.
    """
    if dataset != NAME or naming.origin is not None:
        return ""
    images = "images were" if rows is None else number_of(rows, "image was", "images were")
    why = "a pipe, a program, or too many names"
    return f"{file} does not record how its {images} named ({why}): {list_}, one path a line."


def note_on_calibration(file: str | Path, naming: Naming) -> str:
    """The same of a file that cannot name the images that it was calibrated on."""
    if not naming.calibration.startswith(PROGRAMS_LIST):
        return ""
    return f"{file} was calibrated on {naming.calibration}: {LIST} stands for a list of them, one path a line."


def note_on(made: Descriptors) -> str:
    """Both for an opened file."""
    dataset = str(made.attributes["dataset"])
    lists = [] if made.portion is None else ["FILE stands for the whole list"]
    on_images = note_on_images(made.path, dataset, made.naming, len(made), *lists)
    return " ".join(filter(None, [on_images, note_on_calibration(made.path, made.naming)]))


def shard_command(
    settings: Mapping[str, Any],
    dataset: str,
    naming: Naming,
    output: Path,
    shard: Shard,
    mode: Literal["", "resume", "overwrite"] = "",
) -> str:
    """The `vggfeat extract` that makes a shard again, or another one of the same list.

    Args:
        settings, dataset, naming: what a shard records.
        output: the file that the shards become.
        shard: the one to make.
        mode: what to do with the shard's file, if it exists.
    """
    command = extract_command(settings, dataset, naming, str(output), str(shard))
    return _with_flags(command, f"--{mode}") if mode else command


def extract_command(
    settings: Mapping[str, Any],
    dataset: str,
    naming: Naming,
    output: str | None = None,
    shard: str | None = None,
) -> str:
    """The `vggfeat extract` that reproduces a descriptor file or a shard of it.

    Args:
        settings: the extraction settings that the file, or a model, records.
        dataset: the data set's name; "images" for the user's own list, which the command reads from stdin or, for a
            shard whose origin is unknown, from a file (written FILE); see `note_on_images`.
        naming: how the images and the weights were named.
        output: the file to write.
        shard: such as "2/8".
    """
    origin = naming.origin or Origin()
    words = ["vggfeat", "extract", *_nets(_with_weights(settings, naming.weights))]
    words += ["--scales", ",".join(map(str, settings["scales"])), "--aggregate", settings["aggregate"]]
    words += [] if settings["flip"] else ["--no-flip"]
    words += ["--exif"] if settings["exif"] else ["--no-exif"]
    layers = settings["layer"].split(LAYER_SEPARATOR)
    if layers != ["fc7"]:
        words += [word for layer in layers for word in ("--layer", layer)]
    if all(POOLING_MARK in layer for layer in layers):  # --pool would change nothing, and is refused
        settings = {**settings, "pool": "avg"}
    usual = (("pool", "avg"), ("view", "dense"), ("normalise", "l2"), ("region", "image"), ("store", "float32"))
    for name, default in usual:
        if settings.get(name, default) != default:
            words += [f"--{name}", settings[name]]
    words += ["--pre-relu"] if settings.get("pre_relu") else []
    words += ["--keep-scales"] if settings.get("keep_scales") else []
    words += ["--precision", settings["precision"]]
    calibration = LIST if naming.calibration.startswith(PROGRAMS_LIST) else naming.calibration
    words += ["--calibration", calibration] if calibration else []
    words += ["-o", output] if output else []
    words += ["--shard", shard] if shard else []
    if dataset != NAME:
        words += ["--dataset", dataset, *(["--data", origin.data] if origin.data not in ("", "data") else [])]
    elif shard and not (origin.paths or origin.list_file):
        words += ["--list", "FILE"]
    else:
        words += _own_images(origin)
    return shlex.join(words)


def _own_images(origin: Origin) -> Sequence[str]:
    """The words that name a user's own images; "-" where they are not known."""
    if origin.paths:
        return ["--", *origin.paths] if any(path.startswith("-") for path in origin.paths) else origin.paths
    if origin.list_file:
        return ["--list", origin.list_file, *(["-0"] if origin.nul else [])]
    return ["-"]


def similar_command(features: str | Path, options: Mapping[str, Any], pictures: Dataset | None) -> tuple[str, str]:
    """The `vggfeat similar` that finds the same again, and what a reader should know of its pictures, or "".

    Args:
        features: the descriptor file.
        options: by flag, as for `fuse_command`.
        pictures: those whose neighbours were sought; None: the file was compared with itself.
    """
    words = ["vggfeat", "similar", as_argument(features), *_flags(options)]
    if pictures is None:
        return shlex.join(words), ""
    origin = pictures.origin or Origin()
    known = (origin.paths or origin.list_file) and sum(map(len, origin.paths)) <= LONGEST
    command = shlex.join([*words, *_own_images(origin if known else Origin())])
    count = number_of(len(pictures.samples), "picture")
    note = f"The {count} came from a pipe or a program, or had too many names: - stands for a list, one path a line."
    return command, "" if known else note


def fit_command(recorded: str, model: str) -> str:
    """The recorded `vggfeat svm`, writing its model to this path."""
    return f"{recorded} -o {shlex.quote(model)}"


def evaluate_command(settings: Mapping[str, Any], dataset: str, naming: Naming, output: str) -> str:
    """The `vggfeat evaluate` that makes a file of posteriors again.

    Args:
        settings: the settings that the file records.
        dataset: the data set's name.
        naming: how the data set and the weights were named.
        output: the file to write.
    """
    words = ["vggfeat", "evaluate", *_nets(_with_weights(settings, naming.weights)), "--view", settings["view"]]
    words += ["--scales", _scales_of(settings["nets"]), "--precision", settings["precision"]]
    words += ["--dataset", dataset, *_flags({"subset": naming.part or None}), "-o", output]
    data = "" if naming.origin is None else naming.origin.data
    return with_data(shlex.join(words), data) if data else shlex.join(words)


def evaluate_again(settings: Mapping[str, Any], dataset: str, options: Mapping[str, Any]) -> str:
    """The `vggfeat evaluate` that repeats a run, without keeping its posteriors.

    Args:
        settings: what was computed (`Scorer.provenance`).
        dataset: the data set's name.
        options: the run's other options by flag, as for `fuse_command`; `weights` and `preprocessing`, one for each net
            or for all, replace those of the settings, which know a file by its name alone.
    """
    rest = dict(options)
    weights, preprocessing = rest.pop("weights", None), rest.pop("preprocessing", None)
    given = weights * len(settings["nets"]) if weights and len(weights) == 1 else weights or ()
    words = ["vggfeat", "evaluate", *_nets(_with_weights(settings, given), preprocessing), "--view", settings["view"]]
    words += ["--scales", _scales_of(settings["nets"]), "--precision", settings["precision"], "--dataset", dataset]
    return shlex.join([*words, *_flags(rest)])


def fuse_command(files: Sequence[str | Path], options: Mapping[str, Any]) -> str:
    """The `vggfeat evaluate` that would score such files of posteriors, and their fusion, again.

    `options`: by flag; True stands alone, and None and False are left out.
    """
    return shlex.join(["vggfeat", "evaluate", *map(as_argument, files), *_flags(options)])


def train_command(
    recipe: Mapping[str, Any], output: str | None = None, data: str | None = None, report: str | Path | None = None
) -> str:
    """The `vggfeat train` that repeats a training run.

    Args:
        recipe: the resolved recipe that the checkpoint records.
        output: the file or folder to write.
        data: the data root.
        report: folder for a page.
    """
    words = ["vggfeat", "train", "--net", recipe["net"], "--dataset", recipe["data"]["dataset"]]
    made = completed(recipe)
    chosen = {"net": made["net"], "task": made["task"], "sgd.trainable": made["sgd"]["trainable"]}
    usual, first = asdict(load_recipe(None, chosen)), Recipe()
    # The task and the trained layers decide other defaults: the command names them unless they are the first choice.
    usual["task"], usual["sgd"]["trainable"] = first.task, first.sgd.trainable
    for key, value in _changes(made, usual):
        if key not in ("net", "data.dataset"):
            words += ["--set", f"{key}={json.dumps(value)}"]
    words += ["--report", str(report)] if report else []
    words += ["-o", output] if output else []
    return shlex.join([*words, "--data", data] if data else words)


def train_again(file: str | Path, record: Mapping[str, Any], output: str) -> tuple[str, str]:
    """The `vggfeat train` that repeats a checkpoint's run, and what a reader should know of its images, or "".

    Args:
        file: the checkpoint.
        record: its training record, with a recipe.
        output: the file or folder to write.
    """
    origin = Naming.of(record).origin
    command = train_command(record["recipe"], output)
    if origin is None:
        why = "an earlier version, or a program that read them itself"
        return command, f"{file} does not record where its images were ({why}): name their folder with `data`."
    return with_data(command, origin.data), ""


def next_commands(net: Path, dataset: TrainingSet, data: str, folder: str | Path, *, localises: bool) -> list[str]:
    """The command lines that use a trained net: its errors, and the class of a picture.

    Args:
        net: the checkpoint.
        dataset: the images that it was trained on. data: their data root.
        folder: of the report page, in which the next one finds a place.
        localises: whether the net learned boxes.
    """
    if localises:
        command = shlex.join(["vggfeat", "localise", "--protocol", "1", "--weights", str(net)])
        return [with_data(with_report(command, Path(folder, "localisation")), data)]
    command = shlex.join(["vggfeat", "evaluate", "--weights", str(net), "--dataset", dataset.name])
    first = dataset.val[0]
    picture = first.path if first.span is None else "PICTURES"  # within a tar file a picture has no path
    return [
        with_data(with_report(command, Path(folder, "evaluation")), data),
        shlex.join(["vggfeat", "predict", as_argument(net), as_argument(picture), "--top", "5", "--header"]),
    ]


def svm_command(files: Sequence[str], options: Mapping[str, Any]) -> str:
    """The `vggfeat svm` that would score such files again.

    Args:
        files: paths of descriptor files.
        options: those that are not at their defaults, by their names in Python.
    """
    words = ["vggfeat", "svm", *map(as_argument, files)]
    for name, value in options.items():
        if name == "layer":
            words += [word for layer in value for word in ("--layer", layer)]
            continue
        flag = "num-splits" if name == "number" else name.replace("_", "-")
        if value is True:
            words.append(f"--{flag}")
            continue
        words += [f"--{flag}", ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def localise_command(weights: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The `vggfeat localise` that repeats a run.

    Args:
        weights: paths of the checkpoints.
        settings: options by flag; one with several values is repeated, True stands alone, and None is left out.
    """
    return shlex.join(["vggfeat", "localise", *_flags({"weights": weights, **settings})])


def with_probabilities(command: str) -> str:
    """The `vggfeat svm` whose model gives class probabilities."""
    return f"{command} --probabilities"


def with_report(command: str, folder: str | Path) -> str:
    """The command that also writes a report page into the folder."""
    return _with_flags(command, "--report", str(folder))


def resumed(command: str) -> str:
    """The command that goes on with its output where that exists, and leaves a finished one as it is."""
    return _with_flags(command, "--resume")


def _with_flags(command: str, *flags: str) -> str:
    """The command with more flags, which stand before a bare `--`: after it everything is a path."""
    words = shlex.split(command)
    at = words.index("--") if "--" in words else len(words)
    return shlex.join([*words[:at], *flags, *words[at:]])


def notes_on(lines: Sequence[str]) -> list[str]:
    """What a reader of these command lines should know."""
    if any("--resume" in shlex.split(line) for line in lines):
        return ["A finished file is kept; --overwrite in place of --resume makes it again."]
    return []


def with_data(command: str, data: str | Path | None) -> str:
    """The command with its data root, unless that is the default or None, what its files say."""
    return command if data is None or str(data) == "data" else _with_flags(command, "--data", str(data))


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Options by flag as words; one with several values is repeated, True stands alone, None and False are left out."""
    words = []
    for flag, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None and one is not False:
                words += [f"--{flag}"] if one is True else [f"--{flag}", str(one)]
    return words


def _scales_of(nets: Sequence[Mapping[str, Any]]) -> str:
    """The scales of several nets, as `vggfeat evaluate` takes them."""
    first = nets[0]["scales"]
    if any(net["scales"] != first for net in nets):  # chosen by the paper's rule from each net's training scale
        return "single" if len(first) == 1 else "multi"
    return ",".join(map(str, first))


def _changes(recipe: Mapping[str, Any], usual: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with values other than the defaults."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _changes(value, usual.get(key, {}), f"{above}{key}.")
        elif json.dumps(value) != json.dumps(usual.get(key)):
            yield f"{above}{key}", value


def _preprocessing(nets: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the weights were taken to expect, where they do not tell it themselves and it has a name.

    Files may tell it or not, so a name is given anyway; without one the file decides, or is refused.
    """
    names = {json.dumps(asdict(one), sort_keys=True): name for name, one in NAMED.items()}
    usual = json.dumps(asdict(RANDOM), sort_keys=True)
    found: list[str | None] = []
    told = True
    for net in nets:
        expected = json.dumps(dict(net["preprocessing"]), sort_keys=True)
        random = net["weights"] == "none"
        told &= expected == usual if random else net["weights"] in WEIGHTS_NAMES
        found.append(names.get(expected, "FILE.toml" if random else None))
    if told or None in found:
        return []
    if len(set(found)) == 1:
        found = found[:1]
    return [word for name in found for word in ("--preprocessing", str(name))]


def _with_weights(settings: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The settings with the weights of each net as given, if there is one for each."""
    nets = settings["nets"]
    if len(given) != len(nets):
        return dict(settings)
    return {**settings, "nets": [{**net, "weights": path} for net, path in zip(nets, given, strict=True)]}


def _nets(settings: Mapping[str, Any], preprocessing: Sequence[str] | None = None) -> list[str]:
    words = []
    for net in settings["nets"]:
        words += ["--net", net["net"], "--weights", net["weights"]]
    if preprocessing:
        words += [word for one in preprocessing for word in ("--preprocessing", one)]
    else:
        words += _preprocessing(settings["nets"])
    random = [net for net in settings["nets"] if net["weights"] == "none"]
    words += ["--width", _exact(random[0]["width"])] if random else []
    seed = random[0].get("seed", 0) if random else 0
    return [*words, "--seed", str(seed)] if seed else words


def _exact(number: float) -> str:
    """The shortest text that reads back as the number: 1, 0.5 or 0.041666666666666664."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
