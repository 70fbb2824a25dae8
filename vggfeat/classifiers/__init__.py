"""Linear SVMs, solved to a certified optimum for all classes at once. Names are imported on first use (PEP 562)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggfeat.classifiers.estimator import LinearSVM, SVMPath

__all__ = ["LinearSVM", "SVMPath"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vggfeat.classifiers import estimator

    return getattr(estimator, name)
