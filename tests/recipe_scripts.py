"""Running the scripts of recipes/ with a stand-in for vggfeat, which writes what each verb would have."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"

STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
args, code = sys.argv[1:], 0
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(args) + "\\n")
out = pathlib.Path(args[args.index("-o") + 1]) if "-o" in args else None
if args[0] == "train":
    out.mkdir(exist_ok=True)
    out = out / "best.pt"
if out:
    out.touch()
if args[0] == os.environ.get("SKIPPING"):
    code = 3
if "--json" in args:
    print(json.dumps({{"mean": 0.5, "std": 0.01, "rows": [{{"top1_error": 60.0, "top5_error": 30.0}}]}}))
sys.exit(code)
"""
"""Writes what the verb would have, and its arguments into a list."""


def stand_in_machine(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a run: two classes of two images as tin100's archives have them, and the stand-in."""
    program = folder / "bin" / "vggfeat"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    for name in ("train-0", "val"):
        with tarfile.open(folder / f"tin100-{name}.tar.gz", "w:gz") as archive:
            for image in ("n1/val_1.JPEG", "n1/val_2.JPEG", "n2/val_3.JPEG", "n2/val_4.JPEG"):
                archive.addfile(tarfile.TarInfo(f"{name[:5].rstrip('-')}/{image}"), io.BytesIO())
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "TIN100": str(folder), "CALLS": str(folder / "calls"), **settings}


class Script:
    """A script of recipes/ in such an environment."""

    def __init__(self, name: str, machine: dict[str, str]) -> None:
        self._file, self._machine = RECIPES / name, machine

    def begun(self, out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """A run into a folder given as a user would, from the folder that it is to be in."""
        Path(self._machine["CALLS"]).write_text("")
        words = ["bash", str(self._file), out.name]
        return subprocess.run(words, env=self._machine | settings, cwd=out.parent, capture_output=True, text=True)

    def made(self, out: Path, **settings: str) -> list[list[str]]:
        """The commands of one run."""
        done = self.begun(out, **settings)
        assert (done.returncode, done.stderr) == (0, "")
        return self.calls()

    def calls(self) -> list[list[str]]:
        """The commands so far."""
        return [json.loads(line) for line in Path(self._machine["CALLS"]).read_text().splitlines()]
