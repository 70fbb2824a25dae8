"""`import vggfeat`: the public names and nothing else, imported on first use, and at the paths that README published."""

import importlib
import inspect
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import vggfeat
from vggfeat.system.arguments import checked_flags

FUNCTIONS = {
    "evaluate",
    "evaluate_files",
    "export",
    "extract",
    "load_dataset",
    "load_net",
    "load_training_set",
    "localise",
    "merge",
    "predict",
    "read_descriptors",
    "similar",
    "svm",
    "train",
}
CLASSES = {"Dataset", "LinearSVM", "Rounds", "Sample", "VGG", "VGGFeatures"}
MODULES = {"boxes", "errors", "metrics"}


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
        if parameter != "self" and parameter not in text
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


def members(thing):
    """What a class has in public, apart from scikit-learn's own requests for metadata."""
    found = vars(thing).items() if inspect.isclass(thing) else ()
    own = [value for name, value in found if not name.startswith("_")]
    return [value for value in own if not str(getattr(value, "__module__", "")).startswith("sklearn")]


def known_words():
    """Parameters of the public functions and classes, and what the classes' instances have."""
    found = set(vggfeat.__all__)
    for name in FUNCTIONS | CLASSES:
        thing = getattr(vggfeat, name)
        found |= set(dir(thing)) if inspect.isclass(thing) else set()
        found |= set(re.findall(r"\bself\.([a-z]\w*)", inspect.getsource(thing))) if inspect.isclass(thing) else set()
        for function in [thing, *filter(inspect.isfunction, members(thing))]:
            found |= set(inspect.signature(function).parameters)
    return found


def imports(path):
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def test_names_in_the_public_docstrings_are_words_of_the_interface_or_can_be_imported():
    known = known_words()
    texts = {
        name: "\n".join(inspect.getdoc(one) or "" for one in [getattr(vggfeat, name), *members(getattr(vggfeat, name))])
        for name in FUNCTIONS | CLASSES
    }
    named = {
        (name, word) for name, text in texts.items() for word in re.findall(r"`([A-Za-z_][\w.]*)\b[^`/*<]*`", text)
    }
    lost = {
        (name, word)
        for name, word in named
        if word not in known and not (word.startswith("vggfeat.") and imports(word))
    }
    assert lost == OTHERS


OTHERS = {
    ("VGG", "features.N"),
    ("export", "label"),
    ("predict", "scores"),
    ("predict", "best"),
    ("train", "augment.crops"),
    ("train", "init.checkpoint"),
}
"""Names that are another thing's: of tensors, of columns, of a prediction, keys of a recipe."""


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_an_unknown_keyword_is_named_with_the_function_that_was_called(name):
    """As Python's own error says it, whatever the function hands on."""
    function = getattr(vggfeat, name)
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
    ]
    given = {parameter.name: "x" for parameter in needed}
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'colour'"):
        function(**given, colour=1)


def flags_of(name):
    parameters = inspect.signature(getattr(vggfeat, name)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.annotation in ("bool", "bool | None")]


FLAGGED = [(name, flag) for name in sorted(FUNCTIONS) for flag in flags_of(name)]


@pytest.mark.parametrize(("name", "flag"), FLAGGED, ids=[f"{name}-{flag}" for name, flag in FLAGGED])
def test_a_flag_takes_true_and_false_alone(name, flag):
    with pytest.raises(vggfeat.errors.UsageError, match=f"^`{flag}` 'no' is not True or False$"):
        getattr(vggfeat, name)(**{flag: "no"})


def test_numbers_that_are_true_or_false_count_as_flags():
    checked_flags(a=np.True_, b=np.False_, c=1, d=0, e=None, f=True)
    for value in ("", 2, 1.0, [], np.array([True])):
        with pytest.raises(vggfeat.errors.UsageError):
            checked_flags(flag=value)
