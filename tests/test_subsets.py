"""`svm` and the subsets, classes and layers that files name: no test image is trained on, nothing counts unseen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import clusters, settings, write_descriptors

from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.classifiers.protocols.selection import _mean_curve
from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import DatasetError, StoreError, UsageError
from vggfeat.metrics import positive_share
from vggfeat.stages import svm as stage
from vggfeat.stages.svm import svm
from vggfeat.store import DescriptorWriter
from vggfeat.store.pooling import Described


def parted(path: Path, *parts: str, net: str = "D") -> Path:
    """A file of two classes whose images have these subsets by turns."""
    dataset, values = clusters([30, 30])
    samples = tuple(replace(sample, subset=parts[i % len(parts)]) for i, sample in enumerate(dataset.samples))
    return write_descriptors(path, replace(dataset, samples=samples), values, net=net)


@pytest.mark.parametrize(
    ("parts", "named"), [(("test", "", ""), "'test' and none"), (("val", "test"), "'val' and 'test'")]
)
def test_images_to_test_on_are_not_split_at_random_where_none_are_named_to_train_on(parts, named, tmp_path):
    file = parted(tmp_path / "x.h5", *parts)
    with pytest.raises(DatasetError) as error:
        svm(file, C=1)
    assert str(error.value) == (
        f"the images of {file} name the subsets {named}, and none is 'train': name the training images, or take "
        "`test_fraction` or `folds` to ignore the subsets"
    )
    assert len(svm(file, C=1, rounds=Rounds(folds=3)).splits) == 3


def test_one_subset_for_all_images_is_no_split(tmp_path):
    assert len(svm(parted(tmp_path / "x.h5", "val"), C=1).splits) == 3


def test_images_without_a_subset_beside_named_ones_are_told_to_take_no_part(tmp_path, caplog):
    file = parted(tmp_path / "x.h5", "train", "test", "")
    (split,) = svm(file, C=1).splits
    assert split.train + split.val + split.test == 40
    assert caplog.messages == [f"{file}: 20 images name no subset and take no part"]


def test_a_seed_that_would_change_nothing_is_refused(tmp_path):
    file = parted(tmp_path / "x.h5", "train", "val", "test")
    with pytest.raises(UsageError) as error:
        svm(file, C=1, rounds=Rounds(seed=1))
    assert str(error.value) == f"the images of {file} name their validation part too: `seed` would change nothing"
    dataset, values = clusters([30, 30], name="voc2007")
    labels = np.array([[1, -1], [-1, 1]], dtype=np.int8)
    samples = tuple(
        replace(sample, labels=labels[i % 2], subset=("train", "val", "test")[i % 3])
        for i, sample in enumerate(dataset.samples)
    )
    voc = write_descriptors(tmp_path / "v.h5", replace(dataset, samples=samples), values)
    with pytest.raises(UsageError) as error:
        svm(voc, C=1, rounds=Rounds(seed=1))
    assert str(error.value) == "voc2007 prescribes its validation images too: `seed` would change nothing"
    two = parted(tmp_path / "y.h5", "train", "test")
    assert svm(two, C=[0.1, 1], rounds=Rounds(seed=1)).splits[0].val, "which draws them"


def test_a_model_that_saw_the_named_test_images_says_so(tmp_path, caplog):
    file = parted(tmp_path / "x.h5", "train", "test")
    told = "the model is fitted on all images, those to test on too; the score is of a fit without them"
    svm(file, C=1)
    svm(file, C=1, rounds=Rounds(folds=3), output=tmp_path / "folds.h5")
    assert caplog.messages == [], "no model, or no named part"
    svm(file, C=1, output=tmp_path / "model.h5")
    assert caplog.messages == [told]


def test_files_of_other_subsets_are_refused_in_either_order(tmp_path):
    one, two = parted(tmp_path / "1.h5", "train", "test"), parted(tmp_path / "2.h5", "test", "train", net="E")
    for first, second in ((one, two), (two, one)):
        with pytest.raises(StoreError) as error:
            svm([first, second], C=1)
        assert str(error.value) == f"{first} and {second} have other subsets for 'class000/0000.jpg'"


def several_labels(path: Path, rare_in_test: bool = True) -> Path:
    """120 images of the classes a, b and rare, half of them to test on; "rare" may lack a positive test image."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((120, 3)) < (0.4, 0.3, 0.2), 1, -1)
    if not rare_in_test:
        labels[1::2, 2] = -1
    parts = ("train", "test")
    samples = tuple(
        Sample(f"{i}", f"{i}.jpg", tuple(map(int, row)), subset=parts[i % 2]) for i, row in enumerate(labels)
    )
    return write_descriptors(path, Dataset("folder", samples, ("a", "b", "rare")), rng.random((120, 1, 8)))


def test_a_number_of_images_of_each_class_is_refused_where_images_have_several(tmp_path):
    file = several_labels(tmp_path / "x.h5")
    with pytest.raises(UsageError) as error:
        svm(file, C=1, rounds=Rounds(train_per_class=10))
    assert str(error.value) == (
        f"{file} has several labels an image, so `train_per_class` cannot be kept: take `test_fraction` or `folds`"
    )


def test_the_chance_level_counts_the_classes_that_the_map_counts(tmp_path):
    file = several_labels(tmp_path / "x.h5", rare_in_test=False)
    result = svm(file, C=1)
    assert np.isnan(result.per_class["rare"])
    labels = stage.open_features([file]).labels[1::2]
    assert result.chance == pytest.approx(positive_share(labels)[:2].mean())


def test_a_class_without_a_value_in_one_split_is_judged_by_the_others():
    nan = np.nan
    curves = np.array([[[0.2, nan], [0.4, nan]], [[0.4, nan], [0.2, nan]], [[nan, nan], [nan, nan]]])
    curves[0, :, 1] = 0.9, 0.1
    assert np.allclose(_mean_curve(curves), [[0.3, 0.9], [0.3, 0.1]])
    assert np.isnan(_mean_curve(np.full((2, 1, 1), nan))).all()


def test_a_file_without_one_of_the_layers_to_compare_is_told_before_any_fit(tmp_path, monkeypatch):
    dataset, values = clusters([12, 12])
    both, alone = tmp_path / "both.h5", write_descriptors(tmp_path / "alone.h5", dataset, values, net="E")
    write_layers(both, dataset, values)
    monkeypatch.setattr(stage, "run_split", lambda *_: pytest.fail("a fit"))
    with pytest.raises(StoreError, match=rf"^{alone} has no layer "):
        svm([both, alone], C=1, by_layer=True)


def write_layers(path, dataset, values):
    """A descriptor file of two layers."""
    made = settings(layer="pool4+pool5", scales=(256,))
    rows = np.concatenate([values[:, 0], values[:, 0]], axis=1).astype(np.float32)
    dim = values.shape[2]
    with DescriptorWriter(path, dataset, made, dim=2 * dim, layer_dims=[dim, dim]) as out:
        out.write(range(len(rows)), Described(rows, None, {}))
