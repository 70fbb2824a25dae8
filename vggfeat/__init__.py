"""vggfeat: VGG nets for transfer learning (Simonyan and Zisserman, arXiv 1409.1556).

Names are imported on first use (PEP 562), so that `import vggfeat` and the command line's help cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vggfeat._version import __version__

if TYPE_CHECKING:
    from vggfeat import boxes as boxes
    from vggfeat import metrics as metrics
    from vggfeat.networks import VGG
    from vggfeat.stages.evaluate import evaluate
    from vggfeat.stages.extract import extract
    from vggfeat.store import read_descriptors
    from vggfeat.svm.estimator import LinearSVM
    from vggfeat.transformer import VGGFeatures
    from vggfeat.weights import load_net

_HOMES = {
    "VGG": "vggfeat.networks",
    "load_net": "vggfeat.weights",
    "evaluate": "vggfeat.stages.evaluate",
    "extract": "vggfeat.stages.extract",
    "read_descriptors": "vggfeat.store",
    "LinearSVM": "vggfeat.svm.estimator",
    "VGGFeatures": "vggfeat.transformer",
}
_MODULES = ("boxes", "metrics")

__all__ = [
    "VGG",
    "LinearSVM",
    "VGGFeatures",
    "__version__",
    "boxes",
    "evaluate",
    "extract",
    "load_net",
    "metrics",
    "read_descriptors",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"vggfeat.{name}")
    raise AttributeError(f"module 'vggfeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
