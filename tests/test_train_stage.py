import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from making import TINY_RECIPE, striped_tree
from needs import need
from PIL import Image

from vggfeat.cli import run
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import DatasetError, RecipeError, StoreError, TrainingError, UsageError, VggfeatError
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.stages.train import train
from vggfeat.training import augment
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import Errors, Observer
from vggfeat.training.recipe import load_recipe
from vggfeat.training.request import check_request
from vggfeat.training.saving import Saver
from vggfeat.training.setup import RunSetup
from vggfeat.training.state import RunState
from vggfeat.training.trainer import Trainer
from vggfeat.training.watch import Watch

TINY = TINY_RECIPE | {"schedule.epochs": 2}


@pytest.fixture
def tree(tmp_path):
    return striped_tree(tmp_path / "tree")


def tiny(tree, **changes):
    recipe = load_recipe(None, TINY | {key.replace("__", "."): value for key, value in changes.items()})
    return recipe, load_training_set("folder", tree, fraction=0.2, seed=recipe.seed)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def measured(folder):
    """The lines of metrics.jsonl without their times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


class Interrupting(Observer):
    """Sends this process a signal once an update is done, as Ctrl-C or a scheduler would."""

    def __init__(self, at, number=signal.SIGINT):
        self.at, self.number, self.done, self.notes = at, number, 0, []

    def note(self, text):
        self.notes.append(text)

    def step(self, report):
        self.done += 1
        if self.done == self.at:
            os.kill(os.getpid(), self.number)


# Splits


def test_a_tree_without_parts_gives_up_a_part_of_each_class_by_the_seed(tree):
    split = load_training_set("folder", tree, fraction=0.2, seed=0)
    assert split.held_out
    assert [sample.labels for sample in split.val] == [0, 1, 2]
    assert len(split.train) == 12
    assert not {s.path for s in split.train} & {s.path for s in split.val}
    assert load_training_set("folder", tree, fraction=0.2, seed=0) == split
    others = [load_training_set("folder", tree, fraction=0.2, seed=seed).val for seed in range(1, 6)]
    assert any(other != split.val for other in others)


def test_train_and_val_folders_are_taken_as_they_are(tree, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    (both / "train").symlink_to(tree)
    (both / "val" / "red").mkdir(parents=True)
    (both / "val" / "red" / "0.png").symlink_to(tree / "red" / "0.png")
    split = load_training_set("folder", both)
    assert (len(split.train), len(split.val), split.held_out) == (15, 1, False)
    assert split.class_names == ("blue", "green", "red")
    assert split.val[0].labels == 2, "by name, not by the order of val's own folders"
    (both / "val" / "pink").mkdir()
    (both / "val" / "pink" / "0.png").symlink_to(tree / "red" / "0.png")
    with pytest.raises(DatasetError, match=r"val: class 'pink' is not among the classes of .*train$"):
        load_training_set("folder", both)


def test_data_that_teach_nothing_are_refused(tree, tmp_path):
    (tmp_path / "one" / "red").mkdir(parents=True)
    (tmp_path / "one" / "red" / "0.png").symlink_to(tree / "red" / "0.png")
    with pytest.raises(DatasetError, match=r"one: 1 class; a classifier is trained on two or more$"):
        load_training_set("folder", tmp_path / "one")
    (tmp_path / "one" / "blue").mkdir()
    (tmp_path / "one" / "blue" / "0.png").symlink_to(tree / "blue" / "0.png")
    with pytest.raises(DatasetError, match=r"one: 2 images to train on and 0 to validate with: each needs some$"):
        load_training_set("folder", tmp_path / "one")
    table = tmp_path / "many.csv"
    table.write_text(f"path,label\n{tree}/red/0.png,a;b\n{tree}/red/1.png,a\n")
    with pytest.raises(
        UsageError, match=r"^folder has several labels an image; training takes data sets with one class"
    ):
        load_training_set("folder", table)


# A run


def test_a_run_leaves_a_checkpoint_that_load_net_reads_with_its_preprocessing(tree, tmp_path):
    recipe, data = tiny(tree)
    result = train(recipe, data, output=tmp_path / "run", device="cpu", workers=1)
    assert result.finished
    assert result.best == tmp_path / "run" / "best.pt"
    for path in (result.best, result.last):
        net = load_net(None, path, device="cpu")
        assert (net.net, net.width, net.class_names) == ("A", 1 / 64, ("blue", "green", "red"))
        pixels = np.concatenate([np.asarray(Image.open(s.path)).reshape(-1, 3) for s in data.train])
        assert net.preprocessing.mean == pytest.approx(pixels.mean(axis=0), abs=1e-6)
        assert net.preprocessing.channels == "RGB"
    record = torch.load(result.last, weights_only=True)["training"]
    assert (record["epoch"], record["step"], record["validation"]["images"]) == (2, 6, 3)
    assert len(record["colours"]["eigenvalues"]) == 3
    assert load_recipe(tmp_path / "run" / "recipe.toml").schedule.measure == "top1", "three classes have no top-5"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2]
    assert {"loss", "top1", "top5", "val_loss", "val_top1", "val_top5", "rate", "images_per_second"} <= rows[0].keys()


def test_training_learns(tree, tmp_path):
    changes = {"schedule__epochs": 20, "width": 1 / 16, "sgd__dropout": 0.0, "augment__flip": False, "augment__S": 224}
    recipe, data = tiny(tree, **changes, sgd__learning_rate=0.0005)
    first = train(load_recipe(None, TINY | {"schedule.epochs": 1}), data, output=tmp_path / "a", device="cpu").errors
    last = train(recipe, data, output=tmp_path / "b", device="cpu").errors
    assert last.loss < 0.5 < first.loss
    assert last.top1 == 0.0


# What ends the run: SIGTERM, Ctrl-C, or a closed terminal.
ENDS = {2: "SIGTERM", 3: "SIGINT", 4: "SIGHUP" if hasattr(signal, "SIGHUP") else "SIGINT"}


@pytest.fixture
def heard_hangup():
    """SIGHUP as usual, also where the tests run under nohup, which has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, "SIGHUP") else None
    yield
    if before is not None:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangup")
@pytest.mark.parametrize("at", ENDS)
def test_an_interrupted_run_ends_with_the_same_bits_as_an_undisturbed_one(tree, tmp_path, at):
    recipe, data = tiny(tree, schedule__epochs=3)
    whole = train(recipe, data, output=tmp_path / "whole", device="cpu")
    number = getattr(signal, ENDS[at])
    before = signal.getsignal(number)
    cut = train(recipe, data, output=tmp_path / "cut", device="cpu", observer=Interrupting(at, number))
    assert not cut.finished
    # The third update ends an epoch of three: the signal then comes before its validation.
    assert (cut.step, cut.epoch) == (at, at // 4)
    assert signal.getsignal(number) is before, "the handler is given back"
    resumed = train(recipe, data, output=tmp_path / "cut", device="cpu", resume=True)
    assert resumed.finished
    assert same(weights(resumed.last), weights(whole.last))
    assert same(weights(resumed.best), weights(whole.best))

    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


# A process that runs, is killed by SIGKILL at a random instant and taken up again, over and over; then undisturbed to
# its end. It forks before torch has started any thread.
KILLS = """
import os, random, signal, sys, time
from vggfeat.datasets.split import load_training_set
from vggfeat.training.recipe import load_recipe
from vggfeat.stages.train import train

tree, output, kills, seed, save_seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
recipe = load_recipe(None, {
    "net": "A", "width": 1 / 64, "precision": "fp32", "data.dataset": "folder", "sgd.batch_size": 2,
    "augment.S": [224, 256], "schedule.epochs": 2, "seed": seed,
})
data = load_training_set("folder", tree, fraction=0.2, seed=seed)

def started(folder):
    child = os.fork()
    if child == 0:
        train(recipe, data, output=folder, device="cpu", workers=1, resume=True, save_seconds=save_seconds)
        os._exit(0)
    return child

def ended(child):
    return os.waitpid(child, 0)[1]

begin = time.monotonic()
assert ended(started(output + "/whole")) == 0
seconds, hits, runs, chance = time.monotonic() - begin, 0, 0, random.Random(seed)
while hits < kills:
    folder, runs = f"{output}/cut{runs}", runs + 1
    for _ in range(2):
        child = started(folder)
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        hits += ended(child) == signal.SIGKILL
    assert ended(started(folder)) == 0
"""


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("save_seconds", [0, 900], ids=["saving after every update", "saving after every epoch"])
def test_a_killed_run_ends_with_the_same_bits_as_an_undisturbed_one(tree, tmp_path, kills, save_seconds):
    need("os.fork")
    command = [sys.executable, "-c", KILLS, str(tree), str(tmp_path), str(kills), str(kills), str(save_seconds)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    cut = sorted(tmp_path.glob("cut*"))
    assert cut
    for folder in cut:
        for name in ("best.pt", "last.pt"):
            assert same(weights(folder / name), weights(whole / name)), folder
        assert measured(folder) == measured(whole)
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}, (
            "nothing half-written"
        )


def test_a_resumed_run_may_only_grow_longer(tree, tmp_path):
    recipe, data = tiny(tree, schedule__epochs=1)
    train(recipe, data, output=tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match=r"best\.pt exists: go on with it by `resume`, or replace it by `overwrite`$"):
        train(recipe, data, output=tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match=r"^`resume` and `overwrite`: choose one$"):
        train(recipe, data, output=tmp_path / "run", device="cpu", resume=True, overwrite=True)
    other, _ = tiny(tree, schedule__epochs=1, sgd__learning_rate=0.5)
    message = r"settings \(`sgd.learning_rate`: 0.01, now 0.5\): give the same, or start anew by `overwrite`$"
    with pytest.raises(RecipeError, match=message):
        train(other, data, output=tmp_path / "run", device="cpu", resume=True)
    (tree / "red" / "4.png").rename(tree / "red" / "5.png")
    with pytest.raises(RecipeError, match=r"last\.pt: made with other images than folder has now$"):
        train(*tiny(tree, schedule__epochs=1), output=tmp_path / "run", device="cpu", resume=True)
    (tree / "red" / "5.png").rename(tree / "red" / "4.png")
    longer = train(*tiny(tree, schedule__epochs=2), output=tmp_path / "run", device="cpu", resume=True)
    whole = train(*tiny(tree, schedule__epochs=2), output=tmp_path / "whole", device="cpu")
    assert same(weights(longer.last), weights(whole.last))


def test_a_run_from_a_trained_net_does_not_repeat_that_nets_crops_order_and_masks(tree, tmp_path, monkeypatch):
    drawn = []

    def epoch_order(seed, epoch, length):
        drawn.append(seed)
        return augment.epoch_order(seed, epoch, length)

    made = RunSetup.augmentation
    monkeypatch.setattr("vggfeat.training.run.epoch_order", epoch_order)
    monkeypatch.setattr(RunSetup, "augmentation", lambda *given: drawn.append(given[2]) or made(*given))
    masks = Trainer._masks
    monkeypatch.setattr(Trainer, "_masks", lambda self, step: drawn.append(self.seed) or masks(self, step))
    first = train(*tiny(tree, schedule__epochs=1), output=tmp_path / "first")
    assert set(drawn) == {0}
    drawn.clear()
    train(*tiny(tree, schedule__epochs=1, init__checkpoint=str(first.best)), output=tmp_path / "second")
    (seed,) = set(drawn)
    assert seed != 0
    assert len(drawn) > 2
    drawn.clear()
    longer = tiny(tree, schedule__epochs=2, init__checkpoint=str(first.best))
    train(*longer, output=tmp_path / "second", resume=True)
    assert set(drawn) == {seed}, "a resumed run goes on with its own"


@pytest.mark.parametrize(
    ("output", "best", "last"), [("run", "best.pt", "last.pt"), ("net.pt", "net.pt", "net.last.pt")]
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_best_net_whose_run_has_lost_its_state_is_not_replaced(tree, tmp_path, output, best, last, resume):
    output = tmp_path / output
    folder = RunFiles.of(output).folder
    folder.mkdir(exist_ok=True)
    (folder / best).write_bytes(b"weeks of work")
    with pytest.raises(UsageError) as caught:
        train(*tiny(tree), output=output, device="cpu", resume=resume)
    assert str(caught.value) == (
        f"{folder / best} exists without {folder / last}: `resume` cannot go on with it; `overwrite` begins anew"
    )
    assert (folder / best).read_bytes() == b"weeks of work"


def test_a_run_that_is_killed_once_its_first_best_net_is_written_goes_on(tree, tmp_path, monkeypatch):
    write = Saver.best

    def killed(self, net):
        write(self, net)
        raise KeyboardInterrupt

    recipe, data = tiny(tree, schedule__epochs=1)
    monkeypatch.setattr(Saver, "best", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, output=tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "best.pt").exists()
    monkeypatch.undo()
    resumed = train(recipe, data, output=tmp_path / "run", device="cpu", resume=True)
    assert (resumed.epoch, resumed.step) == (1, 3)
    whole = train(recipe, data, output=tmp_path / "whole", device="cpu")
    assert same(weights(resumed.best), weights(whole.best))
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")


OWN = '# my notes\nnet = "A"\n'


@pytest.mark.parametrize(("output", "name"), [("own", "own/recipe.toml"), ("own/net.pt", "own/net.recipe.toml")])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_a_recipe_is_not_replaced_by_the_run_that_it_describes(tree, tmp_path, monkeypatch, capsys, output, name, more):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path(name).write_text(OWN)
    said = f"{name}: the run would replace this recipe by its resolved form: name another `output`"
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        train(name, tree, output=output, overwrite="--overwrite" in more, resume="--resume" in more)
    assert run(["train", "--recipe", name, *FLAGS, "--data", str(tree), "-o", output, *more]) == 2
    assert capsys.readouterr().err == f"vggfeat: {said.replace('`output`', '-o')}\n"
    assert Path(name).read_text() == OWN


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.jsonl", "curves.png"])
@pytest.mark.parametrize("resume", [True, False])
def test_files_that_no_run_wrote_are_not_replaced_unasked(tree, tmp_path, monkeypatch, name, resume):
    (tmp_path / name).write_text(OWN)
    said = refused_unread(*tiny(tree), monkeypatch, output=tmp_path, resume=resume)
    assert said == f"{tmp_path / name} exists, and no run wrote it: name another `output`, or replace it by `overwrite`"
    assert (tmp_path / name).read_text() == OWN
    check_request(load_recipe(), RunFiles.of(tmp_path), resume=False, overwrite=True)
    check_request(load_recipe(), RunFiles.of(tmp_path / "net.pt"), resume=False, overwrite=False)


def test_a_run_that_was_interrupted_before_its_first_checkpoint_is_begun_again(tree, tmp_path):
    class Ending(Observer):
        def step(self, report):
            raise SystemExit

    recipe, data = tiny(tree, schedule__epochs=1)
    run_folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        train(recipe, data, output=run_folder, device="cpu", observer=Ending())
    assert {path.name for path in run_folder.iterdir()} == {"recipe.toml"}
    (run_folder / "metrics.jsonl").write_text("{}\n")
    kept = (run_folder / "recipe.toml").read_text()
    assert train(run_folder / "recipe.toml", data, output=run_folder, device="cpu").finished
    assert (run_folder / "recipe.toml").read_text() == kept


def test_a_second_run_in_the_same_output_is_refused_and_spoils_nothing(tree, tmp_path):
    files = RunFiles.of(tmp_path / "run")
    refusals = []

    class Second(Observer):
        def epoch(self, report):
            part = files.folder / ".last.pt.12345678.part"  # which the first run may be writing
            part.touch()
            for choice in ("resume", "overwrite"):
                with pytest.raises(StoreError) as raised:
                    train(*tiny(tree), output=files.folder, **{choice: True}, observer=Observer())
                refusals.append(str(raised.value))
            assert part.exists()
            part.unlink()

    result = train(*tiny(tree), output=files.folder, observer=Second())
    assert result.finished and result.best == files.best
    assert set(refusals) == {
        f"{files.best} is being written by process {os.getpid()} on {socket.gethostname()}: wait for it, or name another "
        "`output`"
    }
    assert not list(files.folder.glob(".*"))


def test_a_run_that_ended_while_another_one_began_is_not_replaced(tree, tmp_path, monkeypatch):
    """The second run had looked for files before the first one wrote any."""
    train(*tiny(tree), output=tmp_path / "run")
    whole = (tmp_path / "run" / "best.pt").read_bytes()
    monkeypatch.setattr("vggfeat.stages.train.check_request", lambda *_, **__: None)
    with pytest.raises(UsageError) as raised:
        train(*tiny(tree), output=tmp_path / "run")
    assert str(raised.value) == (
        f"{tmp_path / 'run' / 'best.pt'} exists: go on with it by `resume`, or replace it by `overwrite`"
    )
    assert (tmp_path / "run" / "best.pt").read_bytes() == whole


def test_a_run_that_cannot_begin_leaves_no_folder(tree, tmp_path):
    with pytest.raises(VggfeatError):
        train(*tiny(tree, init__checkpoint=str(tmp_path / "no.pt")), output=tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_damaged_lines_of_the_metrics_are_told_and_end_no_run(tree, tmp_path):
    train(*tiny(tree), output=tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    good = metrics.read_bytes()
    metrics.write_bytes(b'12\n{"a": 1}\n' + good + b'\xff\n{"kind": "epo')
    said = []

    class Heard(Observer):
        def note(self, text):
            said.append(text)

    train(*tiny(tree), output=tmp_path / "run", resume=True, observer=Heard())
    assert f"{metrics}: 4 lines could not be read and will be missing" in said
    assert metrics.read_bytes() == good


def test_other_images_are_named_not_the_measure_that_follows_from_their_classes(tree, tmp_path):
    """Among five classes or fewer, top-5 errors are always 0, so a run takes top-1 errors."""
    recipe, data = tiny(tree, schedule__epochs=1)
    assert recipe.schedule.measure == "top5"
    train(recipe, data, output=tmp_path / "run", device="cpu")
    for name in ("violet", "pink", "grey"):
        shutil.copytree(tree / "red", tree / name)
    with pytest.raises(RecipeError, match=r"last\.pt: made with other images than folder has now$"):
        train(*tiny(tree, schedule__epochs=1), output=tmp_path / "run", device="cpu", resume=True)


def test_a_damaged_last_checkpoint_is_named(tree, tmp_path):
    recipe, data = tiny(tree)
    VGG("A", width=1 / 64, num_classes=3).save(tmp_path / "last.pt")
    with pytest.raises(
        TrainingError, match=r"last\.pt: cannot resume from it \(KeyError: 'training_state'\); `overwrite`"
    ):
        train(recipe, data, output=tmp_path, device="cpu", resume=True)


def test_a_last_checkpoint_that_claims_more_than_it_has_is_refused_before_its_tensors_are_built(tree, tmp_path):
    """A few hundred bytes that would unpack to gigabytes: one number repeated by a stride of zero, or a deflated zip."""
    recipe, data = tiny(tree)
    repeated = {"training_state": {"optimizer": {"state": {0: torch.zeros(1).expand(1 << 34)}}}}
    torch.save(repeated, tmp_path / "last.pt")
    with pytest.raises(
        TrainingError, match=r"last\.pt: claims 68719476736 bytes of tensors, more than the file has; c"
    ):
        train(recipe, data, output=tmp_path, device="cpu", resume=True)
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "last.pt", "w") as deflated:
        for entry in plain.infolist():
            deflated.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    message = r"last\.pt: claims \d+ bytes of content, more than the file has; cannot resume from it: `overwrite` starts anew$"
    with pytest.raises(TrainingError, match=message):
        train(recipe, data, output=tmp_path, device="cpu", resume=True)


def test_the_chain_of_scales_starts_with_all_layers_of_the_net_before(tree, tmp_path):
    recipe, data = tiny(tree, schedule__epochs=1, augment__S=224)
    first = train(recipe, data, output=tmp_path / "one.pt", device="cpu")
    assert first.best == tmp_path / "one.pt"
    chained, _ = tiny(
        tree, schedule__epochs=1, augment__S=256, init__checkpoint=str(first.best), sgd__learning_rate=1e-12
    )
    second = train(chained, data, output=tmp_path / "two.pt", device="cpu")
    for key, value in weights(second.last).items():
        assert torch.allclose(value, weights(first.best)[key], atol=1e-6), key
    deeper, _ = tiny(tree, schedule__epochs=1, net="B", init__checkpoint=str(first.best), sgd__learning_rate=1e-12)
    notes = Interrupting(0)
    third = train(deeper, data, output=tmp_path / "three.pt", device="cpu", observer=notes)
    assert f"conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8 from {first.best} (A); the rest glorot" in notes.notes
    assert torch.allclose(weights(third.last)["features.0.weight"], weights(first.best)["features.0.weight"], atol=1e-6)


def test_what_a_trained_net_fills_is_told_and_an_init_that_it_leaves_nothing_to(tree, tmp_path):
    """The last layer of `other` has another number of classes."""
    VGG("A", width=1 / 64, num_classes=3).save(tmp_path / "same.pt")
    VGG("A", width=1 / 64, num_classes=7).save(tmp_path / "other.pt")

    def told(name, **changes):
        path, notes = tmp_path / name, Noting()
        settings = {"schedule__epochs": 1, "sgd__learning_rate": 1e-6, "init__checkpoint": str(path)}
        recipe, data = tiny(tree, **settings | changes)
        train(recipe, data, output=tmp_path / "run", device="cpu", observer=notes, overwrite=True)
        return next(note for note in notes.notes if " from " in note).replace(str(path), name)

    assert told("same.pt") == "all layers from same.pt (A)"
    assert told("same.pt", init__scheme="gaussian") == (
        "all layers from same.pt (A); `init.scheme=gaussian` changes nothing"
    )
    assert told("other.pt", init__scheme="gaussian").endswith(", fc6, fc7 from other.pt (A); the rest gaussian")
    assert told("other.pt", init__scheme="identity", net="B").endswith(
        ", fc6, fc7 from other.pt (A); fc8 glorot, the rest identity"
    )
    assert told("other.pt", init__scheme="identity").endswith(", fc6, fc7 from other.pt (A); fc8 glorot")


# What goes wrong


def refused_unread(recipe, data, monkeypatch, **options):
    """The error of a run that must be refused before it reads a picture."""

    def read(*_args, **_options):
        raise AssertionError("a picture was read")

    monkeypatch.setattr("vggfeat.training.begin.colours_of", read)
    with pytest.raises(VggfeatError) as caught:
        train(recipe, data, device="cpu", **options)
    return str(caught.value)


def test_a_trained_net_that_fits_nothing_is_refused_before_a_picture_is_read(tree, tmp_path, monkeypatch):
    VGG("A", width=1 / 32, num_classes=3).save(tmp_path / "wide.pt")
    recipe, data = tiny(tree, init__checkpoint=str(tmp_path / "wide.pt"))
    said = refused_unread(recipe, data, monkeypatch, output=tmp_path / "run")
    assert (
        said == "no layer of wide.pt (A, width 0.03125) fits net A of width 0.015625: give `net=A` and `width=0.03125`"
    )
    (tmp_path / "text.h5").write_text("a text")
    recipe, _ = tiny(tree, init__checkpoint=str(tmp_path / "text.h5"))
    assert "text.h5: a text file; expected a weights file" in refused_unread(
        recipe, data, monkeypatch, output=tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_refused_before_a_picture_is_read(tree, tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("a text")
    said = refused_unread(*tiny(tree), monkeypatch, output=tmp_path / "notes" / "run")
    assert said == f"{tmp_path}/notes/run/best.pt: cannot write here: Not a directory"


@pytest.mark.parametrize("name", ["net.pth", "net.h5", "net.PT", "net.safetensors", "net.ckpt"])
def test_a_folder_that_is_named_like_a_file_is_refused(tree, tmp_path, monkeypatch, name):
    said = refused_unread(*tiny(tree), monkeypatch, output=tmp_path / name)
    assert said == f"`output={tmp_path / name}`: a run's net is written as .pt: name {tmp_path}/net.pt, or a folder"
    assert not (tmp_path / name).exists()


def test_a_run_in_a_folder_with_such_a_name_goes_on(tree, tmp_path):
    """Earlier versions made them."""
    (tmp_path / "net.pth").mkdir()
    assert train(*tiny(tree, schedule__epochs=1), output=tmp_path / "net.pth", device="cpu").finished


def test_a_run_goes_on_without_the_net_that_it_began_with(tree, tmp_path):
    VGG("A", width=1 / 64, num_classes=3).save(tmp_path / "first.pt")
    begun = {"init__checkpoint": str(tmp_path / "first.pt"), "sgd__learning_rate": 1e-6}
    recipe, data = tiny(tree, schedule__epochs=1, **begun)
    train(recipe, data, output=tmp_path / "run", device="cpu")
    (tmp_path / "first.pt").unlink()
    longer, _ = tiny(tree, schedule__epochs=2, **begun)
    assert train(longer, data, output=tmp_path / "run", device="cpu", resume=True).finished


def test_unreadable_images_are_told_once_and_skipped_up_to_a_limit(tree, tmp_path, capsys):
    for name in ("red/0.png", "blue/1.png"):
        (tree / name).write_bytes(b"\x89PNG broken")
    recipe, data = tiny(tree, schedule__epochs=3)
    data = data.__class__(**{**data.__dict__, "train": data.train + data.val})
    notes = Interrupting(0)
    result = train(recipe, data, output=tmp_path / "run", device="cpu", observer=notes)
    assert sorted(result.failed) == ["blue/1.png", "red/0.png"]
    assert len([note for note in notes.notes if note.startswith("skipped red/0.png: ")]) == 1
    strict, _ = tiny(tree, data__unreadable_limit=1)
    message = r"^2 images cannot be read, the first .*: more than the limit of 1; mend the data, or raise it"
    with pytest.raises(TrainingError, match=message):
        train(strict, data, output=tmp_path / "strict", device="cpu")


def test_an_epoch_whose_validation_images_cannot_be_read_is_never_the_best(tree, tmp_path):
    recipe, data = tiny(tree, schedule__epochs=3, schedule__patience=1)
    pictures = {Path(sample.path): Path(sample.path).read_bytes() for sample in data.val}
    for path in pictures:
        path.write_bytes(b"")
    reports, notes = [], []

    class Mending(Observer):
        def epoch(self, report):
            reports.append(report)
            if report.epoch == 2:
                for path, picture in pictures.items():
                    path.write_bytes(picture)

        def note(self, text):
            notes.append(text)

    result = train(recipe, data, output=tmp_path / "run", device="cpu", observer=Mending())
    assert [report.best for report in reports] == [False, False, True]
    assert [report.next_rate for report in reports] == [recipe.sgd.learning_rate] * 3, "nor one without a gain"
    assert notes.count("no validation image could be read: this epoch cannot be the best") == 2
    assert torch.load(result.best, weights_only=True)["training"]["epoch"] == 3


def test_a_run_without_a_best_net_names_none_in_python_and_its_last_in_the_command(tree, tmp_path, capsys):
    recipe, data = tiny(tree, schedule__epochs=1)
    cut = train(recipe, data, output=tmp_path / "cut", device="cpu", observer=Interrupting(1))
    assert (cut.best, cut.as_json()["path"]) == (None, None)
    for sample in load_training_set("folder", tree, fraction=0.1, seed=0).val:
        Path(sample.path).write_bytes(b"")
    page = ["--report", str(tmp_path / "page")]
    arguments = ["--data", str(tree), *FLAGS[:-1], "--epochs", "1", "-o", str(tmp_path / "run"), *page]
    assert run(["train", *arguments]) == 3
    assert capsys.readouterr().out == f"{tmp_path}/run/last.pt\n{tmp_path}/page/index.html\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"micro_batch": -1}, "`micro_batch` -1 is not 1 or more"),
        ({"micro_batch": 0}, "`micro_batch` 0 is not 1 or more"),
        ({"workers": -1}, "`workers` -1 is not 0 or more"),
    ],
)
def test_numbers_of_images_and_threads_that_cannot_be_are_refused(tree, tmp_path, monkeypatch, setting, message):
    assert refused_unread(*tiny(tree), monkeypatch, output=tmp_path / "run", **setting) == message
    assert not (tmp_path / "run").exists()


def test_data_dependent_weights_start_at_chance_and_bring_their_own_preprocessing(tree, tmp_path):
    recipe, data = tiny(tree, init__scheme="data-dependent", schedule__epochs=1, sgd__learning_rate=1e-12)
    made = train(recipe, data, output=tmp_path / "run", device="cpu")
    net = load_net(None, str(made.best), device="cpu", precision="fp32")
    assert made.errors.loss == pytest.approx(math.log(3), abs=0.2)
    assert all(20 < std < 120 for std in net.preprocessing.std), "pixels are standardised too"
    again = train(recipe, data, output=tmp_path / "again", device="cpu")
    assert same(weights(made.best), weights(again.best))


def test_data_dependent_weights_stand_a_colour_that_no_picture_has(tree, tmp_path):
    for path in tree.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * np.array([1, 0, 0], dtype=np.uint8)).save(path)
    recipe, data = tiny(tree, init__scheme="data-dependent", schedule__epochs=1)
    made = train(recipe, data, output=tmp_path / "run", device="cpu")
    assert math.isfinite(made.errors.loss)
    assert load_net(None, str(made.best), device="cpu", precision="fp32").preprocessing.std[1:] == (1.0, 1.0)


def test_data_dependent_weights_need_a_picture_that_can_be_read(tree, tmp_path):
    recipe, data = tiny(tree, init__scheme="data-dependent", schedule__epochs=1)
    for sample in data.train:
        (tree / sample.path).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"^none of \d+ training images can be read, the first "):
        train(recipe, data, output=tmp_path / "run", device="cpu")


def test_a_deepened_net_begins_with_the_errors_of_the_shallower_one(tree, tmp_path):
    first, data = tiny(tree, init__scheme="data-dependent", schedule__epochs=1, sgd__learning_rate=3e-3)
    shallow = train(first, data, output=tmp_path / "A", device="cpu")
    deeper, _ = tiny(
        tree,
        net="E",
        init__scheme="identity",
        init__checkpoint=str(shallow.best),
        schedule__epochs=1,
        sgd__learning_rate=1e-12,
    )
    deep = train(deeper, data, output=tmp_path / "E", device="cpu")
    assert deep.errors.loss == pytest.approx(shallow.errors.loss, rel=1e-4)


def test_identity_without_a_net_to_begin_as_is_refused(tree):
    with pytest.raises(
        RecipeError, match=r"^`init.scheme=identity` begins as a trained shallower net: name it by `init.checkpoint`$"
    ):
        tiny(tree, init__scheme="identity")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tree, tmp_path):
    recipe, data = tiny(tree, sgd__learning_rate=1e9)
    with pytest.raises(
        TrainingError, match=r"^the loss became (nan|inf) at update \d+ \(rate 1e\+09\): lower `sgd.learning_rate`"
    ):
        train(recipe, data, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_first_weights_that_are_far_too_large_stop_at_once(tree, tmp_path):
    big = VGG("A", width=1 / 64, num_classes=3)
    torch.nn.init.constant_(big.classifier[6].bias, 0)
    with torch.no_grad():
        for p in big.parameters():
            p.mul_(30)
    big.save(tmp_path / "big.pt")
    recipe, data = tiny(tree, init__checkpoint=str(tmp_path / "big.pt"))
    with pytest.raises(
        TrainingError,
        match=r"^the first loss is .*, chance is 1.10: the first weights are far too large; check the weights of "
        r".*big\.pt \(`init.checkpoint`\) and what they expect \(`init.preprocessing`\), or lower "
        r"`sgd.learning_rate` \(now 0.01\)$",
    ):
        train(recipe, data, output=tmp_path / "run", device="cpu")


def test_a_stalled_start_stops_with_advice(tree, tmp_path):
    # Gaussian weights of deviation 0.01 vanish in a net this narrow.
    recipe, data = tiny(tree, init__scheme="gaussian", init__stall_steps=9, schedule__epochs=9)
    with pytest.raises(
        TrainingError, match=r"^the loss has not moved in 9 updates .*: begin with `init.scheme=glorot`, or "
    ):
        train(recipe, data, output=tmp_path / "run", device="cpu")
    patient, _ = tiny(tree, init__scheme="gaussian", init__stall_steps=0, schedule__epochs=4)
    assert train(patient, data, output=tmp_path / "patient", device="cpu").finished


class Noting(Observer):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_fall_of_the_rate_is_told_after_the_epoch_that_made_it(tree, tmp_path):
    told = []

    class Telling(Observer):
        def epoch(self, report):
            told.append((report.epoch, report.rate, report.next_rate))

        def note(self, text):
            told.append(text)

    recipe, data = tiny(tree, schedule__patience=1, schedule__least_gain=1000.0, schedule__divisor=2.0)
    train(recipe, data, output=tmp_path / "run", device="cpu", observer=Telling())
    rate = recipe.sgd.learning_rate
    second = told.index((2, rate, rate / 2))
    assert told[second + 1] == f"top1 stopped falling: the rate goes from {rate:g} to {rate / 2:g}"


def test_a_short_run_that_stayed_at_chance_says_so_at_its_end(tree, tmp_path):
    """Gaussian weights of deviation 0.01 vanish in a net this narrow: all scores are equal, and the loss is ln 3."""
    recipe, data = tiny(tree, init__scheme="gaussian", schedule__epochs=1)
    observer = Noting()
    train(recipe, data, output=tmp_path / "run", device="cpu", observer=observer)
    assert re.fullmatch(
        r"the validation loss is 1\.\d+, chance is 1\.099: the net has learnt nothing that serves other images; train "
        r"longer \(`schedule\.epochs`\), or begin with `init\.scheme=data-dependent`, or a trained net: "
        r"`init\.checkpoint=CKPT` `sgd\.trainable=fc`",
        observer.notes[-1],
    )


def test_a_run_that_learnt_is_told_nothing_of_chance(tmp_path):
    watch = Watch(load_recipe(), 1.099, RunFiles.of(tmp_path))
    assert watch.verdict(Errors(loss=0.9, top1=30.0, top5=0.0, images=9)) == ""
    assert watch.verdict(Errors(loss=1.2, top1=70.0, top5=0.0, images=0)) == ""


@pytest.mark.parametrize(
    ("checkpoint", "loss", "advice"),
    [
        (
            "",
            1.1,
            "begin with `init.scheme=glorot`, or `init.scheme=data-dependent`, or `init.checkpoint` of a trained A, or change",
        ),
        ("a.pt", 1.1, "check the weights of a.pt (`init.checkpoint`) and what they expect (`init.preprocessing`), or"),
        ("", 1e9, "the first weights are far too large; begin with `init.scheme=glorot`, or lower"),
        ("a.pt", 1e9, "check the weights of a.pt (`init.checkpoint`) and what they expect (`init.preprocessing`), or"),
        ("", math.nan, "lower `sgd.learning_rate` (now 0.01), or begin with `init.scheme=glorot`;"),
        (
            "a.pt",
            math.nan,
            "lower `sgd.learning_rate` (now 0.01), or check the weights of a.pt (`init.checkpoint`) and",
        ),
    ],
)
def test_a_run_that_began_with_a_checkpoint_is_not_told_to_begin_at_random(tmp_path, checkpoint, loss, advice):
    recipe = load_recipe(None, {"init.checkpoint": checkpoint, "init.stall_steps": 1, "init.scheme": "gaussian"})
    watch = Watch(recipe, 1.1, RunFiles.of(tmp_path / "run"))
    with pytest.raises(TrainingError, match=re.escape(advice)) as caught:
        watch.loss(loss, RunState(step=1), 0.01)
    assert ("glorot" in str(caught.value)) == (not checkpoint)
    assert "`sgd.learning_rate`" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "loss", "advice"),
    [
        ({}, math.nan, "lower `sgd.learning_rate` (now 0.01); nothing was saved yet"),
        ({}, 1e9, "far too large; begin with `init.scheme=gaussian` `init.std=0.01`, or lower `sgd.learning_rate`"),
        (
            {"init.scheme": "gaussian", "init.std": 0.09},
            1e9,
            "begin with `init.scheme=glorot`, or `init.scheme=gaussian` `init.std=0.01`, or lower `sgd.learning_rate`",
        ),
        ({}, 1.1, "begin with `init.scheme=data-dependent`, or `init.checkpoint` of a trained A, or change"),
        (
            {"init.scheme": "data-dependent"},
            1.1,
            "begin with `init.scheme=glorot`, or `init.checkpoint` of a trained A, or change",
        ),
    ],
)
def test_advice_on_the_start_names_only_what_differs_from_this_one(tmp_path, settings, loss, advice):
    watch = Watch(load_recipe(None, {"init.stall_steps": 1} | settings), 1.1, RunFiles.of(tmp_path / "run"))
    with pytest.raises(TrainingError, match=re.escape(advice)):
        watch.loss(loss, RunState(step=1), 0.01)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (
            {},
            "begin with `init.scheme=data-dependent`, or a trained net: `init.checkpoint=published` `sgd.trainable=fc`",
        ),
        (
            {"init.scheme": "data-dependent", "net": "C"},
            "begin with a trained net: `init.checkpoint=CKPT` `sgd.trainable=fc`",
        ),
    ],
)
def test_a_net_that_learnt_nothing_is_told_of_published_weights_only_where_there_are_some(tmp_path, settings, advice):
    watch = Watch(load_recipe(None, settings), 1.1, RunFiles.of(tmp_path / "run"))
    said = watch.verdict(Errors(loss=1.1, top1=60.0, top5=0.0, images=9))
    assert said.endswith(f"train longer (`schedule.epochs`), or {advice}")


def test_a_net_that_begins_trained_is_not_stalled(tree, tmp_path):
    """Its loss lies below chance from the first, and may rise at a higher rate before it falls."""
    recipe, data = tiny(tree, init__scheme="data-dependent", schedule__epochs=12, sgd__learning_rate=3e-3)
    first = train(recipe, data, output=tmp_path / "first", device="cpu")
    assert first.errors.loss < 0.9 * math.log(3)
    again, _ = tiny(tree, init__checkpoint=str(first.best), init__stall_steps=3, sgd__learning_rate=1e-12)
    assert train(again, data, output=tmp_path / "again", device="cpu").finished


# Processes


FLAGS = [
    "--dataset",
    "folder",
    "--net",
    "A",
    "--width",
    "0.015625",
    "--batch-size",
    "6",
    "--S",
    "224-256",
    "--epochs",
    "2",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--learning-rate",
    "1e-5",
    "--workers",
    "1",
    "--quiet",
]


def test_two_processes_reach_the_weights_of_one(tree, tmp_path):
    """Fifteen images less three held out, batches of six and a last one that splits unevenly."""
    (tree / "red" / "4.png").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vggfeat"]
    alone = [sys.executable, "-m", "vggfeat"]
    found = {}
    for name, start in (("one", alone), ("two", torchrun)):
        command = [*start, "train", "--data", str(tree), *FLAGS, "-o", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / name}/best.pt\n", "one process speaks for all"
        found[name] = torch.load(tmp_path / name / "last.pt", weights_only=True)
    start = load_net("A", None, width=1 / 64, num_classes=3, device="cpu").state_dict()
    for key, value in found["one"]["state_dict"].items():
        moved = (value - start[key]).norm()
        assert moved > 0
        assert (found["two"]["state_dict"][key] - value).norm() <= 1e-3 * moved, key
    one, two = (found[name]["training"]["validation"] for name in ("one", "two"))
    assert one["images"] == two["images"] == 3
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


def test_an_image_that_one_process_cannot_read_is_told_by_the_one_that_speaks(tree, tmp_path):
    """Whichever process meets it: every update splits its images anew. torchrun would take code 3 for a failure."""
    (tree / "red" / "0.png").write_bytes(b"")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vggfeat"]
    flags = [flag for flag in FLAGS if flag != "--quiet"]
    command = [*torchrun, "train", "--data", str(tree), *flags, "-o", str(tmp_path / "run"), "--json", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == ["red/0.png"]
    assert done.stderr.count("skipped red/0.png: empty file") == 1
    assert "1 image could not be read and was skipped" in done.stderr


# The command


def test_no_data_is_one_line_with_the_way_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--net", "E"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "vggfeat: no ilsvrc2012 at data/ilsvrc2012 (train/ and val/ missing): put its images there as "
        "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (image-net.org gives them to holders of an account), name another "
        "data root with --data DIR, or take pictures of your own with --dataset folder and --data DIR\n"
    )


def test_the_command_prints_the_best_checkpoint_and_draws_curves(tree, tmp_path, capsys):
    arguments = ["train", "--data", str(tree), *FLAGS[:-1], "-o", str(tmp_path / "net.pt"), "--epochs", "1"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'net.pt'}\n"
    assert (
        "net A, width 1/64, 3 classes (chance 66.7 % top-1 error); 12 images to train, 3 to validate (10% of each class, "
        "held out by seed); S 224-256" in captured.err
    )
    said = r"epoch 1/1: train loss [\d.]+, top-1 error [\d.]+%; validation loss [\d.]+, top-1 error [\d.]+% \(best\); "
    assert re.search(said, captured.err), "an error, which could be taken for an accuracy"
    made = {path.name for path in tmp_path.glob("net*")}
    assert made == {"net.pt", "net.last.pt", "net.recipe.toml", "net.metrics.jsonl", "net.curves.png"}
    assert Image.open(tmp_path / "net.curves.png").width > 500
    assert run([*arguments, "--resume", "--json", "--epochs", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["epoch"], result["validation"]["images"]) == (str(tmp_path / "net.pt"), 2, 3)


def test_flags_override_the_recipe_and_the_resolved_one_is_kept(tree, tmp_path, capsys):
    (tmp_path / "r.toml").write_text('net = "B"\nprecision = "fp32"\n[schedule]\nepochs = 1\n[sgd]\nmomentum = 0.5\n')
    flags = ["--dataset", "folder", "--data", str(tree), "--width", "0.015625", "--S", "224", "--device", "cpu"]
    more = ["--net", "a", "--set", "sgd.batch_size=12", "--set", "schedule.measure=loss", "-o", str(tmp_path / "run")]
    assert run(["train", "--recipe", str(tmp_path / "r.toml"), *flags, *more]) == 0
    kept = load_recipe(tmp_path / "run" / "recipe.toml")
    assert (kept.net, kept.sgd.momentum, kept.sgd.batch_size, kept.precision) == ("A", 0.5, 12, "fp32")
    assert kept.schedule.measure == "loss"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--S", "big"], "Invalid value for '--S': 'big' is not a training scale such as 256 or 256-512 (see "),
        (["--S", "100"], "--S 100: must be at least 224, the smaller side first"),
        (["--set", "sgd.momentum"], "--set sgd.momentum: expected KEY=VALUE, such as schedule.patience=3"),
        (
            ["--set", "sgd.momntum=0.5"],
            "no recipe key 'sgd.momntum'; did you mean 'sgd.momentum'? valid: sgd.batch_size, ",
        ),
        (
            ["--init", "gaussian", "--init-std", "0.1"],
            "--init-std 0.1: a standard deviation of 0.1 (the paper's variance",
        ),
        (["--head", "scr"], "--head goes with --task localise"),
        (["--init-std", "0.02"], "--init-std goes with --init gaussian"),
        (["--init", "data-dependent", "--init-std", "0.02"], "--init-std goes with --init gaussian"),
        (["--preprocessing", "oxford"], "--preprocessing goes with --init-from"),
        (["--no-cache"], "--no-cache goes with frozen layers (--trainable) and fixed crops (--crops)"),
        (["--trainable", "fc", "--init-from", "a.pt", "--crops", "0", "--no-cache"], "--no-cache goes with frozen"),
        (["--net", "F"], "no net 'F'; valid: A (VGG-11), A-LRN, B (VGG-13), C, D (VGG-16), E (VGG-19), shallow-B"),
        (["--recipe", "gone.toml"], "gone.toml: this recipe cannot be read: No such file or directory"),
    ],
)
def test_wrong_settings_are_usage_errors_in_one_line(arguments, message, capsys):
    assert run(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vggfeat: {message}")
    assert captured.err.count("\n") == 1


def test_ctrl_c_saves_ends_with_130_and_says_how_to_go_on(tree, tmp_path):
    command = [
        "train",
        "--data",
        str(tree),
        *FLAGS[:-1],
        "-o",
        str(tmp_path / "run"),
        "--epochs",
        "1000",
        "--overwrite",
    ]
    started = subprocess.Popen(
        [sys.executable, "-m", "vggfeat", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in started.stderr:
        lines.append(line)
        if line.startswith("epoch 2/1000"):
            started.send_signal(signal.SIGINT)
            break
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert out == ""
    assert "stopped after update" in err
    assert err.rstrip().endswith("--epochs 1000 --resume")
    assert "--overwrite" not in err
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["training_state"]
    assert state["progress"]["step"] >= 4


def test_images_that_were_skipped_show_in_the_exit_code(tree, tmp_path, capsys):
    (tree / "red" / "0.png").write_bytes(b"")
    assert run(["train", "--data", str(tree), *FLAGS[:-1], "-o", str(tmp_path / "run")]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/run/best.pt\n"
    assert "skipped red/0.png: empty file" in captured.err
    assert "1 image could not be read and was skipped" in captured.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_output_and_stays(tree, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "net.pt")
    said = refused_unread(*tiny(tree), monkeypatch, output=tmp_path / "net.pt", overwrite=True)
    assert said == f"{tmp_path}/net.pt: cannot write: it is a device or a pipe, name a file"
    assert (tmp_path / "net.pt").is_fifo()
