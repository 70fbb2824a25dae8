"""Random and narrow nets are named as such beside every score, chance stands beside it, and one image is no images."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from making import clusters, settings, write_descriptors

import vggfeat
from vggfeat.cli import run
from vggfeat.cli.tables import print_evaluation, print_failures
from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import StoreError
from vggfeat.inference.evaluation import Evaluation, Row
from vggfeat.metrics import chance_topk_error, positive_share
from vggfeat.nets.catalog import RANDOM
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.wording import net_words, nets_words
from vggfeat.page.evaluation import write_page
from vggfeat.page.evidence import Scored
from vggfeat.page.pictures import Pictures
from vggfeat.stages.info import info
from vggfeat.stages.svm import svm
from vggfeat.system.bars import Pace
from vggfeat.system.numbers import number_of
from vggfeat.training.recipe import load_recipe
from vggfeat.training.record import plain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("D", "oxford", 1.0), "D (oxford)"),
        (("A", "net.pt", 0.0625), "A, width 1/16 (net.pt)"),
        (("A", "none", 0.0625), "A, width 1/16, random weights"),
        (("E", "none", 1.0), "E, random weights"),
        (("D", "none", 0.75), "D, width 3/4, random weights"),
    ],
)
def test_a_net_is_named_with_its_width_and_weights(arguments, words):
    assert net_words(*arguments) == words


def test_several_nets_are_named_one_by_one():
    nets = settings("D")["nets"] + settings("E")["nets"]
    assert nets_words(nets) == "D (oxford) and E (oxford)"


def test_chance_is_what_guessing_scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 20_000)
    guesses = rng.permuted(np.tile(np.arange(8), (20_000, 1)), axis=1)
    for k in (1, 5):
        wrong = 100 * np.mean([label not in guess[:k] for label, guess in zip(labels, guesses, strict=True)])
        assert chance_topk_error(8, k) == pytest.approx(wrong, abs=1.5)
    assert chance_topk_error(4, 5) == 0


def test_the_share_of_positives_leaves_difficult_images_out():
    labels = np.array([[1, 0], [-1, -1], [-1, 0], [0, -1]])
    assert positive_share(labels).tolist() == pytest.approx([1 / 3, 0.0])
    assert np.isnan(positive_share(np.zeros((3, 1), dtype=int))).all()


@pytest.fixture
def random_net(tmp_path):
    """Descriptors of a narrow net with random weights."""
    dataset, values = clusters([20, 25, 30, 22, 40])
    nets = [{**settings("A")["nets"][0], "weights": "none", "width": 0.0625}]
    return write_descriptors(tmp_path / "d.h5", dataset, values, nets=nets)


def test_scores_of_random_weights_say_so_in_the_table_the_json_the_page_and_info(random_net, tmp_path, capsys):
    words = "A, width 1/16, random weights"
    result = svm([random_net], report=tmp_path / "r", output=tmp_path / "m.h5")
    assert result["chance"] == 0.2
    assert [one["nets"] for one in result["descriptors"]] == [words]
    page = (tmp_path / "r" / "index.html").read_text("utf-8")
    assert "<small>mean class recall; chance 20.0 %, random weights</small>" in page
    assert f"net {words} at Q 256" in page
    assert info(random_net)["nets"] == info(tmp_path / "m.h5")["nets"] == words
    assert info(tmp_path / "m.h5")["chance"] == 0.2
    assert run(["svm", str(random_net), "--C", "1", "--num-splits", "1"]) == 0
    assert f"(chance 20.0)\nnet {words}; " in capsys.readouterr().err


def test_the_pages_of_svm_and_similar_name_the_net_as_the_table_does(random_net, tmp_path, capsys):
    words = "A, width 1/16, random weights"
    svm([random_net], C=1, report=tmp_path / "r")
    page = (tmp_path / "r" / "index.html").read_text("utf-8")
    assert f'<th scope="row" class="text">this run</th><td class="text">{words}</td>' in page
    assert f"<dt>net</dt><dd>{words}</dd>" in page
    assert run(["similar", str(random_net), "--report", str(tmp_path / "s")]) == 0
    assert f"net {words}; {random_net}\n" in capsys.readouterr().err
    page = (tmp_path / "s" / "index.html").read_text("utf-8")
    assert f"Similarity is the cosine between descriptors of net {words}: 1 is the same direction." in page
    assert run(["similar", str(random_net), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nets"] == words


def evaluation(classes, top5, dataset="folder"):
    """Of a narrow net."""
    row = Row("A", "A, width 1/16 (net.pt)", "net.pt", "dense", (256,), 20, top1_error=75.0, top5_error=top5)
    return Evaluation(dataset, classes, (row,), {}, None)


@pytest.mark.parametrize(
    ("classes", "top5", "table", "title", "heads"),
    [
        (
            4,
            None,
            "net                      view    Q  images  top-1 error %\n"
            "A, width 1/16 (net.pt)  dense  256      20           75.0\n"
            "chance                                               75.0\n",
            "folder: top-1 error 75.0 %",
            ["net", "view", "Q", "top-1 error %"],
        ),
        (
            8,
            25.0,
            "net                      view    Q  images  top-1 error %  top-5 error %\n"
            "A, width 1/16 (net.pt)  dense  256      20           75.0           25.0\n"
            "chance                                               87.5           37.5\n",
            "folder: top-1 error 75.0 %, top-5 25.0 %",
            ["net", "view", "Q", "top-1 error %", "top-5 error %"],
        ),
    ],
)
def test_an_evaluation_names_the_net_and_has_a_top_5_error_only_where_it_says_something(
    classes, top5, table, title, heads, tmp_path, capsys
):
    result, names = evaluation(classes, top5), [f"c{k}" for k in range(classes)]
    print_evaluation(result)
    assert "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().err.splitlines()) == table
    values = np.random.default_rng(0).dirichlet(np.ones(classes), 20).astype(np.float32)
    scored = Scored([str(i) for i in range(20)], np.arange(20) % classes, values)
    page = write_page(tmp_path, result, names, scored, [], Pictures(missing="none")).read_text("utf-8")
    assert f"<title>{title}</title>" in page
    assert "<dt>row 1</dt><dd>net A, width 1/16 (net.pt), view dense, Q 256</dd>" in page
    score = page[page.index("Errors on folder") :]
    assert re.findall(r"<th[^>]*>([^<]+)</th>", score[: score.index("</thead>")]) == heads


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        (4, {"top1": "50", "chance top1": "75"}),
        (8, {"top1": "50", "chance top1": "87.5", "top5": "10", "chance top5": "37.5"}),
    ],
)
def test_info_has_chance_beside_the_errors_of_a_checkpoint(classes, shown, tmp_path, capsys):
    names = [f"c{k}" for k in range(classes)]
    net = VGG("A", width=1 / 64, num_classes=classes, class_names=tuple(names), preprocessing=RANDOM)
    glorot_(net, seed=0)
    errors = {"view": "centre", "loss": 1.5, "top1": 50.0, "top5": 10.0 if classes > 5 else 0.0, "images": 20}
    recipe = plain(load_recipe(None, {"net": "A", "width": 1 / 64}))
    net.training_record = {"recipe": recipe, "class_names": names, "validation": errors}
    net.save(tmp_path / "net.pt")
    assert run(["info", str(tmp_path / "net.pt")]) == 0
    start = "training: validation: "
    rows = [line.removeprefix(start).rsplit("  ", 1) for line in capsys.readouterr().out.splitlines() if start in line]
    told = {name.strip(): value for name, value in rows}
    assert told == {"view": "centre", "loss": "1.5", **shown, "images": "20"}
    assert run(["info", str(tmp_path / "net.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["validation"]["top5"] == (10.0 if classes > 5 else None)


def test_chance_for_average_precision_is_the_share_of_positive_test_images(tmp_path):
    from test_svm_stage import multi_label

    from vggfeat.datasets.voc import CLASSES

    dataset, values = multi_label(120, CLASSES[:3], ("train", "val", "test"), name="voc2007")
    result = svm([write_descriptors(tmp_path / "v.h5", dataset, values)], C=1)
    test = np.array([sample.labels for sample in dataset.samples if sample.subset == "test"])
    assert result["chance"] == pytest.approx(np.mean([(c == 1).sum() / (c != 0).sum() for c in test.T]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, "image"), "0 images"),
        ((1, "image"), "1 image"),
        ((2, "image"), "2 images"),
        ((1, "class"), "1 class"),
        ((3, "class"), "3 classes"),
        ((2, "bias"), "2 biases"),
        ((1, "image is", "images are"), "1 image is"),
        ((2, "image is", "images are"), "2 images are"),
    ],
)
def test_a_count_has_its_noun_in_the_singular_or_the_plural(arguments, words):
    assert number_of(*arguments) == words


@pytest.mark.parametrize(
    ("errors", "total", "last"),
    [(1, 1, "1 of 1 image skipped"), (1, 2, "1 of 2 images skipped"), (2, 2, "2 of 2 images skipped")],
)
def test_skipped_images_are_counted_in_words(errors, total, last, capsys):
    print_failures({f"{number}.jpg": "cut off" for number in range(errors)}, total)
    assert capsys.readouterr().err.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("images", "pending", "said"),
    [(1, [0], "1 of 1 image is"), (2, [0], "1 of 2 images is"), (2, [0, 1], "2 of 2 images are")],
)
def test_images_still_to_do_are_counted_in_words(tmp_path, images, pending, said):
    dataset, values = clusters([images])
    path = write_descriptors(tmp_path / "d.h5", dataset, values, pending=pending)
    with pytest.raises(StoreError) as caught:
        svm([path])
    assert str(caught.value) == f"{path} is not finished: {said} still to do; extract again with `resume`"


def test_a_data_set_says_what_it_holds():
    assert repr(Dataset("own", (Sample("a", "a"),), ("cats",))) == "<Dataset own: 1 image, 1 class>"
    assert repr(Dataset("own", (), ("cats", "dogs"))) == "<Dataset own: 0 images, 2 classes>"


SEVERAL = (
    " classes (--json",
    " images, evenly chosen",
    " need classes (N, K)",
    " new digits",
    " operators",
    " samples a pixel",
    " shards are missing",
    " splits",
    " times `preprocessing`",
    " weights",
)
"""What follows a count that is never one, or has no singular; or what is not its noun."""


def test_no_message_has_a_count_before_a_bare_plural():
    """`{len(images)} images` says "1 images" in time: `number_of` is for that."""
    found = []
    for path in sorted(Path(vggfeat.__file__).parent.rglob("*.py")):
        texts = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.JoinedStr))
        for value, after in ((a, b) for text in texts for a, b in zip(text.values, text.values[1:], strict=False)):
            counts = isinstance(value, ast.FormattedValue) and ast.unparse(value.value).startswith("len(")
            said = after.value if isinstance(after, ast.Constant) else ""
            if counts and re.match(r" ([\w-]+ )?\w+s\b", said) and not said.startswith(SEVERAL):
                found.append(f"{path.name}: {ast.unparse(value)}{said}")
    assert found == []


@pytest.mark.parametrize(
    ("unit", "done", "total", "words"),
    [
        ("image", 0, 1, "0/1 image"),
        ("image", 1, 1, "1/1 image"),
        ("image", 1, 2, "1/2 images"),
        ("update", 7, 0, "7 updates"),
        ("row", 1, 0, "1 row"),
        ("MB", 1, 553, "1/553 MB"),
        ("compared", 3, 10, "3/10 compared"),
    ],
)
def test_progress_counts_in_words(unit, done, total, words):
    assert Pace(unit).counts(done, total, 0) == f"{words}, 0.0/s"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "2.0/s"), (1, "1.0/s"), (4, "0.25/s"), (31.4, "31 s each"), (3600, "3600 s each")]
)
def test_a_slow_pace_is_told_by_the_seconds_that_each_takes(seconds, words, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace = Pace("run")
    pace.counts(0, 3, 0)
    now[0] = seconds
    assert pace.counts(1, 3, 0) == f"1/3 runs, {words}"


def test_every_progress_is_of_a_noun_in_the_singular():
    """Pace makes the plural."""
    named = set()
    for path in Path(vggfeat.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "Ticker",
                "Bar",
                "with_bar",
            ):
                words = [*node.args[1:], *(given.value for given in node.keywords if given.arg == "unit")]
                named |= {one.value for one in words if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    assert {"row", "step", "layer"} <= named
    assert [unit for unit in sorted(named) if unit.endswith("s")] == []
