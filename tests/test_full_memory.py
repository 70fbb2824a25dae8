"""A device whose memory is full: less at a time where that helps, else one clear line."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from making import TINY_RECIPE, striped_tree

from vggfeat.cli import run
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import DeviceError, TrainingError, UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.train import train
from vggfeat.system.devices import fault, is_out_of_memory
from vggfeat.training.crops import Batch
from vggfeat.training.form import TrainingForm
from vggfeat.training.ranks import Ranks, process_group
from vggfeat.training.recipe import Sgd, load_recipe
from vggfeat.training.trainer import Trainer

CPU = torch.device("cpu")
FULL = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
TINY = TINY_RECIPE | {"schedule.epochs": 3}


def batch(n):
    values = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (n, 224, 224, 3), dtype=torch.uint8, generator=values)
    return Batch(crops, torch.zeros(n, 3), torch.arange(n) % 3, torch.ones(n), 0, 0, [])


def trainer(images, micro_batch, trainable="all", computed=False):
    net = glorot_(VGG("A", width=1 / 64, num_classes=3), seed=1)
    sgd = Sgd(batch_size=images, trainable=trainable)
    return Trainer(
        net, sgd, seed=0, precision="fp32", ranks=Ranks(0, 1, CPU), micro_batch=micro_batch, computed=computed
    )


def short_of_memory(ours, monkeypatch, most, on_call=1):
    """The form fails for more than `most` images from a call on; returns how many each call had."""
    form, seen = ours.form.forward, []

    def picky(inputs, masks, computed):
        seen.append(len(inputs))
        if len(seen) >= on_call and len(inputs) > most:
            raise FULL("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return form(inputs, masks, computed)

    monkeypatch.setattr(ours.form, "forward", picky)
    return seen


def test_an_update_that_fills_the_memory_begins_anew_with_half_the_images_at_a_time(monkeypatch, caplog):
    ours, plain = trainer(6, 3), trainer(6, 2)
    seen = short_of_memory(ours, monkeypatch, 2, on_call=2)  # some gradients are there already
    ours.update(batch(6), 0.01)
    plain.update(batch(6), 0.01)
    assert seen == [3, 3, 2, 2, 2] and ours.micro_batch == 2
    assert caplog.messages == ["the memory of cpu is full: 2 images at a time from here on"]
    for one, other in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_validation_takes_fewer_images_at_a_time_too(monkeypatch):
    ours, plain = trainer(4, 4), trainer(4, 4)
    seen = short_of_memory(ours, monkeypatch, 1)
    assert torch.allclose(ours.validate([batch(4)]), plain.validate([batch(4)]), rtol=1e-5)
    assert seen == [4, 2, 1, 1, 1, 1]


def test_frozen_layers_take_fewer_images_at_a_time_too(monkeypatch):
    ours = trainer(4, None, trainable="fc", computed=True)
    expected, frozen, seen = ours.frozen(batch(5)), ours.form.frozen, []

    def picky(crops):
        seen.append(len(crops))
        if len(crops) > 3:
            raise FULL
        return frozen(crops)

    monkeypatch.setattr(ours.form, "frozen", picky)
    assert torch.allclose(ours.frozen(batch(5)), expected, rtol=1e-4, atol=1e-6)
    assert seen == [5, 3, 2]


def test_several_processes_do_not_begin_an_update_anew(monkeypatch):
    ours = trainer(4, 4)
    ours.ranks = Ranks(0, 2, CPU)
    seen = short_of_memory(ours, monkeypatch, 2)
    with pytest.raises(FULL):
        ours.update(batch(4), 0.01)
    assert seen == [4], "the others wait for its gradients"


def test_other_errors_are_not_taken_for_a_full_memory(monkeypatch):
    ours = trainer(4, 4)
    monkeypatch.setattr(ours.form, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="^shapes differ$"):
        ours.update(batch(4), 0.01)


@pytest.fixture
def tree(tmp_path):
    return striped_tree(tmp_path / "tree")


def full_after(monkeypatch, updates, most=0):
    """Training's forward pass fails for more than `most` images once so many updates are done."""
    update, forward, done = Trainer.update, TrainingForm.forward, []

    def counted(self, *args):
        found = update(self, *args)
        done.append(1)
        return found

    def picky(self, inputs, *args, **kwargs):
        if self.net.training and len(done) >= updates and len(inputs) > most:
            raise FULL("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, inputs, *args, **kwargs)

    monkeypatch.setattr(Trainer, "update", counted)
    monkeypatch.setattr(TrainingForm, "forward", picky)


def test_a_run_goes_on_where_less_at_a_time_fits(tree, tmp_path, monkeypatch):
    recipe = load_recipe(None, TINY)
    data = load_training_set("folder", tree, fraction=0.2, seed=0)
    full_after(monkeypatch, 1, most=2)
    assert train(recipe, data, output=tmp_path / "run", device="cpu").finished


def test_a_run_that_cannot_go_on_says_so_in_one_line_and_what_is_kept(tree, tmp_path, monkeypatch, capsys):
    data, settings = str(tree), ("--set", "schedule.epochs=3", "--batch-size", "4", "--S", "224-256")
    output = tmp_path / "run"
    command = ["train", "--net", "A", "--width", "0.015625", "--dataset", "folder", "--data", data, *settings]
    full_after(monkeypatch, 4)  # the first epoch has three
    assert run([*command, "-o", str(output), "--precision", "fp32", "--device", "cpu", "--quiet"]) == 1
    assert capsys.readouterr().err == (
        "vggfeat: the memory of cpu is full after update 4, with one image at a time: end other programs that use it, "
        f"or take another --device or a smaller --width; {output}/last.pt holds the last good state\n"
    )
    assert torch.load(output / "last.pt", weights_only=True)["training_state"]["progress"]["step"] == 3


def test_a_run_of_several_processes_is_told_to_take_a_smaller_micro_batch(tmp_path):
    from vggfeat.training.files import RunFiles
    from vggfeat.training.state import RunState
    from vggfeat.training.watch import Watch

    watch = Watch(load_recipe(None, TINY), 1.1, RunFiles.of(tmp_path / "run"))
    error = watch.memory(Ranks(0, 2, torch.device("cuda:0")), RunState(step=7), 32)
    assert isinstance(error, TrainingError) and str(error) == (
        "the memory of cuda:0 is full after update 7, with 32 images at a time: end other programs that use it, "
        "or take a smaller `micro_batch`; nothing was saved yet"
    )


# The dense form


class ShortHead(DenseNet):
    """A device that holds the windows of so many pictures at a time."""

    most, seen = 1, ()

    def _head(self, passed, reductions):
        self.seen = (*self.seen, len(passed))
        if len(passed) > self.most:
            raise FULL
        super()._head(passed, reductions)


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_fully_connected_layers_take_fewer_pictures_at_a_time():
    net, given = glorot_(VGG("A", width=1 / 32)).eval(), pictures((224, 256), (256, 224), (240, 240))
    short = ShortHead(net)
    assert np.allclose(short(given), DenseNet(net)(given), rtol=1e-4, atol=1e-6)
    assert short.seen == (3, 1, 2, 1, 1)


def test_a_picture_whose_windows_do_not_fit_is_named():
    short = ShortHead(glorot_(VGG("A", width=1 / 32)).eval())
    short.most = 0
    with pytest.raises(DeviceError, match="^a 256x224 picture alone fills the memory of cpu: take smaller `scales`$"):
        short(pictures((224, 256)))


def test_windows_that_wait_are_finished_before_a_batch_is_made_smaller():
    net, given = glorot_(VGG("A", width=1 / 32)).eval(), pictures((224, 256), (256, 224))
    expected, made = DenseNet(net)(given), DenseNet(net)
    one_pass, calls = made._one_pass, []

    def once_full(some, *args):
        calls.append(len(some))
        if len(calls) == 2:
            raise FULL
        return one_pass(some, *args)

    made._one_pass = once_full
    assert np.allclose(made(given), expected, rtol=1e-4, atol=1e-6) and calls == [1, 1, 1]


# Words


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
        "MPS backend out of memory (MPS allocated: 5.00 GB)",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_a_full_memory_is_known_by_its_words(words):
    assert is_out_of_memory(RuntimeError(words)) and not is_out_of_memory(ValueError(words))


def test_an_error_of_a_device_is_told_from_one_of_ours():
    assert fault(RuntimeError("shapes differ")) is None
    assert fault(
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel ...")
    ) == (
        "the device failed (CUDA error: no kernel image is available for execution on the device); `device=cpu` works "
        "everywhere"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FULL("CUDA out of memory."), "the memory of the device is full: end other programs that use it, or take --device cpu"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory (Unable to allocate 9 GiB): end other programs, or give it less at a time"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "not enough memory: end other programs, or give it less at a time"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "the device failed (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED); --device cpu works everywhere"),
        (RuntimeError("shapes differ"), "RuntimeError: shapes differ (a bug in vggfeat; --debug shows where)"),
    ],
)  # fmt: skip
def test_the_command_line_has_one_line_for_each(monkeypatch, capsys, error, line):
    from vggfeat import cli

    assert "torch" in sys.modules
    monkeypatch.setattr(cli.vggfeat, "main", lambda *args, **kwargs: (_ for _ in ()).throw(error))
    assert run(["nets"]) == 1
    assert capsys.readouterr().err == f"vggfeat: {line}\n"


# Other faults that only a device shows


def test_momentum_in_another_order_in_memory_gives_the_same_weights():
    """A checkpoint made on MPS has its momentum contiguous; a fused step would mix up its values."""
    ours, other = trainer(2, 2), trainer(2, 2)
    ours.update(batch(2), 0.01)
    other.net.load_state_dict(ours.net.state_dict())
    kept = ours.optimizer.state_dict()
    kept["state"] = {n: {k: v.contiguous() for k, v in state.items()} for n, state in kept["state"].items()}
    other.load_optimizer(kept)
    for one in (ours, other):
        one.update(dataclasses.replace(batch(2), step=1), 0.01)
    for one, its in zip(ours.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(one, its)


def test_nets_in_several_number_formats_do_not_run_together():
    nets = [glorot_(VGG("A", width=1 / 32)).eval() for _ in range(2)]
    nets[1].precision = "bf16"
    with pytest.raises(UsageError, match="^nets with `precision=fp32` and with `precision=bf16`: load all with one$"):
        Extractor(nets, DescriptorSettings(scales=(256,)))


def test_processes_on_one_machine_do_not_share_a_device(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError) as raised, process_group(torch.device("cuda:1")):
        pass
    assert str(raised.value) == (
        "`device=cuda:1`: 2 processes on this machine cannot train on one device; `device=cuda` gives each one its own"
    )


def test_one_process_makes_its_device_the_current_one(monkeypatch):
    import contextlib

    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or contextlib.nullcontext())
    with process_group(torch.device("cuda:1")) as ranks:
        assert current == [torch.device("cuda:1")] and ranks.device == torch.device("cuda:1")


def test_sums_of_one_process_stay_where_they_are():
    """The validation's are in float64, which MPS lacks."""
    values = torch.ones(4, dtype=torch.float64)
    assert Ranks(0, 1, torch.device("mps")).sum(values) is values
