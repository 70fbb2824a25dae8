"""scikit-learn's check of an estimator's input, under the name that it has in each version."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6
    validate_data = None


def validated(estimator: BaseEstimator, *data: Any, **options: Any) -> Any:
    """X, or (X, y), as arrays of float64 or float32; NaN and infinities pass.

    Notes the number and the names of features on the estimator, or with `reset=False` compares them. Other options are
    those of scikit-learn's `check_X_y`. Raises ValueError for shapes that make no sense.
    """
    options["dtype"] = [np.float64, np.float32]
    if validate_data is not None:
        return validate_data(estimator, *data, ensure_all_finite=False, **options)
    return estimator._validate_data(*data, force_all_finite=False, **options)
