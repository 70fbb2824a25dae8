"""Checks a source distribution and a wheel: what is in them and what they say.

Usage: check_dist.py FOLDER [--installed], where --installed asks whether this Python's vggfeat has the wheel's files.
"""

import csv
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

BY_THE_INSTALLER = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")


def hashes(record: Iterable[str]) -> dict[str, str]:
    """The files of a RECORD with their hashes, without what differs by the way of installing."""
    rows = {name: digest for name, digest, _ in csv.reader(record) if name.startswith("vggfeat")}
    return {
        name: digest
        for name, digest in rows.items()
        if "__pycache__" not in name and name.rpartition("/")[2] not in BY_THE_INSTALLER
    }


folder = Path(sys.argv[1])
(wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")

with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    said = message_from_bytes(archive.read(metadata))
    (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
    of_wheel = hashes(archive.read(record).decode().splitlines())
with tarfile.open(source) as archive:
    files = {name.partition("/")[2] for name in archive.getnames()}

installed = of_wheel
if "--installed" in sys.argv:
    installed = hashes((distribution("vggfeat").read_text("RECORD") or "").splitlines())
differing = sorted({name for name, _ in of_wheel.items() ^ installed.items()})

modules = {str(path) for path in Path("vggfeat").rglob("*.py")}
# What the tests need beside the package: their helpers and golden files, the recipes and pages that they read.
beside = {
    *(str(path) for folder in ("tests", "recipes", ".ci") for path in Path(folder).rglob("*") if path.is_file()),
    *("README.md", "CHANGELOG.md", "pyproject.toml", "vggfeat/py.typed", "vggfeat/LICENSE"),
}
beside = {name for name in beside if "__pycache__" not in name}
wrong = [
    *(f"the wheel lacks {name}" for name in sorted({*modules, "vggfeat/py.typed", "vggfeat/LICENSE"} - names)),
    *(f"the wheel has {name}" for name in sorted(names) if not name.startswith(("vggfeat/", "vggfeat-"))),
    *(f"the source distribution lacks {name}" for name in sorted({*modules, *beside} - files)),
    *(f"the wheel and what is installed differ in {name}" for name in differing),
    *(
        f"the metadata lack {name}"
        for name in ("Name", "Version", "License-Expression", "Requires-Python")
        if not said[name]
    ),
]
sys.exit("\n".join(wrong) or 0)
