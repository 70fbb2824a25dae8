"""The sizes at which the solvers change their method, as one value that tests can make small."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Where the engines change their method. The defaults were measured; the reasons stand beside them."""

    gram_rows: int = 40_000
    """Most rows for the Gram matrix: in float32 it takes 4 n^2 bytes, 6.4 GB here, and once more for the training rows'
    part while C is chosen."""
    primal_features: int = 256
    """Up to here Hessians of the D + 1 weights cost less than products with the Gram matrix (`bench solvers`)."""
    many_features: int = 512
    """Up to here they also do where there are `rows_per_feature` times as many rows as features, or half as many again
    and the Gram matrix is in float64."""
    rows_per_feature: int = 10
    """Where the two cost about the same: 5,000 x 512 took 4.1 s on the weights and 3.5 s on the Gram matrix (100
    classes, AVX-512), 10,000 x 512 5.3 and 10.5 s, and with 20 classes 1.8 and 3.9 s."""
    polished_features: int = 4096
    """Up to here classes that the Gram matrix leaves above tol are finished on the weights. A Hessian then has at most
    4097^2 values, 134 MB."""
    held_bytes: int = 2 * 2**30
    """Memory for copies of X and for the arrays of the classes that are solved at a time, in the primal."""
    double_rows: int = 1000
    """Up to this many rows the Gram matrix is in float64 and factorised. float32 loses about 1e-6 of each margin, which
    matters only where rounding, not the optimum, would decide; at these sizes float64 costs no noticeable time, and one
    Cholesky factorisation per class is faster than any iteration."""
    ritz: int = 64
    """Eigenvectors of the Gram matrix in the preconditioner: the features' mean direction alone has an eigenvalue near
    0.4 n."""
    newton_steps: int = 100
    """Most Newton steps of a fit in float64."""
