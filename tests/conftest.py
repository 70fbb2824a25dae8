"""What several tests share: real data where it lies beside the checkout, small nets, small pictures."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Set before anything imports torch or keras: no test may fetch, and Keras runs on torch here.
os.environ["VGGFEAT_OFFLINE"] = "1"
os.environ["KERAS_BACKEND"] = "torch"
for name in ("VGGFEAT_DATA", "VGGFEAT_CACHE"):
    os.environ.pop(name, None)

# A shell starts `command &` with SIGINT ignored, and the processes that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The real data sets beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets (shared/data beside the checkout) are not here")
    return SHARED_DATA


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six small JPEGs of different sizes with structure in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(60, 40), (40, 60), (50, 50), (60, 40), (80, 30), (33, 47)]):
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)
    return folder


@pytest.fixture
def held_open(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Path.replace as on Windows, where a file that a program holds open cannot be replaced; returns the held paths."""
    held: set[Path] = set()
    replace = Path.replace

    def refusing(self: Path, target: Path) -> Path:
        if Path(target) in held:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return held


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The full counts run on request alone: `pytest -m slow`."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="a full count: pytest -m slow"))
