"""fc6 on the windows of pooled maps with the work that neighbours share, against float64 sums and window by window."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggfeat.inference.dense import DenseNet
from vggfeat.nets import window_layer
from vggfeat.nets.minimal_filtering import one_dimensional
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.window_layer import WindowLayer, is_worth_it, window_count

POINTS = [Fraction(point) for point in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "3", "-3")]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("outputs", "taps"), [(1, 1), (2, 3), (4, 3), (6, 3), (2, 7), (3, 5), (4, 7)])
def test_minimal_filtering_is_exact_in_rational_numbers(outputs, taps):
    rng = np.random.default_rng(outputs * taps)
    n = outputs + taps - 1
    of_input, of_filter, of_output = one_dimensional(outputs, taps, POINTS[: n - 1])
    values, weights = ([Fraction(int(value), 7) for value in rng.integers(-50, 50, size)] for size in (n, taps))

    def times(matrix, vector):
        return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    products = [a * b for a, b in zip(times(of_filter, weights), times(of_input, values), strict=True)]
    expected = [sum(values[at + tap] * weights[tap] for tap in range(taps)) for at in range(outputs)]
    assert times(of_output, products) == expected


def layer_and_maps(channels, outputs, *sizes):
    generator = torch.Generator().manual_seed(channels + outputs)
    linear = nn.Linear(channels * 49, outputs)
    linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator))
    linear.bias.copy_(torch.randn(linear.bias.shape, generator=generator))
    return WindowLayer(linear), [torch.randn(1, channels, *size, generator=generator).relu() for size in sizes]


def in_double(layer, maps):
    weight = layer.linear.weight.double().view(-1, maps[0].shape[1], 7, 7)
    found = [F.conv2d(one.double(), weight, layer.linear.bias.double()) for one in maps]
    return torch.cat([one[0].flatten(1).T for one in found])


def relative_error(got, expected):
    assert got.shape == expected.shape
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "sizes", [[(7, 7)], [(8, 8)], [(7, 13)], [(12, 7)], [(9, 10)], [(16, 22), (7, 7), (11, 8)]], ids=str
)
@pytest.mark.parametrize(("channels", "outputs"), [(3, 5), (128, 700)])
def test_shared_windows_equal_the_sums_of_each(channels, outputs, sizes, layout):
    layer, maps = layer_and_maps(channels, outputs, *sizes)
    got = layer._by_tiles([one.contiguous(memory_format=layout) for one in maps])
    assert relative_error(got, in_double(layer, maps)) < 1e-5


def test_windows_are_shared_where_this_saves_more_than_transforming_the_filters_costs(monkeypatch):
    layer, (large, small) = layer_and_maps(2, 3, (16, 22), (8, 11))
    assert (window_count(large), window_count(small)) == (160, 10)
    assert not is_worth_it([large])
    assert is_worth_it([large, large])
    assert is_worth_it([small] * 30)
    assert not is_worth_it([small[:, :, :7, :7]] * 1000), "one window alone: most of its tile would be wasted"
    ways = []
    monkeypatch.setattr(WindowLayer, "_by_tiles", lambda self, pooled: ways.append(len(pooled)))
    layer([large])
    layer([large, large])
    assert ways == [2]


def test_new_weights_count_at_once():
    layer, maps = layer_and_maps(4, 6, (16, 22), (16, 22))
    layer(maps)
    layer.linear.weight.mul_(-3)
    assert relative_error(layer(maps), in_double(layer, maps)) < 1e-5


@pytest.fixture
def wide():
    return glorot_(VGG("A", width=0.25, num_classes=7), seed=0).eval()


@pytest.mark.parametrize("layer", ["fc6", "fc7", "scores"])
@pytest.mark.parametrize("pre_relu", [False, True])
def test_a_nets_layers_are_those_of_window_after_window(wide, layer, pre_relu, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((512, 600), (224, 300), (512, 600))]
    net, shared = DenseNet(wide, layer, pre_relu=pre_relu), []
    by_tiles = WindowLayer._by_tiles
    monkeypatch.setattr(WindowLayer, "_by_tiles", lambda self, pooled: shared.append(1) or by_tiles(self, pooled))
    got = net(pictures)
    assert shared
    monkeypatch.setattr(window_layer, "is_worth_it", lambda pooled: False)
    np.testing.assert_allclose(got, net(pictures), rtol=1e-4, atol=1e-5 * np.abs(got).max())
    assert len(shared) == 1


def test_only_wide_nets_in_float32_share_windows(wide):
    assert DenseNet(wide)._window_layer is not None
    assert DenseNet(wide, "pool5")._window_layer is None
    assert DenseNet(VGG("A", width=0.125).eval())._window_layer is None
    wide.precision = "bf16"
    assert DenseNet(wide)._window_layer is None
