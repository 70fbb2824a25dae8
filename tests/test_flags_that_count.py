"""A flag that would change nothing in a run is refused in one line, before anything is read or made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from making import clusters, settings, write_descriptors

from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.cli import run
from vggfeat.datasets import Dataset
from vggfeat.errors import UsageError
from vggfeat.page.commands import extract_command
from vggfeat.stages.svm import svm
from vggfeat.store.naming import Naming


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("svm a.h5 --splits s.json --seed 9", "--seed goes with random splits; --splits names them"),
        ("svm a.h5 --data photos", "--data goes with --report"),
        ("localise --weights a.pt --protocol 1 --threshold 0.9", "--threshold goes with --protocol 2"),
        ("localise --weights a.pt --protocol 1 --no-flip", "--no-flip goes with --protocol 2"),
        ("bench svm --net A", "--net goes with bench extract, train or convolutions"),
        ("bench svm --images 3", "--images goes with bench extract"),
        ("bench extract --size voc", "--size goes with bench svm"),
        ("bench extract --batch-size 4", "--batch-size goes with bench train"),
        ("bench train --scales 224", "--scales goes with bench extract or convolutions"),
        ("bench solvers --size wide", "--size goes with bench svm"),
        ("bench convolutions --precision bf16", "--precision goes with bench extract or train"),
        ("bench convolutions --scales 224,256", "--scales: `bench convolutions` measures one"),
        ("download --net D --data x --offline", "--data goes with --dataset; weights go to the cache (VGGFEAT_CACHE)"),
        ("extract --dataset folder --data photos -0", "-0 describes a list: it goes with - or --list"),
        ("extract --data photos -0", "-0 describes a list: it goes with - or --list"),
        ("extract photos -0", "-0 describes a list: it goes with - or --list"),
        ("extract photos --seed 3", "--seed goes with --weights none"),
        ("extract photos --weights a.pt --seed 3", "--seed goes with --weights none"),
        ("evaluate --weights a.pt --seed 3", "--seed goes with --weights none"),
        ("extract photos --layer pool5:max --pool gem", "--pool goes with a --layer that names no pooling of its own"),
        ("similar a.h5 -k 3", "--count goes with pictures: name some, or give - or --list"),
        ("train --net A --net=B", "--net is given 2 times: train takes one"),
        ("bench extract --net A --net D --net E", "--net is given 3 times: bench takes one"),
        (
            "predict m.h5 a.jpg --preprocessing a --preprocessing b",
            "--preprocessing is given 2 times: predict takes one",
        ),
        ("evaluate a.h5 --data photos", "--data goes with images, --report or --submission"),
        ("similar a.h5 --data photos", "--data goes with --report"),
        ("similar a.h5 b.jpg --data photos", "--data goes with --report"),
        ("evaluate a.h5 --device cpu", "--device goes with images; FILES are posteriors that are scored as they are"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(command.split()) == 2
    assert capsys.readouterr().err == f"vggfeat: {message}\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Descriptors whose images name a training and a test subset."""
    dataset, values = clusters([12, 12])
    samples = tuple(replace(one, subset="train" if n % 2 else "test") for n, one in enumerate(dataset.samples))
    return write_descriptors(tmp_path / "own.h5", Dataset("folder", samples, dataset.class_names), values)


def test_a_number_of_splits_is_refused_where_splits_are_not_random(own: Path, tmp_path: Path) -> None:
    for rounds, message in (
        (Rounds(number=20), f"the images of {own} name their subsets: `number` goes with `test_fraction`"),
        (Rounds(number=20, folds=2), "`number` goes with random splits, not with `folds`"),
    ):
        with pytest.raises(UsageError) as caught:
            svm([own], C=1, rounds=rounds)
        assert str(caught.value).startswith(message)
    assert len(svm([own], C=1, rounds=Rounds(number=4, test_fraction=0.25))["splits"]) == 4
    svm([own], C=1, write_splits=tmp_path / "s.json")
    with pytest.raises(UsageError, match="`splits` names the splits: leave out `number`, "):
        svm([own], C=1, splits=tmp_path / "s.json", rounds=Rounds(number=20))


def test_a_recipe_may_hold_what_its_other_runs_need(own: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Only a flag that was typed is refused; a shared table serves all runs of a command."""
    monkeypatch.setattr("vggfeat.stages.bench.solvers.bench_solvers", lambda progress: {})
    recipe = tmp_path / "r.toml"
    recipe.write_text('[bench]\nsize = "wide"\nnet = "A"\n\n[svm]\nnum-splits = 5\n\n[localise]\nthreshold = 0.5\n')
    assert run(["bench", "solvers", "--recipe", str(recipe), "--json"]) == 0
    assert capsys.readouterr().out == '{\n  "solvers": {}\n}\n'
    assert run(["svm", str(own), "--C", "1", "--folds", "2", "--recipe", str(recipe), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["splits"]) == 2
    weights = ["--weights", str(tmp_path / "gone.pt"), "--data", str(tmp_path)]
    assert run(["localise", "--protocol", "1", *weights, "--recipe", str(recipe)]) == 1
    assert "goes with" not in capsys.readouterr().err


def test_printed_commands_hold_no_flag_that_would_be_refused(own: Path, tmp_path: Path, capsys) -> None:
    recorded = settings(layer="pool5:max", pool="gem")
    assert "--pool" not in extract_command(recorded, "folder", naming=Naming())
    assert "--pool gem" in extract_command({**recorded, "layer": "pool5"}, "folder", naming=Naming())
    svm([own], C=1, write_splits=tmp_path / "s.json")
    svm([own], C=1, splits=tmp_path / "s.json", rounds=Rounds(seed=9), output=tmp_path / "m.h5")
    assert run(["info", str(tmp_path / "m.h5")]) == 0
    shown = capsys.readouterr().out
    assert "--splits" in shown and "--seed" not in shown


@pytest.mark.parametrize("name", ["caltech101", "caltech256", "folder"])
def test_random_splits_are_three_unless_a_number_is_given(name: str, tmp_path: Path) -> None:
    path = write_descriptors(tmp_path / "a.h5", *clusters([70, 70], name=name))
    assert len(svm([path], C=1)["splits"]) == 3
    assert len(svm([path], C=1, rounds=Rounds(number=2))["splits"]) == 2


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_splits_below_one_is_refused(own: Path, number: int) -> None:
    with pytest.raises(UsageError, match=f"`number` {number} is not 1 or more"):
        svm([own], C=1, rounds=Rounds(number=number, test_fraction=0.25))
