"""Checks a source distribution and a wheel: what is in them and what they say. Usage: check_dist.py FOLDER

The wheel is compared with the vggfeat that is installed here, byte by byte, so what that one has shown holds for it.
"""

import csv
import io
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import files as installed_files
from pathlib import Path

folder = Path(sys.argv[1])
(wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")

with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    said = message_from_bytes(archive.read(metadata))
    (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
    listed = csv.reader(io.StringIO(archive.read(record).decode()))
    hashes = {name: its.partition("=")[2] for name, its, _ in listed if name.startswith("vggfeat/")}
here = {str(path): path.hash.value for path in installed_files("vggfeat") or () if path.hash}
with tarfile.open(source) as archive:
    files = {name.partition("/")[2] for name in archive.getnames()}

modules = {str(path) for path in Path("vggfeat").rglob("*.py")}
# What the tests need beside the package: their helpers and golden files, the recipes and pages that they read.
beside = {
    *(str(path) for folder in ("tests", "recipes", ".ci") for path in Path(folder).rglob("*") if path.is_file()),
    *("README.md", "CHANGELOG.md", "pyproject.toml"),
}
beside = {name for name in beside if "__pycache__" not in name}
wrong = [
    *(f"the wheel lacks {name}" for name in sorted({*modules, "vggfeat/py.typed", "vggfeat/LICENSE"} - names)),
    *(f"the wheel has {name}" for name in sorted(names) if not name.startswith(("vggfeat/", "vggfeat-"))),
    *(f"the wheel has another {name} than is installed" for name, its in hashes.items() if here.get(name) != its),
    *(
        f"the source distribution lacks {name}"
        for name in sorted({*modules, *beside, "vggfeat/py.typed", "vggfeat/LICENSE"} - files)
    ),
    *(
        f"the metadata lack {name}"
        for name in ("Name", "Version", "License-Expression", "Requires-Python")
        if not said[name]
    ),
]
sys.exit("\n".join(wrong) or 0)
