"""Whether what a graph or a configuration computes after the convolutions is the head of a net of Table 1."""

from __future__ import annotations

from collections.abc import Sequence

PRODUCTS = ("Gemm", "MatMul")

PASSING = {"Reshape", "Flatten", "Shape", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Transpose", "Identity"}
"""Steps that change no value."""

ENDINGS = {"Softmax", "LogSoftmax", "Sigmoid"}
"""What may come after the last layer: its scores are those before it."""


def is_usual_head(steps: Sequence[str]) -> bool:
    """Whether three fully-connected layers, if there are three, have a ReLU between them, and nothing else.

    steps: what a file computes, in order and in the words of `NetSpec.steps`.
    """
    first = next((place for place, step in enumerate(steps) if step in PRODUCTS), len(steps))
    head = ["Gemm" if step in PRODUCTS else step for step in steps[first:] if step not in PASSING]
    while head and head[-1] in ENDINGS:
        head.pop()
    return head.count("Gemm") != 3 or head == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
