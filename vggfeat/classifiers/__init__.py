"""Linear SVMs, solved exactly and for all classes at once."""

from vggfeat.classifiers.estimator import LinearSVM, SVMPath

__all__ = ["LinearSVM", "SVMPath"]
