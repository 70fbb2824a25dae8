"""VGGFeatures: images in a scikit-learn pipeline."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline

import vggfeat
from vggfeat import LinearSVM, VGGFeatures, read_descriptors
from vggfeat.errors import ImageError, PreprocessingError, UsageError

NARROW: dict[str, Any] = {"net": "A", "weights": None, "width": 1 / 32, "scales": (224, 256), "device": "cpu"}


@pytest.fixture
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("*.jpg"))


def test_it_gives_what_extract_writes(paths: list[Path], tmp_path: Path) -> None:
    options = {**NARROW, "net": vggfeat.load_net("A", None, width=1 / 32, device="cpu")}
    features = VGGFeatures(**options).fit_transform(paths)
    written = vggfeat.extract(
        [str(path) for path in paths], net=options["net"], scales=(224, 256), output=tmp_path / "f.h5", device="cpu"
    )
    assert features.dtype == np.float32
    assert np.array_equal(features, read_descriptors(written).read())
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)


def test_paths_arrays_and_pillow_images_are_the_same_images(paths: list[Path]) -> None:
    transformer = VGGFeatures(**NARROW).fit(paths)
    from_paths = transformer.transform([str(path) for path in paths])
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    assert np.array_equal(transformer.transform(pictures), from_paths)
    assert np.array_equal(transformer.transform(arrays), from_paths)
    grey = np.full((2, 40, 50, 3), 90, dtype=np.uint8)
    assert transformer.transform(grey) == pytest.approx(transformer.transform([grey[0, :, :, 0]] * 2), abs=1e-6)
    assert from_paths.shape == (6, transformer.n_features_out_)


def test_a_pipeline_is_fitted_cross_validated_cloned_and_pickled(paths: list[Path]) -> None:
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 60, (40, 50, 3), dtype=np.uint8) for _ in range(6)]
    light = [rng.integers(190, 256, (50, 40, 3), dtype=np.uint8) for _ in range(6)]
    images, labels = [*dark, *light], np.repeat([0, 1], 6)
    pipeline = Pipeline([("features", VGGFeatures(**NARROW)), ("svm", LinearSVM())])
    pipeline.fit(images, labels)
    assert pipeline.score(images, labels) == 1.0
    assert cross_val_score(clone(pipeline), images, labels, cv=3).tolist() == [1.0, 1.0, 1.0]
    content = pickle.dumps(pipeline)
    weights = sum(4 * p.numel() for p in pipeline.named_steps["features"]._net.parameters())
    assert len(content) < weights / 10, "the weights are in the pickle"
    again = pickle.loads(content)
    assert np.array_equal(again.decision_function(images), pipeline.decision_function(images))


def test_parameters_follow_scikit_learns_rules() -> None:
    transformer = VGGFeatures(**NARROW)
    assert {name: transformer.get_params()[name] for name in NARROW} == NARROW
    copy = clone(transformer).set_params(aggregate="average", scales=(224,))
    assert (copy.scales, copy.aggregate, transformer.scales) == ((224,), "average", (224, 256))
    assert "VGGFeatures(" in repr(transformer)


def test_a_change_of_parameters_changes_the_net(paths: list[Path]) -> None:
    transformer = VGGFeatures(**{**NARROW, "scales": (224,)}).fit(paths)
    first = transformer.transform(paths[:1])
    other = transformer.set_params(seed=1).transform(paths[:1])
    assert not np.allclose(first, other)


def test_a_file_that_does_not_tell_its_preprocessing_takes_it(paths: list[Path], tmp_path: Path) -> None:
    state = vggfeat.load_net("A", None, width=1 / 32, device="cpu").state_dict()
    trunk = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features")}
    torch.save(trunk, tmp_path / "net.pth")
    options: dict[str, Any] = {"layer": "pool5", "scales": (224,), "device": "cpu"}
    transformer = VGGFeatures("A", tmp_path / "net.pth", **options)
    with pytest.raises(PreprocessingError, match="say it with `preprocessing`: oxford"):
        transformer.fit(paths)
    found = transformer.set_params(preprocessing="oxford").fit_transform(paths[:1])
    net = vggfeat.load_net(None, tmp_path / "net.pth", preprocessing="oxford", device="cpu")
    assert np.array_equal(found, VGGFeatures(net, **options).fit_transform(paths[:1]))
    assert not np.allclose(found, transformer.set_params(preprocessing="torchvision").transform(paths[:1]))


VALUES = (
    "an image has (H, W, 3) or (H, W) uint8 values from 0 to 255; values from 0 to 1 become such by "
    "(255 * x).round().astype('uint8')"
)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (["missing.jpg"], ImageError, "image 0 (missing.jpg): no such file or directory"),
        ("one.jpg", UsageError, "VGGFeatures takes a list of images, not one: ['one.jpg']"),
        (
            np.zeros((40, 50, 3), np.uint8),
            UsageError,
            "an array of shape (40, 50, 3) is one image: VGGFeatures takes a list, or (n, H, W, 3)",
        ),
        (
            [np.zeros((40, 50, 3))],
            ImageError,
            f"image 0 (0): array of float64 (40, 50, 3): {VALUES}",
        ),
        ([7], ImageError, f"image 0 (0): int is not an image: give a Pillow image or an array, or a path; {VALUES}"),
        (
            torch.zeros(1, 3, 40, 50),
            ImageError,
            "image 0 (0): Tensor is not an image: give a Pillow image or an array, tensor.permute(1, 2, 0).numpy() makes "
            f"one; {VALUES}",
        ),
        (
            [torch.zeros(40, 50, 3)],
            ImageError,
            "image 0 (0): Tensor is not an image: give a Pillow image or an array, tensor.numpy() makes one; " + VALUES,
        ),
        (Image.new("RGB", (40, 50)), UsageError, "VGGFeatures takes a list of images, not one: [Image]"),
    ],
)
def test_what_is_no_image_is_named(images: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        VGGFeatures(**NARROW).fit_transform(images)
    assert str(caught.value) == text


GREY = np.random.default_rng(0).integers(0, 256, (6, 40, 50), dtype=np.uint8)
SHAPES = "an image has (H, W, 3) or (H, W) uint8 values from 0 to 255"


@pytest.mark.parametrize(
    "images",
    [GREY, GREY[..., None], [*GREY[..., None]], GREY.astype(np.uint8, order="F")],
    ids=["n, H, W", "n, H, W, 1", "H, W, 1", "not contiguous"],
)
def test_grey_images_may_stand_in_one_array_with_or_without_an_axis_of_their_channel(images: Any) -> None:
    transformer = VGGFeatures(**NARROW)
    assert np.array_equal(transformer.fit_transform(images), transformer.transform(list(GREY)))


def test_one_grey_image_is_the_same_by_both_readings() -> None:
    transformer = VGGFeatures(**NARROW)
    assert np.array_equal(transformer.fit_transform(GREY[:1]), transformer.transform([GREY[0]]))


def test_a_column_of_paths_is_a_list_of_them(paths: list[Path]) -> None:
    transformer, names = VGGFeatures(**NARROW), [str(path) for path in paths]
    expected = transformer.fit_transform(names)
    for column in (np.array(names)[:, None], np.array(paths, dtype=object)[:, None]):
        assert np.array_equal(transformer.transform(column), expected)


def test_a_data_set_and_its_samples_are_lists_of_images(labelled: Path) -> None:
    dataset = vggfeat.load_dataset("folder", labelled)
    transformer = VGGFeatures(**NARROW)
    expected = transformer.fit_transform([sample.path for sample in dataset.samples])
    assert np.array_equal(transformer.transform(dataset), expected)
    assert np.array_equal(transformer.transform(dataset.samples), expected)


@pytest.fixture
def labelled(paths: list[Path], tmp_path: Path) -> Path:
    for row, path in enumerate(paths):
        target = tmp_path / "tree" / ("a", "b")[row % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "tree"


def test_a_benchmarks_images_are_not_turned_in_silence(paths: list[Path]) -> None:
    """`extract` reads them without their EXIF orientation; what it writes is what a pipeline gets."""
    dataset = vggfeat.Dataset("voc2007", (vggfeat.Sample("a", str(paths[0])),))
    with pytest.raises(UsageError) as caught:
        VGGFeatures(**NARROW).transform(dataset)
    assert str(caught.value) == "the images of voc2007 count without their EXIF orientation: give `exif=False`"
    assert len(VGGFeatures(**NARROW, exif=False).transform(dataset)) == 1


class Indexed:
    """A torch data set by index."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> object:
        return GREY[at], 0


class ImageFolder(Indexed):
    imgs = (("a.jpg", 0),)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            np.zeros((3, 224, 224), np.uint8),
            "an array of shape (3, 224, 224) is 3 grey images, or one with its channels first: "
            "give list(X), or [X.transpose(1, 2, 0)]",
        ),
        (
            np.zeros((40, 50, 4), np.uint8),
            "an array of shape (40, 50, 4) is one image: VGGFeatures takes a list, or (n, H, W, 3)",
        ),
        (
            np.zeros((7, 3, 40, 50)),
            "an array of shape (7, 3, 40, 50) has its channels before its rows: give X.transpose(0, 2, 3, 1)",
        ),
        (
            np.zeros((10, 64)),
            "an array of shape (10, 64) is one grey image, or has a row of pixels for each of 10: "
            "give [X], or X.reshape(-1, 8, 8)",
        ),
        (
            np.zeros((10, 65)),
            "an array of shape (10, 65) is one grey image, or has a row of pixels for each of 10: "
            "give [X], or X.reshape(-1, H, W)",
        ),
        (np.zeros(5), "an array of shape (5,) has no images: VGGFeatures takes a list, or (n, H, W, 3)"),
        (
            np.array([["a.jpg", "cat"]]),
            "an array of <U5 (1, 2) is not a list of images: pass the column of the paths, such as X[:, 0]",
        ),
        (
            Indexed(),
            "Indexed is a data set, not a list of images: give [X[i] for i in range(len(X))], "
            "or X[i][0] if an item is an image with its label",
        ),
        (
            ImageFolder(),
            "ImageFolder is a data set, not a list of images: give its paths, [path for path, _ in X.imgs]",
        ),
    ],
)
def test_what_has_two_readings_or_another_form_is_told_how_to_be_given(images: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        VGGFeatures(**NARROW).transform(images)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            np.zeros((40, 50, 4), np.uint8),
            "array of uint8 (40, 50, 4): of RGBA, Image.fromarray(x) makes the transparent parts white, "
            f"x[..., :3] drops the transparency; {SHAPES}",
        ),
        (
            np.zeros((3, 40, 50), np.uint8),
            f"array of uint8 (3, 40, 50): its channels are first: x.transpose(1, 2, 0) puts them last; {SHAPES}",
        ),
        (
            np.zeros((3, 40, 50), np.float32),
            f"array of float32 (3, 40, 50): its channels are first: x.transpose(1, 2, 0) puts them last; {VALUES}",
        ),
        (
            np.full((8, 8), 16.0),
            f"array of float64 (8, 8): {SHAPES}; values from 0 to 255 become such by x.round().astype('uint8'), "
            "those from 0 to another m by (255 / m * x).round().astype('uint8')",
        ),
        (
            np.full((8, 8, 3), -2.1),
            f"array of float64 (8, 8, 3): {SHAPES}; values below 0 are a net's input: give the picture before it was "
            "normalised, which is done here",
        ),
        (np.zeros((2, 2, 2, 2), np.uint8), f"array of uint8 (2, 2, 2, 2): {SHAPES}"),
        (np.zeros((0, 5), np.uint8), f"array of uint8 (0, 5): {SHAPES}"),
        (
            torch.zeros(28, 28),
            f"Tensor is not an image: give a Pillow image or an array, tensor.numpy() makes one; {VALUES}",
        ),
        (
            (GREY[0], 3),
            "tuple is not an image: give a Pillow image or an array, or a path, such as its first item if that is the "
            f"image and the others are labels; {VALUES}",
        ),
    ],
)
def test_what_is_no_picture_is_told_what_makes_it_one(image: Any, text: str) -> None:
    with pytest.raises(ImageError) as caught:
        VGGFeatures(**NARROW).transform([image])
    assert str(caught.value) == f"image 0 (0): {text}"


def test_the_advice_on_arrays_makes_pictures_of_them() -> None:
    transformer = VGGFeatures(**NARROW)
    colour = np.random.default_rng(1).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    expected = transformer.transform([np.ascontiguousarray(colour[..., :3])])
    assert np.array_equal(transformer.transform([colour[..., :3]]), expected)
    assert np.array_equal(transformer.transform([colour[..., :3].transpose(2, 0, 1).transpose(1, 2, 0)]), expected)
    digits = np.arange(17.0).repeat(4)[:64].reshape(8, 8)
    assert transformer.transform([(255 / 16 * digits).round().astype("uint8"), Image.fromarray(colour)]).shape[0] == 2


def test_settings_are_checked_by_fit() -> None:
    with pytest.raises(UsageError, match="scale 100 is under 224"):
        VGGFeatures(**{**NARROW, "scales": (100,)}).fit([])


# scikit-learn's own checks. The kind: manners of an estimator that do not depend on what its input is.

CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
]
"""All checks that fit nothing. The others fit rows of random numbers, in 2-D arrays, sparse matrices or data frames,
which are no images: `two_d_array` is False. Some also expect an error before `fit`: `requires_fit` is False, because the
weights are fixed; or one for NaN and for another number of columns: `no_validation`, because images have neither."""


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks_that_need_no_numbers_pass(name):
    from sklearn.utils import estimator_checks

    if not hasattr(estimator_checks, name):
        pytest.skip(f"this scikit-learn has no {name}")

    getattr(estimator_checks, name)("VGGFeatures", VGGFeatures("A", weights=None, width=0.0625, scales=(224,)))


def test_its_output_has_names_and_a_container():
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import make_pipeline

    features = VGGFeatures("A", weights=None, width=0.0625, scales=(224,))
    with pytest.raises(NotFittedError):
        features.get_feature_names_out()
    names = features.fit(None).get_feature_names_out()
    assert len(names) == features.n_features_out_ == 256
    assert names[:2].tolist() == ["fc7_224_0", "fc7_224_1"]
    assert features.set_params(scales=224).fit(None).get_feature_names_out().tolist() == names.tolist()
    assert features.set_params(aggregate="max").fit(None).get_feature_names_out()[1] == "fc7_1"
    features.set_params(aggregate="stack")
    picture = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    steps = make_pipeline(features, "passthrough").set_output(transform="default")
    assert isinstance(steps.fit(picture).transform(picture), np.ndarray)
    assert steps.get_feature_names_out().tolist() == names.tolist()


def test_numpys_numbers_serve_a_transformer(paths: list[Path]) -> None:
    options = {**NARROW, "width": np.float32(1 / 32), "seed": np.int64(0), "flip": np.True_, "workers": np.int64(1)}
    options |= {"aggregate": np.str_("max"), "precision": np.str_("fp32")}
    plain = VGGFeatures(**NARROW, aggregate="max", precision="fp32")
    assert np.array_equal(VGGFeatures(**options).fit_transform(paths[:2]), plain.fit_transform(paths[:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": None}, "`seed` None is not a whole number"),
        ({"width": "x"}, "`width` 'x' is not a number"),
        (
            {"net": torch.nn.ReLU()},
            "torch.nn.modules.activation.ReLU is not a net: give a name of Table 1, such as D, or what load_net gave",
        ),
        ({"flip": "no"}, "`flip` 'no' is not True or False"),
    ],
)
def test_values_of_another_kind_are_named(paths: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        VGGFeatures(**{**NARROW, **options}).fit(paths)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [{"weights": "oxford"}, {"width": 0.5}, {"seed": 3}, {"precision": "bf16"}, {"preprocessing": "torchvision"}],
)
def test_settings_of_nets_to_be_loaded_are_refused_beside_a_loaded_net(
    paths: list[Path], options: dict[str, Any]
) -> None:
    net = vggfeat.load_net("A", None, width=1 / 32, device="cpu", precision="fp32")
    wrong = clone(VGGFeatures(net, scales=(224,), **options))  # at their use, as scikit-learn sets them at any time
    for use in (wrong.fit, wrong.transform):
        with pytest.raises(UsageError) as caught:
            use(paths)
        (name,) = options
        assert str(caught.value) == f"a net that is loaded has its own `{name}`: leave it out, or give it to load_net"
    assert VGGFeatures(net, None, scales=(224,), width=1 / 32, precision="fp32").fit(paths).n_features_out_ == 128


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "no device 'meta'; valid: cpu, cuda, cuda:N, mps"),
        ("nonsense", "no device 'nonsense'; valid: cpu, cuda, cuda:N, mps"),
    ],
)
def test_another_device_than_a_loaded_nets_is_refused(paths: list[Path], device: str, message: str) -> None:
    net = vggfeat.load_net("A", None, width=1 / 32, device="cpu", precision="fp32")
    assert VGGFeatures(net, scales=(224,), device="cpu").fit(paths).n_features_out_ == 128
    with pytest.raises(UsageError) as caught:
        VGGFeatures(net, scales=(224,), device=device).fit(paths)
    assert str(caught.value) == message


def test_a_net_on_another_device_is_to_be_moved_by_its_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    net = vggfeat.load_net("A", None, width=1 / 32, device="cpu", precision="fp32")
    monkeypatch.setattr("vggfeat.system.devices.resolve_device", lambda _: torch.device("cuda", 0))
    with pytest.raises(UsageError) as caught:
        VGGFeatures(net, scales=(224,), device="cuda").fit([])
    assert str(caught.value) == "a net that is loaded is on its own device, cpu: move it by net.to('cuda:0')"


def test_names_are_those_of_the_layers_that_transform_takes(paths: list[Path]) -> None:
    features = VGGFeatures("A", None, width=1 / 32, scales=64, layer="pool5").fit(paths)
    features.set_params(layer=["conv3_1", "pool5:max"])
    assert len(features.get_feature_names_out()) == features.transform(paths[:1]).shape[1]
    assert features.get_feature_names_out()[-1] == "pool5:max_64_15"
    pickled = pickle.loads(pickle.dumps(features))
    assert pickled.get_feature_names_out().tolist() == features.get_feature_names_out().tolist()
    assert not hasattr(pickled, "_net"), "names alone load no weights"


@pytest.mark.parametrize("workers", [0, -1])
def test_numbers_of_workers_below_1_are_refused(paths: list[Path], workers: int) -> None:
    with pytest.raises(UsageError) as caught:
        VGGFeatures(**NARROW, workers=workers).fit(paths)
    assert str(caught.value) == f"`workers` {workers} is not 1 or more"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_iterator_is_read_once(paths: list[Path], precision: str) -> None:
    options = NARROW | {"precision": precision}
    expected = VGGFeatures(**options).fit_transform(paths)
    assert np.array_equal(VGGFeatures(**options).fit_transform(iter(paths)), expected)


def test_fit_reads_a_weights_file_that_has_changed(paths: list[Path], tmp_path: Path) -> None:
    """As a worker of a grid search does, which gets the name alone."""
    for seed in (1, 2):
        vggfeat.load_net("A", None, width=1 / 32, seed=seed, device="cpu").save(tmp_path / f"{seed}.pt")
    net = tmp_path / "net.pt"
    net.write_bytes((tmp_path / "1.pt").read_bytes())
    step = VGGFeatures(None, net, scales=224, device="cpu")
    first = step.fit_transform(paths)
    (tmp_path / "2.pt").replace(net)
    assert np.array_equal(step.transform(paths), first), "what was fitted"
    second = step.fit_transform(paths)
    assert not np.allclose(second, first)
    assert np.array_equal(pickle.loads(pickle.dumps(step)).fit_transform(paths), second)
