"""Pictures and paths that are odd or broken: each costs its own row at most, and says why."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import odd_images
import pytest
from needs import need

import vggfeat
from vggfeat.datasets.images import decode
from vggfeat.errors import ImageError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.store import DONE, FAILED, PENDING

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224"]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The whole corpus through `extract`, its rows by file name."""
    folder = tmp_path_factory.mktemp("corpus")
    expected = {}
    for name, content, reason in odd_images.corpus():
        (folder / name).write_bytes(content)
        expected[name] = reason
    net = glorot_(VGG("A", width=1 / 16)).eval()
    paths = [str(folder / name) for name in expected]
    made = vggfeat.read_descriptors(vggfeat.extract(paths, net=net, scales=[224], output=folder / "odd.h5"))
    reasons = made.errors()
    rows = {
        Path(id).name: (status, reasons.get(id), values)
        for id, status, values in zip(made.ids, made.status, made.read(), strict=True)
    }
    return SimpleNamespace(expected=expected, rows=rows)


def test_every_odd_picture_has_the_right_status_and_reason(extracted: SimpleNamespace) -> None:
    assert len(extracted.expected) > 60
    for name, reason in extracted.expected.items():
        status, found, values = extracted.rows[name]
        if reason is None:
            assert (status, found) == (DONE, None), f"{name}: {found}"
            assert np.linalg.norm(values) == pytest.approx(1, abs=1e-5), name
        else:
            assert status == FAILED, name
            assert found and found.startswith(reason), f"{name}: {found}"
            assert np.isnan(values).all()
    cut = [found for name, (_, found, _) in extracted.rows.items() if name.startswith("cut-at-")]
    assert len(cut) > 100 and all(cut)


def test_the_same_picture_in_other_clothes_has_nearly_the_same_descriptor(extracted: SimpleNamespace) -> None:
    plain = extracted.rows["plain.jpg"][2]
    # Adobe's inverted CMYK, a wrong suffix, the first frame of an animation: a picture that was read wrongly (inverted,
    # turned, another frame) is far off.
    for name in (
        "a-jpeg-in-truth.png",
        "progressive.jpg",
        "no-suffix",
        "cmyk-inverted-by-adobe.jpg",
        "bitmap.bmp",
        "animated.png",
        "exif-1.jpg",
        "exif-senseless.jpg",
        "trailing-bytes.jpg",
    ):
        assert plain @ extracted.rows[name][2] > 0.999, name
    assert plain @ extracted.rows["exif-3.jpg"][2] < 0.999, "turned by half, so the check above can fail"


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_jpegs_raise_image_errors_alone(count: int) -> None:
    good, reasons = 0, set()
    for number, data in enumerate(odd_images.fuzzed(count)):
        try:
            picture = decode(data, exif=True)
        except ImageError as error:
            assert str(error), number
            reasons.add(str(error)[:30])
        else:
            assert picture.mode == "RGB" and picture.width * picture.height > 0
            good += 1
    assert 0 < good < count
    assert len(reasons) >= 4


def test_decoding_in_threads_leaves_the_processs_warning_filters_as_they_were() -> None:
    data = odd_images.encoded(odd_images.photo(300, 300))
    before = list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: decode(data), range(1500)))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


ODD_NAMES = [
    b"two words.jpg",
    b" leading and trailing .jpg",
    b"two\nlines.jpg",
    b"tab\tinside.jpg",
    b"caf\xe9 latin-1.jpg",
    "grüße 🎉.jpg".encode(),
    b"[red]markup[bold].jpg",
    b"\x1b[31mcolour.jpg",
    b"-o.jpg",
    b"{1..2}.jpg",
    b"a,b;c.jpg",
    b"'quoted\".jpg",
    b"%s%n.jpg",
    b"x" * 251 + b".jpg",
]


def command(*words: str, folder: Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "vggfeat", *words], capture_output=True, cwd=folder, **options)  # type: ignore[call-overload,no-any-return]


def test_odd_names_come_through_a_list_with_nul_and_are_printed_harmlessly(tmp_path: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        (tmp_path / os.fsdecode(name)).write_bytes(odd_images.encoded(odd_images.photo(seed=number)))
    broken = [b"no such \x1b[31mcolour.jpg", b"no such caf\xe9.jpg", b"no such\nline.jpg", b"no such [/red].jpg"]
    listed = b"".join(name + b"\0" for name in ODD_NAMES + broken)
    done = command("extract", "-0", "-", *NARROW, "-o", "a.h5", "--json", folder=tmp_path, input=listed)
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout.decode("utf-8"))
    assert {os.fsencode(id) for id in result["failed"]} == set(broken)
    assert b"\x1b" not in done.stderr
    lines = done.stderr.decode("utf-8").splitlines()
    assert [line for line in lines if line.startswith("skipped no such")] == [
        f"skipped no such {name}: no such file or directory" for name in (r"\x1b[31mcolour.jpg", r"caf\udce9.jpg")
    ] + [
        r"skipped no such\nline.jpg: no such file or directory",
        "skipped no such [/red].jpg: no such file or directory",
    ]
    made = vggfeat.read_descriptors(tmp_path / "a.h5")
    assert [os.fsencode(id) for id in made.ids] == ODD_NAMES + broken
    assert made.status.tolist() == [DONE] * len(ODD_NAMES) + [FAILED] * len(broken)
    info = command("info", "a.h5", folder=tmp_path)
    assert info.returncode == 0, info.stderr
    assert b"\x1b" not in info.stdout


def test_an_output_whose_name_is_no_utf8_is_printed_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(odd_images.encoded(odd_images.photo(), "PNG"))
    out = os.fsdecode(b"caf\xe9.h5")
    done = command("extract", "a.png", *NARROW, "-o", out, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"caf\xe9.h5\n"
    assert (tmp_path / out).exists()


def test_paths_that_are_no_files_say_what_they_are(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(odd_images.encoded(odd_images.photo()))
    (tmp_path / "folder.jpg").mkdir()
    need("os.mkfifo")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("gone.jpg")
    (tmp_path / "link.jpg").symlink_to("good.jpg")
    reasons = {
        "good.jpg": None,
        "folder.jpg": "is a folder",
        "fifo.jpg": "not a regular file",
        "link.jpg": None,
        "loop.jpg": "too many levels of symbolic links",
        "nowhere.jpg": "no such file or directory",
        "good.jpg/below.jpg": "not a directory",
        "x" * 300 + ".jpg": "file name too long",
    }
    if Path("/dev/zero").exists():
        reasons["/dev/zero"] = "not a regular file"
    (tmp_path / "list").write_text("".join(f"{name}\n" for name in reasons))
    done = command("extract", "--list", "list", *NARROW, "-o", "a.h5", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    made = vggfeat.read_descriptors(tmp_path / "a.h5")
    assert made.errors() == {name: reason for name, reason in reasons.items() if reason}


def test_a_file_that_may_not_be_read_costs_its_row(tmp_path: Path) -> None:
    need("os.geteuid")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(odd_images.encoded(odd_images.photo()))
    (tmp_path / "a.jpg").chmod(0)
    code = (
        "import os\n"
        "from vggfeat.datasets.images import decode\n"
        "from vggfeat.errors import ImageError\n"
        "decode('b.jpg')\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "try: decode('a.jpg')\n"
        "except ImageError as error: print(error)\n"
        "print(decode('b.jpg').mode)\n"
    )
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_mode & 0o001 == 0 and folder.owner() == tmp_path.owner():
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "permission denied\nRGB\n", done.stderr


def test_duplicates_are_named_with_their_lines(tmp_path: Path) -> None:
    done = command("extract", "-", *NARROW, "-o", "a.h5", folder=tmp_path, input=b"a.jpg\nb.jpg\na.jpg\n")
    assert done.returncode == 1
    assert done.stderr == b"vggfeat: stdin, lines 1 and 3: 'a.jpg' is given twice; ids must be unique\n"
    assert not (tmp_path / "a.h5").exists()


def test_input_that_vanishes_during_the_run_fails_its_rows_and_comes_back_with_resume(tmp_path: Path) -> None:
    paths = []
    for number in range(48):
        paths.append(tmp_path / f"{number:02}.jpg")
        paths[-1].write_bytes(odd_images.encoded(odd_images.photo(seed=number)))
    net = glorot_(VGG("A", width=1 / 16)).eval()
    options = {"net": net, "scales": [224], "workers": 1}

    def vanish(done: int, total: int, failed: int) -> None:
        if done == 0:
            for path in paths[40:]:
                path.rename(path.with_suffix(".gone"))

    out = vggfeat.extract(paths, output=tmp_path / "a.h5", progress=vanish, **options)  # type: ignore[arg-type]
    made = vggfeat.read_descriptors(out)
    assert (made.status != PENDING).all()
    assert set(made.errors().values()) == {"no such file or directory"}
    assert [Path(id).name for id in made.errors()] == [path.name for path in paths[40:]]
    for path in paths[40:]:
        path.with_suffix(".gone").rename(path)
    vggfeat.extract(paths, output=out, resume=True, **options)  # type: ignore[arg-type]
    whole = vggfeat.extract(paths, output=tmp_path / "b.h5", **options)  # type: ignore[arg-type]
    assert vggfeat.read_descriptors(out).errors() == {}
    assert np.allclose(vggfeat.read_descriptors(out).read(), vggfeat.read_descriptors(whole).read(), atol=1e-6)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("claimed", "reason"),
    [(1 << 40, "claims 1099511627776 bytes, more than any picture has"), (1 << 29, "{} ends inside of it")],
)
def test_a_tar_member_that_claims_more_than_there_is_takes_no_memory(
    tmp_path: Path, suffix: str, claimed: int, reason: str
) -> None:
    good, huge = tarfile.TarInfo("good.jpg"), tarfile.TarInfo("huge.jpg")
    content = odd_images.encoded(odd_images.photo())
    good.size, huge.size = len(content), claimed
    data = good.tobuf() + content + bytes(-len(content) % 512) + huge.tobuf() + content
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    net = glorot_(VGG("A", width=1 / 16)).eval()
    tracemalloc.start()
    try:
        out = vggfeat.extract(path, net=net, scales=[224], flip=False, output=tmp_path / "a.h5")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20
    errors = vggfeat.read_descriptors(out).errors()
    assert errors.pop(str(path)).startswith("damaged after huge.jpg: ")
    assert errors == {f"{path}/huge.jpg": reason.format(path)}


def test_links_devices_and_names_that_lead_out_of_a_tar_file_reach_nothing(tmp_path: Path) -> None:
    """It is never unpacked: a name is an id, and a hard link leads to members of the archive alone."""
    (tmp_path / "secret.jpg").write_bytes(odd_images.encoded(odd_images.photo()))
    before = sorted(tmp_path.iterdir())
    names = ["../out.jpg", "/tmp/out.jpg"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "s.jpg"),
            (tarfile.LNKTYPE, "h.jpg"),
            (tarfile.CHRTYPE, "c.jpg"),
            (tarfile.FIFOTYPE, "f.jpg"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.jpg")
            tar.addfile(member)
        for number, name in enumerate(names):
            content = odd_images.encoded(odd_images.photo(seed=number))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "out").mkdir()
    net = glorot_(VGG("A", width=1 / 16)).eval()
    path = tmp_path / "a.tar"
    made = vggfeat.read_descriptors(
        vggfeat.extract(path, net=net, scales=[224], flip=False, output=tmp_path / "out" / "a.h5")
    )
    assert made.ids == [f"{path}/{name}" for name in ["h.jpg", *names]]
    assert made.errors() == {
        f"{path}/h.jpg": f"a hard link to {tmp_path / 'secret.jpg'}, which is not in this tar file"
    }
    assert sorted(tmp_path.iterdir()) == sorted([*before, path, tmp_path / "out"])
    assert not (tmp_path.parent / "out.jpg").exists()
