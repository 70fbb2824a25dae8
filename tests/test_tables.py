"""The recipes of the paper's tables: what each command in a header runs, and two tables run in small."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from devkit import action_files, annotation, main_files, stand_in
from shipped import RECIPES, TABLES, TRAINING, commands, header, parsed

from vggfeat.cli import run
from vggfeat.datasets.voc import ACTIONS, CLASSES
from vggfeat.page.paper import TRANSFER
from vggfeat.store import read_descriptors
from vggfeat.training.recipe import load_recipe

DEFAULT = {"net": (), "weights": ("published",), "files": (), "subset": "val", "dataset": "ilsvrc2012"}
OXFORD_TEST = {"weights": ("oxford",), "scales": "multi", "subset": "test", "files": ()}
POSTERIORS = {name: f"posteriors/{name[0]}-256-512-{name[1:]}.h5" for name in ("Ddense", "Dcrops", "Edense", "Ecrops")}
LOCALISERS = tuple(f"checkpoints/ilsvrc2012-D-{S}-localise-pcr/best.pt" for S in (256, 384))


def one_net(scales: str, view: str = "dense", **changes: Any) -> tuple[str, dict[str, Any]]:
    return "evaluate", {**DEFAULT, "scales": scales, "view": view, **changes}


def fused(*names: str) -> tuple[str, dict[str, Any]]:
    return "evaluate", {"files": tuple(POSTERIORS[name] for name in names)}


def localised(weights: tuple[str, ...], **changes: Any) -> tuple[str, dict[str, Any]]:
    return "localise", {"weights": weights, "protocol": "2", "posteriors": (POSTERIORS["Ddense"],), **changes}


def transferred(dataset: str, scales: tuple[int, ...], aggregate: str) -> list[tuple[str, dict[str, Any]]]:
    """Table 11's commands (Appendix B): both nets' descriptors, each scored, then both stacked."""
    files = tuple(f"descriptors/{dataset}-{net}-oxford-{'_'.join(map(str, scales))}-{aggregate}.h5" for net in "DE")
    described = {
        "dataset": dataset,
        "scales": scales,
        "aggregate": aggregate,
        "weights": ("oxford",),
        "region": "image",
        "flip": True,
        "layer": ("fc7",),
    }
    scored = {"dataset": dataset, "number": None, "loss": "squared_hinge", "C": None, "train_per_class": None}
    return [
        ("download", {"dataset": dataset}),
        *(("extract", {"net": (net,), **described}) for net in "DE"),
        *(("svm", {"files": names, "archive": None, **scored}) for names in (files[:1], files[1:])),
        ("svm", {"files": files, "archive": "table-11-voc2012.tar" if dataset == "voc2012" else None, **scored}),
    ]


THREE, FIVE = (256, 384, 512), (256, 384, 512, 640, 768)
ACTION = {
    "dataset": "voc2012-action",
    "net": ("D", "E"),
    "weights": ("oxford",),
    "scales": FIVE,
    "aggregate": "average",
}

COMMANDS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "table-2": [("nets", {"as_json": True})],
    "table-3": [
        one_net("single"),
        one_net("single", net=("E",)),
        one_net("single", weights=("checkpoints/ilsvrc2012-A-256/best.pt",)),
    ],
    "table-4": [
        one_net("multi"),
        one_net("multi", net=("E",)),
        one_net("multi", weights=("checkpoints/ilsvrc2012-B-256/best.pt",)),
    ],
    "table-5": [
        one_net("multi", output=POSTERIORS["Ddense"]),
        one_net("multi", "crops", output=POSTERIORS["Dcrops"]),
        fused("Ddense", "Dcrops"),
        one_net("multi", net=("E",), output=POSTERIORS["Edense"]),
        one_net("multi", "crops", net=("E",), output=POSTERIORS["Ecrops"]),
        fused("Edense", "Ecrops"),
    ],
    "table-6": [fused("Ddense", "Edense"), fused("Dcrops", "Ecrops"), fused("Ddense", "Dcrops", "Edense", "Ecrops")],
    "table-7": [
        ("evaluate", {**OXFORD_TEST, "net": ("E",), "view": "both", "submission": "table-7-E.txt"}),
        ("evaluate", {**OXFORD_TEST, "net": ("D", "E"), "view": "both", "submission": "table-7-D-E.txt"}),
    ],
    "table-8": [
        localised((f"checkpoints/ilsvrc2012-D-384-{name}/best.pt",), protocol="1", posteriors=(), scales=())
        for name in ("fc-localise-scr", "fc-localise-pcr", "localise-pcr")
    ],
    "table-9": [
        localised(LOCALISERS[:1], scales=((256,),)),
        localised(LOCALISERS[1:], scales=((384,),)),
        localised(LOCALISERS[1:], scales=((352, 384),)),
        localised(LOCALISERS, scales=((256,), (352, 384))),
    ],
    "table-10": [
        ("evaluate", {**OXFORD_TEST, "net": ("D",), "view": "dense", "output": "posteriors/D-256-512-test.h5"}),
        localised(LOCALISERS, scales=((256,), (352, 384)), subset="test", posteriors=("posteriors/D-256-512-test.h5",)),
    ],
    "table-11-caltech101": transferred("caltech101", THREE, "stack"),
    "table-11-caltech256": transferred("caltech256", THREE, "stack"),
    "table-11-voc2007": transferred("voc2007", FIVE, "average"),
    "table-11-voc2012": transferred("voc2012", FIVE, "average"),
    "table-12": [
        ("download", {"dataset": "voc2012"}),
        ("extract", {**ACTION, "region": "image", "output": "descriptors/voc2012-action-image.h5"}),
        ("extract", {**ACTION, "region": "both", "output": "descriptors/voc2012-action-both.h5"}),
        ("svm", {"dataset": "voc2012-action", "files": ("descriptors/voc2012-action-image.h5",)}),
        ("svm", {"dataset": "voc2012-action", "files": ("descriptors/voc2012-action-both.h5",)}),
    ],
}
"""What the paper's tables ask for, by recipe: each command of its header with the options that matter."""

SCORES = {
    "table-2": "A, A-LRN and B 133, C 134, D 138, E 144",
    "table-3": "D 25.6/8.1, E 25.5/8.0 (S in [256, 512]); A 29.6/10.4",
    "table-4": "D 24.8/7.5, E 24.8/7.5 (S in [256, 512]); B 28.2/9.6",
    "table-5": "D dense 24.8/7.5, crops 24.6/7.5, both 24.4/7.2; E dense 24.8/7.5, crops 24.6/7.4, both 24.4/7.1",
    "table-6": "dense 24.0/7.1, crops 23.9/7.2, both 23.7/6.8",
    "table-7": "E 7.0, D and E 6.8",
    "table-8": "fully-connected layers SCR 36.4, PCR 34.3; all layers PCR 33.1",
    "table-9": "29.5, 28.2, 27.5, 26.9",
    "table-10": "25.3",
    "table-11-caltech101": "D 91.8 +- 1.0, E 92.3 +- 0.5, D and E 92.7 +- 0.5",
    "table-11-caltech256": "D 85.0 +- 0.2, E 85.1 +- 0.3, D and E 86.2 +- 0.3",
    "table-11-voc2007": "D 89.3, E 89.3, D and E 89.7",
    "table-11-voc2012": "D 89.0, E 89.0, D and E 89.3",
    "table-12": "image 79.2, image and box 84.0",
}
"""The paper's."""


@pytest.fixture
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers name recipes as seen from there."""
    monkeypatch.chdir(RECIPES.parent)


def test_every_table_of_the_paper_has_a_recipe() -> None:
    assert {file.stem for file in TABLES} == set(COMMANDS) == set(SCORES)
    assert {int(name.split("-")[1]) for name in COMMANDS} == set(range(2, 13))


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_the_commands_of_a_header_are_those_of_the_papers_table(file: Path, in_the_checkout: None) -> None:
    lines = commands(file)
    assert len(lines) == len(COMMANDS[file.stem])
    for line, (verb, expected) in zip(lines, COMMANDS[file.stem], strict=True):
        context = parsed(line)
        assert context.info_name == verb
        assert {name: context.params[name] for name in expected} == expected, line
    used = {shlex.split(line)[3] for line in lines if "--recipe" in line}
    assert used == {f"recipes/{file.name}"}


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_a_header_says_what_it_costs_and_what_the_paper_has(file: Path) -> None:
    text = " ".join(header(file))
    assert "Cost: " in text
    assert re.search(rf"Expected \(paper\), [^:]*: {re.escape(SCORES[file.stem])}\.$", text), text


@pytest.mark.parametrize("name", SCORES)
def test_the_table_of_tables_quotes_the_paper_and_says_what_was_run_here(name: str) -> None:
    readme = (RECIPES / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if line.startswith("| ") and f"| [{name}]({name}.toml)" in line]
    _, title, _, paper, ours, _ = row.split("|")
    assert title.startswith(f" {name.split('-')[1]}: ")
    quoted = SCORES[name].partition(" (S in")[0]  # those of A and B stand in the tables below
    assert set(re.findall(r"\d+(?:\.\d)?", quoted)) <= set(re.findall(r"\d+(?:\.\d)?", paper))
    assert ours.strip()


def test_the_scores_are_those_that_reports_show_too() -> None:
    for dataset in ("caltech101", "caltech256", "voc2007", "voc2012"):
        for score in TRANSFER[dataset]:
            deviation = "" if score.std is None else f" +- {score.std}"
            assert f"{' and '.join(score.nets)} {score.value}{deviation}" in SCORES[f"table-11-{dataset}"]
    assert [score.value for score in TRANSFER["voc2012-action"]] == [79.2, 84.0]


def test_what_a_command_reads_another_one_writes(in_the_checkout: None) -> None:
    """Descriptors, posteriors and checkpoints; each in the same recipe, in an earlier table's, or by training."""
    from vggfeat.stages.extract import default_output

    written = {f"checkpoints/{load_recipe(file).name}/best.pt" for file in TRAINING}
    for file in sorted(TABLES, key=lambda file: int(file.stem.split("-")[1])):
        for line in commands(file):
            context = parsed(line)
            params = context.params
            read = [name for key in ("files", "posteriors", "weights") for name in params.get(key) or ()]
            assert {name for name in read if "/" in name} <= written, line
            if context.info_name == "extract":
                nets: Any = [SimpleNamespace(net=net, weights_name=params["weights"][0]) for net in params["net"]]
                settings: Any = SimpleNamespace(scales=params["scales"], aggregate=params["aggregate"])
                written.add(params["output"] or str(default_output(params["dataset"], nets, settings)))
            elif context.info_name == "evaluate":
                written.add(params["output"])


def small(file: str, line: str) -> list[str]:
    """A header's line for the narrowest nets, written where it would be for the real ones."""
    words = shlex.split(line)[1:]
    words[words.index("--recipe") + 1] = str(RECIPES / file)
    if words[0] == "extract":
        words += ["--weights", "none", "--width", "0.015625", "--precision", "fp32", "--workers", "1"]
        if file != "table-12.toml":
            net = "E" if "E" in words else "D"
            words += ["-o", f"descriptors/voc2007-{net}-oxford-256_384_512_640_768-average.h5"]
    return words if words[0] == "extract" else [*words, "--json"]


def scored(file: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Runs the commands of a header, the download apart; the results of svm."""
    results = []
    for line in commands(RECIPES / file):
        if not line.startswith("vggfeat download"):
            capsys.readouterr()
            assert run([*small(file, line), "--quiet"]) == 0, capsys.readouterr().err
            if line.startswith("vggfeat svm"):
                results.append(json.loads(capsys.readouterr().out))
    return results


def test_table_11_runs_on_a_small_voc2007(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for subset in ("train", "val", "test"):
        ids = [f"{subset}{number}" for number in range(4)]
        main_files(root, subset, ids, {name: {ids[k % 4]: 1} for k, name in enumerate(CLASSES)})
        for number, id in enumerate(ids):
            stand_in(root / "JPEGImages" / f"{id}.jpg", [number], 4, number)
    results = scored("table-11-voc2007.toml", capsys)
    assert [[file["net"] for file in result["descriptors"]] for result in results] == [["D"], ["E"], ["D", "E"]]
    for result in results:
        assert (result["dataset"], result["measure"], result["definition"]) == ("voc2007", "mAP", "voc2007")
        assert 0 < result["mean"] <= 1
        for file in result["descriptors"]:
            assert (list(file["scales"]), file["aggregate"]) == ([*FIVE], "average")


def test_table_12_runs_on_a_few_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for subset in ("train", "val"):
        persons = [(f"2011_{subset}{number}", 1) for number in range(3)]
        for number, (id, _) in enumerate(persons):
            annotation(root, id, [("person", (11, 6, 60, 50))])
            stand_in(root / "JPEGImages" / f"{id}.jpg", [number], 10, number)
        action_files(root, subset, persons, {name: {k % 3} for k, name in enumerate(ACTIONS)})
    results = scored("table-12.toml", capsys)
    assert [result["dataset"] for result in results] == ["voc2012-action"] * 2
    image, both = (read_descriptors(f"descriptors/voc2012-action-{region}.h5") for region in ("image", "both"))
    assert both.dim == 2 * image.dim == 2 * 2 * 64, "two regions of two nets' 64 channels"
    # Each net's unit vectors share the length, so the whole image's parts are the image file's, scaled down.
    assert np.allclose(both.read()[:, :64] * np.sqrt(2), image.read()[:, :64], atol=1e-5)
