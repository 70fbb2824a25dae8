"""vggfeat: VGG nets for transfer learning (Simonyan and Zisserman, arXiv 1409.1556).

The rooms, each importing only from those below it:

    cli          the command line: one file per verb, tables, progress, advice
    stages       one function per verb: reads named files, writes one, returns its path or result
    page         the HTML pages of --report, their plots and the commands that they repeat
    inference    nets over pictures: batches, descriptors, posteriors, boxes
    classifiers  linear SVMs, their model files, the data sets' protocols
    store        the descriptor file: schema, rows, reading, writing, shards, pooling
    training     the ILSVRC recipe: crops, optimisation, state, several processes
    datasets     pictures and lists on disk, and how they are decoded
    nets         Table 1 as data, the modules, published weights and their formats
    system       what faces the machine: files, downloads, HDF5, devices, memory
    metrics      average precision, recall, errors
    boxes        intersection over union, OverFeat's merging
    errors       the exceptions, each with the sentence that its reader needs

Names are imported on first use (PEP 562), so that `import vggfeat` and the command line's help cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vggfeat._version import __version__

if TYPE_CHECKING:
    from vggfeat import boxes as boxes
    from vggfeat import metrics as metrics
    from vggfeat.classifiers.estimator import LinearSVM
    from vggfeat.inference.transformer import VGGFeatures
    from vggfeat.nets.networks import VGG
    from vggfeat.nets.weights import load_net
    from vggfeat.stages.evaluate import evaluate
    from vggfeat.stages.extract import extract
    from vggfeat.store import read_descriptors

_HOMES = {
    "VGG": "vggfeat.nets.networks",
    "load_net": "vggfeat.nets.weights",
    "evaluate": "vggfeat.stages.evaluate",
    "extract": "vggfeat.stages.extract",
    "read_descriptors": "vggfeat.store",
    "LinearSVM": "vggfeat.classifiers.estimator",
    "VGGFeatures": "vggfeat.inference.transformer",
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
