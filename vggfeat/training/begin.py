"""How a run begins: with random weights, with those of a trained net, or where its last checkpoint left it."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vggfeat.datasets.split import data_digest
from vggfeat.errors import DatasetError, RecipeError
from vggfeat.metrics import chance_topk_error
from vggfeat.nets.catalog import Preprocessing
from vggfeat.nets.networks import VGG, gaussian_, glorot_
from vggfeat.nets.scaling import InputScaling
from vggfeat.nets.weights import NAMES, load_net
from vggfeat.nets.wording import size_words
from vggfeat.system.files import check_writable, replacing
from vggfeat.system.numbers import number_of
from vggfeat.training.augment import CentreView, Colours
from vggfeat.training.crops import Batch, Job, colours_of
from vggfeat.training.initial import begin_at_mean_box_, copy_layers, deepen, standardise_, table_layers
from vggfeat.training.predicted import Predicted
from vggfeat.training.recipe import MEASURE, Init, differences, dump_recipe
from vggfeat.training.record import comparable, frozen, plain
from vggfeat.training.schedule import Plateau
from vggfeat.training.setup import RunSetup
from vggfeat.training.state import RunState, cut_metrics, load_last
from vggfeat.training.trainer import Trainer, check_batch

EXAMPLES = 64
"""Training images that data-dependent weights are scaled to, and whose mean box a regression begins at."""


@dataclass
class Start:
    """What changes in the course of a run, as it begins or goes on."""

    trainer: Trainer
    plateau: Plateau
    state: RunState
    colours: Colours
    """Of the training images: the preprocessing's mean, and the colour shift's directions."""
    origin: str
    """The trained net whose layers were copied, with its hash; empty without one."""
    predicted: Predicted | None = None
    """What the best epoch's net predicts for the validation images; None before the first, and for boxes."""
    waiting: dict[str, Any] | None = None
    """The best net's checkpoint, if its file could not be written."""

    @property
    def net(self) -> VGG:
        """The net in training."""
        return self.trainer.net

    @property
    def seed(self) -> int:
        """Of the run's random numbers (`run_seed`)."""
        return self.trainer.seed


def begin(setup: RunSetup, resume: bool) -> Start:
    """Sets the weights, writes the resolved recipe, and says what is about to be trained.

    Raises RecipeError where a run to resume was made with other settings or images, TrainingError for a damaged
    checkpoint, WeightsError for `init.checkpoint`, DatasetError where no training image can be read.
    """
    going_on = resume and setup.files.last.exists()
    start = _restored(setup) if going_on else _initialised(setup)
    if setup.ranks.first:
        if going_on:
            senseless = cut_metrics(setup.files.metrics, start.state)
            if senseless:
                lines = number_of(senseless, "line")
                setup.observer.note(f"{setup.files.metrics}: {lines} could not be read and will be missing")
        else:
            setup.files.clear()
        setup.files.sweep()
        with replacing(setup.files.recipe) as temporary:
            temporary.write_text(dump_recipe(setup.recipe), encoding="utf-8", newline="\n")
    _announce(setup, start)
    return start


def _initialised(setup: RunSetup) -> Start:
    """The run's beginning. What other files and options can spoil comes before the first picture is read."""
    check_batch(setup.recipe.sgd, setup.ranks)
    init, net = setup.recipe.init, _empty_net(setup)
    if init.scheme == "gaussian":
        gaussian_(net, init.std, setup.recipe.seed)
    else:
        glorot_(net, setup.recipe.seed)
    origin, copied, parent = _copy(setup, net) if init.checkpoint else ("", [], None)
    if setup.ranks.first:
        check_writable(setup.files.best)
    colours = setup.ranks.shared(_colours(setup) if setup.ranks.first else None)
    adapted = init.scheme == "data-dependent"
    if "conv1_1" not in copied:  # whose values expect the trained net's preprocessing
        # A channel that hardly varies, as in grey or red light, is not amplified.
        red, green, blue = (max(std, 1.0) if adapted else 1.0 for std in colours.std)
        net.preprocessing = Preprocessing("RGB", 1.0, colours.mean, (red, green, blue), "bilinear")
    untrained = [name for name in setup.recipe.frozen if name not in copied]
    if untrained and init.scheme != "identity":
        setup.observer.note(
            f"frozen layers with random weights: {len(untrained)}, the first {untrained[0]}; `sgd.trainable` freezes "
            "them and `init.checkpoint` does not fill them"
        )
    if setup.ranks.first and (adapted or setup.task.needs_boxes):  # the others get them before the first update
        examples = _examples(setup, net)
        if adapted:
            crops = examples.crops[examples.weights > 0]
            standardise_(net, InputScaling(net.preprocessing)(crops).permute(0, 3, 1, 2), but=copied)
        if examples.boxes is not None:
            begin_at_mean_box_(net, examples.boxes[examples.weights > 0, 0])
    return Start(
        _trainer(setup, net, run_seed(setup.recipe.seed, parent)), _plateau(setup), RunState(), colours, origin
    )


def _empty_net(setup: RunSetup) -> VGG:
    task, recipe = setup.task, setup.recipe
    names = () if task.needs_boxes else setup.dataset.class_names  # one name an output, where that is a class
    with torch.random.fork_rng(devices=[]):  # torch's own initial values, which are replaced, must not move a caller's
        return VGG(recipe.net, width=recipe.width, num_classes=task.outputs, class_names=names)


def _colours(setup: RunSetup) -> Colours:
    samples, count = setup.dataset.train, setup.recipe.augment.colour_images
    used = min(count or len(samples), len(samples))
    setup.observer.note(f"mean RGB and colour eigenvectors from {used} of {number_of(len(samples), 'training image')}")
    return colours_of(samples, count, exif=setup.dataset.exif, workers=setup.workers)


def _copy(setup: RunSetup, net: VGG) -> tuple[str, Sequence[str], Mapping[str, Any]]:
    """Copies layers of the trained net that `init.checkpoint` names.

    Returns that net with its hash, in words, the layers' names, and its training record.
    """
    init = setup.recipe.init
    named = setup.recipe.net if init.checkpoint in NAMES else None  # "published" has several nets
    source = load_net(
        named,
        init.checkpoint,
        device="cpu",
        precision="fp32",
        preprocessing=init.preprocessing or None,
        progress=setup.observer.fetched,
    )
    give = deepen if init.scheme == "identity" else copy_layers
    # A class's score says nothing about its box: localisation learns the last layer anew (Appendix A).
    copied = give(net, source, but=("fc8",) if setup.task.needs_boxes else ())
    rest = [name for name in table_layers(net) if name not in copied]
    source_words = f"{init.checkpoint} ({source.net})"
    if rest:
        setup.observer.note(f"{', '.join(copied)} from {source_words}; {_rest_words(init.scheme, rest)}")
    else:
        idle = "" if init.scheme == Init.scheme else f"; `init.scheme={init.scheme}` changes nothing"
        setup.observer.note(f"all layers from {source_words}{idle}")
    return f"{init.checkpoint} (sha256 {source.fingerprint()})", copied, source.training_record


def _rest_words(scheme: str, rest: Sequence[str]) -> str:
    """How layers begin that no trained net filled. Identity serves convolutions alone."""
    if scheme != "identity":
        return f"the rest {scheme}"
    matrices = [name for name in rest if name.startswith("fc")]
    parts = [f"{', '.join(matrices)} {Init.scheme}"] if matrices else []
    return ", ".join([*parts, "the rest identity"] if len(matrices) < len(rest) else parts)


def _examples(setup: RunSetup, net: VGG) -> Batch:
    """Central crops of evenly spaced training images, and their boxes where boxes are learned.

    Raises DatasetError where no image can be read.
    """
    samples = setup.dataset.train
    rows = np.unique(np.linspace(0, len(samples) - 1, EXAMPLES).round().astype(int))
    jobs = [Job(samples[row], position=place) for place, row in enumerate(rows)]
    loader = setup.loader(CentreView(setup.recipe.augment.Q), net.preprocessing.filter, 0.0)
    with contextlib.closing(loader.batches([jobs])) as batches:
        batch = next(batches)
    if not (batch.weights > 0).any():
        raise DatasetError(f"none of {number_of(len(jobs), 'training image')} can be read, the first {samples[0].path}")
    return batch


def _restored(setup: RunSetup) -> Start:
    """The run as its last checkpoint left it."""
    last = setup.files.last
    content, kept, state = load_last(last)
    changed = differences(comparable(kept["recipe"]), comparable(plain(setup.recipe)))
    other_images = kept["data"] != data_digest(setup.dataset)
    if changed and not (other_images and list(changed) == [MEASURE]):  # which follows from the images
        key, values = next(iter(changed.items()))
        raise RecipeError(
            f"{last}: made with other settings (`{key}`: {values}): give the same, or start anew by `overwrite`"
        )
    if other_images:
        raise RecipeError(f"{last}: made with other images than {setup.dataset.name} has now")
    net = _empty_net(setup)
    net.load_state_dict(content["state_dict"])
    net.preprocessing = Preprocessing.from_record(content["preprocessing"])
    net.training_record = content["training"]
    trainer, plateau = _trainer(setup, net, kept.get("run_seed", setup.recipe.seed)), _plateau(setup)
    trainer.load_optimizer(kept["optimizer"])
    trainer.scaler.load_state_dict(kept["scaler"])
    plateau.restore(kept["plateau"])
    predicted = Predicted.of(kept.get("predicted"))
    colours = Colours(**frozen(kept["colours"]))
    return Start(trainer, plateau, state, colours, kept["origin"], predicted, kept.get("waiting"))


def run_seed(seed: int, parent: Mapping[str, Any] | None) -> int:
    """The seed of a run's order, crops and dropout masks: the recipe's, or one of that and of the net it starts from.

    With the same seed as before, a trained net would see each image again with the crop and the masks with which it
    learned it, and seem to know it better than it does.

    Args:
        seed: the recipe's.
        parent: the training record of the net that the run starts from, empty if it has none; None without such a net.
    """
    if parent is None:
        return seed
    text = f"{seed} {parent.get('run_seed', '')}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1  # 63 bits


def _trainer(setup: RunSetup, net: VGG, seed: int) -> Trainer:
    return Trainer(
        net,
        setup.recipe.sgd,
        seed=seed,
        precision=setup.recipe.precision,  # type: ignore[arg-type]
        ranks=setup.ranks,
        micro_batch=setup.micro_batch,
        task=setup.task,
        computed=setup.computed,
    )


def _plateau(setup: RunSetup) -> Plateau:
    schedule = setup.recipe.schedule
    return Plateau(
        setup.recipe.sgd.learning_rate, schedule.divisor, schedule.decreases, schedule.patience, schedule.least_gain
    )


def _classes(setup: RunSetup) -> str:
    """Their number, and what guessing them would score; boxes cannot be guessed."""
    count = len(setup.dataset.class_names)
    errors = [f"{chance_topk_error(count, k):.1f} % top-{k}" for k in (1, 5) if k < count]
    chance = "" if setup.task.needs_boxes or not errors else f" (chance {', '.join(errors)} error)"
    return f"{number_of(count, 'class')}{chance}"


def _announce(setup: RunSetup, start: Start) -> None:
    data, sgd, world, net = setup.dataset, setup.recipe.sgd, setup.ranks.world, start.net
    share = f"{setup.recipe.data.validation_fraction:.0%} of each class, held out by seed"
    parts = math.ceil(sgd.batch_size / world / start.trainer.micro_batch)
    setup.observer.note(
        f"net {size_words(net.net, net.width)}, {_classes(setup)}; "
        f"{number_of(len(data.train), 'image')} to train, {len(data.val)} to validate "
        f"({share if data.held_out else 'its own'}); S {setup.recipe.augment.label}; batch {sgd.batch_size}"
        + (f" in {parts} parts" if parts > 1 else "")
        + (f" over {world} processes" if world > 1 else "")
        + f"; {setup.ranks.device}, {setup.recipe.precision}"
    )
    if start.state.step:
        done = start.state.step
        setup.observer.note(f"goes on after update {done} (epoch {done / setup.steps:.2f})")
