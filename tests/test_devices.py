"""What a processor and torch's switches are asked and told, by torch's version and the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vggfeat.system import devices


def test_linux_tells_what_a_torch_before_2_5_does_not() -> None:
    listed: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not Path("/proc/cpuinfo").exists() or "avx512_bf16" not in listed:
        pytest.skip("needs Linux on x86 and a torch that lists the processor's features")
    flags = devices._linux_flags()
    for name in ("avx2", "avx512_bf16", "avx512_vnni"):
        assert (name in flags) == listed[name]


def test_tf32_leaves_a_cpu_alone_and_puts_cudas_switches_back_old_or_new(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, on, off in (("fp32_precision", "tf32", "ieee"), ("allow_tf32", True, False)):
        matmul, conv = SimpleNamespace(**{names: off}), SimpleNamespace(**{names: on})
        cudnn = SimpleNamespace(conv=conv) if names == "fp32_precision" else conv
        monkeypatch.setattr(torch.backends, "cudnn", cudnn)
        monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
        for allowed, inside in ((True, on), (False, off)):
            with devices.tf32(torch.device("cuda"), allowed):
                assert (getattr(matmul, names), getattr(conv, names)) == (inside, inside)
            assert (getattr(matmul, names), getattr(conv, names)) == (off, on)
            with devices.tf32(torch.device("cpu"), allowed):
                assert (getattr(matmul, names), getattr(conv, names)) == (off, on)


def test_a_program_that_uses_torchs_new_switches_can_extract() -> None:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the old switches alone")
    code = (
        "import numpy as np, torch; torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "from vggfeat import load_net; from vggfeat.inference.dense import DenseNet\n"
        "net = load_net('A', None, width=1 / 64, device='cpu', precision='fp32')\n"
        "print(DenseNet(net, ['fc7'])([np.zeros((224, 224, 3), np.uint8)]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == "(1, 64)\n", done.stderr
