import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from vggfeat.errors import UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.nets.catalog import NETS, net_spec
from vggfeat.nets.networks import VGG, gaussian_, glorot_, weighted_layers
from vggfeat.nets.weights import load_net

TABLE_2 = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
    "shallow-B": 134_503_528,
}
TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


@pytest.mark.parametrize("name", NETS)
def test_parameter_counts_are_table_2s(name):
    with torch.device("meta"):
        net = VGG(name)
    assert sum(p.numel() for p in net.parameters()) == TABLE_2[name]
    assert NETS[name].parameters() == TABLE_2[name]


@pytest.mark.parametrize("name", NETS)
def test_the_catalog_counts_parameters_at_any_width_and_number_of_classes(name):
    net = VGG(name, width=0.1, num_classes=7)
    assert sum(p.numel() for p in net.parameters()) == NETS[name].parameters(num_classes=7, width=0.1)


def test_depths_are_table_1s():
    assert [NETS[n].weight_layers for n in NETS] == [11, 11, 13, 16, 16, 19, 8]


@pytest.mark.parametrize(("net", "name"), TORCHVISION.items())
def test_parameters_have_torchvisions_names_and_shapes(net, name):
    with torch.device("meta"):
        ours, theirs = VGG(net).state_dict(), getattr(torchvision.models, name)().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["A", "A-LRN", "B", "C", "D", "E", "shallow-B"])
def test_dense_and_classifier_form_agree_at_224(name):
    net = glorot_(VGG(name, width=1 / 8, num_classes=20), seed=3).eval()
    crops = torch.from_numpy(np.random.default_rng(0).normal(0, 50, (2, 3, 224, 224)).astype(np.float32))
    with torch.inference_mode():
        classified, dense = net(crops), net.dense(crops, "scores")
    assert dense.shape == (2, 1, 1, 20)
    assert (dense[:, 0, 0] - classified).norm() / classified.norm() < 1e-5


def test_the_dense_form_equals_convolutions_with_the_same_weights():
    net = glorot_(VGG("A", width=1 / 16, num_classes=5), seed=1).eval()
    images = torch.randn(2, 3, 250, 330)
    fc6, fc7, fc8 = (layer for layer in weighted_layers(net) if isinstance(layer, torch.nn.Linear))
    with torch.inference_mode():
        x = net.features(images)
        assert x.shape[2:] == (8, 11), "ceil pooling keeps the border: 250 -> 8, 330 -> 11"
        x = F.relu(F.conv2d(x, fc6.weight.view(fc6.out_features, -1, 7, 7), fc6.bias))
        assert torch.allclose(net.dense(images, "fc6").permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-5)
        x = F.relu(F.conv2d(x, fc7.weight[:, :, None, None], fc7.bias))
        assert torch.allclose(net.dense(images, "fc7").permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-5)
        x = F.conv2d(x, fc8.weight[:, :, None, None], fc8.bias)
        assert torch.allclose(net.dense(images, "scores").permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-5)


def test_both_forms_read_the_same_tensors():
    net = VGG("A", width=1 / 16, num_classes=5).eval()
    crops = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        before = net.dense(crops, "scores").clone()
        net.classifier[0].weight.mul_(-1)
        assert not torch.allclose(net.dense(crops, "scores"), before)
        assert torch.allclose(net.dense(crops, "scores")[:, 0, 0], net(crops), rtol=1e-4, atol=1e-6)


def test_full_size_a_equals_torchvisions_vgg11_with_the_same_tensors():
    theirs = torchvision.models.vgg11().eval()
    ours = VGG("A").eval()
    ours.load_state_dict(theirs.state_dict())
    crops = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = theirs(crops)
        assert (ours(crops) - expected).norm() / expected.norm() < 1e-5


def test_lrn_is_krizhevskys_sum_not_divided_by_n():
    lrn = next(m for m in VGG("A-LRN", width=1 / 16).features if isinstance(m, torch.nn.LocalResponseNorm))
    x = torch.rand(1, 8, 2, 2) * 100
    squares = F.pad(x**2, (0, 0, 0, 0, 2, 2))
    sums = sum(squares[:, i : i + 8] for i in range(5))
    assert torch.allclose(lrn(x), x / (2 + 1e-4 * sums) ** 0.75, rtol=1e-5)


def test_glorot_weights_have_their_variance_and_repeat_with_the_seed():
    one, two, other = (glorot_(VGG("A", width=0.25), seed=s) for s in (5, 5, 6))
    layer = weighted_layers(one)[3]
    fan_in, fan_out = layer.in_channels * 9, layer.out_channels * 9
    assert layer.weight.var().item() == pytest.approx(2 / (fan_in + fan_out), rel=0.02)
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert not any(layer.bias.any() for layer in weighted_layers(one))


def test_gaussian_weights_have_the_standard_deviation():
    layer = weighted_layers(gaussian_(VGG("A", width=0.25), std=0.02))[5]
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_classifier_form_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"^the classifier form takes 224x224 crops, not \(256, 224\)$"):
        VGG("A", width=1 / 16)(torch.zeros(1, 3, 256, 224))


@pytest.mark.parametrize("name", ["d", " D", "Shallow B", "shallow_b", "a-lrn"])
def test_names_are_found_in_any_case(name):
    assert net_spec(name).name in NETS


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("vgg11", "A"),
        ("VGG-13", "B"),
        ("vgg_16", "D"),
        ("VGG16", "D"),
        ("Vgg 16", "D"),
        ("VGG-19", "E"),
        ("vgg19", "E"),
    ],
)
def test_torchvisions_names_are_known(name, net):
    assert net_spec(name).name == net
    with pytest.raises(UsageError, match="no net 'vgg16_bn'"):
        net_spec("vgg16_bn")


def test_an_unknown_net_lists_the_valid_ones_and_suggests():
    with pytest.raises(UsageError) as error:
        net_spec("shalow-B")
    assert str(error.value) == (
        "no net 'shalow-B'; did you mean 'shallow-B'? "
        "valid: A (VGG-11), A-LRN, B (VGG-13), C, D (VGG-16), E (VGG-19), shallow-B"
    )


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_a_width_must_be_positive(width):
    with pytest.raises(UsageError, match=f"^width {width} is not a positive factor$"):
        VGG("A", width=width)


def test_layers_have_the_fields_names():
    assert " ".join(NETS["D"].layer_names) == (
        "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
        "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 fc7"
    )
    assert NETS["A-LRN"].layer_names == NETS["A"].layer_names
    assert len(NETS["E"].layer_names) == 16 + 5 + 2


def test_a_net_without_its_top_has_torchvisions_features_alone():
    with torch.device("meta"):
        net, theirs = VGG("D", top=False), torchvision.models.vgg16().features
    assert [name for name, _ in net.named_parameters()] == [f"features.{name}" for name, _ in theirs.named_parameters()]
    assert (net.has_top, net.classifier, net.num_classes) == (False, None, 0)
    assert [layer.weight.shape for layer in weighted_layers(net)] == [
        p.shape for p in theirs.parameters() if p.ndim == 4
    ]


CHANGES = {
    "training": lambda net: torch.optim.SGD(net.parameters(), lr=0.1).step(),
    "load_state_dict": lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    "one weight by hand": lambda net: net.classifier[0].weight.view(-1)[1:2].add_(1),
    "no_grad": lambda net: net.features[0].weight.mul_(2),
    "data": lambda net: setattr(net.features[0].weight, "data", net.features[0].weight.data.flip(1)),
    "another layer": lambda net: net.classifier.__setitem__(0, nn.Linear(net.classifier[0].in_features, 64)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_since_they_were_read_are_no_longer_the_files(tmp_path, change):
    """Else descriptors of one net would be recorded as another's, and `predict` would describe with the file's."""
    net = load_net("A", None, width=1 / 64, device="cpu")
    net.save(tmp_path / "net.pt")
    net = load_net(weights=tmp_path / "net.pt", device="cpu")
    ours = hashlib.sha256((tmp_path / "net.pt").read_bytes()).hexdigest()
    assert net.fingerprint() == ours
    assert copy.deepcopy(net).fingerprint() == pickle.loads(pickle.dumps(net)).fingerprint() == ours
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        CHANGES[change](net)
    assert net.fingerprint() != ours
    net.load_state_dict(load_net(weights=tmp_path / "net.pt", device="cpu").state_dict())
    assert net.fingerprint() != ours, "torch counted the changes"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.classifier[0].weight[:, 49:98].zero_(),
        lambda net: net.classifier[0].weight.data[:, 49:98].zero_(),
        lambda net: setattr(net.classifier[0], "weight", nn.Parameter(net.classifier[0].weight * 2)),
    ],
    ids=["channels in place", "channels by data", "another parameter"],
)
def test_a_copy_whose_weights_changed_is_no_longer_the_files(tmp_path, copied, change):
    load_net("A", None, width=1 / 16, device="cpu").save(tmp_path / "net.pt")
    net = load_net(weights=tmp_path / "net.pt", device="cpu")
    for ablated in (copied(net), net):
        before = net.fingerprint()
        with torch.no_grad():
            change(ablated)
        assert ablated.fingerprint() != before
        assert copied(ablated).fingerprint() == ablated.fingerprint(), "a copy of it is no longer the file's either"


def averaging(net):
    net.features[2] = nn.AvgPool2d(2, 2)


EDITS = {
    "features.2 is AvgPool2d(kernel_size=2, stride=2, padding=0), not MaxPool2d(kernel_size=2, stride=2, padding=0, "
    "dilation=1, ceil_mode=True); torch.save keeps the state dict of any net": averaging,
    "features.0 is ParametrizedConv2d, not Conv2d(3, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)); torch.save "
    "keeps the state dict of any net": lambda net: nn.utils.parametrizations.weight_norm(net.features[0]),
    "features.0 has a hook, which would not run here: remove it": lambda net: net.features[0].register_forward_hook(
        lambda _module, _inputs, outputs: 0 * outputs
    ),
    "scale is unexpected": lambda net: net.register_parameter("scale", nn.Parameter(torch.ones(1))),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("said", EDITS)
def test_modules_that_were_edited_are_refused_at_every_precision(said, precision):
    """Other modules run in their place, so the edit would be ignored in silence."""
    net = load_net("A", None, width=1 / 64, device="cpu", precision=precision)
    EDITS[said](net)
    with pytest.raises(UsageError) as caught:
        DenseNet(net, "pool5")
    assert str(caught.value) == f"the net is no longer A, width 1/64, random weights: {said}"


def test_a_last_layer_of_ones_own_and_relus_not_in_place_are_no_edits(tmp_path):
    net = load_net("A", None, width=1 / 64, num_classes=5, device="cpu", precision="fp32")
    picture = np.zeros((224, 224, 3), np.uint8)
    expected = DenseNet(net)([picture])
    net.classifier[-1] = nn.Linear(net.classifier[-1].in_features, 3)
    net.features[1] = nn.ReLU()
    for precision in ("fp32", "bf16"):
        net.precision = precision
        np.testing.assert_allclose(DenseNet(net)([picture]), expected, rtol=0.1, atol=0.1 * abs(expected).max())
        assert DenseNet(net, "scores")([picture]).shape == (1, 3) and net.num_classes == 3
    assert load_net(weights=net.save(tmp_path / "net.pt")).num_classes == 3


def test_describing_leaves_the_net_as_it_is():
    net = load_net("A", None, width=1 / 64, device="cpu", precision="fp32")
    DenseNet(net, "pool5")([np.zeros((64, 64, 3), np.uint8)])
    assert all(parameter.is_contiguous() for parameter in net.parameters())


def test_torchs_default_dtype_changes_no_net(tmp_path):
    expected = load_net("A", None, width=1 / 64, seed=3, device="cpu")
    expected.save(tmp_path / "net.pt")
    before = torch.get_default_dtype()
    for dtype in (torch.float64, torch.bfloat16):
        try:
            torch.set_default_dtype(dtype)
            found = [load_net("A", None, width=1 / 64, seed=3, device="cpu"), load_net(weights=tmp_path / "net.pt")]
        finally:
            torch.set_default_dtype(before)
        for net in found:
            for name, value in net.state_dict().items():
                assert value.dtype == torch.float32 and torch.equal(value, expected.state_dict()[name])


def test_a_saved_net_has_the_classes_of_a_last_layer_of_the_users_own(tmp_path):
    net = glorot_(VGG("A", width=1 / 16, num_classes=3, class_names=("a", "b", "c"))).eval()
    net.classifier[6] = nn.Linear(256, 7)
    again = load_net(None, net.save(tmp_path / "a.pt"), device="cpu")
    assert (again.num_classes, again.class_names) == (7, ())
    assert torch.equal(again.classifier[6].weight, net.classifier[6].weight)


def test_a_net_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    net = glorot_(VGG("A", width=1 / 16, num_classes=3))
    net.classifier[6] = nn.Linear(128, 7)
    with pytest.raises(UsageError) as caught:
        net.save(tmp_path / "a.pt")
    assert str(caught.value) == (
        "the net is no longer A, width 1/16, random weights: classifier.6.weight has shape (7, 128), not (7, 256); "
        "torch.save keeps the state dict of any net"
    )
    assert not (tmp_path / "a.pt").exists()


def test_the_dense_form_names_a_layer_and_a_size_that_it_cannot_take():
    net = VGG("A", width=1 / 16).eval()
    with pytest.raises(UsageError) as caught:
        net.dense(torch.zeros(1, 3, 224, 224), "pool5")
    assert str(caught.value) == "no fully-connected layer 'pool5'; valid: fc6, fc7, scores"
    for height, width in ((100, 100), (192, 300)):
        with pytest.raises(ValueError) as small:
            net.dense(torch.zeros(1, 3, height, width))
        message = f"the dense form takes images of 224 pixels or more a side, not {height}x{width}"
        assert str(small.value) == message
    with torch.inference_mode():
        assert net.dense(torch.zeros(1, 3, 193, 224)).shape == (1, 1, 1, 256)
