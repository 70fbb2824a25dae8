"""Errors that follow from names and options alone come before torch and scikit-learn, which take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

RUN = """
import contextlib, io, json, sys
from vggfeat.cli import run

answers = []
for command in json.load(sys.stdin):
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        code = run(command)
    slow = [name for name in ("torch", "torchvision", "sklearn", "scipy") if name in sys.modules]
    answers.append([code, text.getvalue().strip(), slow])
print(json.dumps(answers))
"""

PICTURE = "picture.jpg"

FAILING = {
    "svm": (2, "no descriptors"),
    "svm none.h5": (1, "none.h5: no such file"),
    "svm junk.h5": (1, "junk.h5 is not a descriptor file (not HDF5)"),
    "svm --dataset caltech256": (2, "no descriptors/caltech256-*.h5 here"),
    "extract none.jpg": (2, "none.jpg: no such file or folder"),
    "extract --dataset caltech101 --data nowhere": (1, "no caltech101 at nowhere"),
    "extract --list none.txt": (1, "none.txt: this list cannot be read"),
    f"extract {PICTURE} --weights none -o junk.h5": (1, "junk.h5 exists"),
    f"extract {PICTURE} --weights none.pt": (2, "no weights 'none.pt': no such file"),
    f"extract {PICTURE} --weights .": (1, ".: not a regular file; expected a weights file"),
    f"extract {PICTURE} --net C": (2, "no weights of net C are published"),
    f"extract {PICTURE} --width 0.5": (2, "published weights have width 1, not 0.5"),
    f"extract {PICTURE} --offline": (1, "are not in the cache, and fetching is forbidden"),
    f"extract {PICTURE} --weights none --scales 100": (2, "scale 100 is under 224"),
    f"extract {PICTURE} --weights none --preprocessing none.toml": (2, "no preprocessing 'none.toml'"),
    f"extract {PICTURE} --net D --net E --weights none --weights none --weights none": (2, "2 nets and 3 weights"),
    "evaluate --data nowhere --weights none": (1, "no ilsvrc2012 at nowhere"),
    "evaluate --dataset folder --data tree --subset all --weights none.pt": (2, "no weights 'none.pt': no such file"),
    "localise --weights none.pt": (2, "protocol 2 takes its classes from"),
    "localise --protocol 1 --weights none.pt --data nowhere": (1, "no ilsvrc2012 at nowhere"),
    "train --net E --data nowhere": (1, "no ilsvrc2012 at nowhere"),
    "train --recipe none.toml": (2, "none.toml: this recipe cannot be read"),
    f"predict none.h5 {PICTURE}": (1, "none.h5: no such file"),
    f"predict none.pt {PICTURE}": (1, "none.pt: no such file"),
    f"predict junk.h5 {PICTURE}": (1, "junk.h5 is not a model of vggfeat's"),
    "similar none.h5": (1, "none.h5: no such file"),
    f"similar junk.h5 {PICTURE}": (1, "junk.h5 is not a descriptor file (not HDF5)"),
    "info none.h5": (1, "none.h5: no such file"),
    "merge none.h5 -o all.h5": (1, "none.h5: no such file"),
    "export none.h5 -o all.npy": (1, "none.h5: no such file"),
    "download --net C": (2, "no weights of net C are published"),
    "bench svm --size vast": (2, "'vast' is not one of"),
    "bench extract --net Q": (2, "no net 'Q'"),
}
"""Command -> its exit code, and words of its one line on stderr."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each command answers, and the slow packages that were imported by then, all in one process."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "junk.h5").write_text("junk")
    for name in (PICTURE, "tree/cat/1.jpg", "tree/dog/1.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 260)).save(path)
    commands = [command.split() for command in FAILING]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(commands), capture_output=True, text=True, cwd=folder, check=True
    )
    return dict(zip(FAILING, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", FAILING)
def test_what_names_and_options_tell_is_told_before_slow_imports(command, answers):
    code, text, slow = answers[command]
    assert (code, slow) == (FAILING[command][0], [])
    assert FAILING[command][1] in text
    assert len(text.splitlines()) == 1
