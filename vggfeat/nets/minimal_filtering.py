"""The transforms of minimal filtering F(m, r): m outputs of an r-tap filter by m + r - 1 multiplications.

For inputs d (m + r - 1,) and a filter g (r,), the outputs are output @ ((filter @ g) * (input @ d)); in two dimensions
the transforms work on both sides. The construction is Cook's and Toom's, by interpolation at rational points and at
infinity (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from torch import Tensor

Row = list[Fraction]
"""Of a transform; or a polynomial's coefficients, that of the lowest power first."""


@dataclass(frozen=True)
class Transforms:
    """F(m x m, r x r) on flattened tiles, with n = m + r - 1."""

    input: Tensor
    """(n n, n n) float32."""
    filter: Tensor
    """(n n, r r) float32."""
    output: Tensor
    """(m m, n n) float32."""


def two_dimensional(outputs: int, taps: int, points: Sequence[Fraction | int]) -> Transforms:
    """F(outputs x outputs, taps x taps), interpolated at these points, outputs + taps - 2 of them, and at infinity."""
    exact = one_dimensional(outputs, taps, [Fraction(point) for point in points])
    both_sides = []
    for rows in exact:
        one_side = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
        both_sides.append(torch.kron(one_side, one_side).to(torch.float32))
    return Transforms(*both_sides)


def one_dimensional(outputs: int, taps: int, points: Sequence[Fraction]) -> tuple[list[Row], list[Row], list[Row]]:
    """The exact transforms of the input (n, n), the filter (n, taps) and the output (outputs, n), row by row.

    points: outputs + taps - 2 different ones; infinity is the last by itself.
    """
    zero, one = Fraction(0), Fraction(1)
    others = [[other for other in points if other != point] for point in points]
    of_input = [[*_product(rest), zero] for rest in others] + [_product(points)]
    of_filter = [
        [point**power / prod((point - other for other in rest), start=one) for power in range(taps)]
        for point, rest in zip(points, others, strict=True)
    ] + [[zero] * (taps - 1) + [one]]
    of_output = [
        [*(point**power for point in points), one if power == outputs - 1 else zero] for power in range(outputs)
    ]
    return of_input, of_filter, of_output


def _product(roots: Sequence[Fraction]) -> Row:
    """The product of (x - root)."""
    found = [Fraction(1)]
    for root in roots:
        higher, lower = [Fraction(0), *found], [root * value for value in found] + [Fraction(0)]
        found = [above - below for above, below in zip(higher, lower, strict=True)]
    return found
