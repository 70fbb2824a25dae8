"""Frozen layers run once for each fixed crop, and training on their kept outputs equals training on the crops."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import striped_tree
from needs import need
from PIL import Image

from vggfeat.cli import run
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import RecipeError, TrainingError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.train import train
from vggfeat.training import features, frozen
from vggfeat.training.augment import Augmentation, Colours
from vggfeat.training.begin import begin
from vggfeat.training.features import DONE, FAILED, FeatureFile, Layout
from vggfeat.training.files import RunFiles
from vggfeat.training.form import TrainingForm
from vggfeat.training.observer import Observer
from vggfeat.training.ranks import Ranks
from vggfeat.training.recipe import Recipe, Sgd, completed, load_recipe
from vggfeat.training.record import files_digest
from vggfeat.training.setup import RunSetup
from vggfeat.training.signals import StopRequest
from vggfeat.training.trainer import Trainer
from vggfeat.training.watch import UnreadableImages

GREY = Colours((100.0, 110.0, 120.0), (0.2, 0.02, 0.01), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
CROPS = 2
IMAGES, VALIDATION = 12, 3  # of the tree below
ROWS = IMAGES * CROPS + VALIDATION


def of_layers(heard):
    """What was said of the frozen layers; after so short a run there is advice too."""
    return [note for note in heard.notes if note.startswith("layers ")]


@pytest.fixture
def tree(tmp_path):
    return striped_tree(tmp_path / "tree")


@pytest.fixture
def source(tmp_path):
    """A trained net to begin with, of other classes."""
    return str(glorot_(VGG("A", width=1 / 16, num_classes=7), seed=5).save(tmp_path / "source.pt"))


def tuned(tree, source, trainable="fc", **changes):
    settings = {
        "net": "A",
        "width": 1 / 16,
        "precision": "fp32",
        "data.dataset": "folder",
        "sgd.trainable": trainable,
        "sgd.batch_size": 4,
        "augment.S": [224, 256],
        "augment.crops": CROPS,
        "schedule.epochs": 3,
        "init.checkpoint": source,
    }
    recipe = load_recipe(None, settings | {key.replace("__", "."): value for key, value in changes.items()})
    return recipe, load_training_set("folder", tree, fraction=0.2, seed=0)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Listening(Observer):
    """Keeps what it is told; sends this process a signal when so many crops are done."""

    def __init__(self, at=None, number=signal.SIGINT):
        self.at, self.number, self.notes, self.crops = at, number, [], []

    def note(self, text):
        self.notes.append(text)

    def frozen(self, done, total):
        self.crops.append((done, total))
        if self.at is not None and done >= self.at:
            self.at = None
            os.kill(os.getpid(), self.number)


@pytest.fixture
def few_at_a_time(monkeypatch):
    monkeypatch.setitem(frozen.CHUNK, "cpu", 4)


# The same training, frozen layers computed once or at every update


@pytest.mark.parametrize("trainable", ["fc", "fc7", "fc8", "conv5_1"])
def test_training_on_kept_outputs_equals_training_that_computes_them_at_every_update(
    tree, source, tmp_path, monkeypatch, trainable
):
    # With these crops float16 turns few ReLUs on any processor; `test_rounding_is_all_that_differs` holds for all crops.
    monkeypatch.setattr("vggfeat.training.begin.run_seed", lambda seed, parent: seed)
    recipe, data = tuned(tree, source, trainable, sgd__learning_rate=1e-4)
    kept = train(recipe, data, output=tmp_path / "kept", device="cpu")
    anew = train(recipe, data, output=tmp_path / "anew", device="cpu", cache=False)
    assert (tmp_path / "kept" / "features.f16").exists()
    assert not (tmp_path / "anew" / "features.f16").exists()
    start = weights(glorot_(VGG("A", width=1 / 16, num_classes=3), seed=0).save(tmp_path / "start.pt")) | {
        name: value for name, value in weights(source).items() if not name.startswith("classifier.6")
    }
    frozen = set(recipe.frozen)
    for (name, one), other in zip(weights(kept.last).items(), weights(anew.last).values(), strict=True):
        moved = (other - start[name]).norm()
        layer = recipe_layer(name)
        assert (moved == 0) == (layer in frozen), name
        # float16 rounds outputs to 1 / 2048; in convolutions that turns some ReLUs and poolings.
        by_unit = (one - other).flatten(1).norm(dim=1) if one.ndim > 1 else (one - other).abs()
        if trainable != "conv5_1" and torch.__version__.startswith("2.4."):  # its sums turn the ReLU of one unit of fc6
            assert by_unit.norm() <= 4e-2 * moved, name
            by_unit = by_unit.sort().values[:-1]
        assert by_unit.norm() <= (4e-2 if trainable == "conv5_1" else 5e-3) * moved, name
    assert kept.errors.loss == pytest.approx(anew.errors.loss, rel=1e-3)


@pytest.mark.parametrize("trainable", ["fc", "conv5_1"])
def test_rounding_is_all_that_differs(tree, source, tmp_path, monkeypatch, trainable):
    recipe, data = tuned(tree, source, trainable)
    kept = train(recipe, data, output=tmp_path / "kept", device="cpu")
    frozen = TrainingForm.frozen
    monkeypatch.setattr(TrainingForm, "frozen", lambda self, crops: frozen(self, crops).half().float())
    anew = train(recipe, data, output=tmp_path / "anew", device="cpu", cache=False)
    assert same(weights(kept.last), weights(anew.last))
    assert kept.errors == anew.errors


def recipe_layer(name):
    """`features.3.weight` of net A -> conv2_1."""
    from vggfeat.training.initial import table_layers

    net = VGG("A", width=1 / 64)
    modules = dict(net.named_modules())
    return next(layer for layer, module in table_layers(net).items() if module is modules[name.rpartition(".")[0]])


def test_frozen_layers_run_once_for_each_crop(tree, source, tmp_path, monkeypatch):
    seen = []
    frozen = TrainingForm.frozen

    def counted(self, crops):
        seen.append(len(crops))
        return frozen(self, crops)

    monkeypatch.setattr(TrainingForm, "frozen", counted)
    heard = Listening()
    train(*tuned(tree, source), output=tmp_path / "run", device="cpu", observer=heard)
    assert sum(seen) == ROWS + 1, "and once to learn the outputs' shape"
    assert heard.crops[-1] == (ROWS, ROWS)
    size = (tmp_path / "run" / "features.f16").stat().st_size
    assert ROWS * 2 * 32 * 49 < size < ROWS * 2 * 32 * 49 + 9000
    assert of_layers(heard)[-1] == (
        f"layers conv1_1 to conv5_2 are frozen and run once: outputs for 24 crops (2 an image) and 3 validation "
        f"images, in "
        f"{tmp_path}/run/features.f16 (0 MB, computed now)"
    )
    seen.clear()
    again, data = tuned(tree, source, sgd__learning_rate=1e-5)
    train(again, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
    assert sum(seen) == 1, "another learning rate needs the same outputs"
    assert of_layers(heard)[-1].endswith("(0 MB, all there)")


@pytest.mark.parametrize(
    ("changes", "anew"), [({"sgd__dropout": 0.1}, False), ({"augment__flip": False}, True), ({"seed": 1}, True)]
)
def test_outputs_are_computed_again_when_a_crop_or_a_frozen_layer_differs(tree, source, tmp_path, changes, anew):
    train(*tuned(tree, source, schedule__epochs=1), output=tmp_path / "run", device="cpu")
    heard = Listening()
    recipe, data = tuned(tree, source, schedule__epochs=1, **changes)
    train(recipe, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
    assert heard.crops[-1:] == ([(ROWS, ROWS)] if anew else [])


def test_another_source_of_the_frozen_layers_is_noticed(tree, source, tmp_path):
    train(*tuned(tree, source, schedule__epochs=1), output=tmp_path / "run", device="cpu")
    other = str(glorot_(VGG("A", width=1 / 16, num_classes=7), seed=6).save(tmp_path / "other.pt"))
    heard = Listening()
    recipe, data = tuned(tree, other, schedule__epochs=1)
    train(recipe, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
    assert heard.crops[-1] == (ROWS, ROWS)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_changed_picture_is_noticed(tree, source, tmp_path, part):
    recipe, data = tuned(tree, source, schedule__epochs=1)
    train(recipe, data, output=tmp_path / "run", device="cpu")
    path = getattr(data, part)[0].path
    Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    heard = Listening()
    train(recipe, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
    assert heard.crops[-1] == (ROWS, ROWS)


def test_the_files_digest_tells_sizes_times_tar_members_and_boxes_apart(tree):
    _, data = tuned(tree, "")
    first, *others = data.train

    def digest(**changes):
        return files_digest(replace(data, train=(replace(first, **changes), *others)))

    before = {digest(), digest(span=(0, 9)), digest(span=(9, 9)), digest(boxes=((0, 0, 1, 1),)), digest(path="lost")}
    assert len(before) == 5
    assert digest() in before
    path = Path(first.path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert digest() not in before
    kept = path.stat()
    with path.open("ab") as file:
        file.write(b"0")
    longer = digest()
    os.truncate(path, kept.st_size)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert digest() != longer


def test_frozen_layers_with_random_weights_are_named(tree, source, tmp_path):
    def notes(**changes):
        heard = Listening()
        recipe, data = tuned(tree, source, schedule__epochs=1, **changes)
        train(recipe, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
        return [note for note in heard.notes if "with random weights" in note]

    told = (
        "frozen layers with random weights: {}; `sgd.trainable` freezes them and `init.checkpoint` does not fill them"
    )
    assert notes() == []
    assert notes(init__checkpoint="") == [told.format("8, the first conv1_1")]
    assert notes(net="B") == [told.format("6, the first conv1_2")]
    assert notes(net="B", init__scheme="identity") == []


# Interrupted


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_outputs_are_computed_keeps_them_and_a_resumed_run_computes_the_rest(
    tree, source, tmp_path, number
):
    whole = train(*tuned(tree, source), output=tmp_path / "whole", device="cpu")
    cut = train(*tuned(tree, source), output=tmp_path / "cut", device="cpu", observer=Listening(8, number))
    assert (cut.finished, cut.step, cut.best) == (False, 0, None)
    heard = Listening()
    resumed = train(*tuned(tree, source), output=tmp_path / "cut", device="cpu", resume=True, observer=heard)
    assert of_layers(heard)[-1].endswith("(0 MB, 8 there)")
    assert heard.crops[-1] == (ROWS - 8, ROWS - 8)
    assert same(weights(resumed.last), weights(whole.last))
    assert (tmp_path / "cut" / "features.f16").read_bytes() == (tmp_path / "whole" / "features.f16").read_bytes()


KILLED = """
import os, signal, sys
from vggfeat.datasets.split import load_training_set
from vggfeat.stages.train import train
from vggfeat.training import features, frozen
from vggfeat.training.observer import Observer
from vggfeat.training.recipe import load_recipe

frozen.CHUNK["cpu"], features.COMMIT_SECONDS = 4, 0.0

class Dying(Observer):
    def frozen(self, done, total):
        if done >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

recipe = load_recipe(sys.argv[1])
train(recipe, load_training_set("folder", sys.argv[2], fraction=0.2), output=sys.argv[3], device="cpu", observer=Dying())
"""


def test_a_killed_run_leaves_outputs_that_another_run_takes_up(tree, source, tmp_path):
    need("signal.SIGKILL")
    recipe, data = tuned(tree, source)
    whole = train(recipe, data, output=tmp_path / "whole", device="cpu")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "whole" / "recipe.toml"), str(tree), str(tmp_path / "cut")]
    done = subprocess.run([*command, "12"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    heard = Listening()
    resumed = train(recipe, data, output=tmp_path / "cut", device="cpu", resume=True, observer=heard)
    there = ROWS - heard.crops[-1][1]
    assert 8 <= there <= 12, "all but the last chunk"
    assert same(weights(resumed.last), weights(whole.last))


def test_a_damaged_file_of_outputs_is_made_again(tree, source, tmp_path):
    recipe, data = tuned(tree, source)
    whole = train(recipe, data, output=tmp_path / "run", device="cpu")
    before = weights(whole.last)
    with (tmp_path / "run" / "features.f16").open("r+b") as stream:
        stream.truncate(5000)
    heard = Listening()
    again = train(recipe, data, output=tmp_path / "run", device="cpu", overwrite=True, observer=heard)
    assert heard.crops[-1] == (ROWS, ROWS)
    assert same(weights(again.last), before)


# What goes wrong


def test_unreadable_images_are_told_once_weigh_nothing_and_are_tried_again(tree, source, tmp_path):
    path = tree / "red" / "0.png"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    written = path.stat().st_mtime_ns
    recipe, data = tuned(tree, source)
    data = data.__class__(**{**data.__dict__, "train": data.train + data.val})  # so that it is trained on
    heard = Listening()
    result = train(recipe, data, output=tmp_path / "run", device="cpu", observer=heard)
    assert result.failed == ("red/0.png",)
    assert sum(note.startswith("skipped red/0.png: ") for note in heard.notes) == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["val_loss"] > 0
    path.write_bytes(good)
    os.utime(path, ns=(written, written))  # as after an outage: the file itself has not changed
    heard = Listening()
    longer, _ = tuned(tree, source, schedule__epochs=4)
    train(longer, data, output=tmp_path / "run", device="cpu", resume=True, observer=heard)
    assert heard.crops[-1][0] in (CROPS, CROPS + 1), "its crops, and its centre view where it validates too"


def test_a_disk_without_room_is_named_before_anything_is_computed(tree, source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage(1000, 1000, 1000))
    with pytest.raises(TrainingError) as caught:
        train(*tuned(tree, source), output=tmp_path / "run", device="cpu")
    assert str(caught.value) == (
        f"{tmp_path}/run/features.f16: the frozen layers' outputs take 0 MB, and the disk has 0 MB left: take fewer "
        "`augment.crops`, or `cache=False`, which computes them anew at every update"
    )


def test_a_layer_that_the_net_does_not_have_is_named(tree, source):
    with pytest.raises(
        RecipeError,
        match=r"^`sgd.trainable=conv5_3`: no such choice; did you mean 'conv5_2'\? valid: all, fc, conv1_1, ",
    ):
        tuned(tree, source, "conv5_3")


def test_a_resumed_run_without_its_trainable_layers_is_told_of_them_not_of_what_follows_from_them(
    tree, tmp_path, capsys
):
    flags = ["--net", "A", "--width", "0.0625", "--dataset", "folder", "--data", str(tree), "--device", "cpu"]
    command = ["train", *flags, "--epochs", "1", "-o", str(tmp_path / "run"), "--quiet"]
    assert run([*command, "--trainable", "fc8"]) == 0
    capsys.readouterr()
    assert run([*command, "--resume"]) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: {tmp_path}/run/last.pt: made with other settings (--trainable: fc8, now all): give the same, or start "
        "anew by --overwrite\n"
    )


# The file


def test_outputs_come_back_as_float16_whatever_their_size(tmp_path):
    layout = Layout("x", 4, (3, 2), 2)
    FeatureFile.make(tmp_path / "f", layout)
    assert FeatureFile.matches(tmp_path / "f", layout)
    assert not FeatureFile.matches(tmp_path / "f", Layout("y", 4, (3, 2), 2))
    file = FeatureFile(tmp_path / "f", layout)
    values = np.random.default_rng(0).standard_normal((3, 3, 2)).astype(np.float32) * [[[1.0]], [[1e5]], [[1e30]]]
    for row in range(3):
        file.write(row, values[row].astype(np.float32), 1.0, np.full((1, 4), row, np.float32))
    file.fail(3)
    assert not file.records["status"].any(), "nothing counts before it is committed"
    file.commit()
    assert file.records["status"].tolist() == [DONE, DONE, DONE, FAILED]
    found, records = file.read([2, 0, 1, 3])
    for place, row in enumerate((2, 0, 1)):
        assert found[place].numpy() == pytest.approx(values[row], rel=2**-11, abs=np.abs(values[row]).max() * 2**-24)
    assert torch.equal(found[1], torch.tensor(values[0].astype(np.float16), dtype=torch.float32)), "plain float16"
    assert not found[3].any()
    assert records["weight"].tolist() == [1, 1, 1, 0]
    assert records["boxes"][0, 0].tolist() == [2, 2, 2, 2]
    assert np.isnan(records["boxes"][0, 1]).all()
    with pytest.raises(TrainingError, match=r"^the frozen layers' outputs are NaN or infinite: take other weights$"):
        file.write(0, np.full((3, 2), np.inf, np.float32), 1.0, None)
    file.close()


# Crops and forms


def test_fixed_crops_follow_from_the_image_and_their_number():
    fixed = Augmentation((256, 512), True, 0.1, GREY, seed=3, fixed=True)
    assert fixed.view((500, 375), 1, 7) == fixed.view((500, 375), 1, 7)
    views = [fixed.view((500, 375), variant, image) for variant in range(3) for image in range(3)]
    assert len({(view.Q, view.left, view.top) for view in views}) == 9
    assert fixed.view((500, 375), 1, 7) != Augmentation((256, 512), True, 0.1, GREY, seed=3).view((500, 375), 1, 7)


@pytest.mark.parametrize(("net", "trainable"), [("A-LRN", "conv2_1"), ("D", "conv3_3"), ("E", "fc"), ("B", "fc7")])
def test_the_two_parts_of_a_net_make_the_whole(net, trainable):
    made = glorot_(VGG(net, width=1 / 32, num_classes=5), seed=1).eval()
    form = TrainingForm(made, 0.5, trainable)
    crops = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = form.frozen(crops)
        assert outputs.shape[1:] == form.frozen_shape()
        assert torch.equal(form(outputs, None, True), made(crops))
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained == {
        name
        for name, _ in list(made.named_parameters())[
            2 * len(load_recipe(None, {"net": net, "sgd.trainable": trainable}).frozen) :
        ]
    }


def test_dropout_between_frozen_and_trained_layers_stays_random():
    """fc6 is frozen here, and its dropout is not."""
    form = TrainingForm(glorot_(VGG("A", width=1 / 32, num_classes=5), seed=1), 0.5, "fc7")
    outputs = form.frozen(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    keep, drop = torch.ones(1, 128, dtype=torch.bool), torch.zeros(1, 128, dtype=torch.bool)
    assert torch.equal(form(outputs, [drop, keep], True), form(torch.zeros_like(outputs), [keep, keep], True))


# Recipes


def test_fine_tuning_has_defaults_of_its_own_that_anything_named_overrides(tmp_path):
    assert load_recipe().augment.crops == 0
    recipe = load_recipe(None, {"sgd.trainable": "fc"})
    assert (recipe.augment.crops, recipe.sgd.learning_rate, recipe.schedule.measure) == (2, 0.001, "top1")
    assert load_recipe(None, {"sgd.trainable": "fc", "augment.crops": 0}).augment.crops == 0
    (tmp_path / "r.toml").write_text("[augment]\ncrops = 9\n")
    assert load_recipe(tmp_path / "r.toml", {"sgd.trainable": "fc8"}).augment.crops == 9
    assert load_recipe(None, {"sgd.trainable": "all"}) == Recipe()
    # By another name for "all" nothing is frozen either.
    assert load_recipe(None, {"sgd.trainable": "conv1_1"}) == Recipe(sgd=Sgd(trainable="conv1_1"))


def test_a_record_older_than_fixed_crops_had_none():
    recorded = {"net": "A", "sgd": {"trainable": "fc"}, "augment": {"flip": False}}
    assert completed(recorded)["augment"]["crops"] == 0
    assert completed(recorded)["augment"]["flip"] is False


# The command


def test_the_command_fine_tunes_and_names_the_next_command(tree, source, tmp_path, capsys):
    arguments = ["train", "--net", "A", "--width", "0.0625", "--init-from", source, "--trainable", "fc", "--S", "224"]
    where = ["--dataset", "folder", "--data", str(tree), "-o", str(tmp_path / "n.pt"), "--device", "cpu"]
    assert run([*arguments, *where, "--epochs", "2", "--crops", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/n.pt\n"
    assert "conv1_1, conv2_1, conv3_1, conv3_2, conv4_1, conv4_2, conv5_1, conv5_2, fc6, fc7 from " in captured.err
    assert "layers conv1_1 to conv5_2 are frozen and run once: outputs for 12 crops (1 an image) and 3 " in captured.err
    assert captured.err.splitlines()[-1] == f"next: vggfeat predict {tmp_path}/n.pt PICTURES"
    assert (tmp_path / "n.features.f16").exists()
    kept = load_recipe(tmp_path / "n.recipe.toml")
    assert (kept.sgd.trainable, kept.augment.crops, kept.sgd.batch_size) == ("fc", 1, 64)


def test_the_command_names_the_flags_of_frozen_random_layers(tree, tmp_path, capsys):
    arguments = ["train", "--net", "A", "--width", "0.0625", "--trainable", "fc", "--S", "224", "--epochs", "1"]
    where = ["--dataset", "folder", "--data", str(tree), "-o", str(tmp_path / "n.pt"), "--device", "cpu"]
    assert run([*arguments, *where]) == 0
    assert "the first conv1_1; --trainable freezes them and --init-from does not fill them" in " ".join(
        capsys.readouterr().err.split()
    )


class OneOfTwo(Ranks):
    """The first of two processes, which meets the other one nowhere."""

    def shared(self, value):
        return value

    def gathered(self, entries):
        return entries

    def any(self, *asked):
        return list(asked)


@pytest.mark.usefixtures("few_at_a_time")
def test_the_progress_of_two_processes_ends_at_the_number_of_crops(tree, source, tmp_path):
    heard, alone = Listening(), Ranks(0, 1, torch.device("cpu"))
    setup = RunSetup(*tuned(tree, source), RunFiles.of(tmp_path / "run"), alone, 0, heard)
    start = begin(setup, resume=False)
    outputs = frozen.FrozenOutputs(replace(setup, ranks=OneOfTwo(0, 2, alone.device)), start)
    with contextlib.closing(outputs):
        outputs.prepare(StopRequest(), UnreadableImages([], 0, heard))
    assert heard.crops == [(8, ROWS), (16, ROWS), (24, ROWS), (ROWS, ROWS)], "14 crops here, 13 there"


def test_two_processes_fill_one_file_and_reach_the_weights_of_one(tree, source, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vggfeat"]
    arguments = ["train", "--net", "A", "--width", "0.0625", "--init-from", source, "--trainable", "fc", "--S", "224"]
    arguments += ["--dataset", "folder", "--data", str(tree), "--epochs", "2", "--crops", "2", "--batch-size", "6"]
    arguments += ["--learning-rate", "1e-5", "--device", "cpu", "--precision", "fp32", "--workers", "1"]
    for name, start in (("one", [sys.executable, "-m", "vggfeat"]), ("two", torchrun)):
        command = [*start, *arguments, "-o", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path / name / "last.pt") for name in ("one", "two"))
    start = weights(source)
    for name, value in one.items():
        if name.startswith("features"):
            assert torch.equal(value, two[name])
        elif not name.startswith("classifier.6"):
            assert (two[name] - value).norm() <= 1e-2 * (value - start[name]).norm() > 0, name
    sizes = {(tmp_path / name / "features.f16").stat().st_size for name in ("one", "two")}
    assert len(sizes) == 1


def test_a_batch_of_kept_outputs_runs_at_once_on_a_cpu():
    net = glorot_(VGG("A", width=1 / 32, num_classes=5), seed=1)
    alone = Ranks(0, 1, torch.device("cpu"))
    sgd = Sgd(batch_size=64, trainable="fc")
    assert Trainer(net, sgd, seed=0, precision="fp32", ranks=alone).micro_batch == 16
    assert Trainer(net, sgd, seed=0, precision="fp32", ranks=alone, computed=True).micro_batch == 64
