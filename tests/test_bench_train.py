import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vggfeat.cli import run
from vggfeat.cli.tables import print_bench
from vggfeat.errors import UsageError
from vggfeat.nets.catalog import NETS
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.stages.bench import plain_training
from vggfeat.stages.bench import train as stage
from vggfeat.stages.bench.plain_training import PlainRates, plain_rates
from vggfeat.stages.bench.train import PHOTOS, Effort, Synchronisation, TrainBenchmark, bench_train
from vggfeat.stages.bench.yardsticks import TORCHVISION_NAMES, flops, torchvision_net, training_flops
from vggfeat.system.memory import keep_freed_memory, keeps_freed_memory


def narrow(net: str, classes: int = 7) -> VGG:
    return load_net(net, None, width=1 / 32, num_classes=classes, device="cpu").eval()


@pytest.mark.parametrize("net", NETS)
def test_work_is_what_torch_counts(net):
    """Forward, and backward as autograd runs it: the first convolution's input needs no gradient."""
    model, crop = narrow(net), torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as forward:
        model.dense(crop)
    assert flops(model.spec, 224, 224, model.width) == forward.get_total_flops()
    with FlopCounterMode(display=False) as update:
        model(crop).sum().backward()
    assert training_flops(model.spec, model.width, 7) == update.get_total_flops()


def test_net_d_takes_15_and_a_half_gigamultiplications_a_crop():
    """The figure of the literature for VGG-16's forward pass: 15.5 GMAC."""
    assert flops(NETS["D"], 224, 224) / 2 == pytest.approx(15.47e9, rel=1e-3)


@pytest.mark.parametrize("net", TORCHVISION_NAMES)
def test_the_yardstick_is_torchvisions_module_with_the_same_values(net):
    model = narrow(net)
    plain = torchvision_net(model)
    assert type(plain).__module__ == "torchvision.models.vgg"
    crops = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain.eval()(crops), model(crops), atol=1e-6)
    with torch.no_grad():
        plain.features[0].weight.zero_()
    assert model.features[0].weight.any(), "training one leaves the other as it is"


SHORT = Effort(warm=1, timed=2, loaded=PHOTOS, matrix_side=256)
"""Few updates, small matrices, one batch of the loader; the two processes run in full."""


def test_the_command_measures_updates_loader_and_two_processes(monkeypatch, capsys):
    monkeypatch.setattr(stage, "bench_train", partial(bench_train, effort=SHORT))
    arguments = ["bench", "train", "--net", "B", "--width", "0.03125", "--batch-size", "4", "--device", "cpu"]
    assert run([*arguments, "--precision", "fp32", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["train"]
    train = result["train"]
    assert (train["net"], train["width"], train["batch_size"]) == ("B", 1 / 32, 4)
    (row,) = train["runs"]
    plain = train["plain_torchvision_images_per_second"]
    assert row["precision"] == "fp32"
    assert row["images_per_second"] == pytest.approx(4 / row["seconds_per_update"])
    assert row["times_plain_torchvision"] == pytest.approx(row["images_per_second"] / plain)
    work = training_flops(NETS["B"], 1 / 32, 1000)
    assert row["tflops"] == pytest.approx(row["images_per_second"] * work / 1e12)
    assert row["share_of_matrix_rate"] == pytest.approx(row["tflops"] / row["matrix_tflops"])
    (head,) = train["head"]
    assert (head["precision"], head["width"], head["batch_size"]) == ("fp32", 1 / 32, 64)
    assert head["images_per_second"] == pytest.approx(64 / head["seconds_per_update"])
    assert head["times_plain_torchvision"] > 0
    assert train["loader"][0]["threads"] == 1
    assert all(entry["images_per_second"] > 0 for entry in train["loader"])
    both = train["synchronisation"]
    assert (both["processes"], both["backend"], both["images_per_process"]) == (2, "gloo", 2)
    assert both["gradient_megabytes"] == pytest.approx(4e-6 * NETS["B"].parameters(1000, 1 / 32))
    assert both["seconds_of_all_reduce_alone"] > 0
    assert both["images_per_second"] == pytest.approx(4 / both["seconds_per_update"])
    assert both["seconds_of_synchronisation"] == pytest.approx(
        both["seconds_per_update"] - both["seconds_per_update_without"]
    )


def test_the_table_has_a_row_a_precision_and_leaves_out_what_cannot_be_measured(capsys, monkeypatch):
    """Net C has no module in torchvision; two processes take two devices."""
    monkeypatch.setenv("COLUMNS", "200")  # names of processors are long
    alone = replace(SHORT, processes=False)
    found = bench_train("C", width=1 / 32, batch_size=2, device="cpu", effort=alone)
    assert isinstance(found, TrainBenchmark)
    assert found["synchronisation"] is None
    assert "times_plain_torchvision" not in found["runs"][0]
    print_bench({"train": found.as_json()})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: net C, width 1/32, batch 2; ")
    assert lines[1].split()[:2] == ["precision", "images/s"]
    assert lines[2].split()[0] in ("fp32", "bf16")
    assert lines[2].split()[-1] == "-"
    assert lines[3] == "plain torchvision loop: - images/s"
    assert lines[4].startswith("fully-connected layers alone, width 1/32, batch 64, ")
    assert lines[4].endswith(" images/s")
    assert lines[-1] == "2 processes: not measured (needs two CUDA devices, or a CPU run)"


QUICK = replace(SHORT, processes=False)


@pytest.mark.parametrize("part", ["whole", "head"])
def test_a_plain_loop_that_fills_the_memory_is_left_out(part, monkeypatch, caplog):
    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.06 GiB")

    released = []
    monkeypatch.setattr(plain_training, f"_{part}_rate", full)
    monkeypatch.setattr(plain_training, "release_cached_memory", released.append)
    monkeypatch.setattr(plain_training, "keeps_freed_memory", lambda: False)
    found = bench_train("A", width=1 / 64, batch_size=2, device="cpu", effort=QUICK)
    assert (found.plain_torchvision_images_per_second is None) == (part == "whole")
    assert (found.runs[0].times_plain_torchvision is None) == (part == "whole")
    assert (found.head[0].times_plain_torchvision is None) == (part == "head")
    assert found.runs[0].images_per_second > 0 and released == [torch.device("cpu")]
    assert caplog.messages == ["a plain torchvision loop does not fit into the memory of cpu: it is left out"]


def test_another_error_of_the_plain_loop_is_raised(monkeypatch):
    monkeypatch.setattr(plain_training, "keeps_freed_memory", lambda: False)
    monkeypatch.setattr(plain_training, "_whole_rate", lambda *args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        plain_rates("A", 1 / 64, 1 / 64, 2, torch.device("cpu"), QUICK)


def test_after_an_extraction_the_plain_loops_run_in_a_new_process(monkeypatch):
    """As `bench all` does: extraction has changed how this process allocates."""
    ours = (1 / 64, 1 / 64, 2, torch.device("cpu"), QUICK)
    keep_freed_memory()
    assert keeps_freed_memory() or sys.platform != "linux"
    monkeypatch.setattr(plain_training, "keeps_freed_memory", lambda: True)
    monkeypatch.setattr(plain_training, "_rates", lambda *args: pytest.fail("measured in this process"))
    found = plain_rates("A", *ours)
    assert found.whole > 0 and found.head > 0
    assert plain_rates("C", *ours) == PlainRates(None, None)


def test_a_process_has_plain_allocation_until_it_extracts_or_trains():
    code = """
from vggfeat.system import memory
import vggfeat.stages.bench.train, vggfeat.stages.bench.extract
assert not memory.keeps_freed_memory()
memory.keep_freed_memory()
print(memory.keeps_freed_memory() == (memory._LIBRARY is not None))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            torch.multiprocessing.ProcessRaisedException(
                "\n\n-- Process 1 terminated with the following error:\nTraceback ..\nRuntimeError: use_libuv [x]\n",
                1,
                9,
            ),
            "they failed: RuntimeError: use_libuv [x]",
        ),
        (
            torch.multiprocessing.ProcessExitedException("process 0 terminated with signal SIGKILL", 0, 9, -9),
            "they failed: process 0 terminated with signal SIGKILL",
        ),
        (None, "they failed: [Errno 2] No such file or directory: "),
    ],
)
def test_two_processes_that_fail_leave_the_other_rates(error, reason, monkeypatch, capsys):
    def spawn(*args, **kwargs):
        if error is not None:
            raise error

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)
    monkeypatch.setattr(plain_training, "keeps_freed_memory", lambda: False)
    found = bench_train("A", width=1 / 64, batch_size=2, device="cpu", effort=SHORT)
    assert found.synchronisation is None and found.synchronisation_missing.startswith(reason)
    assert found.runs[0].images_per_second > 0 and found.plain_torchvision_images_per_second > 0
    print_bench({"train": found.as_json()})
    assert f"2 processes: not measured ({reason}" in " ".join(capsys.readouterr().out.split()), "lines are wrapped"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "F"}, "no net 'F'; valid: A (VGG-11), A-LRN, B (VGG-13), C, D (VGG-16), E (VGG-19), shallow-B"),
        ({"batch_size": 1}, "a batch of 1 does not split over 2 processes: `batch_size=2` at least"),
        ({"precisions": ("fp8",)}, "no precision 'fp8'"),
        ({"device": "tpu"}, "no device 'tpu'; valid: cpu, cuda, cuda:N, mps"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(changes, message):
    with pytest.raises(UsageError) as caught:
        bench_train(**{"net": "A", "width": 1 / 64, "device": "cpu", **changes})
    assert str(caught.value).startswith(message)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_trains_the_full_net(capsys):
    assert run(["bench", "train", "--net", "A", "--batch-size", "32", "--device", "cuda", "--json"]) == 0
    train = json.loads(capsys.readouterr().out)["train"]
    assert train["width"] == 1.0
    assert 0 < train["runs"][0]["share_of_matrix_rate"] < 1
    assert (train["synchronisation"] is None) == (torch.cuda.device_count() < 2)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_two_gpus_average_their_gradients_over_nccl():
    both = bench_train("A", batch_size=32, precisions=("bf16",), device="cuda", effort=SHORT).synchronisation
    assert isinstance(both, Synchronisation)
    assert both["backend"] == "nccl"
