"""Pictures of different sizes in one batch: what each gives is what it gives alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggfeat.errors import DeviceError
from vggfeat.inference import dense as dense_module
from vggfeat.inference.batching import Extents, form_batches, rounded_up, run_trunk
from vggfeat.inference.dense import DenseNet
from vggfeat.nets.catalog import NETS
from vggfeat.nets.networks import VGG, glorot_, weighted_layers

SIDES = st.integers(224, 300)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=2, max_size=4)


def biased(name: str) -> VGG:
    """A narrow net whose biases are far from zero, so that padding that is not cleared shows."""
    net = glorot_(VGG(name, width=1 / 16), seed=3)
    torch.manual_seed(4)
    for layer in weighted_layers(net):
        torch.nn.init.uniform_(layer.bias, -1, 3)
    return net.eval()


NARROW = {name: biased(name) for name in NETS}


def pictures_of(sizes) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(map(sum, sizes)))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def one_by_one(net: VGG, pictures, *, flip: bool = False) -> np.ndarray:
    """Whole maps averaged, one picture at a time, with none of the code under test."""
    dense = DenseNet(net)
    rows = [torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pictures]
    with torch.inference_mode():
        maps = [net.dense(dense.preprocess(row.flip(3) if flip else row)) for row in rows]
    return torch.cat([one.mean((1, 2)) for one in maps]).numpy()


def padding(net: VGG) -> DenseNet:
    """Batches padded as on a GPU, and more."""
    return DenseNet(net, most_padding=0.9)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(sizes=SIZES, flip=st.booleans())
def test_a_padded_batch_gives_each_picture_what_it_gets_alone(name, sizes, flip):
    net, pictures = NARROW[name], pictures_of(sizes)
    together = padding(net)(pictures, flip=flip)
    alone = one_by_one(net, pictures, flip=flip)
    assert (cosines(together, alone) > 0.999999).all()
    assert np.allclose(together, alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())


def test_padding_that_is_not_cleared_would_show(monkeypatch):
    """The test above can fail: without clearing after each ReLU, the biases leak in."""
    pictures = pictures_of([(224, 300), (300, 224)])
    monkeypatch.setattr(Extents, "clear_outside", lambda self, values: values)
    together = padding(NARROW["D"])(pictures)
    assert (cosines(together, one_by_one(NARROW["D"], pictures)) < 0.9999).any()


def test_padding_to_few_shapes_that_is_not_cleared_would_show(monkeypatch):
    """The next tests can fail, too."""
    pictures = pictures_of([(224, 300), (300, 224)])
    monkeypatch.setattr(Extents, "clear_outside", lambda self, values: values)
    padded, alone = DenseNet(NARROW["D"], few_shapes=True)(pictures), one_by_one(NARROW["D"], pictures)
    assert np.abs(padded - alone).max() > 1e-2 * np.abs(alone).max(), "a hundred times what they allow"


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(sizes=SIZES, flip=st.booleans())
def test_pictures_padded_to_few_shapes_give_what_they_give_alone(name, sizes, flip):
    net, pictures = NARROW[name], pictures_of(sizes)
    padded = DenseNet(net, few_shapes=True)(pictures, flip=flip)
    alone = one_by_one(net, pictures, flip=flip)
    assert np.allclose(padded, alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())


def test_every_layer_of_a_picture_padded_to_few_shapes_is_its_own():
    layers, pictures = ["conv1_2", "pool1", "conv3_3:max", "conv5_3", "pool5:gem"], pictures_of([(41, 67), (67, 41)])
    for pre_relu in (False, True):
        padded, plain = (
            DenseNet(NARROW["D"], layers, pre_relu=pre_relu, few_shapes=few)(pictures, flip=True)
            for few in (True, False)
        )
        assert np.allclose(padded, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def test_pictures_of_one_shape_share_a_pass_and_keep_their_own_mirror_images():
    pictures = pictures_of([(64, 90), (62, 96), (64, 96)])
    together = DenseNet(NARROW["B"], "pool5", few_shapes=True, most_pixels=10**6)
    alone = DenseNet(NARROW["B"], "pool5", few_shapes=False)
    for flip in (False, True):
        expected = np.concatenate([alone([picture], flip=flip) for picture in pictures])
        assert np.allclose(together(pictures, flip=flip), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@given(height=st.integers(32, 3000), width=st.integers(32, 3000))
def test_a_shape_is_a_little_larger_than_its_picture(height, width):
    room = rounded_up((height, width))
    allowed = max(8, min(height, width) // 16)
    assert all(0 <= side - own < allowed for side, own in zip(room, (height, width), strict=True))
    assert rounded_up(room) == room or min(room) // 16 // 8 > min(height, width) // 16 // 8


@pytest.mark.parametrize(("side", "step"), [(32, 8), (128, 8), (224, 8), (256, 16), (384, 24), (512, 32)])
def test_shapes_of_larger_scales_lie_farther_apart(side, step):
    assert {rounded_up((side, side + more)) for more in range(1, step + 1)} == {(side, side + step)}


@pytest.mark.parametrize(
    ("precision", "tiles", "padded"),
    [("bf16", True, True), ("bf16", False, False), ("fp32", True, False), ("fp32", False, False)],
)
def test_pictures_are_padded_to_few_shapes_where_a_new_shape_takes_long(monkeypatch, precision, tiles, padded):
    monkeypatch.setattr(dense_module, "has_tiles", lambda: tiles)
    net = VGG("A", width=1 / 16)
    net.precision = precision
    shapes = []
    monkeypatch.setattr(DenseNet, "preprocess", lambda self, batch: shapes.append(tuple(batch.shape)) or batch.float())
    monkeypatch.setattr(dense_module, "run_trunk", lambda *_: iter(()))
    DenseNet(net, "pool5")._one_pass(pictures_of([(64, 90)]), False, {})
    assert shapes == [(1, 3, 64, 96 if padded else 90)]


def test_a_picture_whose_values_overflow_leaves_the_others_alone():
    sizes = [(224, 260), (240, 230)]
    net, values = NARROW["B"], torch.randn(2, 3, 240, 260)
    values[0, 0, 223, 259] = float("inf")
    with torch.inference_mode():
        alone = net.features(values[1:, :, :240, :230])
        *_, (_, pooled, extents) = run_trunk(net.features, values.clone(), Extents(sizes, torch.tensor(sizes)))
        maps = extents.cut(pooled)
    assert [tuple(one.shape[2:]) for one in maps] == [(7, 9), (8, 8)]
    assert not torch.isfinite(maps[0]).all()
    assert torch.allclose(maps[1], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40))),
    most_pixels=st.integers(1, 5000),
    most_padding=st.floats(0, 0.9),
)
def test_batches_hold_every_row_once_within_their_limits(sizes, most_pixels, most_padding):
    batches = form_batches(sizes, most_pixels, most_padding)
    assert sorted(row for rows in batches for row in rows) == list(range(len(sizes)))
    for rows in batches:
        height, width = (max(sizes[row][axis] for row in rows) for axis in (0, 1))
        own, all_pixels = sum(sizes[row][0] * sizes[row][1] for row in rows), len(rows) * height * width
        assert len(rows) == 1 or all_pixels <= most_pixels
        assert all_pixels - own <= most_padding * all_pixels


def test_without_padding_equal_sizes_share_a_batch_in_their_order():
    sizes = [(2, 3), (3, 2), (2, 3), (3, 2), (2, 3)]
    assert form_batches(sizes, 12) == [[0, 2], [4], [1, 3]]
    assert form_batches(sizes, 1000) == [[0, 2, 4], [1, 3]]


def test_photographs_of_common_shapes_waste_little():
    rng = np.random.default_rng(0)
    sizes = [(256, int(256 * ratio)) for ratio in rng.choice([1, 4 / 3, 1.49, 1.5, 16 / 9], 64)]
    sizes = [size if rng.random() < 0.6 else size[::-1] for size in sizes]
    batches = form_batches(sizes, 8_000_000, 0.15)
    assert len(batches) <= 8, "landscape and portrait, a few batches each"
    shapes = Counter(len({sizes[row] for row in rows}) > 1 for rows in batches)
    assert shapes[True] > 0, "near sizes share a batch"


class ShortOfMemory(DenseNet):
    """A device that holds so many pictures at a time."""

    def __init__(self, net: VGG, most: int, **options) -> None:
        super().__init__(net, **options)
        self.most, self.passes = most, []

    def _one_pass(self, pictures, *args):
        self.passes.append(len(pictures))
        if len(pictures) > self.most:
            raise torch.OutOfMemoryError
        return super()._one_pass(pictures, *args)


def test_a_batch_that_does_not_fit_is_halved_and_the_next_ones_are_smaller():
    pictures = pictures_of([(224, 224)] * 8)
    dense = ShortOfMemory(NARROW["A"], most=2, most_pixels=8 * 224 * 224)
    assert (cosines(dense(pictures), one_by_one(NARROW["A"], pictures)) > 0.999999).all()
    assert dense.passes == [8, 4, 2, 2, 2, 2]
    dense.passes.clear()
    dense(pictures)
    assert dense.passes == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("device", "instead"), [("cpu", "smaller `scales`"), ("cuda:0", "`precision=bf16` or `device=cpu`")]
)
def test_a_picture_that_does_not_fit_alone_is_named(device, instead):
    dense = ShortOfMemory(NARROW["A"], most=0)
    dense.device = torch.device(device)
    with pytest.raises(DeviceError) as error:
        list(dense._maps(pictures_of([(224, 300)]), False, {}))
    assert str(error.value) == f"a 300x224 picture alone fills the memory of {device}: take {instead}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("flip", [False, True])
def test_padded_batches_on_cuda_agree_with_the_cpu(flip):
    pictures = pictures_of([(256, 341), (256, 384), (341, 256), (256, 341), (256, 300)])
    expected = one_by_one(NARROW["D"], pictures, flip=flip)
    assert (cosines(DenseNet(biased("D").to("cuda"))(pictures, flip=flip), expected) > 0.999999).all()
