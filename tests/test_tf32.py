"""TF32 on CUDA devices: torch's old switches and those of torch 2.9, which an old one must not meet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vggfeat.inference.dense import DenseNet
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.system.devices import tf32

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision") and hasattr(torch.backends.cudnn, "conv")


class Old:
    """A switch of the old kind, after a user has set one of the new."""

    fp32_precision = "ieee"

    @property
    def allow_tf32(self) -> bool:
        raise RuntimeError("mix of the legacy and new APIs")

    @allow_tf32.setter
    def allow_tf32(self, value: bool) -> None:
        raise RuntimeError("mix of the legacy and new APIs")


def switched(monkeypatch: Any, matmul: Any, cudnn: Any) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)


@pytest.mark.parametrize(("allowed", "value"), [(True, "tf32"), (False, "ieee")])
def test_the_new_switches_are_set_and_set_back(monkeypatch: Any, allowed: bool, value: str) -> None:
    matmul, cudnn = Old(), Old()
    cudnn.conv = SimpleNamespace(fp32_precision="none")  # type: ignore[attr-defined]
    switched(monkeypatch, matmul, cudnn)
    with pytest.raises(KeyboardInterrupt), tf32(CUDA, allowed):
        assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == (value, value)  # type: ignore[attr-defined]
        raise KeyboardInterrupt
    assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == ("ieee", "none")  # type: ignore[attr-defined]


@pytest.mark.parametrize("allowed", [True, False])
def test_the_old_switches_serve_before_torch_2_9(monkeypatch: Any, allowed: bool) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=False), SimpleNamespace(allow_tf32=True)
    switched(monkeypatch, matmul, cudnn)
    with tf32(CUDA, allowed):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, True)
    assert not hasattr(matmul, "fp32_precision")


def test_other_devices_leave_the_switches_alone(monkeypatch: Any) -> None:
    switched(monkeypatch, Old(), Old())
    for device in (CPU, torch.device("mps")):
        with tf32(device, False):
            pass


@pytest.mark.skipif(not NEW, reason="torch before 2.9")
@pytest.mark.parametrize("users", ["tf32", "ieee", "none"])
def test_torchs_own_switches_come_back_as_the_user_left_them(users: str) -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision = users
        for allowed, value in ((True, "tf32"), (False, "ieee")):
            with tf32(CUDA, allowed):
                assert (matmul.fp32_precision, conv.fp32_precision) == (value, value)
            assert (matmul.fp32_precision, conv.fp32_precision) == (users, before[1])
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def test_torchs_old_switches_come_back_as_the_user_left_them() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        for users in (True, False):
            matmul.allow_tf32 = cudnn.allow_tf32 = users
            with tf32(CUDA, not users):
                pass
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (users, users)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.skipif(not NEW, reason="torch before 2.9")
def test_a_net_runs_on_the_cpu_after_the_new_switch_was_set() -> None:
    dense = DenseNet(glorot_(VGG("A", width=1 / 64)), "conv1_1")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        assert dense([np.zeros((224, 224, 3), np.uint8)]).shape == (1, dense.dim)
    finally:
        matmul.fp32_precision = before
