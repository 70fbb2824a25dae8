"""Imports only point down: cli -> stages, report, recipe; stages -> the core; stages never import each other."""

import ast
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
    """Every module that a file names in an import, at its top or inside a function; type-checking blocks apart."""
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
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


def layer(module: str) -> str:
    parts = module.split(".")
    if parts[:2] == ["vggfeat", "cli"] or module in ("vggfeat", "vggfeat.__main__"):
        return "cli"
    if parts[:2] == ["vggfeat", "stages"]:
        return "stages"
    return "report" if module in REPORT else "core"


REPORT = {"vggfeat.report", "vggfeat.trainreport"}
OURS = {module: {name for name in imports(module) if name in FILES} for module in FILES}
TOP = {module: {name.split(".")[0] for name in imports(module)} for module in FILES}


def offenders(layers: set[str], forbidden: set[str], of=TOP, but=frozenset()) -> list[str]:
    return [
        f"{module} imports {name}"
        for module in FILES
        if layer(module) in layers and module not in but
        for name in sorted(of[module] & forbidden)
    ]


def test_the_parser_sees_the_imports():
    assert "vggfeat.networks" in OURS["vggfeat.dense"]
    assert "click" in TOP["vggfeat.cli.extract"]
    assert "vggfeat.stages.extract" in OURS["vggfeat.cli.extract"], "imports inside functions count"


def test_the_core_and_the_stages_know_no_click_and_no_rich():
    assert offenders({"core", "stages"}, {"click", "rich"}) == []


def test_stages_never_import_each_other():
    stages = {module for module in FILES if layer(module) == "stages"}
    assert offenders({"stages"}, stages, of=OURS) == []


def test_nothing_below_imports_what_is_above():
    above = {module for module in FILES if layer(module) in ("cli", "report")}
    stages = {module for module in FILES if layer(module) == "stages"}
    assert offenders({"stages"}, above, of=OURS) == []
    assert offenders({"core"}, above | stages, of=OURS) == []
    assert offenders({"report"}, {m for m in FILES if layer(m) == "cli"} | stages, of=OURS) == []


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
    assert [module for module in FILES if "PIL" in TOP[module]] == ["vggfeat.images"]


def test_few_files_know_hdf5():
    readers = {"vggfeat.hdf5", "vggfeat.model", "vggfeat.formats.keras_h5", "vggfeat.stages.info"}
    store = {module for module in FILES if module.startswith("vggfeat.store")}
    assert {module for module in FILES if "h5py" in TOP[module]} <= readers | store


def test_torchvision_is_a_yardstick_only():
    assert [module for module in FILES if "torchvision" in TOP[module]] == ["vggfeat.yardsticks"]


@pytest.mark.parametrize(
    "args",
    [["--help"], ["extract", "--help"], ["train", "--help"], ["evaluate", "--help"], ["svm", "--help"], ["nets"], ["extract", "--scales", "x"],
     ["extract", "missing.jpg"], ["nosuch"], ["--version"], ["svm", "--dataset", "caltech256"], ["train", "--net", "E"]],
)  # fmt: skip
def test_help_and_wrong_arguments_are_answered_without_torch(args, tmp_path):
    code = (
        "import sys; from vggfeat.cli import run; run(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code, *args], check=True, cwd=tmp_path, capture_output=True)
