"""Names of the number formats that a net may run in. Imports no torch, so that the command line can list them."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]

PRECISIONS: tuple[str, ...] = ("auto", *get_args(Precision))
"""What `precision` may be: "auto" is bf16 where the hardware has it natively, else fp32."""

TRAINING_PRECISIONS = tuple(name for name in PRECISIONS if name != "int8")
