"""Eight bits: layers against whole-number sums, descriptors against float32's, ranges that are kept, and refusals."""

from __future__ import annotations

import itertools
import logging
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vggfeat
from vggfeat import VGGFeatures, read_descriptors
from vggfeat.errors import StoreError, UsageError
from vggfeat.inference import calibration
from vggfeat.inference.dense import DenseNet
from vggfeat.nets import int8
from vggfeat.nets.int8 import ByteMaxPool2d, Int8Conv2d, Int8Linear, byte_layers, input_maxima, int8_form
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.stages.info import info
from vggfeat.store.provenance import check_provenance
from vggfeat.system import devices

RNG = np.random.default_rng(0)

WAYS = [
    pytest.param(True, id="operators", marks=pytest.mark.skipif(not int8.uses_operators(), reason="needs VNNI")),
    pytest.param(False, id="float32"),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways to multiply: oneDNN's operators, where the processor has them, and float32 in their place."""
    monkeypatch.setattr(int8, "uses_operators", lambda: request.param)
    with torch.inference_mode():
        yield


def values(*shape: int, least: float = -1.0) -> torch.Tensor:
    return torch.from_numpy(RNG.uniform(least, 1, shape).astype(np.float32))


def in_whole_numbers(layer: nn.Conv2d | nn.Linear, x: torch.Tensor, step: float) -> torch.Tensor:
    """The formula again, in float64, where sums of products of bytes are exact."""
    weight = layer.weight.double()
    steps = weight.flatten(1).abs().amax(1) / 127
    whole = torch.round(weight / steps.view(-1, *[1] * (weight.dim() - 1)))
    given = torch.clamp(torch.round(x.double() / step), 0, 255)
    convolved = isinstance(layer, nn.Conv2d)
    sums = F.conv2d(given, whole, padding=layer.padding) if convolved else F.linear(given, whole)
    shape = (-1, *[1] * (sums.dim() - 2))
    return sums * (steps * step).view(shape) + layer.bias.double().view(shape)


def layers() -> list[tuple[nn.Conv2d | nn.Linear, tuple[int, ...]]]:
    with torch.inference_mode(False):
        return [
            (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 9, 14)),
            (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 17, 5)),
            (nn.Conv2d(130, 30, 1), (1, 130, 4, 4)),
            (nn.Conv2d(512, 512, 3, padding=1), (1, 512, 7, 7)),
            (nn.Linear(490, 33), (5, 490)),
            (nn.Linear(3136, 128), (1, 3136)),
        ]


@pytest.mark.parametrize("number", range(6))
def test_a_layer_equals_the_formula_in_whole_numbers(way: None, number: int) -> None:
    layer, shape = layers()[number]
    x = values(*shape, least=-0.3) * 40  # values below 0 count as 0, those beyond 255 steps as 255
    step = 30 / 255
    kind: Any = Int8Conv2d if isinstance(layer, nn.Conv2d) else Int8Linear
    expected = in_whole_numbers(layer, x, step)
    got = kind(layer, step, None)(x.clone())
    assert got.dtype == torch.float32
    # A weight or a value that lies between two steps may be rounded either way: one or two products differ.
    one = float(layer.weight.abs().max()) / 127 * 30
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=2 * one)
    out_step = float(expected.max()) / 200
    in_bytes = kind(layer, step, out_step)(x.clone())
    assert in_bytes.dtype == torch.uint8
    difference = (in_bytes.double() - torch.clamp(torch.round(expected / out_step), 0, 255)).abs()
    assert difference.max() <= 1, "a half may be rounded either way"
    assert (difference > 0).double().mean() < 1e-2


def test_the_largest_bytes_do_not_overflow(way: None) -> None:
    """Processors without VNNI add two products in 16 bits, of which 255 x 127 x 2 is too many."""
    with torch.inference_mode(False):
        layer = nn.Conv2d(64, 16, 3, padding=1)
        nn.init.constant_(layer.weight, 1.0)
        nn.init.zeros_(layer.bias)
    got = Int8Conv2d(layer, 1.0, None)(torch.full((1, 64, 5, 5), 255, dtype=torch.uint8))
    assert float(got[0, 0, 2, 2]) == pytest.approx(9 * 64 * 255, rel=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 4), (5, 7), (8, 6), (1, 9)])
def test_the_pooling_of_bytes_equals_torchs(height: int, width: int) -> None:
    x = torch.from_numpy(RNG.integers(0, 256, (2, 3, height, width), dtype=np.uint8))
    expected = F.max_pool2d(x.float(), 2, 2, ceil_mode=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = ByteMaxPool2d(2, 2, ceil_mode=True)(x.contiguous(memory_format=layout))
        assert got.dtype == torch.uint8
        assert torch.equal(got.float(), expected)
        assert torch.equal(ByteMaxPool2d(2, 2, ceil_mode=True)(x.float()), expected)


def narrow(net: str = "A", width: float = 1 / 8) -> VGG:
    made = glorot_(VGG(net, width=width, num_classes=7), seed=2).eval()
    for layer in made.features:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= 2**0.5  # keeps activations from fading
    return made


def pictures(count: int = 3) -> list[np.ndarray[Any, Any]]:
    small = RNG.integers(0, 256, (count, 8, 9, 3), dtype=np.uint8)
    return [np.kron(one, np.ones((30, 28, 1), dtype=np.uint8)) for one in small]


def calibrated(net: VGG, images: list[np.ndarray[Any, Any]]) -> VGG:
    dense = DenseNet(net)
    batches = [dense.preprocess(torch.from_numpy(one).permute(2, 0, 1)[None]) for one in images]
    net.input_maxima = input_maxima(net, batches, head=True)
    net.precision = "int8"
    return net


@pytest.mark.parametrize("name", ["A", "A-LRN", "C", "D"])
def test_every_layers_descriptor_is_close_to_float32s(way: None, name: str) -> None:
    images, net = pictures(), narrow(name)
    wanted = [*net.spec.layer_names, "scores"]
    exact = DenseNet(net, wanted)
    expected = np.split(exact(images), np.cumsum(exact.dims)[:-1], axis=1)
    dense = DenseNet(calibrated(net, images), wanted)
    got = np.split(dense(images), np.cumsum(dense.dims)[:-1], axis=1)
    for layer, ours, theirs in zip(wanted, got, expected, strict=True):
        cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        assert cosines.min() > 0.995, layer
    assert np.array_equal(got[0], expected[0]), "conv1_1 is exact"


@pytest.mark.parametrize("taps", [["conv2_1"], ["pool2", "fc7"], ["fc6"], ["conv3_2", "pool5"], ["scores"]])
def test_a_layer_alone_or_among_others_stays_close(way: None, taps: list[str]) -> None:
    images, net = pictures(), narrow()
    expected = DenseNet(net, taps)(images)
    net = calibrated(net, images)
    assert DenseNet(net, taps)(images) == pytest.approx(expected, abs=0.03 * float(np.abs(expected).max()))
    with_flip = DenseNet(net, taps)(images, flip=True)
    assert with_flip == pytest.approx(DenseNet(net, taps)([one[:, ::-1].copy() for one in images]), abs=1e-6)


@pytest.mark.parametrize("taps", [["conv2_1", "pool5"], ["fc7"]])
def test_padding_to_few_shapes_changes_nothing(way: None, taps: list[str]) -> None:
    images = pictures()
    net = calibrated(narrow(), images)
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            layer.bias.data += 1  # what is not cleared shows
    for flip in (False, True):
        padded, plain = (DenseNet(net, taps, few_shapes=few)(images, flip=flip) for few in (True, False))
        assert padded == pytest.approx(plain, abs=1e-6 * float(np.abs(plain).max()))


def test_values_before_the_relu_keep_their_sign(way: None) -> None:
    images, net = pictures(), narrow()
    expected = DenseNet(net, "conv3_1", pre_relu=True)(images)
    got = DenseNet(calibrated(net, images), "conv3_1", pre_relu=True)(images)
    assert (expected < 0).any()
    assert got == pytest.approx(expected, abs=0.03 * float(np.abs(expected).max()))


def test_only_maps_that_someone_reads_are_float32(way: None) -> None:
    net = calibrated(narrow(), pictures())
    assert net.input_maxima is not None
    form = int8_form(net.features, byte_layers(net), net.input_maxima, taps=[7])
    x = values(1, 3, 32, 32)
    kinds = []
    for module in form:
        x = module(x)
        kinds.append("b" if x.dtype == torch.uint8 else "f")
    # conv1_1 relu pool | conv2_1 relu pool | conv3_1 relu (read) conv3_2 relu pool | .. | conv5_1 relu conv5_2 relu pool
    assert "".join(kinds) == "fff" + "bbb" + "ff" + "bbb" + "bbbbb" + "bb" + "fff"


def test_the_ranges_are_the_largest_inputs_of_each_layer_by_name() -> None:
    net, images = narrow(), pictures(2)
    dense = DenseNet(net)
    batches = [dense.preprocess(torch.from_numpy(one).permute(2, 0, 1)[None]) for one in images]
    got = input_maxima(net, batches, head=True)
    assert list(got) == ["conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7"]
    seen: dict[str, float] = {}

    def note(name: str) -> Any:
        return lambda module, given: seen.update({name: max(seen.get(name, 0), float(given[0].max()))})

    hooks = [module.register_forward_pre_hook(note(name)) for module, name in byte_layers(net).items()]
    with torch.inference_mode():
        for batch in batches:
            net.dense(batch, "scores")
    for hook in hooks:
        hook.remove()
    for name, value in got.items():
        assert seen[name] <= value <= 1.01 * seen[name], name
        assert float(f"{value:.2e}") == value, "three digits"
    assert list(input_maxima(net, batches, head=False)) == list(got)[:-2]


def test_a_dead_layer_has_a_range_and_a_net_that_is_not_finite_none() -> None:
    net = narrow()
    net.features[3].weight.data.zero_()
    net.features[3].bias.data.fill_(-1.0)
    batch = [values(1, 3, 224, 224)]
    assert input_maxima(net, batch, head=False)["conv3_1"] == 1.0
    for value in (1e38, float("nan")):
        net.features[0].weight.data.fill_(value)
        with pytest.raises(ValueError, match="^the net's activations are not finite$"):
            input_maxima(net, batch, head=False)


NARROW: dict[str, Any] = {"net": "A", "weights": None, "width": 1 / 16, "scales": (224, 256), "precision": "int8"}


def written(paths: Any, output: Path, **options: Any) -> Any:
    return read_descriptors(vggfeat.extract(paths, output=output, device="cpu", **{**NARROW, **options}))


def maxima(descriptors: Any) -> dict[str, float]:
    found: dict[str, float] = descriptors.attributes["settings"]["nets"][0]["input_maxima"]
    return found


def test_extraction_records_its_ranges_and_gives_the_same_bits_again(photos: Path, tmp_path: Path) -> None:
    first = written(photos, tmp_path / "a.h5")
    assert first.attributes["precision"] == "int8"
    assert list(maxima(first))[-2:] == ["fc6", "fc7"]
    exact = written(photos, tmp_path / "e.h5", precision="fp32").read()
    assert (first.read() * exact).sum(1).min() > 0.99
    assert np.array_equal(written(photos, tmp_path / "b.h5").read(), first.read())
    assert "input_maxima" not in read_descriptors(tmp_path / "e.h5").attributes["settings"]["nets"][0]


def test_a_layer_of_the_trunk_needs_no_ranges_of_the_head(photos: Path, tmp_path: Path) -> None:
    assert list(maxima(written(photos, tmp_path / "a.h5", layer="pool5")))[-1] == "conv5_2"


def test_a_resumed_run_keeps_the_ranges_of_its_file(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Even where other images would be chosen, or the processor rounds otherwise."""
    for path in sorted(photos.glob("*.jpg")):
        for number in range(3):  # more than a block
            shutil.copy(path, photos / f"{path.stem}-{number}.jpg")
    whole = written(photos, tmp_path / "a.h5")

    def stop(done: int, total: int, failed: int) -> None:
        if done:
            assert done < total
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(photos, tmp_path / "b.h5", progress=stop)
    monkeypatch.setattr(calibration, "input_maxima", lambda *args, **options: pytest.fail("calibrated again"))
    again = written(photos, tmp_path / "b.h5", resume=True)
    assert np.array_equal(again.read(), whole.read())


def test_a_resumed_run_refuses_another_calibration(photos: Path, tmp_path: Path) -> None:
    listed, other = tmp_path / "list.txt", tmp_path / "other.txt"
    for path, name in ((listed, "1.jpg"), (other, "2.jpg")):
        path.write_text(f"{photos / name}\n")
    output = tmp_path / "a.h5"
    first = written(photos, output, calibration=listed)
    for given in ({}, {"calibration": listed}):
        assert maxima(written(photos, output, resume=True, **given)) == maxima(first)
    ways = "leave out `calibration`, `overwrite` replaces the file, `output` names another"
    with pytest.raises(UsageError) as caught:
        written(photos, output, resume=True, calibration=other)
    assert str(caught.value) == f"{output} was calibrated on {listed}, not on {other}: {ways}"
    written(photos, tmp_path / "b.h5")
    with pytest.raises(UsageError, match=r"b\.h5 was calibrated on its own images, not on "):
        written(photos, tmp_path / "b.h5", resume=True, calibration=listed)


def test_shards_take_the_ranges_of_the_whole_list(photos: Path, tmp_path: Path) -> None:
    whole = written(photos, tmp_path / "a.h5")
    parts = [
        vggfeat.extract(photos, output=tmp_path / "p.h5", shard=f"{k}/2", device="cpu", **NARROW) for k in range(2)
    ]
    joined = read_descriptors(vggfeat.merge(parts, tmp_path / "p.h5"))
    assert maxima(joined) == maxima(whole)
    assert np.array_equal(joined.read(), whole.read())


def test_a_list_or_a_descriptor_file_sets_the_ranges(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.glob("*.jpg"))
    other = tmp_path / "list.txt"
    other.write_text(f"{paths[0]}\n")
    one = written(photos, tmp_path / "a.h5", calibration=other)
    assert maxima(one) == maxima(written(paths[:1], tmp_path / "b.h5"))
    assert maxima(one) != maxima(written(photos, tmp_path / "c.h5"))
    assert maxima(written(photos, tmp_path / "d.h5", calibration=tmp_path / "a.h5")) == maxima(one)


def test_paths_set_the_ranges_as_the_file_that_lists_them(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.glob("*.jpg"))[:2]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    one = written(photos, tmp_path / "a.h5", calibration=tmp_path / "list.txt")
    assert maxima(written(photos, tmp_path / "b.h5", calibration=paths)) == maxima(one)
    assert written(photos, tmp_path / "b.h5", calibration=paths, resume=True).naming.calibration.startswith(
        "a program's list of 2 images (sha256 "
    )
    with pytest.raises(
        UsageError, match=r"b\.h5 was calibrated on a program's list of 2 images \(sha256 \w+\), not on "
    ):
        written(photos, tmp_path / "b.h5", calibration=paths[:1], resume=True)
    told = info(tmp_path / "b.h5")
    assert " --calibration LIST " in str(told.command)
    assert re.fullmatch(
        r".*b\.h5 was calibrated on a program's list of 2 images \(sha256 \w+\): LIST stands for a list of them, one "
        r"path a line\.",
        told.notes[0],
    )
    for given, message in (
        ([], "`calibration` names no image to calibrate on"),
        (5, "`calibration` is a int, not a file or a list of paths"),
    ):
        with pytest.raises(UsageError) as caught:
            written(photos, tmp_path / "c.h5", calibration=given)
        assert str(caught.value) == message


def test_images_that_cannot_be_read_do_not_calibrate(photos: Path, tmp_path: Path) -> None:
    expected = maxima(written(photos, tmp_path / "a.h5"))
    (photos / "bad.jpg").write_bytes(b"no picture")
    assert maxima(written(photos, tmp_path / "b.h5")) == expected


def test_wrong_calibrations_are_refused(photos: Path, tmp_path: Path) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            written(photos, tmp_path / "x.h5", **options)
        assert not (tmp_path / "x.h5").exists()
        return str(caught.value)

    (tmp_path / "notes.txt").write_text("nowhere.jpg\n")
    trunk = tmp_path / "trunk.h5"
    written(photos, trunk, layer="pool5")
    none = f"{trunk} has no ranges of these nets: give descriptors of theirs in int8, or a list"
    assert refused(calibration=trunk) == none, "without the head's"
    assert refused(calibration=trunk, seed=1, layer="pool5") == none
    assert refused(calibration=trunk, precision="fp32") == "`calibration` goes with `precision=int8`"
    unread = "`precision=int8`: none of the images to calibrate it on can be read"
    assert refused(calibration=tmp_path / "notes.txt") == f"{unread}; the first, nowhere.jpg: no such file or directory"
    (tmp_path / "junk").write_bytes(b"\xff\xfb" * 300 + b"\nmore\n")
    first = ("\udcff\udcfb" * 100) + ".."
    assert refused(calibration=tmp_path / "junk").startswith(f"{unread}; the first, {first}: ")
    (tmp_path / "empty").write_text("\n")
    nothing = f"{tmp_path / 'empty'} has no line that names an image to calibrate on"
    assert refused(calibration=tmp_path / "empty") == nothing


def test_a_resume_in_another_precision_names_the_precision(photos: Path, tmp_path: Path) -> None:
    written(photos, tmp_path / "x.h5")
    with pytest.raises(StoreError, match=r'other settings \(precision "int8" there, "fp32" here\)'):
        written(photos, tmp_path / "x.h5", precision="fp32", resume=True)


def test_a_resume_with_other_weights_names_the_weights(photos: Path, tmp_path: Path) -> None:
    written(photos, tmp_path / "x.h5")
    with pytest.raises(StoreError, match=r"other settings \(net.(seed|weights)"):
        written(photos, tmp_path / "x.h5", seed=1, resume=True)


def test_a_model_predicts_from_the_recorded_ranges(photos: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number, path in enumerate(sorted(photos.glob("*.jpg"))):
        (tree / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(tree / "ab"[number % 2] / path.name)
    described = written(tree, tmp_path / "f.h5")
    vggfeat.svm(tmp_path / "f.h5", C=1.0, output=tmp_path / "m.h5")
    model = vggfeat.classifiers.model_file.read_model(tmp_path / "m.h5")
    expected = dict(zip(described.ids, model.scores(described.read()), strict=True))
    one = sorted(tree.rglob("*.jpg"))[:1]
    ((prediction, _),) = vggfeat.predict(tmp_path / "m.h5", one)
    (place,) = [id for id in expected if one[0].name in id]
    assert prediction.scores == pytest.approx(expected[place], abs=1e-6)


def test_the_transformer_calibrates_when_it_is_fitted_and_is_pickled_with_its_ranges(photos: Path) -> None:
    paths = sorted(photos.glob("*.jpg"))
    transformer = VGGFeatures(device="cpu", progress=False, **NARROW)
    with pytest.raises(UsageError, match="`precision=int8` needs a net calibrated on images"):
        transformer.transform(paths)
    features = transformer.fit(paths).transform(paths)
    again = pickle.loads(pickle.dumps(transformer))
    assert np.array_equal(again.transform(paths), features)
    ranges = transformer.input_maxima_
    assert transformer.fit(paths[:1]).input_maxima_ != ranges
    assert not np.array_equal(transformer.transform(paths), features)


def test_posteriors_are_close_to_float32s(photos: Path, tmp_path: Path) -> None:
    net = narrow(width=1 / 16)
    net.class_names = ("a", "b", *"cdefg")
    net.save(tmp_path / "net.pt")
    for number, path in enumerate(sorted(photos.glob("*.jpg"))):
        folder = photos / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    for precision in ("fp32", "int8"):
        vggfeat.evaluate(
            weights=tmp_path / "net.pt",
            dataset="folder",
            data=photos,
            subset="all",
            scales=(224,),
            precision=precision,
            device="cpu",
            output=tmp_path / f"{precision}.h5",
        )
    exact, ours = (read_descriptors(tmp_path / f"{name}.h5").read() for name in ("fp32", "int8"))
    assert ((ours * exact).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(exact, axis=1)).min() > 0.99
    assert not np.array_equal(ours, exact)


def test_int8_is_refused_where_it_cannot_run(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UsageError) as caught:
        devices.resolve_precision("int8", torch.device("cpu"), training=True)
    assert str(caught.value) == "`precision=int8` is for descriptors and scores: take `precision=auto`"
    with pytest.raises(UsageError) as caught:
        devices.resolve_precision("int8", torch.device("cuda", 0))
    assert str(caught.value) == ("`precision=int8` is for processors (`device=cpu`), not cuda:0: take `precision=auto`")
    narrow(width=1 / 16).save(tmp_path / "net.pt")
    with pytest.raises(UsageError) as caught:
        list(vggfeat.predict(tmp_path / "net.pt", photos, precision="int8", device="cpu"))
    assert str(caught.value) == (
        "`precision=int8` needs a net calibrated on images, as extract and evaluate do: take another one here"
    )


def test_a_processor_without_vnni_is_told_that_it_gains_nothing(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(devices, "has_int8", lambda: False)
    devices._warn_of_bytes.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_net("A", None, width=1 / 16, device="cpu", precision="int8")
    assert [record.getMessage() for record in caplog.records] == [
        "`precision=int8`: this CPU cannot multiply bytes (VNNI), so fp32 does it with the same values, in more time "
        "than `precision=fp32` takes"
    ]
    devices._warn_of_bytes.cache_clear()


def test_operators_that_torch_has_changed_are_not_trusted(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(int8, "has_int8", lambda: True)

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: (_ for _ in ()).throw(TypeError("other arguments"))

    monkeypatch.setattr(torch.ops, "onednn", Changed(), raising=False)
    int8.uses_operators.cache_clear()
    assert not int8.uses_operators()
    assert "this torch does not multiply bytes as expected" in caplog.text
    int8.uses_operators.cache_clear()


class Operators:
    """oneDNN's, computed in float32 on any processor; `fault` names what one of them does otherwise."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def qconv_prepack(self, weight: Any, *_: Any) -> Any:
        return weight.float()

    def qlinear_prepack(self, weight: Any, *_: Any) -> Any:
        return weight.float()

    def qconv2d_pointwise(self, x: Any, step: float, zero: int, weight: Any, steps: Any, zeros: Any, *rest: Any) -> Any:
        bias, _, padding, _, _, *output = rest
        sums = F.conv2d(x.float(), weight, padding=padding)
        return self._finished("conv", sums, (steps * step).view(-1, 1, 1), bias.view(-1, 1, 1), *output)

    def qlinear_pointwise(self, x: Any, step: float, zero: int, weight: Any, steps: Any, zeros: Any, *rest: Any) -> Any:
        bias, *output = rest
        return self._finished("linear", F.linear(x.float(), weight), steps * step, bias, *output)

    def _finished(
        self, kind: str, sums: Any, scale: Any, bias: Any, step: float, zero: int, dtype: Any, *_: Any
    ) -> Any:
        if self.fault == f"{kind}: overflow":
            sums = sums.clamp(max=2**15 - 1)
        values = sums * scale + bias
        if dtype == torch.float32:
            return values.half().float() if self.fault == f"{kind}: float16" else values
        scaled = {f"{kind}: inverse scale": values * step, f"{kind}: no scale": values}.get(self.fault, values / step)
        return torch.clamp(torch.round(scaled) + (self.fault == f"{kind}: zero point"), 0, 255).to(torch.uint8)


FAULTS = ("overflow", "float16", "inverse scale", "no scale", "zero point")


@pytest.mark.parametrize("fault", ["", *(f"{kind}: {fault}" for kind in ("conv", "linear") for fault in FAULTS)])
def test_operators_of_another_meaning_are_not_trusted(monkeypatch: Any, caplog: Any, fault: str) -> None:
    monkeypatch.setattr(int8, "has_int8", lambda: True)
    monkeypatch.setattr(torch.ops, "onednn", Operators(fault), raising=False)
    state = torch.get_rng_state()
    int8.uses_operators.cache_clear()
    try:
        assert int8.uses_operators() is (fault == "")
    finally:
        int8.uses_operators.cache_clear()
    said = "this torch does not multiply bytes as expected: `precision=int8` takes float32 for it, and longer"
    assert caplog.messages == ([said] if fault else [])
    assert torch.equal(torch.get_rng_state(), state), "random weights are those of a run without int8"


@pytest.mark.parametrize("device", ["meta", "cuda:0"])
def test_a_net_that_has_left_the_cpu_is_not_run_in_bytes(device: str, photos: Path, monkeypatch: Any) -> None:
    net = calibrated(narrow(), pictures())
    if device == "cuda:0":
        monkeypatch.setattr(nn.Parameter, "device", torch.device(device), raising=False)
    else:
        net.to(device)
    said = f"`precision=int8` is for processors (`device=cpu`), not {device}: take `precision=auto`"
    with pytest.raises(UsageError) as caught:
        DenseNet(net)
    assert str(caught.value) == said
    for maxima in (net.input_maxima, None):
        net.input_maxima = maxima
        with pytest.raises(UsageError) as caught:
            vggfeat.extract(photos, net=net, scales=(224,), output=photos / "f.h5")
        assert str(caught.value) == said


def test_both_ways_agree_over_a_whole_net(monkeypatch: Any) -> None:
    if not int8.uses_operators():
        pytest.skip("needs VNNI")
    images, net = pictures(), calibrated(narrow("D"), pictures())
    found = []
    for way in (True, False):
        monkeypatch.setattr(int8, "uses_operators", lambda way=way: way)
        found.append(DenseNet(net, ["pool5", "fc7"])(images))
    for ours, theirs in itertools.pairwise(found):
        assert ours == pytest.approx(theirs, abs=0.01 * float(np.abs(theirs).max()))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), 3, "9", None])
def test_a_damaged_range_in_a_file_is_refused(value: Any) -> None:
    net = {"net": "A", "weights": "none", "weights_sha256": "0", "width": 1.0, "preprocessing": {}}
    settings = {"scales": [224], "aggregate": "stack", "flip": True, "layer": "fc7", "region": "image", "exif": True}
    recorded = {**settings, "precision": "int8", "nets": [{**net, "input_maxima": {"conv1_2": value}}]}
    with pytest.raises(ValueError, match="^nets has .* as input_maxima"):
        check_provenance(recorded)


def test_a_net_that_lacks_a_range_is_not_run() -> None:
    net = calibrated(narrow(), pictures())
    assert net.input_maxima is not None
    del net.input_maxima["conv3_2"]
    with pytest.raises(UsageError, match="`precision=int8` needs a net calibrated on images"):
        DenseNet(net, "pool5")


def test_a_resumed_evaluation_of_two_nets_keeps_their_ranges(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for name, net in (("a", "A"), ("d", "D")):
        made = narrow(net, width=1 / 16)
        made.class_names = tuple("abcdefg")
        made.save(tmp_path / f"{name}.pt")
    (photos / "a").mkdir()
    for path in photos.glob("*.jpg"):
        path.rename(photos / "a" / path.name)

    def run(**options: Any) -> Any:
        weights = [tmp_path / "a.pt", tmp_path / "d.pt"]
        chosen: dict[str, Any] = {"dataset": "folder", "data": photos, "subset": "all", "scales": (224,)}
        vggfeat.evaluate(weights=weights, **chosen, precision="int8", device="cpu", output=tmp_path / "p.h5", **options)
        return read_descriptors(tmp_path / "p.h5").read()

    first = run()
    monkeypatch.setattr(calibration, "input_maxima", lambda *args, **options: pytest.fail("calibrated again"))
    assert np.array_equal(run(resume=True), first)
