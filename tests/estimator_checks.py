"""scikit-learn's checks of an estimator, in whichever form its version has them."""

from __future__ import annotations

import inspect
import unittest
import warnings

from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import check_estimator


def failed_checks(estimator: BaseEstimator) -> dict[str, Exception]:
    """What fails, by the check's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "on_fail" in inspect.signature(check_estimator).parameters:
            results = check_estimator(estimator, on_fail=None, on_skip=None)
            assert len(results) > 40
            return {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
        checks = list(check_estimator(estimator, generate_only=True))  # before scikit-learn 1.6
        assert len(checks) > 40
        return {check.func.__name__: error for its, check in checks if (error := _error(its, check))}


def _error(estimator, check) -> Exception | None:
    try:
        check(estimator)
    except unittest.SkipTest:  # without pandas
        pass
    except Exception as error:
        return error
    return None
