"""Runs over very many images: memory stays flat, and files and threads do not pile up."""

from __future__ import annotations

import gc
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from making import two_classes
from PIL import Image

import vggfeat
from vggfeat.datasets import decoding, images
from vggfeat.datasets.folder import load_folder
from vggfeat.datasets.listing import from_paths
from vggfeat.errors import OutageError, StoreError
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.page import pictures
from vggfeat.training import crops
from vggfeat.training.augment import CentreView

PEAK = """
import resource, sys
from vggfeat.datasets import Dataset, Sample
import vggfeat
samples = tuple(Sample(f"{i:07}", f"{i % 20}.jpg") for i in range(int(sys.argv[1])))
vggfeat.extract(
    Dataset("many", samples), net="A", weights=None, width=1 / 16, scales=[224], flip=False, precision="fp32",
    output=sys.argv[2], overwrite=True,
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

HEADROOM = 32_000
"""KiB that the longer run may need more: its list of ids, and what the allocator happens to hold."""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize(
    ("few", "many"), [(100, 1000), pytest.param(2000, 20_000, marks=pytest.mark.slow)], ids=["1000", "20000"]
)
def test_ten_times_the_images_need_no_more_memory(tmp_path: Path, few: int, many: int) -> None:
    """20 pictures of 20 sizes, listed over and over under other ids."""
    rng = np.random.default_rng(0)
    for i in range(20):
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        size = (40 + 3 * i, 40) if i % 2 else (40, 40 + i)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{i}.jpg")
    peaks = []
    for count in (few, many):
        words = [sys.executable, "-c", PEAK, str(count), "a.h5"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert (vggfeat.read_descriptors(tmp_path / "a.h5").status == 1).sum() == many
    print(f"peak KiB: {peaks[0]} for {few} images, {peaks[1]} for {many}")
    assert peaks[1] - peaks[0] < HEADROOM, peaks


def held() -> tuple[list[str], list[str]]:
    """The files and the threads that this process has."""
    gc.collect()
    files = []
    for handle in Path("/proc/self/fd").iterdir():
        if handle.exists():  # not the handle of this listing itself
            files.append(str(handle.readlink()))
    return sorted(files), sorted(thread.name for thread in threading.enumerate())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_repeated_runs_hold_no_more_files_and_threads_than_one(photos: Path, tmp_path: Path) -> None:
    """Sound runs and all kinds of ends: broken pictures, a file that exists, an interrupt, a lost disk."""
    net = glorot_(VGG("A", width=1 / 16)).eval()
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(tmp_path / f"a.{suffix}", mode) as tar:  # type: ignore[call-overload]
            for path in sorted(photos.iterdir()):
                tar.add(path, path.name)
    (photos / "broken.jpg").write_text("no picture")
    out = tmp_path / "a.h5"
    options = {"net": net, "scales": [224], "flip": False, "output": out, "workers": 3}

    def interrupt(done: int, total: int, failed: int) -> None:
        raise KeyboardInterrupt

    def all_kinds() -> None:
        images = [photos, tmp_path / "a.tar", tmp_path / "a.tar.gz"]
        vggfeat.extract(images, overwrite=True, **options)  # type: ignore[arg-type]
        with pytest.raises(StoreError):
            vggfeat.extract(images, **options)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            vggfeat.extract(images, overwrite=True, progress=interrupt, **options)  # type: ignore[arg-type]
        gone = [tmp_path / f"gone{i}.jpg" for i in range(5)]
        with pytest.raises(OutageError):
            dataset = vggfeat.datasets.Dataset(
                "images", tuple(vggfeat.datasets.Sample(str(path), str(path)) for path in gone)
            )
            vggfeat.extract(dataset, overwrite=True, max_read_failures=5, **options)  # type: ignore[arg-type]

    all_kinds()
    before = held()
    for _ in range(4):
        all_kinds()
    assert held() == before


def test_a_picture_that_is_not_read_for_minutes_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for a second, with a patience of a tenth; the others, which are read at once, are not named."""
    decode = images.decode

    def slow(source: str, **options: bool) -> images.RGBImage:
        if source.endswith("4.jpg"):
            time.sleep(1)
        return decode(source, **options)

    monkeypatch.setattr(images, "decode", slow)
    samples = from_paths([str(photos)]).samples
    extractor = Extractor([glorot_(VGG("A", width=1 / 16)).eval()], DescriptorSettings((224,)), workers=6)
    ((rows, described),) = describe_blocks(extractor, samples, [range(6)], patience=0.1)
    extractor.close()
    assert rows == range(6) and not described.failures
    said = [record.getMessage() for record in caplog.records if "still reading" in record.getMessage()]
    assert said[-1].startswith(f"still reading {photos / '4.jpg'} after ")
    assert said[-1].endswith(" s; the run ends after 1800")
    assert not any(str(photos / "5.jpg") in text for text in said[2:])


HANGING = """
import sys, threading
from vggfeat.datasets import decoding
from vggfeat.datasets import images
from vggfeat.inference import blocks as pipeline
from vggfeat.cli import main
decode = images.decode
images.decode = lambda source, **options: threading.Event().wait() if "hangs" in source else decode(source, **options)
pipeline.PATIENCE, pipeline.READ_TIMEOUT, decoding.SHUTDOWN_GRACE = 0.1, 0.5, 0.1
main(sys.argv[1:])
"""


def hung(command: list[str]) -> str:
    """The last word of a command that a picture stops which is never read."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, *command, "--workers", "2"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1, ended.stderr
    return ended.stderr.splitlines()[-1].removeprefix("vggfeat: ")


def test_an_evaluation_that_keeps_no_file_begins_again_after_a_picture_that_is_never_read(tmp_path: Path) -> None:
    tree = two_classes(tmp_path / "tree", 6)
    (tree / "a" / "04.png").rename(tree / "a" / "hangs.png")
    glorot_(VGG("A", width=1 / 16, num_classes=2, class_names=("a", "b"))).save(tmp_path / "net.pt")
    command = ["evaluate", "--dataset", "folder", "--data", str(tree), "--subset", "all", "--scales", "224"]
    assert hung([*command, "--weights", str(tmp_path / "net.pt")]) == (
        "a/hangs.png: not read in 0 minutes, its disk does not answer: when the disk is back, run it again"
    )


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pictures called 02 are not read before the test ends; whoever waits does so for two seconds."""
    end, decode = threading.Event(), images.decode

    def hanging(source: str, **options: bool) -> images.RGBImage:
        if Path(source).stem == "02":
            end.wait()
        return decode(source, **options)

    for owner in (images, crops):
        monkeypatch.setattr(owner, "decode", hanging)
    monkeypatch.setattr(crops, "READ_TIMEOUT", 2.0)
    monkeypatch.setattr(pictures, "SLOW", 2.0)
    monkeypatch.setattr(decoding, "SHUTDOWN_GRACE", 0.1)
    yield
    end.set()


def test_training_names_the_picture_that_is_never_read(never: None, tmp_path: Path) -> None:
    samples = load_folder(two_classes(tmp_path / "tree", 20)).samples
    words = r"not read in 0 minutes, its disk does not answer: when the disk is back, run it again with `resume`"
    with pytest.raises(OutageError, match=rf"^a/02\.png: {words}$"):
        crops.colours_of(samples, 0, exif=False, workers=2)
    loader = crops.CropLoader(CentreView(224), "bilinear", exif=False, workers=2)
    batches = loader.batches([[crops.Job(sample, position=i) for i, sample in enumerate(samples)]])
    with pytest.raises(OutageError, match=rf"^a/00\.png or a/02\.png or .* or a/14\.png: {words}$"):
        next(batches)


def test_a_page_does_without_the_pictures_that_are_never_read(never: None, tmp_path: Path) -> None:
    samples = load_folder(two_classes(tmp_path / "tree", 6)).samples
    shown = pictures.Pictures(samples)
    shown.prepare(["a/00.png", "b/01.png", "a/02.png", "b/03.png"])
    assert shown.failures() == {"a/02.png": "not read in 2 s: the disk does not answer"}
    assert "data:image/jpeg" in str(shown.show("b/03.png"))


def test_a_picture_that_is_never_read_ends_the_run_with_what_is_done_kept(photos: Path, tmp_path: Path) -> None:
    """Twenty pictures, of which the eighteenth hangs: the first block of sixteen is done."""
    listed = [str(photos / f"{i % 4}.jpg") for i in range(20)]
    listed[17] = str(photos / "hangs.jpg")
    (photos / "hangs.jpg").write_bytes((photos / "0.jpg").read_bytes())
    lines = "".join(f"{i}\t{path}\n" for i, path in enumerate(listed))
    (tmp_path / "list.txt").write_text(lines)
    flags = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--no-flip"]
    command = ["extract", "--list", str(tmp_path / "list.txt"), *flags, "-o", str(tmp_path / "a.h5")]
    assert (
        hung(command)
        == "17: not read in 0 minutes, its disk does not answer: when the disk is back, run it again with --resume"
    )
    assert (vggfeat.read_descriptors(tmp_path / "a.h5").status == 1).sum() == 16
