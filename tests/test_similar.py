"""`vggfeat similar`: pictures find themselves and their copies; near-duplicates are told from other images."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from making import clusters, commands_on, settings, write_descriptors
from PIL import Image

from vggfeat import read_descriptors
from vggfeat.cli import run
from vggfeat.datasets import Dataset
from vggfeat.datasets.listing import from_paths
from vggfeat.errors import StoreError, UsageError
from vggfeat.stages.export import export
from vggfeat.stages.extract import extract
from vggfeat.stages.predict import predict
from vggfeat.stages.similar import similar
from vggfeat.stages.svm import svm

SETTINGS = {"weights": None, "width": 1 / 32, "scales": (224,), "precision": "fp32", "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Eight pictures of different textures, one of them again as a stronger compressed JPEG, one unreadable."""
    root = tmp_path_factory.mktemp("similar")
    rng = np.random.default_rng(0)
    for i in range(8):
        small = rng.integers(0, 256, (2 + 3 * i, 2 + 2 * i, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 48)).save(root / f"{i}.png")
    Image.open(root / "5.png").save(root / "copy.jpg", quality=97)
    (root / "broken.png").write_bytes(b"no picture")
    features = extract(from_paths([str(root)]), net="A", output=root / "library.h5", **SETTINGS)
    return root, features


def test_a_picture_finds_itself_then_its_copy(library):
    root, features = library
    found = similar(features, from_paths([str(root / "5.png")]), count=3, device="cpu")
    [query] = found.queries
    assert [id for id, _ in query.matches][:2] == [str(root / "5.png"), str(root / "copy.jpg")]
    assert query.matches[0][1] == pytest.approx(1, abs=1e-5)
    held = read_descriptors(features)
    values = dict(zip(held.ids, held.read(), strict=True))
    for id, cosine in query.matches:
        assert cosine == pytest.approx(float(values[id] @ values[str(root / "5.png")]), abs=1e-5)


def test_without_pictures_the_copies_within_the_file_are_found(library):
    root, features = library
    best = similar(features, at_least=0.5, most=1)
    assert best.pairs is not None
    assert set(best.pairs[0][:2]) == {str(root / "5.png"), str(root / "copy.jpg")}
    assert best.found > 1
    assert len(best["pairs"]) == 1


def test_the_command_prints_a_line_a_neighbour_and_says_what_it_skipped(library, capfdbinary):
    root, features = library
    pictures = [str(root / "2.png"), str(root / "broken.png")]
    assert run(["similar", str(features), *pictures, "-k", "2", "--device", "cpu"]) == 3
    out, err = capfdbinary.readouterr()
    lines = [line.split("\t") for line in out.decode().splitlines()]
    assert lines[0][:2] == [str(root / "2.png")] * 2
    assert len(lines) == 2
    assert b"1 of 2 images skipped" in err


def test_the_command_compares_the_file_with_itself_and_shows_it_on_a_page(library, capfd):
    root, features = library
    page = root / "page"
    command = ["similar", str(features), "--at-least", "0.5", "--most", "2", "--report", str(page)]
    assert run([*command, "--json"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert len(result["pairs"]) == 2
    assert f"the 2 most similar of {result['found']} pairs: --most keeps more" in err
    text = (page / "index.html").read_text()
    assert text.count("data:image/jpeg") >= 3
    assert f"Pairs of images, most similar first; the first 2 of {result['found']}" in text
    assert result["report"] == str(page / "index.html")
    assert "<script" not in text


def test_a_page_of_neighbours_shows_each_picture_beside_them(library, tmp_path):
    root, features = library
    pictures = from_paths([str(root / name) for name in ("1.png", "broken.png")])
    found = similar(features, pictures, count=2, report=tmp_path / "page", device="cpu")
    text = found.report.read_text()
    assert text.count("data:image/jpeg") == 3
    assert "not described: " in text
    assert f"1.000 {root / '1.png'}" in re.sub("<[^>]+>", "", text), "neighbours have their names beside them"
    assert len(re.findall(r"broken\.png</(?:span|li)>", text)) == 1, "where there is no picture its name stands once"
    assert list(found.failed) == [str(root / "broken.png")]


def test_names_that_would_break_the_lines_are_json_strings(library, tmp_path, capfd):
    root, features = library
    odd = tmp_path / "a\tb\n.png"
    shutil.copy(root / "1.png", odd)
    assert run(["similar", str(features), str(odd), "-k", "1", "--device", "cpu"]) == 0
    [line] = capfd.readouterr().out.splitlines()
    assert json.loads(line.split("\t")[0]) == str(odd)


def test_nets_of_the_same_weights_that_expect_other_input_stay_two(library, tmp_path):
    root, _ = library
    pictures = from_paths([str(root / "1.png"), str(root / "2.png")])
    both = extract(
        pictures, net=["A", "A"], preprocessing=["oxford", "torchvision"], output=tmp_path / "b.h5", **SETTINGS
    )
    found = similar(both, pictures, count=1, device="cpu")
    assert [query.matches[0][0] for query in found.queries] == [query.id for query in found.queries]
    assert [query.matches[0][1] for query in found.queries] == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["--at-least", "0"], "--at-least 0: expected a cosine above 0, at most 1", 2),
        (["-k", "0"], "Invalid value for '--count' / '-k'", 2),
        (["-0"], "-0 goes with pictures: name some, or give - or --list", 2),
        (["-k", "3"], "--count goes with pictures: name some, or give - or --list", 2),
        (["--device", "cpu"], "--device goes with pictures: name some, or give - or --list", 2),
        (["x.jpg", "--at-least", "0.5"], "--at-least goes with a file alone", 2),
    ],
)
def test_wrong_numbers_are_refused(library, args, message, code, capfd):
    assert run(["similar", str(library[1]), *args]) == code
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        (False, {"count": 5}, "`count` goes with pictures: name some"),
        (False, {"seed": 0}, "`seed` goes with pictures: name some"),
        (False, {"weights": "published"}, "`weights` goes with pictures: name some"),
        (False, {"exif": False}, "`exif` goes with pictures: name some"),
        (False, {"data": "data"}, "`data` goes with `report`"),
        (True, {"at_least": 0.9}, "`at_least` goes with a file alone: leave the pictures out"),
        (True, {"most": 5}, "`most` goes with a file alone: leave the pictures out"),
        (True, {"workers": -3}, "`workers` -3 is not 1 or more"),
        (True, {"count": 2.5}, "`count` 2.5 is not a whole number"),
        (True, {"progress": "x"}, "progress 'x' is not True, False or a function"),
        (False, {"most": 2.5}, "`most` 2.5 is not a whole number"),
        (False, {"at_least": "a"}, "`at_least` 'a' is not a number"),
    ],
)
def test_arguments_that_would_change_nothing_or_cannot_be_are_refused(library, pictures, options, message):
    root, features = library
    with pytest.raises(UsageError) as caught:
        similar(features, *([str(root / "5.png")] if pictures else []), **options)
    assert str(caught.value) == message


def test_a_data_root_in_the_environment_needs_no_report(library, monkeypatch):
    monkeypatch.setenv("VGGFEAT_DATA", str(library[0]))
    assert run(["similar", str(library[1]), "--at-least", "0.9"]) == 0


def test_files_without_descriptors_are_refused(tmp_path):
    dataset, values = clusters([2])
    empty = write_descriptors(tmp_path / "empty.h5", dataset, values, pending=[0, 1])
    with pytest.raises(StoreError, match=r"empty\.h5 holds no descriptor yet"):
        similar(empty)
    nets = [{**net, "scales": [256]} for net in settings()["nets"]]
    posteriors = write_descriptors(tmp_path / "p.h5", dataset, values, layer="posteriors", view="dense", nets=nets)
    with pytest.raises(StoreError, match=r"p\.h5 holds class posteriors, not descriptors"):
        similar(posteriors)
    full = write_descriptors(tmp_path / "full.h5", dataset, values)
    with pytest.raises(UsageError, match="`count` and `most` start at 1"):
        similar(full, count=0)


def test_pictures_without_boxes_are_not_compared_with_descriptors_of_boxes(library, tmp_path, capfd):
    """Each picture failed, and the next command was the same search with a page."""
    dataset, values = clusters([3, 4])
    file = write_descriptors(tmp_path / "box.h5", dataset, values, region="box")
    assert run(["similar", str(file), str(library[0] / "1.png")]) == 2
    assert capfd.readouterr().err == (
        f"vggfeat: {file} describes persons' boxes (--region box), which these pictures do not have: leave the pictures "
        "out, or extract with --region image\n"
    )


def test_no_page_is_suggested_where_every_picture_has_failed(library, tmp_path, capfd):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert run(["similar", str(library[1]), str(tmp_path / "bad.jpg")]) == 3
    assert "next:" not in capfd.readouterr().err


def test_the_next_command_is_the_same_search_with_a_page(library, tmp_path, monkeypatch, capfd):
    root, features = library
    monkeypatch.chdir(tmp_path)
    assert run(["similar", str(features), str(root / "2.png"), "-k", "2", "--device", "cpu"]) == 0
    out, err = capfd.readouterr()
    [following] = [line for line in err.splitlines() if line.startswith("next: ")]
    assert run(shlex.split(following.removeprefix("next: vggfeat "))) == 0
    again, err = capfd.readouterr()
    assert again == out
    assert "page: similar/index.html" in err
    assert err.endswith(f"next: vggfeat similar {features} --report duplicates\n")


def test_an_opened_file_is_as_good_as_its_path_and_its_chosen_layer_counts(tmp_path):
    dataset, values = clusters([8, 8, 8], noise=0.1)
    path = write_descriptors(tmp_path / "d.h5", dataset, values)
    opened = read_descriptors(path)
    assert similar(opened, at_least=0.5) == similar(path, at_least=0.5)
    assert export(opened, tmp_path / "a.npz").rows == 24
    assert svm(opened, C=1)["mean"] == svm(path, C=1)["mean"]
    with pytest.raises(UsageError) as error:
        similar(values)
    assert str(error.value) == (
        "ndarray is not a descriptor file: give its path, or what vggfeat.read_descriptors gave"
    )
    with pytest.raises(UsageError) as error:
        predict(opened, ["a.jpg"])
    assert str(error.value) == "Descriptors is not a model: give the file of a trained net or of a fitted model"
    layers = {"weights": None, "width": 1 / 64, "scales": (224,), "precision": "fp32", "device": "cpu"}
    Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3)).save(tmp_path / "x.png")
    both = read_descriptors(
        extract(tmp_path / "x.png", net="A", layer=("fc6", "fc7"), output=tmp_path / "x.h5", **layers)
    )
    export(both.choose("fc7"), tmp_path / "fc7.npz")
    assert np.array_equal(np.load(tmp_path / "fc7.npz")["descriptors"], both.choose("fc7").read())


def made_of(page):
    """The section on how a page was made: its terms, its commands, and its notes."""
    section = page[page.index('<h2 id="made">How it was made</h2>') :].split("</section>")[0]
    terms = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
    return terms, commands_on(section), re.findall(r'<p class="sub">(.*?)</p>', section)


def test_a_page_of_near_duplicates_says_how_it_was_made_and_its_commands_make_it_again(library, tmp_path):
    root, features = library
    folder = tmp_path / "pairs"
    found = similar(features, at_least=0.5, most=3, report=folder)
    page = found.report.read_text("utf-8")
    assert '<li><a href="#made">How it was made</a></li>' in page
    terms, (extraction, itself), notes = made_of(page)
    assert list(terms) == [
        "descriptors",
        "net",
        "sha256 of the weights",
        "images",
        "extracted with",
        "similarity",
        "compared with",
    ]
    assert (terms["descriptors"], terms["net"]) == (str(features), "A, width 1/32, random weights")
    assert terms["similarity"] == "cosine of at least 0.5; at most 3 pairs"
    assert extraction == (
        "vggfeat extract --net A --weights none --width 0.03125 --scales 224 --aggregate stack --exif --precision fp32 "
        f"-o {features} {root} --resume"
    )
    assert itself == f"vggfeat similar {features} --at-least 0.5 --most 3 --report {folder}"
    assert notes == ["A finished file is kept; --overwrite in place of --resume makes it again."]
    before = features.read_bytes()
    assert run([*shlex.split(extraction)[1:], "--quiet"]) == 3, "one picture is unreadable"
    assert run([*shlex.split(itself)[1:], "--quiet"]) == 0
    assert features.read_bytes() == before
    assert found.report.read_text("utf-8") == page


def test_a_page_of_neighbours_has_its_pictures_and_options_in_its_command(library, tmp_path, monkeypatch):
    root, features = library
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "2.png", "-2.png")
    options = ["-k", "1", "--precision", "fp32", "--no-exif", "--max-megapixels", "50", "--data", "photos"]
    assert run(["similar", str(features), *options, "--report", "page", "--quiet", "--", "-2.png"]) == 0
    page = (tmp_path / "page" / "index.html").read_text("utf-8")
    terms, (_, itself), _ = made_of(page)
    assert terms["similarity"] == "cosine; the 1 nearest image of each picture"
    assert itself == (
        f"vggfeat similar {features} --count 1 --precision fp32 --no-exif --max-megapixels 50 --report page "
        "--data photos -- -2.png"
    )
    assert run(shlex.split(itself)[1:]) == 0
    assert (tmp_path / "page" / "index.html").read_text("utf-8") == page


@pytest.mark.parametrize("number", [1, 2])
def test_a_page_of_pictures_that_cannot_be_named_says_so(library, tmp_path, number):
    root, features = library
    pictures = from_paths([str(root / f"{i}.png") for i in range(number)])
    unnamed = Dataset("images", pictures.samples, exif=True)
    found = similar(features, unnamed, count=2, report=tmp_path / "page", device="cpu")
    _, (_, itself), notes = made_of(found.report.read_text("utf-8"))
    assert itself == f"vggfeat similar {features} --count 2 - --report {tmp_path / 'page'}"
    count = "1 picture" if number == 1 else "2 pictures"
    assert notes[-1] == (
        f"The {count} came from a pipe or a program, or had too many names: - stands for a list, one path a line."
    )


def test_a_list_piped_in_without_a_dash_is_not_read_and_said_so(library):
    features = library[1]
    command = [sys.executable, "-m", "vggfeat", "similar", str(features), "--at-least", "0.99"]
    said = b"standard input is not read: - stands for the pictures listed there\n"
    for flags, told in (([], True), (["--quiet"], False)):
        done = subprocess.run([*command, *flags], input=b"1.png\n", capture_output=True, check=True)
        assert (said in done.stderr) == told
        assert bool(done.stderr) == told
