"""Which device runs a net, and in which number format."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from vggfeat.errors import UsageError
from vggfeat.system.numbers import number_of
from vggfeat.system.precisions import PRECISIONS, Precision
from vggfeat.system.processor import has_arithmetic
from vggfeat.system.values import one_of

log = logging.getLogger(__name__)
_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # What torch says where no algorithm of cuDNN's finds room for its workspace.
    "Unable to find a valid cuDNN algorithm",
    "unable to find an engine to execute this computation",
    "MPS backend out of memory",
    "DefaultCPUAllocator",
)
_FAULTS = ("CUDA error", "CUDA driver error", "cuDNN error", "NCCL error", "HIP error", "for the MPS device")


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; None is the best one here: CUDA, else MPS, else the CPU.

    Raises UsageError for a name that torch does not know or a device that this machine does not have.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"no device {str(device)!r}; valid: cpu, cuda, cuda:N, mps") from None
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            sees = number_of(count, "CUDA device")
            raise UsageError(f"no device {found}: torch sees {sees} here; `device=cpu` works everywhere")
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("no device mps: torch has no MPS here; `device=cpu` works everywhere")
    elif found.type not in ("cpu", "mps"):
        raise UsageError(f"no device {str(device)!r}; valid: cpu, cuda, cuda:N, mps")
    return found


def resolve_precision(precision: str, device: torch.device, *, training: bool = False) -> Precision:
    """The number format for a device; "auto" is bf16 where the hardware has it, else fp32.

    Raises UsageError for an unknown name or a format that the device lacks: tf32 is a mode of CUDA devices of
    capability 8 and later, and a CPU without fp16 arithmetic would convert every operand back and forth. Training on
    MPS is in fp32: the scaling of losses for fp16 needs float64, which MPS lacks. int8 is for inference on processors.
    """
    if precision == "auto":
        if training and device.type == "mps":
            return "fp32"
        return "bf16" if _native(device, "bf16") else "fp32"
    precision = one_of("precision", precision, PRECISIONS)
    if precision == "tf32" and not (device.type == "cuda" and _capability(device) >= 8):
        raise UsageError(
            f"`precision=tf32` needs a CUDA device of capability 8 or later, not {device}: "
            "take `precision=auto` or `precision=fp32`"
        )
    if precision == "fp16" and device.type == "cpu" and not _native(device, "fp16"):
        raise UsageError(f"`precision=fp16`: {_lacking('fp16')}; take `precision=auto`")
    if precision == "int8":
        _check_int8(device, training)
    if precision == "bf16" and device.type == "cpu" and not _native(device, "bf16"):
        _warn_of_emulation()
    if device.type == "mps" and training and precision != "fp32":
        raise UsageError(f"`precision={precision}`: training on mps is in fp32; take `precision=auto`")
    if precision == "bf16" and device.type == "mps" and not _macos(14):
        raise UsageError("`precision=bf16`: mps has it from macOS 14 on; take `precision=auto`")
    return precision  # type: ignore[return-value]  # one of PRECISIONS, and not "auto"


def has_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic."""
    return _native(torch.device("cpu"), "bf16")


def has_int8() -> bool:
    """Whether this CPU multiplies bytes into sums of 32 bits (VNNI), and torch has oneDNN's operators for it.

    Without VNNI oneDNN adds pairs of products in 16 bits, which overflow.
    """
    return _has_byte_operators() and has_arithmetic("int8") is True


def has_tiles() -> bool:
    """Whether this CPU multiplies small matrices of bf16 or bytes in one instruction (AMX)."""
    return has_arithmetic("tiles") is True


def _has_byte_operators() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")


def check_int8_device(device: torch.device) -> None:
    """Raises UsageError for a device that runs no net in 8 bits: all but the CPU."""
    if device.type != "cpu":
        raise UsageError(f"`precision=int8` is for processors (`device=cpu`), not {device}: take `precision=auto`")


def _check_int8(device: torch.device, training: bool) -> None:
    if training:
        raise UsageError("`precision=int8` is for descriptors and scores: take `precision=auto`")
    check_int8_device(device)
    if not has_int8():
        _warn_of_bytes()


def _lacking(kind: Literal["bf16", "fp16"]) -> str:
    """Says that this CPU lacks a format, or that nobody knows."""
    if has_arithmetic(kind) is None:
        return f"torch {torch.__version__} does not say whether this CPU has {kind} arithmetic"
    return f"this CPU has no {kind} arithmetic"


@functools.cache
def _warn_of_bytes() -> None:
    if not _has_byte_operators():
        reason = f"torch {torch.__version__} has no 8-bit operators here"
    elif has_arithmetic("int8") is None:
        reason = f"torch {torch.__version__} does not say whether this CPU multiplies bytes (VNNI)"
    else:
        reason = "this CPU cannot multiply bytes (VNNI)"
    log.warning(
        "`precision=int8`: %s, so fp32 does it with the same values, in more time than `precision=fp32` takes", reason
    )


@functools.cache
def _warn_of_emulation() -> None:
    """Once a process. The factors are those of nets D and A, full and narrow, on 1 and 2 cores with AVX2."""
    known = has_arithmetic("bf16") is not None
    log.warning(
        "`precision=bf16`: %s%s, which takes 3 to 17 times as long as fp32; `precision=auto` takes fp32 here",
        _lacking("bf16"),
        " and emulates it" if known else ". It may emulate it",
    )


def _native(device: torch.device, kind: Literal["bf16", "fp16"]) -> bool:
    """Whether the hardware has this format. Where unsure the answer is no, which only costs speed."""
    if device.type == "cuda":
        return kind == "fp16" or _capability(device) >= 8
    return device.type == "cpu" and has_arithmetic(kind) is True


def _macos(major: int) -> bool:
    asked = getattr(torch.backends.mps, "is_macos_or_newer", None)
    return bool(asked is not None and asked(major, 0))


def memory_format(device: torch.device) -> torch.memory_format:
    """The order of maps in memory that a device computes fastest; MPS has had wrong results with channels last."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is full. CUDA's libraries, MPS and the CPU only say it in words."""
    if not isinstance(error, RuntimeError):
        return False
    of_torch = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # torch 2.4 has the latter alone
    return isinstance(error, of_torch) or any(words in str(error) for words in _OUT_OF_MEMORY)


def fault(error: BaseException) -> str | None:
    """What to tell a user about an error that a device caused; None for any other error."""
    text = str(error).strip()
    if "DefaultCPUAllocator" in text:
        return "not enough memory: end other programs, or give it less at a time"
    if is_out_of_memory(error):
        return "the memory of the device is full: end other programs that use it, or take `device=cpu`"
    if isinstance(error, RuntimeError) and any(words in text for words in _FAULTS):
        return f"the device failed ({text.splitlines()[0].rstrip('.')}); `device=cpu` works everywhere"
    return None


def release_cached_memory(device: torch.device) -> None:
    """Returns memory that torch keeps for the device's next tensors, after an error of full memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Inside the block, pinned memory and collectives belong to this CUDA device, not to the first one.

    Pinning for one device while another is the current one takes memory there, for a context. Other devices have no
    current one.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


@contextmanager
def equal_shapes() -> Iterator[None]:
    """Inside the block, cuDNN tries its algorithms on each new shape: for inputs of one shape throughout."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Inside the block, products and convolutions on a CUDA device run in TF32, or in full float32 if not `allowed`.

    Torch 2.9 replaced its switches, and an old one raises RuntimeError once a user has set a new one.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: list[tuple[Any, str]] = [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    value: bool | str = allowed
    if hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv"):
        switches = [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")]
        value = "tf32" if allowed else "ieee"
    before = [getattr(*switch) for switch in switches]
    try:
        for switch in switches:
            setattr(*switch, value)
        yield
    finally:
        for switch, found in zip(switches, before, strict=True):
            setattr(*switch, found)
