"""Checks a source distribution and a wheel: what is in them and what they say. Usage: check_dist.py FOLDER"""

import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

folder = Path(sys.argv[1])
(wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")

with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    said = message_from_bytes(archive.read(metadata))
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
    *(f"the source distribution lacks {name}" for name in sorted({*modules, *beside} - files)),
    *(
        f"the metadata lack {name}"
        for name in ("Name", "Version", "License-Expression", "Requires-Python")
        if not said[name]
    ),
]
sys.exit("\n".join(wrong) or 0)
