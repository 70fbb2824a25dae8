"""`import vggfeat`: the public names and nothing else, imported on first use, and at the paths that README published."""

import importlib
import inspect
import subprocess
import sys
import types

import pytest

import vggfeat

FUNCTIONS = {
    "evaluate",
    "export",
    "extract",
    "load_net",
    "localise",
    "merge",
    "predict",
    "read_descriptors",
    "similar",
    "svm",
    "train",
}
CLASSES = {"LinearSVM", "VGG", "VGGFeatures"}
MODULES = {"boxes", "metrics"}


def test_dir_is_the_public_interface_and_nothing_else():
    import vggfeat.stages.svm  # a room that is imported shows no more than before

    assert set(dir(vggfeat)) == FUNCTIONS | CLASSES | MODULES | {"__version__"}
    assert dir(vggfeat) == sorted(vggfeat.__all__)


def test_every_public_name_is_what_it_says():
    assert all(inspect.isfunction(getattr(vggfeat, name)) for name in FUNCTIONS)
    assert all(inspect.isclass(getattr(vggfeat, name)) for name in CLASSES)
    assert all(isinstance(getattr(vggfeat, name), types.ModuleType) for name in MODULES)


@pytest.mark.parametrize("name", sorted(FUNCTIONS | CLASSES))
def test_help_describes_every_public_function_and_class(name):
    thing = getattr(vggfeat, name)
    text = inspect.getdoc(thing)
    assert text
    first = text.splitlines()[0]
    assert first.endswith((".", ":")), "a sentence"
    function = thing.__init__ if inspect.isclass(thing) else thing
    undescribed = [
        parameter
        for parameter in inspect.signature(function).parameters
        if parameter not in ("self", "options") and parameter not in text
    ]
    assert undescribed == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("vggfeat.stages.svm", "svm"),
        ("vggfeat.stages.predict", "predict"),
        ("vggfeat.stages.train", "train"),
        ("vggfeat.stages.extract", "extract"),
        ("vggfeat.stages.evaluate", "evaluate"),
    ],
)
def test_published_import_paths_lead_to_the_same_functions(module, name):
    assert getattr(importlib.import_module(module), name) is getattr(vggfeat, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'vggfeat' has no attribute 'extrct'$"):
        vggfeat.extrct  # noqa: B018


@pytest.mark.parametrize("code", ["import vggfeat; dir(vggfeat)", "from vggfeat import boxes, metrics"])
def test_the_package_and_its_light_modules_import_no_torch(code):
    check = f"{code}\nimport sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
