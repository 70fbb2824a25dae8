"""Which images a net is tested on: never those that it was trained on, unless that is asked for."""

from dataclasses import replace

import pytest

from vggfeat.datasets import Dataset, Sample
from vggfeat.datasets.split import TrainingSet, _hold_out, data_digest, evaluation_part, own_part
from vggfeat.errors import DatasetError, UsageError
from vggfeat.stages.localise import _part

CLASSES = ("a", "b")


def samples(number, subsets=()):
    parts = [*subsets, *[""] * number]
    return tuple(Sample(str(i), f"{i}.jpg", i % 2, subset=parts[i]) for i in range(number))


def trained(images, seed):
    """A Dataset, what a checkpoint records that was trained on it with this seed, and the images held out."""
    kept, held_out = _hold_out(images, 0.3, seed)
    record = {
        "dataset": "folder",
        "recipe": {"data": {"validation_fraction": 0.3}, "seed": seed},
        "train_images": len(kept),
        "validation_images": len(held_out),
        "images_sha256": data_digest(TrainingSet("folder", kept, held_out, CLASSES, False, True)),
    }
    return Dataset("folder", images, CLASSES), record, held_out


def test_other_images_of_the_same_number_are_not_taken_for_the_held_out_ones():
    dataset, record, held_out = trained(samples(16), 5)
    assert evaluation_part(dataset, "val", [record]).samples == held_out
    renamed = replace(dataset, samples=(replace(dataset.samples[0], id="other"), *dataset.samples[1:]))
    with pytest.raises(DatasetError) as error:
        evaluation_part(renamed, "val", [record])
    assert str(error.value) == (
        "the net was trained on other images of folder than these (some have another name or class), so the ones it "
        "has not seen are unknown: `subset=all` takes them all"
    )
    older = {name: value for name, value in record.items() if name != "images_sha256"}
    assert evaluation_part(renamed, "val", [older]).samples


def test_fused_nets_are_tested_on_what_the_training_of_all_of_them_held_out():
    (dataset, one, first), (_, two, second) = trained(samples(40), 5), trained(samples(40), 6)
    common = [sample for sample in first if sample in second]
    assert 0 < len(common) < len(first)
    assert list(evaluation_part(dataset, "val", [one, two]).samples) == common
    assert list(evaluation_part(dataset, "val", [two, one]).samples) == common
    assert list(evaluation_part(dataset, "val", [one, {}]).samples) == list(first), "the second learned elsewhere"
    dataset, one, first = trained(samples(6), 0)
    two = next(
        record for _, record, other in (trained(samples(6), seed) for seed in range(20)) if set(other).isdisjoint(first)
    )
    with pytest.raises(UsageError) as error:
        evaluation_part(dataset, "val", [one, two])
    assert str(error.value) == (
        "the nets' training held out different images of folder, none by all of them: `subset=all` takes them all"
    )


def test_a_dataset_of_ones_own_is_tested_on_the_part_asked_for():
    named = Dataset("mine", samples(4, ("val", "val", "train", "train")), CLASSES)
    assert [sample.id for sample in own_part(named, "val", []).samples] == ["0", "1"]
    assert [sample.id for sample in own_part(named, "train", []).samples] == ["2", "3"]
    assert len(own_part(named, "all", []).samples) == 4
    with pytest.raises(UsageError, match=r"^mine has no test images here: `subset=all` takes all of its images$"):
        own_part(named, "test", [])
    with pytest.raises(UsageError, match=r"^no subset 'bogus'; valid: val, test, train, all$"):
        own_part(named, "bogus", [])


def test_a_dataset_without_subsets_is_tested_whole_unless_the_net_was_trained_on_it():
    bare = Dataset("mine", samples(4), CLASSES)
    assert own_part(bare, "val", [{}]) == bare
    dataset, record, held_out = trained(samples(16), 5)
    assert own_part(dataset, "val", [record]).samples == held_out


def test_a_dataset_of_ones_own_is_localised_on_the_part_asked_for():
    parts = ("train", "val", "val")
    samples = tuple(Sample(f"{i}", f"{i}.jpg", 0, subset=part) for i, part in enumerate(parts))
    assert [sample.id for sample in _part(Dataset("mine", samples, ("a",)), "val").samples] == ["1", "2"]
    bare = Dataset("mine", tuple(replace(sample, subset="") for sample in samples), ("a",))
    assert _part(bare, "val") == bare
