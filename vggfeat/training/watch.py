"""Stops a run that cannot succeed: losses or weights that are not finite, no progress, too many unreadable images."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from vggfeat.errors import TrainingError
from vggfeat.nets.catalog import weights_rows
from vggfeat.nets.networks import VGG
from vggfeat.system.numbers import number_of
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import Errors, Observer
from vggfeat.training.ranks import Ranks
from vggfeat.training.recipe import Init, Recipe
from vggfeat.training.state import RunState

WILD_LOSS = 100.0
"""A first loss above this multiple of chance means badly scaled initial weights."""

MOVED = 0.99
"""A loss below this share of chance has left the start. A trained net begins there and need not fall at all."""

SMOOTHING = 0.02
"""Share of a new value in the running mean of the loss."""


GLOROT, DATA_DEPENDENT = "`init.scheme=glorot`", "`init.scheme=data-dependent`"
GAUSSIAN = f"`init.scheme=gaussian` `init.std={Init.std:g}`"
"""Starts with random weights, as advice names them."""


class Watch:
    """Checks losses and weights as a run goes on; what it remembers lies in the run's state.

    Args:
        recipe: of the run.
        chance: loss at chance level.
        files: of the run, for the advice.
    """

    def __init__(self, recipe: Recipe, chance: float, files: RunFiles) -> None:
        self.recipe, self.chance, self.files = recipe, chance, files

    def loss(self, loss: float, state: RunState, rate: float) -> None:
        """Takes the mean loss of the latest updates.

        Raises TrainingError where it is not finite, is far above chance at first, or does not move.
        """
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at update {state.step} (rate {rate:g}): "
                f"{_either(self._lower_rate, self._other_start(GLOROT))}; {self._last_good}"
            )
        if state.early_loss is None:
            state.early_loss = state.smooth_loss = loss
            if loss > WILD_LOSS * max(self.chance, 1.0):
                raise TrainingError(
                    f"the first loss is {loss:.3g}, chance is {self.chance:.2f}: the first weights are far too large; "
                    + _either(self._other_start(GLOROT, GAUSSIAN), self._lower_rate)
                )
        state.smooth_loss += SMOOTHING * (loss - state.smooth_loss)
        if state.moving or not 0 < self.recipe.init.stall_steps <= state.step:
            return
        state.moving = state.smooth_loss < MOVED * self.chance
        if not state.moving:
            raise TrainingError(
                f"the loss has not moved in {number_of(state.step, 'update')} ({state.early_loss:.3f} at first, "
                f"{state.smooth_loss:.3f} now, chance {self.chance:.3f}): "
                + _either(
                    self._other_start(GLOROT, DATA_DEPENDENT, "`init.checkpoint` of a trained A"),
                    "change `sgd.learning_rate`; `init.stall_steps=0` waits longer",
                )
            )

    def weights(self, net: VGG, state: RunState, rate: float) -> None:
        """Raises TrainingError where a weight is not finite: such a state is never kept."""
        for name, values in net.named_parameters():
            if not torch.isfinite(values).all():
                raise TrainingError(
                    f"{name} became NaN or infinite by update {state.step} (rate {rate:g}): {self._lower_rate}; "
                    f"{self._last_good}"
                )

    def validation(self, val: Errors, state: RunState, rate: float) -> None:
        """Raises TrainingError for a loss that is not finite: finite weights may still be far too large."""
        if val.images and not math.isfinite(val.loss):
            raise TrainingError(
                f"the validation loss became {val.loss} at update {state.step} (rate {rate:g}): {self._lower_rate}; "
                f"{self._last_good}"
            )

    def verdict(self, val: Errors) -> str:
        """Advice after the last epoch of a run whose validation loss is still at chance; else nothing."""
        if not val.images or val.loss < MOVED * self.chance:
            return ""
        return (
            f"the validation loss is {val.loss:.3f}, chance is {self.chance:.3f}: the net has learnt nothing that "
            "serves other images; "
            + _either(
                "train longer (`schedule.epochs`)",
                self._other_start(DATA_DEPENDENT, f"a trained net: {self._trained} `sgd.trainable=fc`"),
            )
        )

    def memory(self, ranks: Ranks, state: RunState, images: int) -> TrainingError:
        """The error for a device whose memory is full with `images` at a time, which cannot be split further."""
        smaller = "take a smaller `micro_batch`" if images > 1 else "take another `device` or a smaller `width`"
        at_a_time = f"{images} images" if images > 1 else "one image"
        return TrainingError(
            f"the memory of {ranks.device} is full after update {state.step}, with {at_a_time} at a time: "
            f"end other programs that use it, or {smaller}; {self._last_good}"
        )

    def _other_start(self, *starts: str) -> str:
        """Advice on the first weights: other ones than this run's where these are random, else to check the checkpoint.

        Empty where the run has the only one of `starts`.
        """
        init = self.recipe.init
        if init.checkpoint:
            return (
                f"check the weights of {init.checkpoint} (`init.checkpoint`) and what they expect "
                "(`init.preprocessing`)"
            )
        own = {"glorot": GLOROT, "gaussian": GAUSSIAN if init.std <= Init.std else "", "data-dependent": DATA_DEPENDENT}
        others = [start for start in starts if start != own.get(init.scheme)]
        return f"begin with {_either(*others)}" if others else ""

    @property
    def _trained(self) -> str:
        """The trained net to begin with: the published one, if this net has one."""
        published = self.recipe.width == 1 and weights_rows(self.recipe.net, "published")
        return "`init.checkpoint=published`" if published else "`init.checkpoint=CKPT`"

    @property
    def _lower_rate(self) -> str:
        return f"lower `sgd.learning_rate` (now {self.recipe.sgd.learning_rate:g})"

    @property
    def _last_good(self) -> str:
        return f"{self.files.last} holds the last good state" if self.files.last.exists() else "nothing was saved yet"


def _either(*ways: str) -> str:
    """The ways that there are: `a, or b`."""
    return ", or ".join(way for way in ways if way)


class UnreadableImages:
    """Reports each unreadable image once, whichever process met it, and ends the run beyond a limit.

    Args:
        failed: ids already reported, extended in place.
        limit: most such images.
    """

    def __init__(self, failed: list[str], limit: int, observer: Observer) -> None:
        self.failed, self.limit, self.observer = failed, limit, observer
        self._unshared: list[tuple[str, str]] = []  # (id, reason) that only this process knows

    def report(self, failures: Iterable[tuple[str, str]]) -> None:
        """Takes (id, reason) of images that this process could not read.

        Raises TrainingError where there are more than the limit.
        """
        self._unshared += self._told(failures)
        if len(self.failed) > self.limit:
            raise TrainingError(
                f"{number_of(len(self.failed), 'image')} cannot be read, the first {self.failed[0]}: more than "
                f"the limit of {self.limit}; mend the data, or raise it by `data.unreadable_limit=N`"
            )

    def share(self, ranks: Ranks) -> None:
        """Tells every process what the others met; all of them call it together."""
        found, self._unshared = ranks.gathered(self._unshared), []
        self._told(found)

    def _told(self, failures: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Reports the images that are new, and returns them."""
        new = []
        for name, reason in failures:
            if name not in self.failed:
                self.failed.append(name)
                self.observer.note(f"skipped {name}: {reason}")
                new.append((name, reason))
        return new
