"""Training a net to predict boxes (Appendix A)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from located import WNIDS, located_tree

from vggfeat.boxes import from_targets, iou
from vggfeat.cli import run
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import RecipeError
from vggfeat.inference.localiser import box_head
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.stages.localise import localise
from vggfeat.stages.train import train
from vggfeat.training.augment import Augmentation, CentreView, Colours, CropView
from vggfeat.training.crops import CropLoader, Job
from vggfeat.training.form import TrainingForm
from vggfeat.training.recipe import load_recipe
from vggfeat.training.tasks import Localisation, box_targets, task_of

GREY = Colours((100.0, 110.0, 120.0), (0.2, 0.02, 0.01), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
NO_SHIFT = (0.0, 0.0, 0.0)
TINY = {
    "task": "localise",
    "net": "A",
    "width": 1 / 64,
    "precision": "fp32",
    "sgd.batch_size": 4,
    "augment.S": [224, 256],
    "schedule.epochs": 2,
    "init.stall_steps": 0,
}


def tiny(root, **changes):
    recipe = load_recipe(None, TINY | {key.replace("__", "."): value for key, value in changes.items()})
    return recipe, load_training_set("ilsvrc2012", root, boxes=True)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


# Targets


def test_targets_are_in_the_crops_coordinates():
    # 96x64 at Q = 256 is 384x256; the crop starts at (100, 16). The box is the picture's middle quarter.
    view = CropView(256, 100, 16, False, NO_SHIFT)
    targets, seen = box_targets([(0.25, 0.25, 0.75, 0.75)], view, (96, 64), 0.5)
    assert targets == pytest.approx(np.array([[(192 - 100) / 224, (128 - 16) / 224, 192 / 224, 128 / 224]]))
    assert seen
    mirrored, _ = box_targets([(0.25, 0.25, 0.75, 0.75)], CropView(256, 100, 16, True, NO_SHIFT), (96, 64), 0.5)
    assert mirrored[0, 0] == pytest.approx(1 - targets[0, 0])
    assert mirrored[0, 1:] == pytest.approx(targets[0, 1:])


def test_the_box_to_learn_is_the_one_that_fills_most_of_the_crop_among_those_half_seen():
    view = CropView(224, 0, 0, False, NO_SHIFT)  # the left half of a 448x224 picture
    large_half_hidden = (0.3, 0.0, 0.9, 1.0)  # a third of it is in view, yet the largest part of the crop
    small, middle = (0.0, 0.0, 0.1, 0.1), (0.1, 0.1, 0.4, 0.6)
    targets, seen = box_targets([large_half_hidden, small, middle], view, (448, 224), 0.5)
    assert seen
    assert targets[0] == pytest.approx([0.5, 0.35, 0.6, 0.5]), "middle"
    assert len(targets) == 3, "the others still count where errors are"
    assert not box_targets([large_half_hidden], view, (448, 224), 0.5)[1]
    assert box_targets([large_half_hidden], view, (448, 224), 0.3)[1]
    assert box_targets([(0.6, 0.0, 0.9, 1.0)], view, (448, 224), 0.0)[1], "validation counts what is out of view too"


def test_crops_that_miss_their_object_weigh_nothing(tmp_path):
    root = located_tree(tmp_path, train=4, val=1, size=(90, 48))
    samples = load_training_set("ilsvrc2012", root, boxes=True).train
    viewer = Augmentation((224, 256), True, 0.0, GREY, seed=0)
    jobs = [Job(sample, 0, place) for place, sample in enumerate(samples)] + [Job(None)]
    (batch,) = CropLoader(viewer, "bilinear", exif=False, workers=2, least_seen=0.5).batches([jobs])
    assert 0 < batch.weights.sum() < len(samples)
    for place, sample in enumerate(samples):
        _, seen = box_targets(sample.boxes, viewer.view((90, 48), 0, place), (90, 48), 0.5)
        assert batch.weights[place] == seen
    assert torch.isnan(batch.boxes[-1]).all()


def test_a_target_is_where_the_object_is_in_the_crop(tmp_path):
    """The pixels are the reference: the bright square of each crop lies in its target's box."""
    root = located_tree(tmp_path, train=4, val=1)
    samples = load_training_set("ilsvrc2012", root, boxes=True).train
    viewer = Augmentation((224, 256), True, 0.0, GREY, seed=1)
    jobs = [Job(sample, 3, place) for place, sample in enumerate(samples)]
    (batch,) = CropLoader(viewer, "bilinear", exif=False, workers=0, least_seen=0.5).batches([jobs])
    flips = set()
    for place, sample in enumerate(samples):
        rows, columns = np.nonzero(batch.crops[place, :, :, sample.labels].numpy() > 120)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        expected = from_targets(batch.boxes[place, 0], [0, 0, 224, 224]).clip(0, 224)
        assert iou(found, expected)[0, 0] > 0.85
        flips.add(viewer.view((64, 48), 3, place).flip)
    assert flips == {True, False}


# The task


def test_the_last_layer_has_four_outputs_for_all_classes_or_for_each():
    assert task_of(load_recipe(None, {"task": "localise", "localise.head": "scr"}), 7).outputs == 4
    assert task_of(load_recipe(None, {"task": "localise"}), 1000).outputs == 4000
    assert task_of(load_recipe(), 7).outputs == 7


def test_the_loss_is_half_the_squared_distance_of_the_own_classs_box():
    outputs = torch.arange(24.0).view(2, 12) / 10
    labels, boxes = torch.tensor([2, 0]), torch.full((2, 1, 4), 0.5)
    picked = torch.stack([outputs[0, 8:12], outputs[1, 0:4]])
    task = Localisation(3, per_class=True)
    assert torch.equal(task.chosen(outputs, labels), picked)
    assert task.losses(outputs, labels, boxes) == pytest.approx(((picked - 0.5) ** 2).sum(1).numpy() / 2)
    shared = Localisation(3, per_class=False)
    assert torch.equal(shared.chosen(picked, labels), picked)


def test_wrong_is_an_iou_of_at_most_one_half_with_every_object():
    rng = np.random.default_rng(0)
    outputs, boxes = (torch.tensor(rng.random((400, m, 4)) * 0.5 + 0.25) for m in (1, 3))
    boxes[::2, 2] = torch.nan
    boxes[::3, 1] = torch.nan
    wrong, same = Localisation(5, per_class=False).wrong(outputs[:, 0], torch.zeros(400, dtype=torch.int64), boxes)
    unit = [0, 0, 1, 1]
    expected = []
    for guess, truth in zip(outputs[:, 0].numpy(), boxes.numpy(), strict=True):
        there = truth[~np.isnan(truth[:, 0])]
        expected.append(not (iou(from_targets(guess, unit), from_targets(there, unit)) > 0.5).any())
    assert wrong.tolist() == same.tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9


# Runs


def test_a_localisation_net_starts_from_the_classifier_with_a_random_last_layer(tmp_path):
    root = located_tree(tmp_path, train=4, val=1)
    # A classifier of four classes has a last layer of the very shape of SCR's: it must not be copied.
    source = glorot_(VGG("A", width=1 / 64, num_classes=4), seed=5).save(tmp_path / "net.pt")
    recipe, data = tiny(
        root, localise__head="scr", schedule__epochs=1, init__checkpoint=str(source), sgd__learning_rate=1e-12
    )
    made = weights(train(recipe, data, output=tmp_path / "loc", device="cpu", workers=1).last)
    for key, value in weights(source).items():
        if key != "classifier.6.bias":  # zero in both
            assert torch.allclose(made[key], value, atol=1e-6) == (key != "classifier.6.weight"), key


@pytest.mark.parametrize("head", ["scr", "pcr"])
@pytest.mark.parametrize("scheme", ["glorot", "data-dependent"])
def test_boxes_begin_at_the_mean_box_of_the_training_images(tmp_path, head, scheme):
    root = located_tree(tmp_path, train=4, val=1)
    (root / "ilsvrc2012" / "train" / WNIDS[1] / f"{WNIDS[1]}_train_2.JPEG").write_bytes(b"not an image")
    recipe, data = tiny(root, localise__head=head, init__scheme=scheme, schedule__epochs=1, sgd__learning_rate=1e-12)
    made = weights(train(recipe, data, output=tmp_path / "loc", device="cpu", workers=1).last)
    view = CentreView(recipe.augment.Q).view((64, 48), 0, 0)
    readable = [sample.boxes for sample in data.train if not sample.id.endswith(f"{WNIDS[1]}_train_2.JPEG")]
    assert len(readable) == 11
    mean = np.mean([box_targets(boxes, view, (64, 48), 0.0)[0][0] for boxes in readable], axis=0)
    np.testing.assert_allclose(
        made["classifier.6.bias"].view(-1, 4), np.tile(mean, (3 if head == "pcr" else 1, 1)), atol=1e-6
    )


@pytest.mark.parametrize("head", ["scr", "pcr"])
def test_a_run_records_what_its_checkpoint_predicts(tmp_path, head):
    root = located_tree(tmp_path, train=4, val=1)
    recipe, data = tiny(root, localise__head=head)
    result = train(recipe, data, output=tmp_path / "loc", device="cpu", workers=1)
    net = load_net(None, result.best, device="cpu")
    found = box_head(net)
    assert (found.class_names, found.per_class) == (data.class_names, head == "pcr")
    assert net.num_classes == (12 if head == "pcr" else 4)
    boxes = np.array([sample.boxes[0] for sample in data.train])
    assert net.training_record["mean_box"] == pytest.approx(boxes.mean(axis=0))
    assert result.errors.top1 == result.errors.top5
    assert result.errors.images == 3, "every validation image counts, however little of its object the crop sees"


def test_training_learns_where_the_square_is(tmp_path):
    root = located_tree(tmp_path, train=12, val=4)
    changes = {"width": 1 / 16, "sgd__dropout": 0.0, "augment__S": 224, "sgd__learning_rate": 0.001}
    recipe, data = tiny(
        root, **changes, localise__head="scr", schedule__epochs=28, sgd__batch_size=12, schedule__patience=28
    )
    before, _ = tiny(root, **changes | {"sgd__learning_rate": 1e-9}, localise__head="scr", schedule__epochs=1)
    first = train(before, data, output=tmp_path / "a", device="cpu").errors
    last = train(recipe, data, output=tmp_path / "b", device="cpu").errors
    assert last.loss < 0.03 < first.loss
    assert last.top1 < 60 < first.top1
    scored = localise(
        data=root, weights=str(tmp_path / "b" / "best.pt"), protocol="1", device="cpu", precision="fp32", workers=1
    )
    record = load_net(None, tmp_path / "b" / "best.pt", device="cpu").training_record
    assert scored["top1_error"] == pytest.approx(record["validation"]["top1"]), "protocol 1 is what validation measures"
    assert scored["top1_error"] < min(scored["whole_image"], scored["mean_box"])


def test_fc_alone_leaves_the_convolutions_as_they_were(tmp_path):
    root = located_tree(tmp_path, train=4, val=1)
    source = glorot_(VGG("A", width=1 / 64, num_classes=3), seed=5).save(tmp_path / "net.pt")
    recipe, data = tiny(root, init__checkpoint=str(source), sgd__trainable="fc", sgd__learning_rate=0.1)
    made, before = weights(train(recipe, data, output=tmp_path / "loc", device="cpu").last), weights(source)
    for key, value in before.items():
        if not key.startswith("classifier.6"):
            assert torch.equal(made[key], value) == key.startswith("features"), key


def test_boxes_are_learned_from_kept_outputs_as_from_crops(tmp_path, monkeypatch):
    """The targets, and the crops that miss their object, are kept with the outputs; float16 alone makes a difference."""
    root = located_tree(tmp_path, train=4, val=1, size=(90, 48))  # narrow crops: some show no object
    source = glorot_(VGG("A", width=1 / 64, num_classes=3), seed=5).save(tmp_path / "net.pt")
    recipe, data = tiny(root, init__checkpoint=str(source), sgd__trainable="fc", augment__crops=3, schedule__epochs=3)
    kept = train(recipe, data, output=tmp_path / "kept", device="cpu")
    frozen = TrainingForm.frozen
    monkeypatch.setattr(TrainingForm, "frozen", lambda self, crops: frozen(self, crops).half().float())
    anew = train(recipe, data, output=tmp_path / "anew", device="cpu", cache=False)
    assert all(torch.equal(value, weights(anew.last)[key]) for key, value in weights(kept.last).items())
    assert kept.errors == anew.errors


def test_a_resumed_run_reaches_the_bits_of_an_undisturbed_one(tmp_path):
    root = located_tree(tmp_path, train=4, val=1, size=(90, 48))  # narrow crops: some batches hold no object at all
    whole = train(*tiny(root, schedule__epochs=3), output=tmp_path / "whole", device="cpu")
    train(*tiny(root, schedule__epochs=1), output=tmp_path / "cut", device="cpu")
    resumed = train(*tiny(root, schedule__epochs=3), output=tmp_path / "cut", device="cpu", resume=True)
    assert all(torch.equal(value, weights(whole.last)[key]) for key, value in weights(resumed.last).items())


# Recipe and command


def test_localisation_has_the_papers_rate_unless_one_is_named():
    assert load_recipe(None, {"task": "localise"}).sgd.learning_rate == 0.001
    assert load_recipe(None, {"task": "localise", "sgd.learning_rate": 0.5}).sgd.learning_rate == 0.5
    assert load_recipe().sgd.learning_rate == 0.01


def test_heads_have_output_folders_of_their_own():
    names = [load_recipe(None, {"task": "localise", "localise.head": head}).name for head in ("pcr", "scr")]
    assert names == ["ilsvrc2012-D-256-localise-pcr", "ilsvrc2012-D-256-localise-scr"]
    assert load_recipe().name == "ilsvrc2012-D-256"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("localise.head", "both", "`localise.head=both`: no such choice; valid: pcr, scr"),
        ("task", "detect", "`task=detect`: no such choice; valid: classify, localise"),
        ("localise.least_seen", 2.0, "`localise.least_seen=2.0`: must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_named(key, value, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, {key: value})
    assert str(caught.value) == message


def test_the_command_trains_on_the_images_with_boxes(tmp_path, capsys):
    root = located_tree(tmp_path, train=4, val=1)
    flags = ["--width", "0.015625", "--batch-size", "4", "--epochs", "1", "--precision", "fp32", "--device", "cpu"]
    command = ["train", "--task", "localise", "--head", "scr", "--net", "A", "--data", str(root), *flags]
    assert run([*command, "--json", "-o", str(tmp_path / "loc.pt")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["step"]) == (str(tmp_path / "loc.pt"), 3)
    assert run([*command[: -len(flags)], "--dataset", "folder"]) == 2
    assert capsys.readouterr().err == "vggfeat: folder has no bounding boxes; localisation is trained on ilsvrc2012\n"


def test_validation_sees_the_centre_view_and_all_images(tmp_path):
    root = located_tree(tmp_path, train=1, val=4, size=(300, 48))
    samples = load_training_set("ilsvrc2012", root, boxes=True).val
    loader = CropLoader(CentreView(224), "bilinear", exif=False, workers=0, least_seen=0.0)
    (batch,) = loader.batches([[Job(sample) for sample in samples]])
    assert batch.weights.tolist() == [1.0] * 12
    strict = CropLoader(CentreView(224), "bilinear", exif=False, workers=0, least_seen=0.5)
    (fewer,) = strict.batches([[Job(sample) for sample in samples]])
    assert fewer.weights.sum() < 12, "the centre of a wide picture misses some"
    assert torch.equal(fewer.boxes, batch.boxes)
