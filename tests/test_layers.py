"""Any layer of any net: against torchvision's own extractor, against literal loops, in files, pipelines and models."""

import json

import h5py
import numpy as np
import pytest
import torch
import torchvision
from making import dark_and_light
from PIL import Image
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import vggfeat
from vggfeat.classifiers.model_file import read_model
from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.cli import run
from vggfeat.datasets.folder import load_folder
from vggfeat.datasets.images import decode, rescale
from vggfeat.datasets.listing import from_paths
from vggfeat.errors import StoreError, UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.catalog import NETS, scaled
from vggfeat.nets.layers import LAYERS, layer_shape
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.merge import merge
from vggfeat.stages.predict import predict
from vggfeat.stages.svm import svm

WIDTH = 1 / 16
MEAN = torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)


def biased(name: str = "A", **options) -> VGG:
    """Random weights with biases, which show what padding or a ReLU leaves behind."""
    net = glorot_(VGG(name, width=WIDTH, **options), seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.bias, std=0.5, generator=generator)
    return net


def torchvisions(net: VGG) -> nn.Module:
    """torchvision's module with the same values, its ReLUs not in place so that nodes keep their values.

    torchvision knows neither response normalisation nor kernels of 1 and 5: those modules are put in by hand.
    """
    plain = [layer for layer in net.spec.layers if layer != "LRN"]
    sizes = [layer if isinstance(layer, str) else scaled(layer.channels, WIDTH) for layer in plain]
    its = iter(torchvision.models.vgg.make_layers(sizes))
    modules, channels = [], 3
    for layer in net.spec.layers:
        if layer == "LRN":  # Krizhevsky's alpha of 1e-4 for each of five neighbours
            modules.append(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
        elif layer == "M":
            modules.append(next(its))
        else:
            conv, relu = next(its), next(its)
            modules += [nn.Conv2d(channels, conv.out_channels, layer.kernel, padding=layer.kernel // 2), relu]
            channels = conv.out_channels
    theirs = torchvision.models.vgg.VGG(nn.Sequential(*modules), num_classes=net.num_classes, init_weights=False)
    hidden = net.classifier[0].out_features
    theirs.classifier[0] = nn.Linear(channels * 49, hidden)
    theirs.classifier[3] = nn.Linear(hidden, hidden)
    theirs.classifier[6] = nn.Linear(hidden, net.num_classes)
    theirs.load_state_dict(net.state_dict())
    for module in theirs.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return theirs.eval()


def nodes(theirs: nn.Module, pre_relu: bool = False) -> dict[str, str]:
    """torchvision's node of each layer of ours, counted on their module."""
    found, block, place = {}, 1, 0
    for number, module in enumerate(theirs.features):
        if isinstance(module, nn.Conv2d):
            place += 1
            found[f"conv{block}_{place}"] = f"features.{number + (not pre_relu)}"
        elif isinstance(module, nn.MaxPool2d):
            found[f"pool{block}"] = f"features.{number}"
            block, place = block + 1, 0
    return found | {"fc6": f"classifier.{0 if pre_relu else 1}", "fc7": f"classifier.{3 if pre_relu else 4}"}


def outputs(net: VGG, crop: np.ndarray, pre_relu: bool = False) -> dict[str, np.ndarray]:
    """Every layer of one 224x224 crop, flattened as torchvision flattens: channel, row, column."""
    theirs = torchvisions(net)
    of = nodes(theirs, pre_relu)
    extractor = create_feature_extractor(theirs, {node: name for name, node in of.items()})
    with torch.inference_mode():
        found = extractor((torch.from_numpy(crop.copy()).permute(2, 0, 1).float() - MEAN)[None])
    return {name: values[0].flatten().numpy() for name, values in found.items()}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return np.asarray(small.resize((330, 260), Image.Resampling.BICUBIC))


def close(got: np.ndarray, expected: np.ndarray, within: float = 1e-5) -> bool:
    return got.shape == expected.shape and float(np.abs(got - expected).max()) <= within * float(np.abs(expected).max())


# One crop


@pytest.mark.parametrize("pre_relu", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_a_crop_is_torchvisions(name, pre_relu, picture):
    net = biased(name)
    crop = picture[18:242, 53:277]
    expected = outputs(net, crop, pre_relu)
    layers = [layer for layer in net.spec.layer_names if not (pre_relu and layer.startswith("pool"))]
    assert set(expected) == set(net.spec.layer_names)
    dense = DenseNet(net, layers, pool="none", pre_relu=pre_relu)
    for layer, got in zip(layers, dense.pooled([crop]), strict=True):
        channels, side = layer_shape(net.spec, layer, WIDTH)
        assert got.shape == (1, channels * side**2)
        assert close(got[0].numpy(), expected[layer]), layer


def test_the_central_crop_of_a_file_is_torchvisions(photos, tmp_path):
    """pool5 of net D at full length, through the files: 25,088 values at width 1, a sixteenth here."""
    net = biased("D")
    out = vggfeat.extract(
        photos,
        net=net,
        scales=(256,),
        flip=False,
        layer="pool5",
        view="center",
        pool="none",
        normalise="none",
        output=tmp_path / "a.h5",
    )
    made = vggfeat.read_descriptors(out)
    assert made.dim == 32 * 49
    assert layer_shape(NETS["D"], "pool5") == (512, 7)
    for id, got in zip(made.ids, made.read(), strict=True):
        rescaled = rescale(decode(id), 256)
        top, left = (rescaled.shape[0] - 224) // 2, (rescaled.shape[1] - 224) // 2
        crop = rescaled[top : top + 224, left : left + 224]
        assert close(got, outputs(net, crop)["pool5"])


# Dense


def literal(net: VGG, image: np.ndarray, layer: str, pool: str, pre_relu: bool) -> np.ndarray:
    """One picture's layer, pooled position by position, with none of the code under test."""
    x = (torch.from_numpy(image.copy()).permute(2, 0, 1).float() - MEAN)[None]
    block, place, found = 1, 0, None
    with torch.inference_mode():
        for module in net.features:
            if isinstance(module, nn.ReLU):
                x = x.clamp(min=0)
                if f"conv{block}_{place}" == layer and not pre_relu:
                    found = x
            else:
                x = module(x)
            if isinstance(module, nn.Conv2d):
                place += 1
                if f"conv{block}_{place}" == layer and pre_relu:
                    found = x
            elif isinstance(module, nn.MaxPool2d):
                if f"pool{block}" == layer:
                    found = x
                block, place = block + 1, 0
        if found is None:
            height, width = x.shape[2:]
            rows = []
            for top in range(height - 6):
                for left in range(width - 6):
                    hidden = net.classifier[0](x[0, :, top : top + 7, left : left + 7].flatten())
                    if layer == "fc7":
                        hidden = net.classifier[3](hidden.clamp(min=0))
                    rows.append(hidden if pre_relu else hidden.clamp(min=0))
            positions = torch.stack(rows).double()
        else:
            positions = found[0].flatten(1).T.double()
    values = [row.numpy() for row in positions]
    if pool == "max":
        return np.maximum.reduce(values)
    power = 3 if pool == "gem" else 1
    return (sum(value**power for value in values) / len(values)) ** (1 / power)


@pytest.mark.parametrize(
    ("layer", "pool", "pre_relu"),
    [
        *((layer, "avg", False) for layer in ("conv1_1", "pool2", "conv5_2", "pool5", "fc6", "fc7")),
        *((layer, "avg", True) for layer in ("conv2_1", "conv5_2", "fc6", "fc7")),
        *((layer, pool, False) for layer in ("pool3", "conv5_1", "fc7") for pool in ("max", "gem")),
        ("conv4_1", "max", True),
    ],
)
def test_a_descriptor_is_the_literal_loop_over_positions_flips_and_scales(photos, layer, pool, pre_relu):
    net = biased("A")
    settings = DescriptorSettings((224, 230), layers=(layer,), pool=pool, pre_relu=pre_relu, exif=False)
    samples = from_paths([str(photos / "0.jpg")]).samples
    extractor = Extractor([net], settings)
    (got,) = extractor.describe(samples).descriptors
    extractor.close()
    scales = []
    for Q in (224, 230):
        image = rescale(decode(samples[0].path), Q)
        views = [literal(net, view, layer, pool, pre_relu) for view in (image, image[:, ::-1])]
        scales.append((views[0] + views[1]) / 2)
    stacked = np.concatenate(scales)
    assert close(got, stacked / np.linalg.norm(stacked))


def test_the_generalised_mean_neither_overflows_nor_loses_small_values(picture):
    net = biased("A")
    exact = DenseNet(net, "pool5", pool="gem")([picture])
    for factor in (1e15, 1e-18):
        scaled_net = biased("A")
        with torch.no_grad():
            for module in scaled_net.features:
                if isinstance(module, nn.Conv2d):
                    last = module
            last.weight *= factor
            last.bias *= factor
        assert close(DenseNet(scaled_net, "pool5", pool="gem")([picture]), exact * factor)


PADDED = [(224, 260), (256, 224), (224, 224), (224, 260)]


@pytest.mark.parametrize(
    ("name", "pool", "pre_relu"),
    [
        ("A-LRN", "avg", False),
        ("A-LRN", "max", False),
        ("A-LRN", "gem", False),
        ("A-LRN", "avg", True),
        ("A-LRN", "max", True),
        ("C", "avg", False),
        ("shallow-B", "max", True),
    ],
)
def test_padding_never_counts_in_any_layer(name, pool, pre_relu):
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in PADDED]
    net = biased(name)
    layers = [layer for layer in net.spec.layer_names if not (pre_relu and layer.startswith("pool"))]
    # One batch of all of them, mostly padding where sizes differ.
    dense = DenseNet(net, layers, pool=pool, pre_relu=pre_relu, most_pixels=10**9, most_padding=0.9)
    alone = DenseNet(net, layers, pool=pool, pre_relu=pre_relu)
    for flip in (False, True):
        together = dense.pooled(pictures, flip=flip)
        singles = [alone.pooled([one], flip=flip) for one in pictures]
        for place, layer in enumerate(layers):
            expected = torch.cat([single[place] for single in singles])
            assert torch.allclose(together[place], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())), layer


def test_negative_values_before_the_relu_are_kept(picture):
    before = DenseNet(biased("A"), ["conv3_1", "fc6"], pre_relu=True)([picture])
    after = DenseNet(biased("A"), ["conv3_1", "fc6"])([picture])
    assert (before < 0).any() and (after >= 0).all()


@pytest.mark.parametrize(
    ("layers", "modules", "head"), [(("conv2_1",), 5, 0), (("pool1", "conv1_1"), 3, 0), (("conv1_1", "fc6"), 21, 2)]
)
def test_nothing_beyond_the_last_layer_is_computed(picture, layers, modules, head):
    dense, ran = DenseNet(biased("A"), layers), []
    for part in (dense._trunk, dense._classifier):
        for number, module in enumerate(part):
            module.register_forward_hook(lambda *_, at=(part is dense._trunk, number): ran.append(at))
    dense([picture])
    assert sum(trunk for trunk, _ in ran) == modules
    assert sum(not trunk for trunk, _ in ran) == head


def test_a_net_without_fully_connected_layers_gives_all_others(picture):
    whole, net = biased("A"), VGG("A", width=WIDTH, top=False).eval()
    net.load_state_dict({name: value for name, value in whole.state_dict().items() if name.startswith("features")})
    layers = [layer for layer in net.spec.layer_names if not layer.startswith("fc")]
    assert np.array_equal(DenseNet(net, layers)([picture]), DenseNet(whole, layers)([picture]))
    net.precision = "bf16"
    assert close(DenseNet(net, "pool5")([picture]), DenseNet(whole, "pool5")([picture]), 0.02)
    with pytest.raises(UsageError) as caught:
        DenseNet(net)
    assert str(caught.value) == "none has no fully-connected layers, so no fc7; take `layer=pool5`"


def test_a_layer_that_a_named_net_does_not_have_is_refused_before_weights_are_looked_for(photos, tmp_path):
    with pytest.raises(UsageError, match=r"^net D \(VGG-16\) has no layer 'conv3_4'; it has conv1_1, "):
        vggfeat.extract(photos, net="D", weights="published", layer="conv3_4", output=tmp_path / "a.h5")


def test_a_net_without_fully_connected_layers_scores_no_classes(photos):
    net = glorot_(VGG("A", width=WIDTH, top=False))
    with pytest.raises(UsageError, match=r"^none has no fully-connected layers, so it scores no classes$"):
        vggfeat.evaluate(load_folder(photos.parent), net=net, scales=[224])


# Files

SEVERAL = ("conv3_1", "fc7", "pool5")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three layers of two nets in one file, and each in a file of its own."""
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(2)
    for i, size in enumerate([(60, 40), (40, 60), (50, 50), (60, 40)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    nets = [biased("A"), biased("B")]

    def made(layer, name, **options):
        options = {"scales": (224, 240), "aggregate": "stack", "keep_scales": True, **options}
        return vggfeat.read_descriptors(
            vggfeat.extract(folder, net=nets, layer=layer, output=folder / f"{name}.h5", **options)
        )

    return made(SEVERAL, "all"), {layer: made(layer, layer) for layer in SEVERAL}, made


def test_one_pass_gives_the_bits_of_a_pass_for_each_layer(several):
    whole, alone, _ = several
    assert whole.attributes["layer"] == "conv3_1+fc7+pool5"
    assert [layer.name for layer in whole.layers] == list(SEVERAL)
    for layer in SEVERAL:
        chosen = whole.choose(layer)
        assert np.array_equal(chosen.read(), alone[layer].read())
        assert np.array_equal(chosen.read([3, 0]), alone[layer].read([3, 0]))
        assert np.array_equal(np.concatenate(list(chosen.blocks(3))), alone[layer].read())
        assert (chosen.dim, chosen.attributes["layer_dims"]) == (
            alone[layer].dim,
            alone[layer].attributes["layer_dims"],
        )
        for ours, theirs in zip(chosen.read_parts(), alone[layer].read_parts(), strict=True):
            assert np.array_equal(ours, theirs)
        for scales in (None, (240,)):
            ours = chosen.aggregated("max", scales=scales)
            assert np.array_equal(ours, alone[layer].aggregated("max", scales=scales))
        assert chosen.attributes["settings"]["layer"] == layer


def test_each_layer_stands_in_the_file_under_its_name(several):
    whole, alone, _ = several
    with h5py.File(whole.path) as file:
        assert sorted(file["layers"]) == sorted(SEVERAL)
        for layer in SEVERAL:
            assert np.array_equal(file["layers"][layer][:], alone[layer].read())
            assert np.allclose(np.linalg.norm(file["layers"][layer][:], axis=1), 1)


def test_several_layers_are_stacked_each_at_unit_length(several):
    whole, alone, _ = several
    for layers in (SEVERAL, ("fc7", "conv3_1")):
        expected = np.concatenate([alone[layer].read() for layer in layers], axis=1) / np.sqrt(len(layers))
        got = whole.choose(layers)
        assert np.allclose(got.read(), expected, atol=1e-7) and got.dim == expected.shape[1]
        assert np.allclose(np.linalg.norm(got.read(), axis=1), 1, atol=1e-6)
        anew = np.concatenate([alone[layer].aggregated("average") for layer in layers], axis=1) / np.sqrt(len(layers))
        assert np.allclose(got.aggregated("average"), anew, atol=1e-7)
    assert np.array_equal(whole.read(), whole.choose(SEVERAL).read())


def test_a_layer_that_a_file_does_not_have_is_refused(several):
    whole, _, _ = several
    with pytest.raises(StoreError, match=r"all\.h5 has no layer fc6; it has conv3_1, fc7, pool5$"):
        whole.choose(("fc7", "fc6"))


def test_raw_values_are_neither_normalised_nor_divided(several):
    _, alone, made = several
    raw = made(("conv3_1", "pool5"), "raw", normalise="none", aggregate="average")
    parts = [alone[layer].read_parts() for layer in ("conv3_1", "pool5")]
    expected = np.concatenate([part.mean(axis=1) for layer in parts for part in layer], axis=1)
    assert np.allclose(raw.read(), expected, rtol=1e-6)
    assert np.array_equal(raw.aggregated("average"), raw.read())
    assert raw.attributes["settings"]["normalise"] == "none"


def test_shards_of_several_layers_merge_to_the_same_file(several, tmp_path):
    whole, _, _ = several
    folder = whole.path.parent
    listed = [str(folder / f"{i}.png") for i in range(4)] * 5
    dataset = tmp_path / "list"
    dataset.mkdir()
    for i, path in enumerate(listed):
        (dataset / f"{i:02}.png").symlink_to(path)
    options = {"net": biased("A"), "layer": ("pool1", "conv5_2"), "scales": (224,), "flip": False}
    vggfeat.extract(dataset, output=tmp_path / "whole.h5", **options)
    for shard in ("0/2", "1/2"):
        vggfeat.extract(dataset, output=tmp_path / "a.h5", shard=shard, **options)
    merge(sorted(tmp_path.glob("a.shard-*")), tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"layer": "conv5_1"}, 'layer "pool5" there, "conv5_1" here'),
        ({"layer": ("pool5", "fc7")}, 'layer "pool5" there, "pool5+fc7" here'),
        ({"pool": "max"}, 'pool null there, "max" here'),
        ({"view": "center"}, 'view null there, "center" here'),
        ({"normalise": "none"}, 'normalise null there, "none" here'),
    ],
)
def test_what_changes_a_value_changes_the_fingerprint(photos, tmp_path, changes, difference):
    options = {"net": biased("A"), "scales": (224,), "layer": "pool5", "output": tmp_path / "a.h5"}
    before = vggfeat.read_descriptors(vggfeat.extract(photos, **options))
    assert not {"pool", "view", "pre_relu", "normalise"} & set(before.attributes["settings"])
    with pytest.raises(StoreError) as caught:
        vggfeat.extract(photos, resume=True, **{**options, **changes})
    assert difference in str(caught.value)
    after = vggfeat.read_descriptors(vggfeat.extract(photos, overwrite=True, **{**options, **changes}))
    assert after.attributes["fingerprint"] != before.attributes["fingerprint"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "conv6_1"}, "no layer 'conv6_1'; did you mean 'conv5_1'? valid: conv1_1, "),
        ({"layer": ("fc7", "fc7")}, "layers fc7, fc7: one is named twice"),
        ({"layer": ()}, "no layer: name at least one, such as fc7"),
        ({"layer": "conv3_4"}, "net A (VGG-11) has no layer 'conv3_4'; it has conv1_1, pool1, "),
        ({"pool": "sum"}, "no pooling 'sum'; valid: avg, max, gem, none"),
        ({"pool": "none"}, "`pool=none` keeps the map of one 224x224 crop, whose length is fixed: it goes with `view"),
        ({"view": "crops"}, "no view 'crops'; valid: dense, center"),
        ({"normalise": "l1"}, "no normalisation 'l1'; valid: l2, none"),
        ({"pre_relu": True, "layer": ("fc7", "pool3")}, "pool3 has no ReLU, so no values before it: leave `pre_relu`"),
        ({"pre_relu": True, "pool": "gem"}, "`pool=gem` takes values that are not negative, which `pre_relu` does not"),
        ({"store": "float16", "normalise": "none"}, "`normalise=none` keeps raw values, which float16 may not hold"),
    ],
)
def test_settings_that_make_no_sense_are_refused(photos, tmp_path, settings, message):
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(photos, net=biased("A"), output=tmp_path / "a.h5", **settings)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fc7+pool5+x+y", "6 lengths for the layers fc7, pool5, x, y"),
        ("fc7+pool5+fc7", "6 lengths for the layers fc7, pool5, fc7"),
        ("fc7+pool5", "1217 values for the layers fc7+pool5"),
    ],
)
def test_a_damaged_list_of_layers_is_refused(several, tmp_path, name, message):
    whole, _, _ = several
    assert whole.dim == 2 * 2 * (16 + 256 + 32)
    with h5py.File(whole.path) as source, h5py.File(tmp_path / "bad.h5", "w") as file:
        for part in ("ids", "subset", "status", "errors", "class_names"):
            source.copy(part, file)
        file["descriptors"] = np.zeros((4, whole.dim + 1), dtype=np.float32)
        for key, value in source.attrs.items():
            file.attrs[key] = name if key == "layer" else value
    with pytest.raises(StoreError) as caught:
        vggfeat.read_descriptors(tmp_path / "bad.h5")
    assert str(caught.value) == f"{tmp_path / 'bad.h5'}: damaged descriptor file ({message})"


def test_a_layer_that_is_chosen_twice_is_refused_as_in_extract(several):
    whole, _, _ = several
    name = whole.layers[0].name
    with pytest.raises(UsageError) as caught:
        whole.choose([name, name])
    assert str(caught.value) == f"layers {name}, {name}: one is named twice"


def test_a_narrowed_file_says_that_it_was_narrowed(several, tmp_path):
    whole, _, _ = several
    first, other = (layer.name for layer in whole.layers[:2])
    with pytest.raises(StoreError) as caught:
        vggfeat.export(whole.choose(first), tmp_path / "x.npy", layer=other)
    assert str(caught.value) == (
        f"{whole.path} was opened and narrowed to {first}: choose {other} from the whole file, by its path"
    )


# The command line, pipelines, models

FLAGS = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224"]


def test_the_command_takes_layers_and_says_how_to_make_the_file_again(photos, tmp_path, capsys):
    flags = ["--layer", "conv4_1", "--layer", "pool5", "--pool", "max", "--view", "center", "--normalise", "none"]
    assert run(["extract", str(photos), *FLAGS, *flags, "-o", str(tmp_path / "a.h5")]) == 0
    capsys.readouterr()
    made = vggfeat.read_descriptors(tmp_path / "a.h5")
    assert made.dim == 32 + 32
    assert run(["info", str(tmp_path / "a.h5"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "--layer conv4_1 --layer pool5 --pool max --view center --normalise none" in told["command"]
    assert (told["layer"], told["pool"], told["view"], told["normalise"]) == ("conv4_1+pool5", "max", "center", "none")
    assert run(["extract", str(photos), *FLAGS, "--pre-relu", "--layer", "pool5", "-o", str(tmp_path / "b.h5")]) == 2
    assert "pool5 has no ReLU, so no values before it: leave --pre-relu out" in capsys.readouterr().err


def test_every_layer_of_the_command_is_one_of_some_net():
    assert set(LAYERS) == {name for spec in NETS.values() for name in spec.layer_names}
    assert LAYERS[:2] == ("conv1_1", "conv1_2") and LAYERS[-7:] == (
        "pool1",
        "pool2",
        "pool3",
        "pool4",
        "pool5",
        "fc6",
        "fc7",
    )


def test_a_pipeline_names_its_features(photos):
    paths = sorted(map(str, photos.iterdir()))
    features = vggfeat.VGGFeatures(biased("A"), scales=(224, 240), layer=("conv1_1", "pool5"), exif=False)
    plain = features.fit_transform(paths)
    names = features.get_feature_names_out()
    assert len(names) == plain.shape[1] == features.n_features_out_ == 2 * (4 + 32)
    assert [names[0], names[4], names[-1]] == ["conv1_1_224_0", "conv1_1_240_0", "pool5_240_31"]
    features = vggfeat.VGGFeatures(biased("A"), scales=(224, 240), aggregate="average", layer="fc6", exif=False)
    assert features.fit(paths).get_feature_names_out()[-1] == "fc6_255"


def test_a_pipeline_gives_tables(photos):
    pandas = pytest.importorskip("pandas")
    paths = sorted(map(str, photos.iterdir()))
    features = vggfeat.VGGFeatures(biased("A"), scales=(224,), layer=("conv1_1", "pool5"), exif=False)
    plain = features.fit_transform(paths)
    table = features.set_output(transform="pandas").fit_transform(paths)
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == list(features.get_feature_names_out())
    assert np.array_equal(table.to_numpy(), plain)


def test_a_pipeline_gives_the_files_values(photos, tmp_path):
    paths = sorted(map(str, photos.iterdir()))
    settings = {"scales": (224,), "layer": ("conv5_1", "fc7"), "pool": "max", "view": "center", "pre_relu": True}
    made = vggfeat.extract(photos, net=biased("A"), output=tmp_path / "a.h5", **settings)
    got = vggfeat.VGGFeatures(biased("A"), **settings).fit_transform(paths)
    assert np.array_equal(got, vggfeat.read_descriptors(made).read())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two classes that differ, described by two layers in one file."""
    folder = tmp_path_factory.mktemp("labelled")
    dataset = load_folder(dark_and_light(folder / "photos", 8))
    options = {"scales": (224,), "view": "center", "pool": "max", "flip": False, "exif": True}
    biased("A").save(folder / "net.pt")
    nets = {"net": None, "weights": folder / "net.pt", "precision": "fp32"}
    made = {
        name: vggfeat.extract(dataset, layer=layer, output=folder / f"{name}.h5", **nets, **options)
        for name, layer in (("both", ("conv2_1", "pool5")), ("conv2_1", "conv2_1"), ("pool5", "pool5"))
    }
    return folder, made


@pytest.mark.parametrize("layers", [("conv2_1",), ("pool5",), ("pool5", "conv2_1")])
def test_a_model_of_chosen_layers_is_that_of_their_own_files_and_describes_alike(labelled, tmp_path, layers):
    folder, made = labelled
    settings = {"rounds": Rounds(number=1, seed=0, test_fraction=0.25), "dataset": "folder"}
    ours = svm([made["both"]], layer=layers, output=tmp_path / "ours.h5", **settings)
    theirs = svm([made[layer] for layer in layers], output=tmp_path / "theirs.h5", **settings)
    assert ours["mean"] == theirs["mean"]
    models = [read_model(tmp_path / f"{name}.h5") for name in ("ours", "theirs")]
    assert np.allclose(models[0].coef, models[1].coef, rtol=1e-4, atol=1e-5)
    (recorded,) = models[0].inputs
    assert (recorded["layer"], recorded["pool"], recorded["view"]) == ("+".join(layers), "max", "center")
    images = load_folder(folder / "photos")
    found = list(predict(tmp_path / "ours.h5", images, weights=[str(folder / "net.pt")]))
    held = vggfeat.read_descriptors(made["both"]).choose(layers).read()
    expected = models[0].scores(held)
    assert np.allclose([prediction.scores for prediction, _ in found], expected, atol=1e-5)


def test_the_commands_choose_layers_too(labelled, tmp_path, capsys):
    _, made = labelled
    assert run(["export", str(made["both"]), "--layer", "pool5", "-o", str(tmp_path / "x.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), vggfeat.read_descriptors(made["pool5"]).read())
    flags = ["--layer", "pool5", "--layer", "conv2_1", "--num-splits", "1"]
    capsys.readouterr()
    assert run(["svm", str(made["both"]), *flags, "-o", str(tmp_path / "m.h5"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["descriptors"][0]["layer"] == "pool5+conv2_1"
    assert "--layer pool5 --layer conv2_1" in str(read_model(tmp_path / "m.h5").record)
    assert run(["svm", str(made["both"]), "--layer", "fc7"]) == 1
    assert f"{made['both']} has no layer fc7; it has conv2_1, pool5" in capsys.readouterr().err


# Tracing


class Described(nn.Module):
    """A net's dense form, as an exporter sees it."""

    def __init__(self, net: VGG) -> None:
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net.dense(images)


@pytest.mark.parametrize("name", NETS)
def test_torchvisions_extractor_fx_and_export_take_our_nets(name):
    net = biased(name, num_classes=5)
    crops = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = net(crops)
        pooled = net.features(crops)
        traced = torch.fx.symbolic_trace(net)
        assert torch.equal(traced(crops), expected)
        last = f"features.{len(net.features) - 1}"
        found = create_feature_extractor(net, {last: "pool5", "classifier.6": "scores"})(crops)
        assert torch.equal(found["pool5"], pooled) and torch.equal(found["scores"], expected)
    with torch.no_grad():
        program = torch.export.export(net, (crops,))
        assert torch.allclose(program.module()(crops), expected, rtol=1e-4, atol=1e-5)
        dense = torch.export.export(Described(net), (torch.randn(1, 3, 256, 320),))
        image = torch.randn(1, 3, 256, 320)
        assert torch.allclose(dense.module()(image), net.dense(image), rtol=1e-4, atol=1e-5)


def test_crops_of_another_size_are_still_refused():
    with pytest.raises(ValueError, match=r"^the classifier form takes 224x224 crops, not \(225, 224\)$"):
        biased("A")(torch.randn(1, 3, 225, 224))
