"""Which device runs a net, and in which number format."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from vggfeat.errors import UsageError, unknown_name
from vggfeat.system.numbers import number_of
from vggfeat.system.precisions import PRECISIONS, Precision

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

# torch.cpu.get_capabilities' names, x86 first, then ARM.
_CPU_FEATURES = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith")}


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
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == "tf32" and not (device.type == "cuda" and _capability(device) >= 8):
        raise UsageError(
            f"`precision=tf32` needs a CUDA device of capability 8 or later, not {device}: "
            "take `precision=auto` or `precision=fp32`"
        )
    if precision == "fp16" and device.type == "cpu" and not _native(device, "fp16"):
        raise UsageError("`precision=fp16`: this CPU has no fp16 arithmetic; take `precision=auto`")
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
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        return False
    listed: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(listed.get(name, False) for name in ("avx512_vnni", "avx_vnni")):
        return True
    asked = getattr(torch.cpu, "_is_vnni_supported", None) or getattr(torch.cpu, "_is_avx512_vnni_supported", None)
    return bool(asked is not None and asked())


def _check_int8(device: torch.device, training: bool) -> None:
    if training:
        raise UsageError("`precision=int8` is for descriptors and scores: take `precision=auto`")
    if device.type != "cpu":
        raise UsageError(f"`precision=int8` is for processors (`device=cpu`), not {device}: take `precision=auto`")
    if not has_int8():
        _warn_of_bytes()


@functools.cache
def _warn_of_bytes() -> None:
    log.warning(
        "`precision=int8`: this CPU cannot multiply bytes (VNNI), so fp32 does it with the same values, in more time "
        "than `precision=fp32` takes"
    )


@functools.cache
def _warn_of_emulation() -> None:
    """Once a process. The factors are those of nets D and A, full and narrow, on 1 and 2 cores with AVX2."""
    log.warning(
        "`precision=bf16`: this CPU has no bf16 arithmetic and emulates it, which takes 3 to 17 times as long as fp32; "
        "`precision=auto` takes fp32 here"
    )


def _native(device: torch.device, kind: Literal["bf16", "fp16"]) -> bool:
    """Whether the hardware has this format. Where unsure the answer is no, which only costs speed."""
    if device.type == "cuda":
        return kind == "fp16" or _capability(device) >= 8
    if device.type != "cpu":
        return False
    listed: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(listed.get(name, False) for name in _CPU_FEATURES[kind]):
        return True
    asked = getattr(torch.cpu, f"_is_avx512_{kind}_supported", None)  # torch 2.11
    return bool(asked is not None and asked())


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
def tf32(allowed: bool) -> Iterator[None]:
    """Inside the block, matrix products and convolutions on CUDA run in TF32, or in full float32 if not `allowed`."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
