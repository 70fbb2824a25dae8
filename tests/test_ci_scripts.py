"""What .ci's scripts refuse, and that .ci/versions runs wherever its folder lies."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci"
FILES = {"vggfeat/__init__.py": "x = 1\n", "vggfeat/py.typed": "", "vggfeat/LICENSE": "MIT\n"}
METADATA = "Name: vggfeat\nVersion: 1\nLicense-Expression: MIT\nRequires-Python: >=3.11\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project; returns a function that writes its distributions without some files, and installs them."""
    source = {**FILES, "README.md": "", "CHANGELOG.md": "", "pyproject.toml": "", "tests/test_a.py": ""}
    for name, text in {**source, ".ci/run": "", "recipes/a.toml": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)

    def distribute(missing_in_source=(), missing_in_wheel=(), installed=None):
        dist, site = tmp_path / "dist", tmp_path / "site"
        dist.mkdir()
        files = {name: text for name, text in FILES.items() if name not in missing_in_wheel}
        files["vggfeat-1.dist-info/METADATA"] = METADATA
        with zipfile.ZipFile(dist / "vggfeat-1-py3-none-any.whl", "w") as wheel:
            for name, text in {**files, "vggfeat-1.dist-info/RECORD": record(files)}.items():
                wheel.writestr(name, text)
        with tarfile.open(dist / "vggfeat-1.tar.gz", "w:gz") as archive:
            for path in sorted(tmp_path.rglob("*")):
                name = str(path.relative_to(tmp_path))
                if path.is_file() and not name.startswith("dist/") and name not in missing_in_source:
                    archive.add(path, f"vggfeat-1/{name}")
        (site / "vggfeat-1.dist-info").mkdir(parents=True)
        (site / "vggfeat-1.dist-info" / "METADATA").write_text(METADATA)
        by_pip = {**files, **(installed or {}), "../bin/vggfeat": "", "vggfeat-1.dist-info/INSTALLER": "pip"}
        (site / "vggfeat-1.dist-info" / "RECORD").write_text(record(by_pip))
        command = [sys.executable, str(CI / "check_dist.py"), "dist", "--installed"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)})
        return done.returncode, done.stderr.splitlines()

    return distribute


def record(files: dict[str, str]) -> str:
    digests = {name: hashlib.sha256(text.encode()).digest() for name, text in files.items()}
    rows = [f"{name},sha256={base64.urlsafe_b64encode(value).decode()}," for name, value in digests.items()]
    return "\n".join([*rows, "vggfeat-1.dist-info/RECORD,,", ""])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"missing_in_source": ["vggfeat/py.typed"]}, ["the source distribution lacks vggfeat/py.typed"]),
        ({"missing_in_source": ["recipes/a.toml"]}, ["the source distribution lacks recipes/a.toml"]),
        (
            {"missing_in_wheel": ["vggfeat/py.typed"], "installed": {"vggfeat/py.typed": ""}},
            ["the wheel lacks vggfeat/py.typed", "the wheel and what is installed differ in vggfeat/py.typed"],
        ),
        (
            {"installed": {"vggfeat/old.py": "", "vggfeat/LICENSE": "other"}},
            [f"the wheel and what is installed differ in vggfeat/{name}" for name in ("LICENSE", "old.py")],
        ),
    ],
)
def test_a_distribution_that_lacks_or_adds_a_file_is_refused(project, options, said):
    assert project(**options) == (int(bool(said)), said)


UV = """#!/bin/sh
case $1 in
venv) mkdir -p "$VIRTUAL_ENV/bin"
    printf '#!/bin/sh\\necho "torch 2.4"\\n' >"$VIRTUAL_ENV/bin/python"
    printf '#!/bin/sh\\necho "== $# tests in $(basename "$PWD") =="\\n' >"$VIRTUAL_ENV/bin/pytest"
    chmod +x "$VIRTUAL_ENV/bin/python" "$VIRTUAL_ENV/bin/pytest" ;;
pip) echo "$@" >>"$UV_LOG" ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_versions_keeps_its_environments_in_a_relative_folder(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text(UV)
    (tmp_path / "bin" / "uv").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "VERSIONS_DIR": "kept"}
    environment |= {"UV_LOG": str(tmp_path / "log"), "PYTHON": "python3"}
    environment.pop("SETS", None)  # .ci/versions may be running this very test

    def versions(**more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(CI / "versions"), "tests/test_a.py"]
        return subprocess.run(command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True)

    done = versions()
    assert done.returncode == 0, done.stderr
    name = CI.parent.name
    assert done.stdout.splitlines()[-2:] == [
        f"| {way} | torch 2.4 |  4 tests in {name}  |" for way in ("lowest", "newest")
    ]
    asked = re.findall(r"--resolution (\S+)", (tmp_path / "log").read_text())
    assert asked == ["lowest-direct", "highest"]
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"lowest", "newest"}
    assert versions(SETS="oldest").stderr == "no set 'oldest'; valid: lowest, newest\n"


def test_the_scripts_keep_to_the_bash_of_macos():
    for name in ("run", "versions"):
        text = (CI / name).read_text()
        assert not any(word in text for word in ("declare -A", "mapfile", "readarray", "${!", ",,}", "^^}")), name
