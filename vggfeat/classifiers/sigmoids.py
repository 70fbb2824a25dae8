"""Scores -> class probabilities by fitted sigmoids; `calibration` fits them. Imports no scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit


def probabilities(
    scores: NDArray[np.floating], sigmoids: NDArray[np.float64], *, normalise: bool
) -> NDArray[np.floating]:
    """(n, K) probabilities of scores (n, K), in their dtype.

    `normalise` divides them by their sum, for classes that exclude each other; all 0 become all equal.
    """
    found = expit(-(scores * sigmoids[:, 0] + sigmoids[:, 1]))
    if normalise:
        total = found.sum(axis=1, keepdims=True)
        found = np.divide(found, total, out=np.full_like(found, 1 / found.shape[1]), where=total > 0)
    result: NDArray[np.floating] = found.astype(scores.dtype)
    return result
