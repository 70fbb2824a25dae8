import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from vggfeat.errors import UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.nets.catalog import OXFORD, RANDOM, TORCHVISION, Preprocessing
from vggfeat.nets.networks import VGG, glorot_

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def narrow(name: str = "A", preprocessing: Preprocessing = RANDOM) -> VGG:
    return glorot_(VGG(name, width=1 / 16, num_classes=7, preprocessing=preprocessing), seed=1).eval()


def test_the_mean_descriptor_equals_a_plain_torchvision_loop():
    """Full-size net A with torchvision's own module as the reference, ceil pooling set on it."""
    theirs = torchvision.models.vgg11().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.ceil_mode = True
    ours = VGG("A", preprocessing=TORCHVISION).eval()
    ours.load_state_dict(theirs.state_dict())
    image = picture(240, 330)
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        x = (x - torch.tensor(TORCHVISION.mean).view(3, 1, 1)) / torch.tensor(TORCHVISION.std).view(3, 1, 1)
        x = theirs.features(x)
        x = F.relu(F.conv2d(x, theirs.classifier[0].weight.view(4096, 512, 7, 7), theirs.classifier[0].bias))
        x = F.relu(F.conv2d(x, theirs.classifier[3].weight.view(4096, 4096, 1, 1), theirs.classifier[3].bias))
        expected = x.mean((2, 3))[0].numpy()
    got = DenseNet(ours)([image])[0]
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-4


def test_a_mixed_batch_gives_each_picture_what_it_gets_alone():
    dense = DenseNet(narrow())
    pictures = [picture(224, 300), picture(256, 224), picture(224, 300), picture(300, 224), picture(256, 224)]
    together = dense(pictures)
    alone = np.concatenate([dense([one]) for one in pictures])
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert np.array_equal(together, dense(pictures)), "the same batch gives the same bits"


def test_flip_is_the_mirror_image():
    dense = DenseNet(narrow())
    one = picture(230, 250)
    assert np.allclose(dense([one], flip=True), dense([np.ascontiguousarray(one[:, ::-1])]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(dense([one], flip=True), dense([one]), rtol=1e-3)


def test_preprocessing_is_the_weights_own():
    x = torch.from_numpy(picture(224, 224)).permute(2, 0, 1)[None]
    oxford = DenseNet(narrow(preprocessing=OXFORD)).preprocess(x)
    bgr = x[:, [2, 1, 0]].float() - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    assert torch.allclose(oxford, bgr, atol=1e-4)
    theirs = torchvision.transforms.functional.normalize(x / 255, TORCHVISION.mean, TORCHVISION.std)
    assert torch.allclose(DenseNet(narrow(preprocessing=TORCHVISION)).preprocess(x), theirs, atol=1e-5)


@pytest.mark.parametrize("layer", ["fc6", "fc7", "scores"])
def test_the_mean_runs_over_the_maps_positions(layer):
    net = narrow()
    one = picture(256, 341)
    dense = DenseNet(net, layer)
    with torch.inference_mode():
        mapped = net.dense(dense.preprocess(torch.from_numpy(one).permute(2, 0, 1)[None]), layer)
    assert mapped.shape[1:3] == (2, 5)
    assert np.allclose(dense([one])[0], mapped.mean((1, 2))[0].numpy(), rtol=1e-4, atol=1e-5)
    assert dense.dim == (7 if layer == "scores" else 256)


def test_bf16_stays_close_to_fp32_and_leaves_the_net_alone():
    net = narrow("D")
    images = [picture(256, 300)]
    exact = DenseNet(net)(images)[0]
    net.precision = "bf16"
    rough = DenseNet(net)(images)[0]
    assert exact @ rough / np.linalg.norm(exact) / np.linalg.norm(rough) > 0.999
    assert next(net.parameters()).dtype == torch.float32


def test_a_picture_smaller_than_224_is_refused():
    with pytest.raises(UsageError, match="^a 300x223 picture is smaller than the net's 224$"):
        DenseNet(narrow())([picture(223, 300)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_cuda_agrees_with_the_cpu(precision):
    net = narrow("D")
    images = [picture(256, 300), picture(300, 256), picture(256, 300)]
    expected = DenseNet(net)(images)
    net = net.to("cuda")
    net.precision = precision
    got = DenseNet(net)(images)
    cosine = (expected * got).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    assert (cosine > {"fp32": 0.999999, "tf32": 0.9999, "fp16": 0.9999, "bf16": 0.999}[precision]).all()
