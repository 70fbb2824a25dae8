"""A flag that would change nothing in a run is refused in one line, before anything is read or made."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import clusters, settings, write_descriptors

import vggfeat
from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.cli import run
from vggfeat.datasets import Dataset
from vggfeat.errors import UsageError
from vggfeat.inference.prediction import Prediction
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
    (tmp_path / "no.pt").write_text("")
    weights = ["--weights", str(tmp_path / "no.pt"), "--data", str(tmp_path)]
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": 0}, "`number` 0 is not a whole number of 1 or more"),
        ({"number": -1, "test_fraction": 0.25}, "`number` -1 is not a whole number of 1 or more"),
        ({"seed": -1}, "`seed` -1 is not a whole number of 0 or more"),
        ({"seed": None}, "`seed` None is not a whole number of 0 or more"),
        ({"folds": 1}, "`folds` 1 is not a whole number of 2 or more"),
        ({"folds": 2.5}, "`folds` 2.5 is not a whole number of 2 or more"),
        ({"folds": "3"}, "`folds` '3' is not a whole number of 2 or more"),
        ({"train_per_class": 0}, "`train_per_class` 0 is not a whole number of 2 or more"),
        ({"train_per_class": -3}, "`train_per_class` -3 is not a whole number of 2 or more"),
        ({"train_per_class": 3, "test_per_class": 0}, "`test_per_class` 0 is not a whole number of 1 or more"),
        ({"test_fraction": 0}, "`test_fraction` 0 is not between 0 and 1"),
        ({"test_fraction": 1}, "`test_fraction` 1 is not between 0 and 1"),
        ({"test_fraction": -1.0}, "`test_fraction` -1.0 is not between 0 and 1"),
        ({"test_fraction": float("nan")}, "`test_fraction` nan is not between 0 and 1"),
        ({"test_fraction": "0.5"}, "`test_fraction` '0.5' is not between 0 and 1"),
    ],
)
def test_rounds_that_cannot_be_are_refused(fields: dict[str, object], message: str) -> None:
    """Some of them used to give scores on other splits than those asked for; others raised numpy's own errors."""
    with pytest.raises(UsageError) as caught:
        Rounds(**fields)
    assert str(caught.value) == message


def test_rounds_take_numpys_numbers(own: Path) -> None:
    rounds = Rounds(number=np.int64(2), train_per_class=np.int32(5), seed=np.uint8(3))
    assert svm([own], C=1, rounds=rounds)["mean"] == svm([own], C=1, rounds=Rounds(2, 3, train_per_class=5))["mean"]
    kinds = (np.int64(2), np.int64(3), None, np.int32(5), np.uint8(1), np.float32(0.5))
    assert json.dumps(dataclasses.asdict(Rounds(*kinds))) == json.dumps(
        dataclasses.asdict(Rounds(2, 3, None, 5, 1, 0.5))
    )


def test_splits_of_numpys_numbers_are_written(own: Path, tmp_path: Path) -> None:
    rounds = Rounds(folds=np.int64(3), seed=np.int64(2))
    result = svm([own], C=1, rounds=rounds, write_splits=tmp_path / "splits.json")
    assert [split["seed"] for split in json.loads(json.dumps(result.as_json()))["splits"]] == [2, 2, 2]
    assert svm([own], C=1, splits=tmp_path / "splits.json")["mean"] == result["mean"]


@pytest.mark.parametrize("C", [np.logspace(-2, 1, 4), [0.01, 0.1, 1, 10], (0.01, 0.1, 1.0, 10.0)])
def test_a_grid_is_a_list_a_tuple_or_an_array(own: Path, C: object) -> None:
    assert svm([own], C=C)["C"] == [0.01, 0.1, 1.0, 10.0]


@pytest.mark.parametrize("C", [1, 1.0, np.float32(1), np.array(1)])
def test_a_single_cost_is_any_number(own: Path, C: object) -> None:
    assert svm([own], C=C)["C"] == [1.0]


@pytest.mark.parametrize("C", ["13", "0.1", None, {0.1, 1}, [[0.1, 1]], [1, [2, 3]], ["a"], [True, 2 + 1j]])
def test_costs_of_another_kind_are_refused(own: Path, C: object) -> None:
    with pytest.raises(UsageError) as caught:
        svm([own], C=C)
    assert str(caught.value) == f"`C` is {C!r}, neither a number nor a grid of numbers"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("svm {own} --C 0", "--C 0: every value must be above 0 and finite"),
        ("svm {own} --C 1,0.1", "--C 1,0.1: the grid must ascend without repetition"),
        ("svm {own} --loss hinge --solver newton", "the plain hinge has no Newton solver: take --solver liblinear or "),
        ("svm {own} --probabilities", "--probabilities are kept in the model: name its file with -o"),
    ],
)
def test_settings_alone_are_told_before_scikit_learn_is_imported(own: Path, command: str, message: str) -> None:
    words = command.format(own=own).split()
    code = f"import sys; from vggfeat.cli import run; code = run({words!r}); print('sklearn' in sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith(f"vggfeat: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "data"}, "`data` goes with `report`"),
        ({"progress": "x"}, "progress 'x' is not True, False or a function"),
        ({"solver": "x"}, "no solver 'x'; valid: auto, newton, liblinear"),
        ({"loss": "x"}, "no loss 'x'; valid: squared_hinge, hinge"),
        ({"max_memory": "1"}, "`max_memory` '1' is not a number"),
        ({"max_memory": 0}, "`max_memory` 0 is not above 0"),
        ({"progress": 3}, "progress 3 is not True, False or a function"),
    ],
)
def test_svm_refuses_what_would_change_nothing(own: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        svm([own], C=1, **options)
    assert str(caught.value) == message


def test_what_is_no_descriptor_file_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        svm(None)
    assert str(caught.value) == (
        "NoneType is not a descriptor file: give its path, or what vggfeat.read_descriptors gave"
    )


def test_a_data_root_in_the_environment_needs_no_report(own: Path, monkeypatch) -> None:
    monkeypatch.setenv("VGGFEAT_DATA", "data")
    assert run(["svm", str(own), "--C", "1"]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vggfeat.extract([], output=5), "`output` 5 is not a path"),
        (lambda: vggfeat.export("a.h5", None), "`output` None is not a path"),
        (lambda: vggfeat.export("a.h5", output=b"x.npy"), "`output` b'x.npy' is not a path"),
        (lambda: vggfeat.svm("a.h5", report=True), "`report` True is not a path"),
        (lambda: vggfeat.load_net("A", None, seed=2**70), "`seed` does not fit into 64 bits"),
        (lambda: vggfeat.extract(["x.jpg"], seed=-(2**63)), "`seed` does not fit into 64 bits"),
        (lambda: vggfeat.extract(["x.jpg"], max_megapixels="x"), "`max_megapixels` 'x' is not a number"),
    ],
)
def test_what_is_no_path_or_number_is_told(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == message


def test_a_prediction_is_told_with_a_name_for_each_score():
    prediction = Prediction("a.jpg", np.array([0.1, 0.7, 0.2], np.float32))
    assert prediction.best(("x", "y", "z"))[0][0] == "y"
    with pytest.raises(UsageError) as caught:
        prediction.best(("x", "y"))
    assert str(caught.value) == "a.jpg: 3 scores and 2 class names: give one for each"
