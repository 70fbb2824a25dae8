"""The report pages: right numbers, nothing lost without pictures or plots, nothing of a stranger's run."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import clusters, commands_on, write_descriptors
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support
from test_svm_stage import multi_label

from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.cli import run
from vggfeat.datasets import Dataset
from vggfeat.datasets.origin import Origin
from vggfeat.datasets.voc import CLASSES
from vggfeat.page import map as maps
from vggfeat.page import parts, plots
from vggfeat.page.evidence import Scored, best, confusion, most_confused, rankings, worst
from vggfeat.page.html import breakable, commands, document, section, table, tag
from vggfeat.page.pictures import Pictures
from vggfeat.page.style import STYLE
from vggfeat.page.training import TrainingReport
from vggfeat.page.training import write_page as write_training_page
from vggfeat.stages.svm import svm

EVIL = ("<script>console.error('evil')</script>", "$x^2$ & \"quotes'", "caf\udce9 \x1b[31m", "犬 \u202e")


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        pytest.skip("no Chromium here (Debian's package: chromium)")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of four classes with terrible names, and their descriptors, of which two classes are hard to tell."""
    root = tmp_path_factory.mktemp("page")
    dataset, values = clusters([14, 12, 13, 15], noise=1.5)
    rng = np.random.default_rng(0)
    samples = []
    for row, sample in enumerate(dataset.samples):
        assert isinstance(sample.labels, int)
        path = root / "photos" / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 20 + row, 3), dtype=np.uint8)).save(path)
        samples.append(replace(sample, id=f"{row}.png", path=str(path)))
    write_descriptors(root / "d.h5", Dataset("folder", tuple(samples), EVIL, exif=True), values)
    quoted = "".join(f'{s.id},"{_csv(EVIL[s.labels])}"\n' for s in samples if isinstance(s.labels, int))
    (root / "photos" / "labels.csv").write_bytes(quoted.encode("utf-8", "surrogateescape"))
    return root


def _csv(name: str) -> str:
    return name.replace('"', '""')


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[dict[str, Any], str]:
    """A result and its page."""
    result = svm([folder / "d.h5"], report=folder / "report", data=folder / "photos" / "labels.csv")
    return result, (folder / "report" / "index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Start tags with their attributes, and the text in each `td` of a class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for found, attributes in self.found if found == name)


def values(page: str) -> list[str]:
    """What stands in the cells of results, in order."""
    return re.findall(r'<td class="value">([^<]*)</td>', page)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def expected(result: dict[str, Any]) -> list[str]:
    return [percent(split["value"]) for split in result["splits"]] + sorted(
        (percent(value) for value in result["per_class"].values()), key=float
    )


def load(chromium: str, page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """(DOM, console messages) of a page in a real browser."""
    done = subprocess.run(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            *flags,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0
    messages = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), messages


# In a browser.


def test_in_chromium_the_page_loads_without_errors_and_its_numbers_are_the_results(
    chromium: str, folder: Path, made: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    result, _ = made
    dom, messages = load(chromium, folder / "report" / "index.html", tmp_path)
    assert messages == []
    assert values(dom) == expected(result)
    score = f"{percent(result['mean'])} ± {percent(result['std'])} %"
    assert f'<td class="score">{score}</td>' in dom
    assert dom.count("<svg") == 3
    assert "<script" not in dom.lower()


def test_chromiums_console_is_heard(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>console.error('heard')</script>")
    _, messages = load(chromium, tmp_path / "bad.html", tmp_path / "profile")
    assert any("heard" in message for message in messages)


def test_in_chromium_a_narrow_page_does_not_scroll_sideways(chromium: str, tmp_path: Path) -> None:
    name = "a_very_long_name/of-a-picture_that/fits_no_narrow_screen/" + "x" * 60 + ".jpg"
    rows = [(name, "A (best.pt)", 1.5)]
    parts_ = [
        section("score", "Score", table("Caption", ("file", "net", "error %"), rows, text=(0, 1)), tag("p", name)),
        section("made", "How", commands([f"vggfeat evaluate --weights {name} --precision fp32 --report folder"])),
    ]
    (tmp_path / "page.html").write_text(document(name, [tag("p", name, class_="note")], parts_), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        """<iframe src="page.html" width="390" height="900" style="border: 0"></iframe><script>
        onload = () => {
            const page = document.querySelector("iframe").contentDocument;
            const wide = [page.documentElement, page.querySelector(".scroll")], flags = [...page.querySelectorAll(".flag")];
            document.body.dataset.hidden = wide.map(element => element.scrollWidth - element.clientWidth);
            document.body.dataset.lines = flags.map(flag => flag.getClientRects().length);
        };</script>"""
    )
    dom, _ = load(chromium, tmp_path / "frame.html", tmp_path / "profile", "--allow-file-access-from-files")
    assert 'data-hidden="0,0"' in dom
    assert 'data-lines="1,1,1"' in dom, "no flag is broken"


# What the page is.


def test_the_page_needs_nothing_and_everything_on_it_has_a_name(made: tuple[dict[str, Any], str]) -> None:
    elements = Elements(made[1])
    for name, attributes in elements.found:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/")), (name, attributes)
    assert not {"script", "link", "iframe"} & {name for name, _ in elements.found}
    assert all(image["alt"] for image in elements.of("img"))
    plots_ = [svg for svg in elements.of("svg") if svg.get("role") == "img"]
    assert len(plots_) == 3
    assert all(plot["aria-label"] for plot in plots_)
    assert sum(1 for _ in elements.of("table")) == sum(1 for _ in elements.of("caption")) > 4
    ids = [attributes["id"] for _, attributes in elements.found if attributes.get("id")]
    assert [id for id, count in Counter(ids).items() if count > 1] == []
    links = [link["href"] for link in elements.of("a")]
    assert len(links) > 5
    assert {str(link)[1:] for link in links} <= set(ids)
    headings = [int(name[1]) for name, _ in elements.found if re.fullmatch(r"h\d", name)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_names_of_strangers_are_shown_and_never_run(made: tuple[dict[str, Any], str]) -> None:
    _, page = made
    assert "&lt;script&gt;console.error(&#x27;evil&#x27;)&lt;/script&gt;" in page
    assert "$x^2$ &amp; &quot;quotes&#x27;" in page
    assert "caf\\udce9 \\x1b[31m" in page
    assert "犬 \\u202e" in page
    assert "<script" not in page


def test_thumbnails_are_the_images_and_plots_lie_beside_the_page(
    folder: Path, made: tuple[dict[str, Any], str]
) -> None:
    _, page = made
    shown = {str(image["alt"]) for image in Elements(page).of("img")}
    assert len(shown) > 12
    assert shown <= {f"{row}.png" for row in range(54)}
    assert "cannot be shown" not in page
    for name in ("validation", "classes", "confusion"):
        assert ET.parse(folder / "report" / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(folder / "report" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    text = (folder / "report" / "confusion.svg").read_text(encoding="utf-8")
    assert "$x^2$ &amp;" in text, "a name is no formula"


def test_the_command_on_the_page_gives_the_same_score(
    folder: Path, made: tuple[dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    result, page = made
    words = [shlex.split(line) for line in commands_on(page)]
    assert len(words) == 2
    assert words[0][:6] == ["vggfeat", "extract", "--net", "D", "--weights", "oxford"]
    assert words[0][-7:] == [
        "-o",
        str(folder / "d.h5"),
        "--dataset",
        "folder",
        "--data",
        str(folder / "photos" / "labels.csv"),
        "--resume",
    ]
    assert run([*words[1][1:], "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["mean"] == result["mean"]
    assert again["report"] == str(folder / "report" / "index.html")


def test_the_command_on_the_page_has_the_bound_on_memory(folder: Path, tmp_path: Path) -> None:
    svm([folder / "d.h5"], C=1, max_memory=1.5, report=tmp_path / "r")
    _, fit = commands_on((tmp_path / "r" / "index.html").read_text(encoding="utf-8"))
    assert fit == f"vggfeat svm {folder / 'd.h5'} --C 1.0 --max-memory 1.5 --report {tmp_path / 'r'}"


def test_without_the_images_the_page_still_comes(folder: Path, tmp_path: Path) -> None:
    result = svm([folder / "d.h5"], report=tmp_path / "r", data=tmp_path / "gone")
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert f"No pictures: {tmp_path}/gone: no such folder or CSV file" in page
    assert values(page) == expected(result)
    assert "<img" not in page
    shutil.copytree(folder / "photos", tmp_path / "photos")
    for row in range(0, 54, 2):
        (tmp_path / "photos" / f"{row}.png").unlink()
    result = svm([folder / "d.h5"], report=tmp_path / "r", data=tmp_path / "photos" / "labels.csv")
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert re.search(r"\d+ of the images cannot be shown; the first is \d+\.png: no such file or directory\.", page)
    assert "<img" in page


def test_images_named_one_by_one_are_shown_from_their_paths(folder: Path, tmp_path: Path) -> None:
    dataset, features = clusters([14, 12, 13, 15], noise=1.5)
    paths = [str(folder / "photos" / f"{row}.png") for row in range(len(dataset.samples))]
    samples = tuple(replace(one, id=path, path=path) for one, path in zip(dataset.samples, paths, strict=True))
    write_descriptors(tmp_path / "d.h5", Dataset("images", samples, dataset.class_names, exif=True), features)
    result = svm([tmp_path / "d.h5"], report=tmp_path / "r")
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "No pictures" not in page and "cannot be shown" not in page
    shown = [attributes["alt"] for attributes in Elements(page).of("img") if attributes.get("alt") in paths]
    assert len(set(shown)) > 10
    # They have no data root, which their extraction would refuse.
    svm([tmp_path / "d.h5"], C=1, report=tmp_path / "r", data=folder / "photos")
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "A finished file is kept; --overwrite in place of --resume makes it again." in page
    extraction, _ = commands_on(page)
    assert extraction.endswith(f" -o {tmp_path / 'd.h5'} - --resume")


def test_without_matplotlib_the_tables_still_come_and_a_line_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    with caplog.at_level(logging.WARNING, logger="vggfeat"):
        result = svm([folder / "d.h5"], report=tmp_path / "r", data=folder / "photos" / "labels.csv")
    page = Path(result["report"]).read_text(encoding="utf-8")
    line = "no plots: they need matplotlib (pip install 'vggfeat[report]')"
    assert caplog.messages == [f"the report has {line}"]
    assert line.replace("'", "&#x27;") in page
    assert values(page) == expected(result)
    assert page.count("<svg") == page.count('class="map"') == 1, "the map needs no matplotlib"
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["index.html"]


def test_a_benchmarks_page_has_the_papers_row(tmp_path: Path) -> None:
    dataset, values_ = clusters([31, 35], name="caltech101")
    result = svm([write_descriptors(tmp_path / "c.h5", dataset, values_)], C=1, report=tmp_path / "r")
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "the paper&#x27;s from Table 11" in page
    for score in ("91.8 ± 1.0 %", "92.3 ± 0.5 %", "92.7 ± 0.5 %"):
        assert f"<td>{score}</td>" in page
    assert "Choice of C" not in page, "one C was given"


def test_a_page_beside_the_papers_score_says_what_the_run_changed(tmp_path: Path) -> None:
    """Fifteen training images of each class, or a single split, are another benchmark than the paper's."""
    dataset, values_ = clusters([40, 44], name="caltech101")
    file = write_descriptors(tmp_path / "c.h5", dataset, values_)
    for rounds, words in (
        (Rounds(train_per_class=15), "15 training images of each class in place of 30"),
        (
            Rounds(number=1, test_per_class=9),
            "1 random split and 9 test images of each class in place of 50",
        ),
    ):
        svm([file], C=1, rounds=rounds, report=tmp_path / "r")
        page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
        assert f"This run changed the paper&#x27;s protocol: {words}." in page
    svm([file], C=1, rounds=Rounds(seed=3), report=tmp_path / "r", write_splits=tmp_path / "splits.json")
    assert "changed the paper" not in (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    svm([file], C=1, splits=tmp_path / "splits.json", report=tmp_path / "r")
    assert "protocol: the splits of splits.json." in (tmp_path / "r" / "index.html").read_text(encoding="utf-8")


def test_the_setting_names_layer_pooling_flips_and_view_where_not_as_usual(tmp_path: Path) -> None:
    dataset, values_ = clusters([12, 12])
    usual = write_descriptors(tmp_path / "u.h5", dataset, values_)
    other = write_descriptors(tmp_path / "o.h5", dataset, values_, layer="pool5", pool="max", view="center", flip=False)
    svm([usual, other], C=1, report=tmp_path / "r")
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "Q 256; Q 256, layer pool5, no mirror image, pool max, view center<" in page
    assert "no mirror image; layer pool5, pool max, view center; region image" in page


def test_a_multi_label_page_has_precision_recall_curves(tmp_path: Path) -> None:
    dataset, values_ = multi_label(240, CLASSES[:5], ("train", "val", "test"), name="voc2007")
    result = svm([write_descriptors(tmp_path / "v.h5", dataset, values_)], report=tmp_path / "r")
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert values(page) == expected(result)
    assert "at 11 recalls" in page
    assert "Confusions" not in page
    root = ET.parse(tmp_path / "r" / "precision-recall.svg").getroot()
    titles = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for name, value in result["per_class"].items():
        assert f"{name}  {percent(value)}" in titles


# What stands behind it.


def scored(seed: int = 0, n: int = 60, k: int = 5) -> Scored:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, k)).astype(np.float32)
    return Scored([f"{seed}/{i}" for i in range(n)], rng.integers(0, k, n), scores)


def test_confusions_are_scikit_learns_and_the_surest_mistakes_come_first() -> None:
    splits = [scored(0), scored(1)]
    reference = sum(confusion_matrix(s.labels, s.scores.argmax(1), labels=range(5)) for s in splits)
    assert np.array_equal(confusion(splits, 5), reference)
    pairs = most_confused(splits, 5, pairs=4, images=3)
    off = {(i, j): reference[i, j] / reference[i].sum() for i in range(5) for j in range(5) if i != j}
    assert [p.count / p.of for p in pairs] == pytest.approx(sorted(off.values(), reverse=True)[:4])
    for pair in pairs:
        assert pair.count == reference[pair.true, pair.guess]
        margins = {
            id: float(s.scores[row, pair.guess] - s.scores[row, pair.true])
            for s in splits
            for row, id in enumerate(s.ids)
            if s.labels[row] == pair.true and s.scores[row].argmax() == pair.guess
        }
        assert list(pair.ids) == sorted(margins, key=lambda id: -margins[id])[:3]
    right = Scored(["a", "b"], np.array([0, 1]), np.eye(2, dtype=np.float32))
    assert most_confused([right], 2, pairs=4, images=3) == []


def test_best_and_worst_images_pass_over_difficult_and_missing_ones() -> None:
    labels = np.array([[1], [1], [-1], [0], [1]])
    scores = np.array([[0.5], [-2.0], [3.0], [9.0], [-np.inf]], dtype=np.float32)
    split = Scored(list("abcde"), labels, scores)
    assert [(s.id, s.right) for s in best(split, 0, 3)] == [("c", False), ("a", True), ("b", True)]
    assert [s.id for s in worst(split, 0, 3)] == ["b", "a"]


def test_precision_and_recall_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([1, -1, 0], size=(50, 1), p=[0.3, 0.6, 0.1])
    split = Scored([str(i) for i in range(50)], labels, rng.standard_normal((50, 1)).astype(np.float32))
    (ranking,) = rankings(split, ["x"], [0.5], most=3)
    known = labels[:, 0] != 0
    precision, recall, _ = precision_recall_curve(labels[known, 0] == 1, split.scores[known, 0])
    assert ranking.precision == pytest.approx(precision[:-1][::-1])
    assert ranking.recall == pytest.approx(recall[:-1][::-1])
    assert [r.name for r in rankings(split, ["x"], [float("nan")], most=3)] == []


def test_precision_and_f1_are_scikit_learns() -> None:
    splits = [scored(0), scored(1)]
    labels = np.concatenate([split.labels for split in splits])
    guesses = np.concatenate([split.guesses for split in splits])
    precision, _, f1, _ = precision_recall_fscore_support(labels, guesses, labels=range(5), zero_division=np.nan)
    made = parts.precision_and_f1(splits, 5)
    assert made["precision %"] == [percent(value) for value in precision]
    assert made["F1 %"] == [percent(value) for value in f1]
    never = Scored(["a"], np.array([0]), np.eye(1, 2, dtype=np.float32))
    assert parts.precision_and_f1([never], 2) == {"precision %": ["100.0", "-"], "F1 %": ["100.0", "-"]}


def test_a_large_confusion_matrix_has_names_and_a_table_to_search_by_name(tmp_path: Path) -> None:
    names = [f"class {k:02}" for k in range(40)]
    rng = np.random.default_rng(0)
    split = Scored([str(i) for i in range(400)], np.arange(400) % 40, rng.standard_normal((400, 40)).astype(np.float32))
    _, _, element = parts.confusions(names, [split], Pictures(missing="none"), tmp_path)
    (plot,) = re.findall(r"<svg.*</svg>", element, flags=re.S)
    assert all(f">{name}</text>" in plot for name in names)
    assert "<image" not in plot, "squares are drawn in the page's colour, which follows light and dark"
    assert "fill: var(--accent)" in plot
    counts = confusion_matrix(split.labels, split.guesses, labels=range(40))
    rows = re.findall(
        r'<th scope="row" class="text">(class \d\d)</th><td>(\d+) of (\d+)</td><td class="text">([^<]*)', element
    )
    assert [row[0] for row in rows] == names
    for k, (_, right, of, others) in enumerate(rows):
        assert (int(right), int(of)) == (counts[k, k], counts[k].sum())
        first = re.match(r"class (\d\d) \((\d+)\)", others)
        assert first
        assert int(first[2]) == counts[k, int(first[1])] == np.delete(counts[k], k).max()


def test_a_very_large_matrix_is_a_raster(tmp_path: Path) -> None:
    counts = np.eye(plots.NAMED + 1, dtype=np.int64)
    assert "<image" in plots.confusion_matrix(tmp_path, [str(k) for k in range(len(counts))], counts, 1)


def test_the_folders_name_is_in_the_title(made: tuple[dict[str, Any], str]) -> None:
    assert re.search(r"<h1>labels\.csv: mean class recall ", made[1])
    assert Pictures.of("caltech101", "nowhere").title == ""
    for paths, title in ((("a/my photos",), "my photos"), ((".",), Path.cwd().name), (("a", "b"), ""), ((), "")):
        assert Pictures.of("images", "data", origin=Origin(paths)).title == title


# The builder.


def test_the_map_has_every_test_image_of_the_first_split_and_is_the_same_again(
    folder: Path, made: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    result, page = made
    (drawn,) = re.findall(r'<svg[^>]*class="map">.*?</svg>', page, flags=re.S)
    assert drawn.count("<circle") == result["splits"][0]["test"]
    assert 1 <= drawn.count("<image") <= maps.PICTURED
    assert drawn.count("<text") == len(EVIL)
    wrong = sum(", taken for " in title for title in re.findall(r"<circle[^>]*><title>(.*?)</title>", drawn))
    assert wrong == len(re.findall(r'<circle[^>]*class="mistaken"', drawn))
    svm([folder / "d.h5"], report=tmp_path / "r", data=folder / "photos" / "labels.csv")
    assert drawn in (tmp_path / "r" / "index.html").read_text(encoding="utf-8")


def test_neighbours_on_the_map_are_neighbours_among_the_descriptors() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    values = (rng.normal(size=(4, 200))[labels] + 0.3 * rng.normal(size=(120, 200))).astype(np.float32)
    placed = maps.place([str(row) for row in range(120)], values, 120)
    assert placed is not None
    assert placed.places.min(axis=0).tolist() == [0, 0]
    assert placed.places.max(axis=0).tolist() == [1, 1]
    distances = np.linalg.norm(placed.places[:, None] - placed.places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()


@pytest.mark.parametrize("count", [3, 9, 10, 12])
def test_a_map_of_few_images_is_finite(count: int) -> None:
    values = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    placed = maps.place([str(row) for row in range(count)], values, count)
    assert placed is not None
    assert np.isfinite(placed.places).all()
    assert ("principal" in placed.method) == (count < maps.FEW)


def test_images_without_differences_or_too_few_have_no_map() -> None:
    assert maps.place(["a", "b"], np.eye(2, dtype=np.float32), 2) is None
    assert maps.place(list("abcdefghijkl"), np.ones((12, 4), dtype=np.float32), 12) is None


def test_a_map_takes_a_bounded_number_of_images_evenly() -> None:
    assert maps.chosen_rows(7).tolist() == list(range(7))
    rows = maps.chosen_rows(10_001)
    assert (len(rows), rows[0], rows[-1]) == (maps.MAPPED, 0, 10_000)


def test_texts_are_escaped_wherever_they_stand() -> None:
    evil = '"><img src=x onerror=alert(1)>'
    page = document(evil, [tag("p", evil)], [section("a", evil, table(evil, [evil], [[evil]]), tag("i", title=evil))])
    assert "<img" not in page
    assert page.count("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;") == 10


def test_names_break_where_a_reader_would_break_them() -> None:
    assert breakable("val/n01443537/val_2.JPEG: right") == "val/<wbr>n01443537/<wbr>val_2.JPEG: right"
    assert breakable("A+B, width 1/8 (a_net.pt+b_net.pt)") == "A+B, width 1/8 (a_<wbr>net.pt+<wbr>b_<wbr>net.pt)"
    assert breakable("conv3_1") == "conv3_1", "short words stay whole"
    assert breakable("x" * 30) == "x" * 24 + "<wbr>" + "x" * 6
    assert breakable("<b>_long_name") == "&lt;b&gt;_<wbr>long_<wbr>name"


def test_every_colour_is_readable_in_light_and_in_dark() -> None:
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        for text in ("ink", "muted", "accent", "second"):
            for ground in ("paper", "soft"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(a: str, b: str) -> float:
    """WCAG's ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_training_page_shows_every_epoch_and_sets_off_the_best(tmp_path: Path) -> None:
    rows = [
        {
            "kind": "epoch",
            "epoch": e,
            "rate": rate,
            "loss": 3.0 / e,
            "top1": 90.0 / e,
            "top5": 50.0 / e,
            "val_loss": 3.1,
            "val_top1": val,
            "val_top5": 40.0,
        }
        for e, (rate, val) in enumerate([(0.01, 80.0), (0.01, 61.5), (0.001, 62.0)], start=1)
    ]
    report = TrainingReport("Net A", [{"kind": "step", "epoch": 1}, *rows], {"net": "A"}, ["vggfeat train"], "top1", 20)
    path = write_training_page(tmp_path, report)
    page = path.read_text(encoding="utf-8")
    assert (
        "61.5 %<small>validation top-1 error of the best epoch, 2 of 3 (least top-1 error); chance 95.0 %</small>"
        in page
    )
    assert re.search(r'<tr class="ours"><th scope="row">2</th><td>1.500</td>', page)
    assert (tmp_path / "curves.svg").stat().st_size > 1000
    empty = write_training_page(tmp_path / "none", replace(report, rows=[])).read_text(encoding="utf-8")
    assert "<svg" not in empty


@pytest.mark.parametrize(("measure", "epoch"), [("top1", 1), ("top5", 3), ("loss", 4)])
def test_a_training_page_sets_off_the_epoch_of_the_best_checkpoint(tmp_path: Path, measure: str, epoch: int) -> None:
    # (top-1, top-5, loss): the loss decides between equal errors, then the earlier epoch.
    values = [(50.0, 30.0, 2.0), (60.0, 20.0, 1.9), (60.0, 20.0, 1.8), (70.0, 21.0, 1.5), (60.0, 20.0, 1.8)]
    rows = [
        {"kind": "epoch", "epoch": e, "rate": 0.01, "loss": 1.0, "top1": 1.0, "top5": 1.0}
        | {"val_top1": top1, "val_top5": top5, "val_loss": loss}
        for e, (top1, top5, loss) in enumerate(values, start=1)
    ]
    report = TrainingReport("Net A", rows, {}, [], measure, 20)
    page = write_training_page(tmp_path, report).read_text(encoding="utf-8")
    words = {"top1": "top-1 error", "top5": "top-5 error", "loss": "loss"}
    assert f"of the best epoch, {epoch} of 5 (least {words[measure]})" in page
    assert re.findall(r'<tr class="ours"><th scope="row">(\d)', page) == [str(epoch)]


def test_an_evaluations_page_equals_its_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vggfeat.nets.networks import VGG, glorot_

    names = ("cats", "dogs")
    for row, path in enumerate(sorted(photos.glob("*.jpg"))):
        target = tmp_path / "set" / names[row % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "set" / "cats" / "broken.jpg").write_bytes(b"no image")
    glorot_(VGG("A", width=1 / 32, num_classes=2, class_names=names)).save(tmp_path / "n.pt")
    options = ["--data", str(tmp_path / "set"), "--report", str(tmp_path / "r"), "--json"]
    made = ["--weights", str(tmp_path / "n.pt"), "--scales", "224", "--subset", "all", "-o", str(tmp_path / "p.h5")]
    assert run(["evaluate", "--dataset", "folder", *made, *options, "--per-class"]) == 3
    result = json.loads(capsys.readouterr().out)
    page = Path(result["report"]).read_text(encoding="utf-8")
    (row,) = result["rows"]
    assert re.findall(r'<td class="top1">([^<]*)</td>', page) == [f"{row['top1_error']:.1f}"]
    assert "2 classes, 6 images; 1 failed." in page
    right = sorted((f"{100 - error:.1f}" for error in result["per_class"].values()), key=float)
    assert values(page) == right
    assert sum(1 for _ in Elements(page).of("img")) >= 6
    assert run(["evaluate", str(tmp_path / "p.h5"), *options]) == 3
    again = json.loads(capsys.readouterr().out)
    assert again["rows"][0]["top1_error"] == row["top1_error"]
    assert values(Path(again["report"]).read_text(encoding="utf-8")) == right


def test_the_papers_errors_stand_beside_those_on_ilsvrc(tmp_path: Path) -> None:
    from vggfeat.inference.evaluation import Evaluation, Row
    from vggfeat.page.evaluation import write_page

    split = scored(n=20, k=3)
    row = Row("D", "D (oxford)", "oxford", "dense", (256, 384, 512), 20, top1_error=24.84, top5_error=None)
    result = Evaluation("ilsvrc2012", 3, (row,), {}, None)
    page = write_page(tmp_path, result, ["a", "b", "c"], split, [], Pictures(missing="none")).read_text("utf-8")
    ours, chance, *paper = re.findall(r"<tr.*?</tr>", page[page.index("Errors on ilsvrc2012") :])[1:9]
    assert re.findall(r"<td>([^<]+)</td>", chance) == ["66.7", "-"], "of three classes"
    assert 'class="ours"' in ours
    assert '<td class="top1">24.8</td><td class="top5">-</td>' in ours
    assert [re.findall(r"<td>([\d.]+)</td>", cells) for cells in paper] == [
        ["27.0", "8.8"],
        ["26.8", "8.7"],
        ["25.6", "8.1"],
        ["26.6", "8.6"],
        ["26.5", "8.6"],
        ["24.8", "7.5"],
    ]


def test_a_training_run_gives_its_page_and_the_command_that_repeats_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, path in enumerate(sorted(photos.glob("*.jpg"))):
        target = tmp_path / "set" / ("cats", "dogs")[row % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    asked = [
        "train",
        "--net",
        "A",
        "--dataset",
        "folder",
        "--data",
        str(tmp_path / "set"),
        "--width",
        "0.03125",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--set",
        "data.validation_fraction=0.3",
        "--S",
        "224",
        "--device",
        "cpu",
    ]
    assert run([*asked, "-o", str(tmp_path / "n.pt"), "--report", str(tmp_path / "r"), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/n.pt\n{tmp_path}/r/index.html\n"
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    [epoch] = [
        row
        for line in (tmp_path / "n.metrics.jsonl").read_text().splitlines()
        if (row := json.loads(line))["kind"] == "epoch"
    ]
    assert f'<th scope="row">1</th><td>{epoch["loss"]:.3f}</td>' in page
    evaluate, predict, train = commands_on(page)
    assert "--set width=0.03125" in train
    assert shlex.split(train)[-5:] == ["-o", str(tmp_path / "n.pt"), "--data", str(tmp_path / "set"), "--resume"]
    assert (tmp_path / "r" / "curves.png").exists()
    assert "<title>Net A, width 1/32, trained on set</title>" in page
    assert "<dt>net</dt><dd>A, width 1/32, S 224, precision " in page
    assert 'id="confusions"' in page
    assert f"Answers of {tmp_path}/n.pt, the net of epoch 1, on the central crop of 2 validation images." in page
    assert run([*shlex.split(evaluate)[1:], "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["images"] == 2
    again = (tmp_path / "r" / "evaluation" / "index.html").read_text(encoding="utf-8")
    [repeat] = commands_on(again)
    assert run([*shlex.split(repeat)[1:], "--device", "cpu", "--quiet"]) == 0
    assert run([*shlex.split(predict)[1:], "--device", "cpu", "--quiet"]) == 0
    # A run that is finished keeps its answers, and pasting its command gives the same page.
    assert run([*shlex.split(train)[1:], "--device", "cpu", "--quiet"]) == 0
    assert (tmp_path / "r" / "index.html").read_text(encoding="utf-8") == page


def test_the_surest_mistakes_come_first_and_unread_images_are_left_out(tmp_path: Path) -> None:
    from torch import tensor

    from vggfeat.datasets import Sample
    from vggfeat.datasets.split import TrainingSet
    from vggfeat.page.training import Judged
    from vggfeat.training.predicted import Predicted

    samples = tuple(Sample(f"{row}.png", f"{row}.png", row % 2) for row in range(5))
    dataset = TrainingSet("folder", (), samples, ("cat", "dog"), True, True)
    predicted = Predicted(
        3, tensor([1, 1, 1, -1, 0]), tensor([0.6, 0.9, 0.8, -1, 0.7]), tensor([0.4, 0.9, 0.2, -1, 0.7])
    )
    judged = Judged.by(predicted, dataset, Path("n.pt"), "")
    assert judged.of.endswith("the net of epoch 3, on the central crop of 4 validation images; 1 could not be read.")
    report = TrainingReport("Net A", [], {}, [], "top1", 2, judged=judged)
    page = write_training_page(tmp_path, report).read_text(encoding="utf-8")
    mistakes = page[page.index('id="mistakes"') :]
    assert re.findall(r"([\d.]+ %) dog", mistakes) == ["80.0 %", "60.0 %"]
    assert mistakes.count("in fact cat") == 2


def test_the_copies_that_svm_warns_of_are_on_its_page(folder: Path, tmp_path: Path) -> None:
    from vggfeat.classifiers.protocols.copies import Copy
    from vggfeat.page.transfer import Report
    from vggfeat.page.transfer import write_page as write_svm_page

    result = svm([folder / "d.h5"])
    split = scored(n=20, k=len(EVIL))
    report = Report(replace(result, copies=(Copy("1.png", "2.png", 0.9987),)), [split], {}, [])
    page = write_svm_page(tmp_path, report, Pictures(missing="none")).read_text("utf-8")
    assert "1 test image seems to be among the training images" in page
    copies = page[page.index('id="copies"') :]
    assert copies.index("0.9987") < copies.index("1.png") < copies.index("2.png")
    assert (
        'id="copies"'
        not in write_svm_page(tmp_path, replace(report, result=result), Pictures(missing="none")).read_text()
    )
