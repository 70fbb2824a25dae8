"""vggfeat: VGG nets for transfer learning (Simonyan and Zisserman, arXiv 1409.1556).

The rooms, each importing only from those below it:

    cli          the command line: one file per verb, tables, progress, advice
    stages       one function per verb: reads named files, writes one, returns its path or result
    page         the HTML report pages, their plots and the commands that repeat a run
    inference    running nets on images: batches, descriptors, posteriors, boxes
    classifiers  linear SVMs, their model files, the data sets' protocols
    store        the descriptor file: schema, rows, reading, writing, shards, pooling
    training     the ILSVRC recipe: crops, optimisation, state, several processes
    datasets     images and lists on disk, and how they are decoded
    nets         Table 1 as data, the torch modules, published weights and their formats
    system       the machine: files, downloads, HDF5, devices, memory
    metrics      average precision, recall, errors
    boxes        intersection over union, OverFeat's merging
    results      the base of the results that stages return
    errors       the exceptions, each with a message for its reader

`dir(vggfeat)` is the public interface. Names are imported on first use (PEP 562), so `import vggfeat` and the command
line's help do not import torch.
"""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from vggfeat._version import __version__

if _TYPE_CHECKING:
    from vggfeat import boxes as boxes
    from vggfeat import errors as errors
    from vggfeat import metrics as metrics
    from vggfeat.classifiers.estimator import LinearSVM
    from vggfeat.classifiers.protocols.rules import Rounds
    from vggfeat.datasets import Dataset, Sample, load_dataset
    from vggfeat.datasets.split import load_training_set
    from vggfeat.inference.transformer import VGGFeatures
    from vggfeat.nets.networks import VGG
    from vggfeat.nets.weights import load_net
    from vggfeat.stages.evaluate import evaluate, evaluate_files
    from vggfeat.stages.export import export
    from vggfeat.stages.extract import extract
    from vggfeat.stages.localise import localise
    from vggfeat.stages.merge import merge
    from vggfeat.stages.predict import predict
    from vggfeat.stages.similar import similar
    from vggfeat.stages.svm import svm
    from vggfeat.stages.train import train
    from vggfeat.store import read_descriptors

_HOMES = {
    "VGG": "vggfeat.nets.networks",
    "load_net": "vggfeat.nets.weights",
    "LinearSVM": "vggfeat.classifiers.estimator",
    "VGGFeatures": "vggfeat.inference.transformer",
    "Rounds": "vggfeat.classifiers.protocols.rules",
    "Dataset": "vggfeat.datasets",
    "Sample": "vggfeat.datasets",
    "load_dataset": "vggfeat.datasets",
    "load_training_set": "vggfeat.datasets.split",
    "read_descriptors": "vggfeat.store",
    "evaluate": "vggfeat.stages.evaluate",
    "evaluate_files": "vggfeat.stages.evaluate",
    "export": "vggfeat.stages.export",
    "extract": "vggfeat.stages.extract",
    "localise": "vggfeat.stages.localise",
    "merge": "vggfeat.stages.merge",
    "predict": "vggfeat.stages.predict",
    "similar": "vggfeat.stages.similar",
    "svm": "vggfeat.stages.svm",
    "train": "vggfeat.stages.train",
}
"""Public name -> the module that defines it."""

_MODULES = ("boxes", "errors", "metrics")
"""Modules that are public as a whole."""

__all__ = [
    "VGG",
    "Dataset",
    "LinearSVM",
    "Rounds",
    "Sample",
    "VGGFeatures",
    "__version__",
    "boxes",
    "errors",
    "evaluate",
    "evaluate_files",
    "export",
    "extract",
    "load_dataset",
    "load_net",
    "load_training_set",
    "localise",
    "merge",
    "metrics",
    "predict",
    "read_descriptors",
    "similar",
    "svm",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(_importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return _importlib.import_module(f"vggfeat.{name}")
    raise AttributeError(f"module 'vggfeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
