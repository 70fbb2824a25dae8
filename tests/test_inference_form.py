"""The convolutions that inference uses on AVX2 and Zen 4 processors, against float64 sums and the nets' own modules."""

import multiprocessing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggfeat.inference.dense import DenseNet
from vggfeat.nets import nnpack
from vggfeat.nets.inference_form import (
    DoneReLU,
    FastConv2d,
    FastMaxPool2d,
    has_fast_convolutions,
    inference_form,
    method,
)
from vggfeat.nets.layers import trunk_layers
from vggfeat.nets.networks import VGG, glorot_

RNG = np.random.default_rng(0)

needs_nnpack = pytest.mark.skipif(not nnpack.is_available(), reason="torch has no NNPACK for this processor")
needs_fast = pytest.mark.skipif(
    not has_fast_convolutions(), reason="the fast convolutions are for AVX2 and Zen 4 processors"
)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def values(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape, dtype=np.float32))


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=1)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


SIZES = [(4, 4), (1, 1), (3, 5), (8, 7), (6, 13), (14, 14), (17, 23), (33, 40)]


@needs_nnpack
@pytest.mark.parametrize(
    ("capability", "halved", "fast"), [("AVX2", False, True), ("AVX512", True, True), ("AVX512", False, False)]
)
def test_fast_convolutions_are_for_processors_that_multiply_eight_numbers_at_a_time(
    monkeypatch, capability, halved, fast
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("vggfeat.nets.inference_form.has_halved_avx512", lambda: halved)
    assert has_fast_convolutions() == fast


@needs_nnpack
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("channels", "out"), [(1, 1), (3, 5), (16, 8), (130, 128)])
def test_nnpacks_convolution_equals_the_direct_sum(height, width, channels, out):
    x, weight, bias = values(2, channels, height, width), values(out, channels, 3, 3), values(out)
    filters, expected = nnpack.transformed_filters(weight), exact(x, weight, bias)
    for layout in (torch.contiguous_format, torch.channels_last):
        for rectify in (False, True):
            got = nnpack.convolve(x.contiguous(memory_format=layout), filters, bias, rectify=rectify)
            assert got.shape == (2, out, height, width) and got.is_contiguous()
            assert relative_error(got, expected.relu() if rectify else expected) < 1e-5


@needs_nnpack
@pytest.mark.parametrize(("height", "width"), [(64, 86), (61, 83), (5, 700), (25, 24), (24, 26), (48, 48)])
@pytest.mark.parametrize("most_bytes", [1, 2_000_000, 256 << 20])
def test_nnpacks_convolution_equals_the_direct_sum_in_strips_of_any_height(height, width, most_bytes):
    x, weight, bias = values(1, 64, height, width), values(32, 64, 3, 3), values(32)
    got = nnpack.convolve(x, nnpack.transformed_filters(weight), bias, most_bytes=most_bytes)
    assert got.shape == (1, 32, height, width)
    assert relative_error(got, exact(x, weight, bias)) < 1e-5


@needs_nnpack
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nnpacks_convolution_loses_no_value_that_is_not_finite(value):
    """So an image whose activations overflow is told, with the ReLU too."""
    x, weight, bias = values(1, 8, 20, 20), values(16, 8, 3, 3), values(16)
    x[0, 3, 10, 10] = value
    for rectify in (False, True):
        got = nnpack.convolve(x, nnpack.transformed_filters(weight), bias, rectify=rectify)
        assert not got[0, :, 9:12, 9:12].isfinite().any()


@needs_nnpack
def test_nnpack_refuses_what_it_would_read_wrongly_by_its_address():
    x, filters, bias = values(1, 8, 6, 6), nnpack.transformed_filters(values(4, 8, 3, 3)), values(4)
    for wrong in (
        (x.double(), filters, bias),
        (x, filters, bias.double()),
        (x[:, :7], filters, bias),
        (x, filters, bias[:3]),
    ):
        with pytest.raises(
            ValueError, match=r"^pictures and biases must be float32, and the filters made for as many channels$"
        ):
            nnpack.convolve(*wrong)


@needs_nnpack
@pytest.mark.parametrize(("name", "value"), [("_PRECOMPUTE", 99), ("_REUSE", 99), ("_RELU", 0)])
def test_an_nnpack_that_refuses_or_answers_otherwise_is_left_alone(name, value, monkeypatch):
    assert nnpack.is_available.__wrapped__()
    monkeypatch.setattr(nnpack, name, value)
    assert not nnpack.is_available.__wrapped__()


def test_a_torch_without_nnpack_is_told_from_one_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert nnpack._library.__wrapped__() is None
    monkeypatch.setattr(nnpack, "_library", lambda: None)
    assert not nnpack.is_available.__wrapped__()


@needs_nnpack
def test_nnpack_says_why_it_failed(monkeypatch):
    monkeypatch.setattr(nnpack, "_PRECOMPUTE", 99)
    with pytest.raises(RuntimeError, match=r"^NNPACK's convolution failed with status 17 \(nnpack\.h, nnp_status\)$"):
        nnpack.transformed_filters(values(4, 8, 3, 3))


@needs_nnpack
def test_nnpack_gives_the_same_bits_with_any_number_of_threads():
    x, filters, bias = values(1, 64, 50, 70), nnpack.transformed_filters(values(64, 64, 3, 3)), values(64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(nnpack.convolve(x, filters, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def _sum_after_a_fork(answers, filters, bias):
    answers.put(float(nnpack.convolve(torch.ones(1, 8, 40, 40), filters, bias).sum()))


@needs_nnpack
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(),
    reason="no fork here",
)
def test_nnpack_works_after_a_fork():
    """A fork does not copy the threads that the parent made."""
    filters, bias = nnpack.transformed_filters(torch.ones(4, 8, 3, 3)), torch.zeros(4)
    expected = float(nnpack.convolve(torch.ones(1, 8, 40, 40), filters, bias).sum())
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_sum_after_a_fork, args=(answers, filters, bias))
    child.start()
    assert answers.get(timeout=60) == pytest.approx(expected, rel=1e-5)
    child.join()


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 4), (5, 7), (8, 6), (1, 9)])
def test_the_pooling_equals_torchs(height, width, by_numpy, monkeypatch):
    monkeypatch.setattr("vggfeat.nets.inference_form.POOLED_BY_NUMPY", 10**6 if by_numpy else 0)
    x = values(2, 3, height, width)
    x[0, 0, 0, 0] = torch.nan
    expected = F.max_pool2d(x, 2, 2, ceil_mode=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = FastMaxPool2d(2, 2, ceil_mode=True)(x.contiguous(memory_format=layout))
        assert torch.equal(got.nan_to_num(9.0), expected.nan_to_num(9.0))


@pytest.mark.parametrize(
    ("channels", "out", "positions", "way"),
    [
        (3, 64, 256 * 341, "direct"),
        (64, 64, 256 * 341, "nnpack"),
        (64, 128, 128 * 171, "nnpack"),
        (512, 512, 16 * 22, "nnpack"),
        (512, 512, 8 * 11, "direct"),
        (32, 32, 256 * 341, "direct"),
        (32, 64, 112 * 112, "direct"),
    ],
)
def test_the_rule_gives_each_layer_the_way_that_was_measured_fastest(channels, out, positions, way):
    assert method(channels, out, positions) == way


@needs_nnpack
@pytest.mark.parametrize(
    ("channels", "out", "side"), [(3, 64, 40), (64, 64, 40), (128, 128, 13), (128, 128, 12), (16, 16, 20)]
)
def test_a_picture_gives_the_same_bits_whatever_its_batch_and_again(channels, out, side):
    layer = FastConv2d(nn.Conv2d(channels, out, 3, padding=1))
    x = values(3, channels, side, side)
    together = layer(x)
    assert torch.equal(layer(x), together)
    for row in range(3):
        alone = layer(x[row : row + 1])
        direct = method(channels, out, side * side) == "direct"
        assert torch.equal(alone, together[row : row + 1]) or direct, "oneDNN's own differ by rounding"
        assert torch.allclose(alone, together[row : row + 1], rtol=1e-4, atol=1e-5)


@needs_nnpack
def test_changed_weights_are_heeded():
    """The transformed filters are kept between calls."""
    with torch.inference_mode(False):
        convolution = nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False)
    layer, x = FastConv2d(convolution), values(1, 128, 14, 14)
    before = layer(x)
    with torch.inference_mode(False), torch.no_grad():
        convolution.weight.mul_(2.0)
        convolution.bias.zero_()
    after = layer(x)
    assert not torch.allclose(before, after)
    assert relative_error(after, exact(x, convolution.weight, convolution.bias)) < 5e-6


def test_modules_keep_their_places_and_narrow_nets_their_modules():
    wide, narrow = VGG("D", top=False).features, VGG("D", width=1 / 16, top=False).features
    assert inference_form(narrow) is narrow
    fast = inference_form(wide)
    faster = {nn.Conv2d: FastConv2d, nn.MaxPool2d: FastMaxPool2d, nn.ReLU: DoneReLU}
    assert [type(module) for module in fast] == [faster[type(module)] for module in wide]
    c = inference_form(VGG("C", top=False).features)
    assert sum(isinstance(module, nn.Conv2d) for module in c) == 3, "1x1 convolutions stay, and their ReLUs"
    assert sum(type(module) is nn.ReLU for module in c) == 3


@needs_fast
def test_a_convolution_that_is_asked_for_gives_its_values_before_the_relu():
    made = glorot_(VGG("A", top=False), seed=2).eval()
    picture = RNG.integers(0, 256, (64, 50, 3), dtype=np.uint8)
    for layer in ("conv1_1", "conv2_1"):
        dense = DenseNet(made, [layer, "pool2"], pre_relu=True)
        x = dense.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None])
        last = trunk_layers(made.spec)
        expected = [made.features[: last[name].module + (name == "pool2")](x) for name in (layer, "pool2")]
        assert expected[0].min() < 0
        got = np.split(dense([picture])[0], [dense.dims[0]])
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.mean((2, 3))[0], rtol=1e-4, atol=1e-3)


@needs_fast
@pytest.mark.parametrize("net", ["A", "A-LRN", "C"])
def test_a_wide_nets_layers_agree_with_float64(net):
    """Every method and odd sizes at once. Cosine of at least 1 - 1e-9."""
    made = glorot_(VGG(net, top=False), seed=2).eval()
    for layer in made.features:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= 2**0.5  # keeps activations from fading
    picture = RNG.integers(0, 256, (239, 251, 3), dtype=np.uint8)
    layers = [layer for layer in made.spec.layer_names if not layer.startswith("fc")]
    dense = DenseNet(made, layers)
    got = np.split(dense([picture])[0].astype(np.float64), np.cumsum(dense.dims)[:-1])
    x = dense.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None]).double()
    expected = []
    for module in made.double().features:
        x = module(x)
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            expected.append(x.mean((2, 3))[0].numpy())
    for ours, theirs in zip(got, expected, strict=True):
        assert 1 - ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)) < 1e-9
