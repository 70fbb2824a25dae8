"""Scales under 224: layers up to pool5 need no whole window of fc6, so small pictures need no enlarging."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from vggfeat.cli import run
from vggfeat.errors import UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.catalog import TORCHVISION
from vggfeat.nets.networks import VGG, glorot_

SIZES = [(32, 32), (33, 70), (64, 97), (128, 171)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def torchvisions(pictures: list[np.ndarray]) -> tuple[VGG, np.ndarray]:
    """Net D at full width with torchvision's values, and pool5's mean from their module, its pooling rounding up."""
    theirs = torchvision.models.vgg16(num_classes=2).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.ceil_mode = True
    ours = VGG("D", num_classes=2, preprocessing=TORCHVISION).eval()
    ours.load_state_dict(theirs.state_dict())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (TORCHVISION.mean, TORCHVISION.std))
    with torch.inference_mode():
        inputs = [(torch.from_numpy(one).permute(2, 0, 1)[None] / 255 - mean) / std for one in pictures]
        return ours, np.stack([theirs.features(x).mean((2, 3))[0].numpy() for x in inputs])


def test_pool5_of_small_pictures_is_torchvisions():
    pictures = [picture(*size) for size in SIZES]
    net, expected = torchvisions(pictures)
    got = DenseNet(net, "pool5")(pictures)
    lengths = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(got - expected, axis=1) < 1e-4 * lengths).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layer", ["conv1_1", "conv4_3", "pool5"])
def test_a_batch_of_small_pictures_gives_each_what_it_gets_alone(layer, precision):
    net = glorot_(VGG("D", width=1 / 8, num_classes=7, preprocessing=TORCHVISION), seed=1).eval()
    net.precision = precision
    dense = DenseNet(net, layer)
    pictures = [picture(*size) for size in SIZES]
    alone = np.concatenate([dense([one]) for one in pictures])
    lengths = np.linalg.norm(alone, axis=1)
    assert np.isfinite(alone).all() and (lengths > 0).all()
    close = 1e-2 if precision == "bf16" else 1e-5
    assert (np.linalg.norm(dense(pictures) - alone, axis=1) < close * lengths).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ("pool5",)}, "scale 31 is under 32, the smallest for layers up to pool5"),
        ({"layers": ("fc7",)}, "scale 31 is under 224, the smallest for fully-connected layers"),
        ({"layers": ("pool5", "fc6")}, "scale 31 is under 224, the smallest for fully-connected layers"),
        ({"layers": ("pool5",), "view": "center"}, "scale 31 is under 224, the smallest for the central crop"),
    ],
)
def test_the_least_scale_is_that_of_the_layers(settings, message):
    with pytest.raises(UsageError) as caught:
        DescriptorSettings(scales=(256, 31), **settings)
    assert str(caught.value) == message
    assert DescriptorSettings(scales=(32,), layers=("conv3_1", "pool5:max")).scales == (32,)


def test_a_picture_that_is_too_small_for_a_layer_is_refused():
    net = glorot_(VGG("A", width=1 / 16, num_classes=7, preprocessing=TORCHVISION), seed=1).eval()
    with pytest.raises(UsageError, match="^a 70x31 picture is smaller than the net's 32$"):
        DenseNet(net, "pool5")([picture(31, 70)])
    with pytest.raises(UsageError, match="^a 300x223 picture is smaller than the net's 224$"):
        DenseNet(net, ["pool5", "fc7"])([picture(223, 300)])


def test_small_scales_go_from_the_shell_to_svm(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 180)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8) + np.uint8(shade)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    file = tmp_path / "a.h5"
    command = ["extract", str(tmp_path / "photos"), "--net", "A", "--weights", "none", "--width", "0.0625"]
    command += ["--scales", "48,64", "--layer", "pool5", "--keep-scales", "-o", str(file), "--quiet"]
    assert run(command) == 0
    capsys.readouterr()
    assert run(["svm", str(file), "--scales", "48", "--num-splits", "1", "--train-per-class", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == 1
    assert run(["svm", str(file), "--scales", "32"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"vggfeat: {file} has no scale 32; it has 48, 64"
