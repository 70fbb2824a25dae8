"""Imports only point down, from the command line to the errors; the rooms of the package are those that it describes."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vggfeat

ROOT = Path(vggfeat.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Every module that a file names in an import: at its top, inside a function, or for the type checker alone."""
    tree = ast.parse(FILES[module].read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in FILES else node.module
                for alias in node.names
            }
    return found


FLOORS = (
    {"cli"},
    {"stages"},
    {"page"},
    {"inference"},
    {"classifiers"},
    {"store"},
    {"training"},
    {"datasets"},
    {"nets"},
    {"system"},
    {"metrics"},
    {"boxes"},
    {"errors", "results", "_version"},
)
"""The rooms from the top floor down. A room may import rooms on lower floors, never one beside or above it."""

DOORS = ("vggfeat", "vggfeat.__main__")
"""The package's own names, imported on first use, and `python -m vggfeat`: they lead to every floor."""


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


OURS = {module: {name for name in imports(module) if name in FILES} for module in FILES}
TOP = {module: {name.split(".")[0] for name in imports(module)} for module in FILES}


INSIDE = [module for module in FILES if module not in DOORS]


def test_the_parser_sees_the_imports():
    assert "vggfeat.nets.networks" in OURS["vggfeat.inference.dense"]
    assert "click" in TOP["vggfeat.cli.extract"]
    assert "vggfeat.stages.extract" in OURS["vggfeat.cli.extract"], "imports inside functions count"


def test_every_entry_of_the_package_is_a_room_on_a_floor():
    entries = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert entries - {"__init__", "__main__"} == set.union(*FLOORS)


def test_the_package_describes_each_of_its_rooms_in_a_line():
    described = set(re.findall(r"^    (\w+)  +\S", vggfeat.__doc__, re.M))
    assert described == set.union(*FLOORS) - {"_version"}


def test_imports_only_point_down():
    upward = [
        f"{module} imports {name}"
        for module in INSIDE
        for name in sorted(OURS[module] - {"vggfeat"})
        if room(name) != room(module) and floor(name) <= floor(module)
    ]
    assert upward == []


def test_below_the_command_line_nothing_knows_click_or_rich():
    knowing = [module for module in INSIDE if room(module) != "cli" and TOP[module] & {"click", "rich"}]
    assert knowing == []


def test_stages_never_import_each_other():
    """`stages/bench` is one stage of several files."""

    def verb(module: str) -> str:
        return ".".join(module.split(".")[:3])

    stages = [module for module in INSIDE if room(module) == "stages"]
    across = [
        f"{module} imports {name}"
        for module in stages
        for name in sorted(OURS[module])
        if name != "vggfeat" and room(name) == "stages" and verb(name) != verb(module)
    ]
    assert across == []


def test_imports_have_no_cycles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in sorted(OURS[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in FILES:
        if module != "vggfeat":  # the package's own names are lazy
            visit(module, ())


def test_only_images_opens_pictures():
    assert [module for module in FILES if "PIL" in TOP[module]] == [
        "vggfeat.datasets.images",
        "vggfeat.datasets.pixels",
    ]


def test_few_files_know_hdf5():
    readers = {
        "vggfeat.system.hdf5",
        "vggfeat.classifiers.model_file",
        "vggfeat.nets.formats.keras_h5",
        "vggfeat.nets.formats.keras_v3",
        "vggfeat.nets.formats.matconvnet",
        "vggfeat.nets.formats.own_hdf5",
        "vggfeat.stages.info",
    }
    store = {module for module in FILES if module.startswith("vggfeat.store")}
    assert {module for module in FILES if "h5py" in TOP[module]} <= readers | store


def test_torchvision_is_a_yardstick_only():
    assert [module for module in FILES if "torchvision" in TOP[module]] == ["vggfeat.stages.bench.yardsticks"]


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["extract", "--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["svm", "--help"],
        ["nets"],
        ["extract", "--scales", "x"],
        ["extract", "missing.jpg"],
        ["extract", "photo.jpg", "--net", "D", "--layer", "conv5_4"],
        ["extract", "photo.jpg", "-o", "there.h5"],
        ["extract", "photo.jpg", "-o", "there.h5", "--resume", "--overwrite"],
        ["nosuch"],
        ["--version"],
        ["svm", "--dataset", "caltech256"],
        ["train", "--net", "E"],
        ["predict", "missing.h5", "photo.jpg"],
        ["predict", "there.h5", "photo.jpg"],
    ],
)
def test_help_and_wrong_arguments_are_answered_without_torch(args, tmp_path):
    for name in ("photo.jpg", "there.h5"):
        (tmp_path / name).touch()
    code = (
        "import sys; from vggfeat.cli import run; run(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code, *args], check=True, cwd=tmp_path, capture_output=True)
