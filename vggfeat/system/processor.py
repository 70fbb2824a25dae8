"""What the processor calculates with: torch says it, under other names in each of its versions, else Linux does."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

Arithmetic = Literal["bf16", "fp16", "int8", "tiles"]
"""Native arithmetic: number formats; "int8": products of bytes, summed in 32 bits (VNNI); "tiles": products of small
matrices of bf16 or bytes in one instruction (AMX)."""

# torch.cpu.get_capabilities' names, x86 first, then ARM.
_LISTED: dict[Arithmetic, tuple[str, ...]] = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
    "int8": ("avx512_vnni", "avx_vnni"),
    "tiles": ("amx_tile",),
}

# Of earlier versions, about x86 alone. Torch 2.4 says `_is_cpu_support_vnni`, and nothing about bf16.
_ASKED: dict[Arithmetic, tuple[str, ...]] = {
    "bf16": ("_is_avx512_bf16_supported",),
    "fp16": ("_is_avx512_fp16_supported", "_is_amx_fp16_supported"),
    "int8": ("_is_vnni_supported", "_is_cpu_support_vnni"),
    "tiles": ("_is_amx_tile_supported",),
}

# Linux has torch's names, but for ARM's fp16.
_FLAGS: dict[Arithmetic, tuple[str, ...]] = {**_LISTED, "fp16": ("avx512_fp16", "amx_fp16", "asimdhp")}

ZEN_3_AND_4 = "25"
"""AMD's CPU family; of the two, only Zen 4 has AVX-512."""


def has_arithmetic(kind: Arithmetic) -> bool | None:
    """Whether this CPU has this arithmetic; None where neither torch nor the system tells."""
    listing = getattr(torch.cpu, "get_capabilities", None)
    if listing is not None:
        listed: Mapping[str, Any] = listing()
        return any(listed.get(name, False) for name in _LISTED[kind]) or any(_answers(kind))
    answers, flags = _answers(kind), linux_flags()
    if any(answers):
        return True
    if flags:
        return not flags.isdisjoint(_FLAGS[kind])
    return False if answers and platform.machine().lower() in ("x86_64", "amd64") else None


def has_halved_avx512() -> bool:
    """Whether this CPU executes AVX-512 in two halves (AMD's Zen 4), with no more products a cycle than AVX2."""
    fields = linux_fields()
    of_amd = fields.get("vendor_id") == "AuthenticAMD"
    return of_amd and fields.get("cpu family") == ZEN_3_AND_4 and "avx512f" in linux_flags()


def _answers(kind: Arithmetic) -> list[bool]:
    """What this torch answers to the questions of earlier versions that it knows."""
    asked = [getattr(torch.cpu, name, None) for name in _ASKED[kind]]
    return [bool(one()) for one in asked if one is not None]


@functools.cache
def linux_fields() -> Mapping[str, str]:
    """What Linux tells of its first processor; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def linux_flags() -> frozenset[str]:
    """The features of the first processor in Linux's list; empty elsewhere."""
    fields = linux_fields()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())
