"""Training recipes: TOML files -> frozen dataclasses. The defaults are the paper's (Sect. 3.1); unknown keys are
errors."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from vggfeat.errors import RecipeError, nearest
from vggfeat.nets.catalog import INPUT_SIDE, NetSpec, net_spec
from vggfeat.system.files import is_file

TASK_DEFAULTS: dict[str, dict[str, Any]] = {"localise": {"sgd": {"learning_rate": 0.001}}}
"""Where a task's defaults differ from those of classification (Appendix A)."""

FINE_TUNING_DEFAULTS: dict[str, dict[str, Any]] = {
    "augment": {"crops": 2},
    "sgd": {"learning_rate": 0.001, "batch_size": 64},
    "schedule": {"epochs": 20, "measure": "top1"},
}
"""Defaults that differ if the first layers are frozen: minutes for some hundred images; not the paper's."""

CHOOSING_DEFAULTS = ("task", "sgd.trainable")
"""Keys whose values choose the defaults of others, by the two tables above."""

MEASURE = "schedule.measure"
"""The key that a run may change by itself: top-5 errors of five classes say nothing."""

TASKS = ("classify", "localise")
HEADS = ("pcr", "scr")
TRAINABLE = ("all", "fc")
"""Values of `sgd.trainable` besides the names of layers."""

INIT_SCHEMES = ("glorot", "gaussian", "data-dependent", "identity")

_MOST = 2**63
"""The limit of torch's whole numbers."""

LITERAL_VARIANCE_STD = 0.1
"""The paper's "variance 1e-2" taken literally: logits of 1e8 in net A, and NaN within steps (PAPER.md 2)."""


@dataclass(frozen=True)
class Data:
    """What to train on."""

    dataset: str = "ilsvrc2012"
    """A single-label data set of `vggfeat.datasets`."""
    validation_fraction: float = 0.1
    """Share of each class held out where the data set has no validation part."""
    unreadable_limit: int = 100
    """Unreadable images beyond which training stops."""

    def __post_init__(self) -> None:
        fraction = self.validation_fraction
        _require(0 < fraction < 1, "data.validation_fraction", fraction, "between 0 and 1")
        _require(self.unreadable_limit >= 0, "data.unreadable_limit", self.unreadable_limit, "at least 0")


@dataclass(frozen=True)
class Augment:
    """Random crops of the isotropically rescaled image, flips, colour shift."""

    S: tuple[int, int] = (256, 256)
    """Training scale, the smallest side in pixels: drawn per image from [min, max]; equal ends are a fixed scale."""
    flip: bool = True
    colour_std: float = 0.1
    """Standard deviation of the alphas of the PCA colour shift; 0 for none."""
    colour_images: int = 10_000
    """Training images, evenly spaced over the list, to take the mean RGB and the colour eigenvectors from; 0: all."""

    crops: int = 0
    """Fixed crops of each image, visited in turn, one an epoch: the outputs of frozen layers can then be kept. 0: a new
    crop at every update, as in the paper."""

    def __post_init__(self) -> None:
        low, high = self.S
        _require(INPUT_SIDE <= low <= high, "augment.S", self.label, f"at least {INPUT_SIDE}, the smaller side first")
        _require(self.colour_std >= 0, "augment.colour_std", self.colour_std, "at least 0")
        _require(self.colour_images >= 0, "augment.colour_images", self.colour_images, "at least 0")
        _require(self.crops >= 0, "augment.crops", self.crops, "at least 0")

    @property
    def Q(self) -> int:  # noqa: N802 - the paper's letter
        """Smallest side of the centre view: S, or half-way between the ends of a jittered one (Sect. 4.1)."""
        return sum(self.S) // 2

    @property
    def label(self) -> str:
        """`256` or `256-512`."""
        return "-".join(str(side) for side in dict.fromkeys(self.S))


@dataclass(frozen=True)
class Sgd:
    """Mini-batch gradient descent with momentum on the multinomial logistic loss."""

    batch_size: int = 256
    """Images an update, over all processes; each weighs 1/batch_size, in an epoch's smaller last batch too."""
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.5
    trainable: str = "all"
    """The layers to train: "all", "fc" (fully-connected), or the name of the first one, such as "conv5_1" or "fc8"."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "sgd.batch_size", self.batch_size, "at least 1")
        _require(self.learning_rate > 0, "sgd.learning_rate", self.learning_rate, "positive")
        _require(0 <= self.momentum < 1, "sgd.momentum", self.momentum, "at least 0 and below 1")
        _require(self.weight_decay >= 0, "sgd.weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.dropout < 1, "sgd.dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class Schedule:
    """When training ends, and when the rate falls. The paper gives the factor and the number of decreases; the rule for
    them is ours."""

    epochs: int = 74
    measure: str = "top5"
    """Error on the centre view of the validation images: "top5", "top1" (both in %) or "loss"."""
    patience: int = 5
    """Epochs without gain after which the rate falls."""
    least_gain: float = 0.1
    """Smallest fall of the measure that counts as a gain."""
    divisor: float = 10.0
    decreases: int = 3

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "schedule.epochs", self.epochs, "at least 1")
        _one_of("schedule.measure", self.measure, ("top5", "top1", "loss"))
        _require(self.patience >= 1, "schedule.patience", self.patience, "at least 1")
        _require(self.least_gain >= 0, "schedule.least_gain", self.least_gain, "at least 0")
        _require(self.divisor > 1, "schedule.divisor", self.divisor, "above 1")
        _require(self.decreases >= 0, "schedule.decreases", self.decreases, "at least 0")


@dataclass(frozen=True)
class Init:
    """The initial weights."""

    scheme: str = "glorot"
    """"glorot", "gaussian" with `std`, "data-dependent" or "identity"; for the layers that `checkpoint` does not fill.

    The last two are not the paper's. "data-dependent" scales Glorot's layer by layer to the training images, and their
    pixels too (`training.initial.standardise_`). "identity" begins as the shallower net of `checkpoint`, all of whose
    layers it takes (`training.initial.deepen`)."""
    std: float = 0.01
    checkpoint: str = ""
    """A trained net. Gives all layers to the same net, else the first four convolutions and the fully-connected layers;
    with the scheme "identity" all of its layers."""
    preprocessing: str = ""
    """What the weights of `checkpoint` expect of an image, where the file does not tell: as `load_net` takes it."""
    stall_steps: int = 2000
    """Updates after which a run stops if its loss is still at chance; 0: never."""

    def __post_init__(self) -> None:
        _one_of("init.scheme", self.scheme, INIT_SCHEMES)
        _require(self.std > 0, "init.std", self.std, "positive")
        _require(self.stall_steps >= 0, "init.stall_steps", self.stall_steps, "at least 0")
        if self.scheme == "identity" and not self.checkpoint:
            raise RecipeError("`init.scheme=identity` begins as a trained shallower net: name it by `init.checkpoint`")
        if self.scheme == "gaussian" and self.std >= LITERAL_VARIANCE_STD:
            raise RecipeError(
                f"`init.std={self.std}`: a standard deviation of 0.1 (the paper's variance of 1e-2 taken literally) "
                "starts net A with logits of 1e8 and ends in NaN; take `init.std=0.01`, or `init.scheme=glorot`"
            )


@dataclass(frozen=True)
class Localise:
    """Bounding-box regression (Appendix A); without effect on other tasks."""

    head: str = "pcr"
    """"pcr", per-class regression: a box for each class; or "scr", single-class: one box shared by all."""
    least_seen: float = 0.5
    """Share of an object that a crop must show to be learnt from (OverFeat's rule)."""

    def __post_init__(self) -> None:
        _one_of("localise.head", self.head, HEADS)
        _require(0 <= self.least_seen <= 1, "localise.least_seen", self.least_seen, "from 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """Everything but the images that decides the weights at the end of a run."""

    net: str = "D"
    width: float = 1.0
    seed: int = 0
    precision: str = "auto"
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    sgd: Sgd = field(default_factory=Sgd)
    schedule: Schedule = field(default_factory=Schedule)
    init: Init = field(default_factory=Init)
    task: str = "classify"
    """"classify" (Sect. 3.1), or "localise" (Appendix A)."""
    localise: Localise = field(default_factory=Localise)

    def __post_init__(self) -> None:
        object.__setattr__(self, "net", net_spec(self.net).name)
        _require(self.width > 0, "width", self.width, "positive")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _one_of("task", self.task, TASKS)
        _one_of("sgd.trainable", self.sgd.trainable, (*TRAINABLE, *net_spec(self.net).weighted_names))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the layers that are not trained, the first ones."""
        names = net_spec(self.net).weighted_names
        return names[: names.index(first_trained(self.sgd.trainable, net_spec(self.net)))]

    @property
    def name(self) -> str:
        """`ilsvrc2012-D-256-512`, `ilsvrc2012-D-256-512-fc`: what its files are called by default."""
        part = () if self.sgd.trainable == "all" else (self.sgd.trainable,)
        task = ("localise", self.localise.head) if self.task == "localise" else ()
        return "-".join((self.data.dataset, self.net, self.augment.label, *part, *task))


def first_trained(trainable: str, spec: NetSpec) -> str:
    """The name of the first layer that `sgd.trainable` leaves to train."""
    return {"all": spec.weighted_names[0], "fc": "fc6"}.get(trainable, trainable)


def load_recipe(file: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe file (None: the paper's defaults), with `overrides` by dotted key, such as {"sgd.batch_size": 64}.

    `extends = "other.toml"` in a file, relative to it, names the recipe that it changes. In a file with a table for
    each of several commands the recipe is the table [train].

    Keys that neither names have the paper's values for the task, or if `sgd.trainable` freezes layers those of
    FINE_TUNING_DEFAULTS.

    Raises RecipeError for a file that cannot be read, an unknown key (with the nearest one) or a bad value.
    """
    table = _read(Path(file), ()) if file is not None else {}
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        nested: dict[str, Any] = {name: value}
        for section in reversed(sections):
            nested = {section: nested}
        table = _merged(table, _checked(Recipe, nested))
    spec = net_spec(table.get("net", Recipe.net))
    first = first_trained(table.get("sgd", {}).get("trainable", Sgd.trainable), spec)
    usual = FINE_TUNING_DEFAULTS if first != spec.weighted_names[0] else {}
    try:
        return _build(Recipe, _merged(_merged(usual, TASK_DEFAULTS.get(table.get("task", ""), {})), table))
    except RecipeError as error:
        wrong = error.facts.get("key")
        if file is None or wrong is None or wrong in (overrides or {}):
            raise
        told = str(error).replace("`", "")  # nobody typed the flag
        raise RecipeError(f"{_file_that_sets(Path(file), wrong) or file}: {told}") from error


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises RecipeError for any other file and for one that cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a mark
    except OSError as error:
        raise RecipeError(f"{file}: this recipe cannot be read: {error.strerror}") from error
    except (ValueError, RuntimeError) as error:  # TOML's own, too deep, endless numbers, names with NUL
        raise RecipeError(f"{file}: no TOML: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML which `load_recipe` reads back to an equal one."""
    top, sections = [], []
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            sections.append("\n".join([f"\n[{name}]", *(f"{key} = {_toml(entry)}" for key, entry in value.items())]))
        else:
            top.append(f"{name} = {_toml(value)}")
    return "\n".join([*top, *sections]) + "\n"


def completed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded recipe, with the defaults of keys that are newer than the record."""
    return {
        key: {**value, **recorded.get(key, {})} if isinstance(value, dict) else recorded.get(key, value)
        for key, value in dataclasses.asdict(Recipe()).items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """`256, now 128` by key, for each difference of two recipes (as dicts).

    Keys that choose the defaults of others come first, and what the images decide last: the first one is the cause.
    """
    changed = _changed(old, new, "")
    order = sorted(changed, key=lambda key: (key not in CHOOSING_DEFAULTS, key == MEASURE))
    return {key: "{}, now {}".format(*changed[key]) for key in order}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], section: str) -> dict[str, tuple[Any, Any]]:
    """Both values by dotted key."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found |= _changed(before, now, f"{section}{key}.")
        elif before != now:
            found[f"{section}{key}"] = (before, now)
    return found


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's table, merged over the one that it extends."""
    table = _training(file, read_toml(file))
    if file.resolve() in above:
        raise RecipeError(f"{file}: extends itself, by way of {above[-1]}")
    parent = table.pop("extends", None)
    if parent is not None and not isinstance(parent, str):
        raise RecipeError(f"{file}: extends = {parent!r} is not a file name")
    table = _checked(Recipe, table, file)
    if parent is None:
        return table
    base = file.parent / parent
    if not is_file(base):
        raise RecipeError(f"{file}: extends = {parent!r}: there is no file {base}")
    return _merged(_read(base, (*above, file.resolve())), table)


def _file_that_sets(file: Path, key: str) -> Path | None:
    """Which of a readable file and those that it extends gives a dotted key its value; None if none does."""
    table = place = _training(file, read_toml(file))
    for name in key.split("."):
        if not isinstance(place, dict) or name not in place:
            return _file_that_sets(file.parent / table["extends"], key) if "extends" in table else None
        place = place[name]
    return file


def _training(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """The table [train] of a file that has one for each of several commands; else the file itself."""
    if isinstance(table.get("train"), dict):
        trained: dict[str, Any] = table["train"]
        return trained
    sections = {entry.name for entry in dataclasses.fields(Recipe)}
    if table and not sections & set(table) and all(isinstance(value, dict) for value in table.values()):
        there = ", ".join(f"[{name}]" for name in table)
        raise RecipeError(f"{file}: no training recipe and no table [train]; it has {there}")
    return table


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` merged over `base`, section by section."""
    out = dict(base)
    for key, value in change.items():
        out[key] = _merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def _checked(schema: type, table: dict[str, Any], file: Path | None = None, section: str = "") -> dict[str, Any]:
    """The table with values of the schema's types. Raises RecipeError for unknown keys and wrong types.

    `file` and `section`: where the table stands, for messages; without a file, keys are parameters.
    """
    where = (f"{file}: " if file else "") + (f"[{section}] " if section else "")
    fields = {entry.name: entry for entry in dataclasses.fields(schema)}
    known = [*fields, "extends"] if schema is Recipe else list(fields)
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise _unknown_key(key, known, file, section)
        default = _default(fields[key])
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise RecipeError(f"{where}{key} is a section of keys, not {value!r}")
            out[key] = _checked(type(default), value, file, key)
            continue
        fault = _fault(value, default)
        if fault:
            raise RecipeError(f"{_assigned(where, key, value) if file else _parameter(section, key, value)}: {fault}")
        out[key] = _value(value, default)
    return out


def _unknown_key(key: str, known: list[str], file: Path | None, section: str) -> RecipeError:
    """The error for a key that its section does not have; it suggests the same key of another one, or the nearest."""
    where = (f"{file}: " if file else "") + (f"[{section}] " if file and section else "")
    before = f"{section}." if section and not file else ""  # a parameter is told as it was given
    other = next((name for name in _dotted(Recipe) if name.rpartition(".")[2] == key), None)
    here = nearest(key, known)
    near = other or (f"{before}{here}" if here else None)
    hint = f"did you mean {near!r}? " if near else ""
    valid = ", ".join(f"{before}{name}" for name in known)
    return RecipeError(f"{where}no recipe key {before + key!r}; {hint}valid: {valid}")


def _dotted(schema: type, section: str = "") -> list[str]:
    """All keys: `net`, `sgd.batch_size`."""
    found = []
    for entry in dataclasses.fields(schema):
        default = _default(entry)
        inner = dataclasses.is_dataclass(default)
        found += _dotted(type(default), f"{section}{entry.name}.") if inner else [f"{section}{entry.name}"]
    return found


def _assigned(where: str, key: str, value: Any) -> str:
    """A value as a file assigns it; no number that is too long to print."""
    return f"{where}{key}" if _is_endless(value) else f"{where}{key} = {value!r}"


def _parameter(section: str, key: str, value: Any) -> str:
    """A value as a parameter."""
    name = f"{section}.{key}" if section else key
    return f"`{name}`" if _is_endless(value) else f"`{name}={value}`"


def _build(schema: type, table: dict[str, Any]) -> Any:
    sections = {entry.name: type(_default(entry)) for entry in dataclasses.fields(schema)}
    return schema(**{k: _build(sections[k], v) if isinstance(v, dict) else v for k, v in table.items()})


def _default(entry: dataclasses.Field[Any]) -> Any:
    """A field's default value."""
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _fault(value: Any, default: Any) -> str:
    """What is wrong with a value in place of this default; empty if it serves."""
    if isinstance(default, tuple):
        pair = (value, value) if _is_int(value) else value
        serves = isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_int(side) for side in pair)
        return "" if serves else "expected a whole number or [min, max]"
    if _is_endless(value):
        return f"expected a number below {_MOST:g}"
    if isinstance(default, float) and _is_int(value):
        return ""
    if isinstance(default, float) and isinstance(value, Real) and not isinstance(value, bool):  # NumPy's, too
        value = float(value)
    if type(value) is not type(default):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[type(default)]
        return f"expected {kind}"
    return "expected a finite number" if isinstance(value, float) and not math.isfinite(value) else ""


def _value(value: Any, default: Any) -> Any:
    """The value as the type of the default: an int may stand for a float, one side for [side, side]."""
    if isinstance(default, tuple):
        return (value, value) if _is_int(value) else tuple(value)
    return float(value) if isinstance(default, float) else value


def _is_endless(value: Any) -> bool:
    """Whether a whole number is beyond torch's limit, and perhaps too long to print."""
    return _is_int(value) and abs(value) >= _MOST


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise RecipeError(f"`{key}={value}`: must be {rule}", key=key)


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        near = nearest(value, valid)
        hint = f"did you mean {near!r}? " if near else ""
        raise RecipeError(f"`{key}={value}`: no such choice; {hint}valid: {', '.join(valid)}", key=key)


def _toml(value: Any) -> str:
    """A value in TOML: JSON's notation serves, DEL apart, which TOML wants escaped; one side for equal ends."""
    if isinstance(value, tuple):
        return str(value[0]) if len(set(value)) == 1 else str(list(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
