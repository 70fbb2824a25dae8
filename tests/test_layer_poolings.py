"""Several poolings of one layer's map in one pass: `--layer pool5 --layer pool5:max`."""

import json

import numpy as np
import pytest
from making import dark_and_light

import vggfeat
from vggfeat.classifiers.model_file import read_model
from vggfeat.cli import run
from vggfeat.datasets.folder import load_folder
from vggfeat.errors import UsageError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.predict import predict

PARTS = {
    "pool5": ("pool5", "avg"),
    "pool5:max": ("pool5", "max"),
    "pool5:gem": ("pool5", "gem"),
    "conv3_1:max": ("conv3_1", "max"),
    "fc7:max": ("fc7", "max"),
    "fc7": ("fc7", "avg"),
}
SETTINGS = {"scales": (224, 240), "keep_scales": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two classes, a net, and a file with every part."""
    folder = tmp_path_factory.mktemp("poolings")
    dark_and_light(folder / "photos", 6)
    glorot_(VGG("A", width=1 / 16), seed=3).save(folder / "net.pt")
    return folder, extracted(folder, tuple(PARTS), "all")


def extracted(folder, layer, name, **settings):
    options = {"net": None, "weights": folder / "net.pt", "precision": "fp32", **SETTINGS, **settings}
    return vggfeat.extract(load_folder(folder / "photos"), layer=layer, output=folder / f"{name}.h5", **options)


@pytest.mark.parametrize("part", PARTS)
def test_one_pass_gives_the_bits_of_a_pass_with_that_pooling(made, part):
    folder, all_of_them = made
    layer, pool = PARTS[part]
    alone = vggfeat.read_descriptors(extracted(folder, layer, f"{layer}_{pool}", pool=pool))
    chosen = vggfeat.read_descriptors(all_of_them).choose(part)
    assert np.array_equal(chosen.read(), alone.read())
    assert np.array_equal(chosen.aggregated("max", scales=(240,)), alone.aggregated("max", scales=(240,)))


def test_the_pooling_of_a_layer_wins_over_the_pooling_of_all(made):
    folder, all_of_them = made
    mixed = vggfeat.read_descriptors(extracted(folder, ("pool5", "pool5:gem"), "mixed", pool="max"))
    whole = vggfeat.read_descriptors(all_of_them)
    assert np.array_equal(mixed.choose("pool5").read(), whole.choose("pool5:max").read())
    assert np.array_equal(mixed.choose("pool5:gem").read(), whole.choose("pool5:gem").read())


def test_the_commands_take_poolings_and_a_model_repeats_them(made, tmp_path):
    folder, _ = made
    flags = ["--weights", str(folder / "net.pt"), "--precision", "fp32", "--scales", "224"]
    flags += ["--layer", "pool5", "--layer", "pool5:max", "--layer", "pool4:gem"]
    assert run(["extract", str(folder / "photos"), *flags, "-o", str(tmp_path / "a.h5")]) == 0
    chosen = ["--layer", "pool5:max", "--layer", "pool5"]
    assert (
        run(["svm", str(tmp_path / "a.h5"), *chosen, "--num-splits", "1", "-o", str(tmp_path / "m.h5"), "--quiet"]) == 0
    )
    model = read_model(tmp_path / "m.h5")
    assert [one["layer"] for one in model.inputs] == ["pool5:max+pool5"]
    found = list(predict(tmp_path / "m.h5", load_folder(folder / "photos"), weights=[str(folder / "net.pt")]))
    held = vggfeat.read_descriptors(tmp_path / "a.h5").choose(("pool5:max", "pool5")).read()
    assert np.allclose([one.scores for one, _ in found], model.scores(held), atol=1e-5)


def test_info_gives_the_command_with_the_poolings(made, capsys):
    _, all_of_them = made
    assert run(["info", str(all_of_them), "--json"]) == 0
    assert "--layer pool5 --layer pool5:max --layer pool5:gem " in json.loads(capsys.readouterr().out)["command"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "pool5:sum"}, "no pooling 'sum'; valid: avg, max, gem, none"),
        ({"layer": "pool5:"}, "no pooling ''; valid: avg, max, gem, none"),
        ({"layer": "pool9:max"}, "no layer 'pool9'; did you mean 'pool5'? valid: conv1_1, "),
        ({"layer": ("pool5:max", "pool5:max")}, "layers pool5:max, pool5:max: one is named twice"),
        ({"layer": ("fc7", "pool5:none")}, "`pool=none` keeps the map of one 224x224 crop, whose length is fixed"),
        ({"layer": "fc7:gem", "pre_relu": True}, "`pool=gem` takes values that are not negative, which `pre_relu`"),
        ({"layer": "pool5:max", "pre_relu": True}, "pool5:max has no ReLU, so no values before it: leave `pre_relu`"),
        ({"layer": "conv3_4:max"}, "net A (VGG-11) has no layer 'conv3_4'; it has conv1_1, pool1, "),
    ],
)
def test_poolings_that_make_no_sense_are_refused(made, tmp_path, settings, message):
    folder, _ = made
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(folder / "photos", net="A", weights="none", output=tmp_path / "a.h5", **settings)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "a.h5").exists()


def test_the_command_refuses_an_unknown_pooling(made, tmp_path, capsys):
    folder, _ = made
    assert run(["extract", str(folder / "photos"), "--layer", "pool5:mx", "-o", str(tmp_path / "a.h5")]) == 2
    assert "no pooling 'mx'; did you mean 'max'? valid: avg, max, gem, none" in capsys.readouterr().err
