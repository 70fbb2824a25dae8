"""One update and one validation (Sect. 3.1).

The task's loss is summed over the batch's images and divided by the batch size, and dropout's masks are drawn for the
whole batch and sliced, so that micro-batches and processes change nothing.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vggfeat.errors import TrainingError, UsageError
from vggfeat.nets.networks import VGG
from vggfeat.nets.scaling import InputScaling
from vggfeat.system.devices import (
    Precision,
    equal_shapes,
    is_out_of_memory,
    memory_format,
    release_cached_memory,
    tf32,
)
from vggfeat.system.memory import keep_freed_memory, keep_no_longer
from vggfeat.training.crops import Batch
from vggfeat.training.fitting import Portions
from vggfeat.training.form import TrainingForm
from vggfeat.training.observer import Errors
from vggfeat.training.predicted import Collector, predictions
from vggfeat.training.ranks import Ranks
from vggfeat.training.recipe import Sgd
from vggfeat.training.tasks import Classification, Task, best_classes

CPU_MICRO_BATCH = 16
"""Images at a time on a CPU: as fast as any larger number, as caches are the limit, with little memory."""


def check_batch(sgd: Sgd, ranks: Ranks) -> None:
    """Raises UsageError for a batch that does not split evenly over the processes."""
    if sgd.batch_size % ranks.world:
        raise UsageError(f"a batch of {sgd.batch_size} does not split evenly over {ranks.world} processes")


class Trainer:
    """A net and its optimiser, in a number format and over some processes.

    Args:
        net: trained in place; its tensors move to the device.
        sgd: the recipe's part.
        seed: of dropout.
        precision: fp32, tf32, or autocast to bf16 or fp16 (with loss scaling) over fp32 weights.
        task: what the last layer predicts; by default a class.
        micro_batch: images at a time in one process; None finds the largest that fits. It is halved where memory is
            full later on.
        computed: batches bring the frozen layers' outputs (`Batch.features`) in place of crops.

    Raises UsageError for a batch that does not split evenly over the processes.
    """

    def __init__(
        self,
        net: VGG,
        sgd: Sgd,
        *,
        seed: int,
        precision: Precision,
        ranks: Ranks,
        micro_batch: int | None = None,
        task: Task | None = None,
        computed: bool = False,
    ) -> None:
        check_batch(sgd, ranks)
        self.net, self.sgd, self.seed, self.ranks = net, sgd, seed, ranks
        self.task = task or Classification(net.num_classes)
        device = ranks.device
        self._keeps = device.type == "cpu"  # where gradients and activations come and go with every update
        if self._keeps:
            keep_freed_memory()
        net.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self._tf32 = precision == "tf32"
        self._scaled = InputScaling(net.preprocessing, device)
        self.form = TrainingForm(net, sgd.dropout, sgd.trainable)
        parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            parameters,
            lr=sgd.learning_rate,
            momentum=sgd.momentum,
            weight_decay=sgd.weight_decay,
            fused=device.type in ("cuda", "cpu"),
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        images = sgd.batch_size // ranks.world
        self.computed = computed
        self._frozen_portions = Portions(micro_batch or sys.maxsize, device)
        if micro_batch is None:
            few = images if computed and self.form.vectors else min(images, CPU_MICRO_BATCH)
            micro_batch = few if device.type == "cpu" else self.largest_micro_batch(images)
        self._portions = Portions(micro_batch, device)
        self.parallel: nn.Module = self.form
        if ranks.world > 1:
            index = [device.index] if device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.form, device_ids=index)

    def close(self) -> None:
        """Lets go of freed memory, and of the other processes before their group ends.

        DDP keeps the group. If it were the last to do so, Python would end the group's threads while holding the lock
        that one of them may wait for: such a run of torch 2.4 never ended.
        """
        if self.parallel is not self.form:
            self.parallel = self.form
            gc.collect()  # DDP refers to itself
        if self._keeps:
            self._keeps = False
            keep_no_longer()

    @property
    def micro_batch(self) -> int:
        """Images at a time in this process."""
        return self._portions.images

    def load_optimizer(self, kept: dict[str, Any]) -> None:
        """Takes the optimiser's state from a checkpoint, which another kind of device may have written.

        A fused step reads momentum and weights side by side, so their order in memory must be the same; with another
        one it computes wrong weights on a CPU, and fails on CUDA.
        """
        self.optimizer.load_state_dict(kept)
        for parameter, state in self.optimizer.state.items():
            momentum = state.get("momentum_buffer")
            if momentum is not None:
                state["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)

    def update(self, batch: Batch, rate: float) -> Tensor:
        """One step of descent on this process's part of a batch; all processes call it together.

        Returns the part's totals (`totals`), on the device. Raises torch's error where the device's memory is full with
        one image at a time, or with several processes: none can begin anew while others wait for its gradients.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.net.train()
        n = len(batch.labels)
        with self._modes():
            masks = [mask[batch.position : batch.position + n] for mask in self._masks(batch.step)]
            work = partial(self._all_gradients, batch, masks)
            found = work() if self.ranks.world > 1 else self._portions.fitted(work, n)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return found

    def _all_gradients(self, batch: Batch, masks: Sequence[Tensor]) -> Tensor:
        """Sets the gradients of a batch; returns its totals."""
        self.optimizer.zero_grad(set_to_none=True)
        n = len(batch.labels)
        found = torch.zeros(4, dtype=torch.float32, device=self.ranks.device)
        for part in self._portions.of(n):
            # Gradients cross processes once an update, with the last micro-batch.
            quiet = isinstance(self.parallel, DistributedDataParallel) and part.stop < n
            with self.parallel.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
                found += self._gradients(self.parallel, batch, part, [mask[part] for mask in masks])
        return found

    def _gradients(self, form: nn.Module, batch: Batch, part: slice, masks: Sequence[Tensor]) -> Tensor:
        """Adds a micro-batch's gradients; returns its totals."""
        outputs = self._outputs(form, batch, part, masks)
        losses, found = self._judged(outputs, batch, part)
        # DDP takes the mean over processes; the sum is wanted.
        self.scaler.scale(losses.sum() * (self.ranks.world / self.sgd.batch_size)).backward()
        return found

    def _outputs(self, form: nn.Module, batch: Batch, part: slice, masks: Sequence[Tensor] | None) -> Tensor:
        """(n, outputs) of a micro-batch, from its crops or from the frozen layers' outputs."""
        if self.computed:
            assert batch.features is not None
            inputs = self._there(batch.features[part])
            inputs = inputs.contiguous(memory_format=memory_format(inputs.device)) if inputs.ndim == 4 else inputs
        else:
            inputs = self.prepared(batch.crops[part], batch.shifts[part])
        with self._autocast():
            outputs: Tensor = form(inputs, masks, self.computed)
        return outputs

    @torch.no_grad()
    def frozen(self, batch: Batch) -> Tensor:
        """The frozen layers' outputs for a batch of crops: (N, ...) float32 on the CPU."""
        self.net.eval()
        with self._modes():
            return self._frozen_portions.fitted(partial(self._frozen, batch), len(batch.labels))

    def _frozen(self, batch: Batch) -> Tensor:
        found = []
        for part in self._frozen_portions.of(len(batch.labels)):
            with self._autocast():
                found.append(self.form.frozen(self.prepared(batch.crops[part], batch.shifts[part])).float().cpu())
        return torch.cat(found)

    def _judged(self, outputs: Tensor, batch: Batch, part: slice) -> tuple[Tensor, Tensor]:
        """The weighted losses (n,) of a micro-batch, and its totals."""
        labels, weights = self._there(batch.labels[part]), self._there(batch.weights[part])
        boxes = None if batch.boxes is None else self._there(batch.boxes[part])
        losses = self.task.losses(outputs.float(), labels, boxes) * weights
        return losses, totals(losses.detach(), self.task.wrong(outputs.detach(), labels, boxes), weights)

    def prepared(self, crops: Tensor, shifts: Tensor) -> Tensor:
        """(N, 224, 224, 3) uint8 and (N, 3) -> the net's input (N, 3, 224, 224), in the device's memory format."""
        values = self._there(crops).float() + self._there(shifts)[:, None, None, :]
        return self._scaled(values).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(values.device))

    def _there(self, tensor: Tensor) -> Tensor:
        """On the device. Only CUDA keeps a copy's source until an asynchronous copy has ended."""
        return tensor.to(self.ranks.device, non_blocking=self.ranks.device.type == "cuda")

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        """CUDA's settings while this trainer computes; a net that runs elsewhere in the process keeps its own."""
        if self.ranks.device.type != "cuda":
            yield
            return
        with equal_shapes(), tf32(self.ranks.device, self._tf32):
            yield

    def _autocast(self) -> Any:
        if self.amp is None:  # torch has no autocast on some devices, even to switch it off
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, self.amp)

    def _masks(self, step: int) -> list[Tensor]:
        """True for units kept at an update, for the whole batch: two (batch_size, hidden)."""
        number = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0]) >> 1
        drawn_on = self.ranks.device if self.ranks.device.type == "cuda" else torch.device("cpu")
        generator = torch.Generator(drawn_on).manual_seed(number)
        shape = (self.sgd.batch_size, self.net.dim("fc7"))
        empty = torch.empty(shape, dtype=torch.bool, device=drawn_on)
        return [self._there(empty.bernoulli(1.0 - self.sgd.dropout, generator=generator)) for _ in range(2)]

    def largest_micro_batch(self, images: int) -> int:
        """The most images at a time: halved until a trial update fits in memory.

        Raises TrainingError where one image does not fit.
        """
        size = images
        while not self._fits(size):
            if size == 1:
                raise TrainingError(
                    f"net {self.net.net} does not fit into the memory of {self.ranks.device} even with one image: "
                    "take another `device`, or a smaller `width`"
                )
            size = math.ceil(size / 2)
        return self.ranks.least(size)

    def _fits(self, images: int) -> bool:
        """Whether a forward and backward pass leaves room for momentum and gradients in transit."""
        device = self.ranks.device
        blank = Batch(
            torch.zeros(images, 224, 224, 3, dtype=torch.uint8),
            torch.zeros(images, 3, dtype=torch.float32),
            torch.zeros(images, dtype=torch.int64),
            torch.zeros(images, dtype=torch.float32),
            0,
            0,
            [],
            torch.zeros(images, 1, 4, dtype=torch.float32) if self.task.needs_boxes else None,
            torch.zeros(images, *self.form.frozen_shape(), dtype=torch.float32) if self.computed else None,
        )
        held: list[Tensor] = []
        try:
            held += [torch.empty_like(p) for p in self.net.parameters() for _ in range(2)]
            masks = [torch.ones(images, self.net.dim("fc7"), dtype=torch.bool, device=device) for _ in range(2)]
            with self._modes():
                self._gradients(self.form, blank, slice(None), masks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            held.clear()
            self.optimizer.zero_grad(set_to_none=True)
            release_cached_memory(device)
        return True

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch], collector: Collector | None = None) -> Tensor:
        """Totals of this process's validation batches on the classifier form, without dropout.

        `collector`: for class scores, takes what is predicted for each image.
        """
        self.net.eval()
        found = torch.zeros(4, dtype=torch.float64)
        for batch in batches:
            with self._modes():
                totals_of_batch, rows = self._portions.fitted(
                    partial(self._validated, batch, collector is not None), len(batch.labels)
                )
            found += totals_of_batch
            if collector is not None:
                collector.add(rows)
        return found

    def _validated(self, batch: Batch, predicting: bool) -> tuple[Tensor, list[Tensor]]:
        """A validation batch's totals, in float64 on the CPU (MPS has no float64), and what is predicted, if asked for.

        The predictions are given back, not collected here: where memory runs out, the batch begins anew.
        """
        found, rows = torch.zeros(4, dtype=torch.float64), []
        for part in self._portions.of(len(batch.labels)):
            outputs = self._outputs(self.form, batch, part, None)
            found += self._judged(outputs, batch, part)[1].cpu()
            if predicting:
                labels, weights = self._there(batch.labels[part]), self._there(batch.weights[part])
                rows.append(predictions(outputs, best_classes(outputs)[:, 0], labels, weights))
        return found, rows


def totals(losses: Tensor, wrong: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
    """Sums over images of weight 1: loss, wrong at top-1, wrong at top-5, their number. (N,) each -> (4,)."""
    wrong1, wrong5 = wrong
    return torch.stack([losses.sum(), (wrong1 * weights).sum(), (wrong5 * weights).sum(), weights.sum()]).float()


def mean_errors(total: Tensor) -> Errors:
    """The means of `totals` (4,); NaN without images."""
    loss, wrong1, wrong5, images = total.tolist()
    mean = (lambda x: x / images) if images else (lambda x: math.nan)
    return Errors(mean(loss), 100 * mean(wrong1), 100 * mean(wrong5), int(images))
