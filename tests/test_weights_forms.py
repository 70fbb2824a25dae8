"""Every form in which VGG weights go around, made by an independent writer: the same tensors, the right preprocessing."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
import torchvision
from caffe_writer import caffemodel
from onnx import helper, numpy_helper
from torch import Tensor
from weights_forms import (
    MEAN_RGB,
    WIDTH,
    WRITERS,
    State,
    bare_trunk,
    keras_archive,
    keras_model,
    keras_weights,
    matconvnet,
    mcn,
    npy,
    onnx_keras,
    onnx_zoo,
    pairs,
    random_state,
    safetensors_file,
    timm_names,
    torch_file,
    without_top,
)

from vggfeat.cli import run
from vggfeat.cli.advice import told
from vggfeat.errors import UsageError, WeightsError
from vggfeat.nets.known import OXFORD_D, OXFORD_D_BIAS
from vggfeat.nets.networks import VGG
from vggfeat.nets.preprocessing import (
    NAMED,
    OXFORD,
    OXFORD_RGB,
    PLACES205,
    TORCHVISION,
    VGG_FACE,
    VGG_FACE_RGB,
    Preprocessing,
    preprocessing_of,
)
from vggfeat.nets.weights import load_net, load_nets
from vggfeat.page.commands import making_command
from vggfeat.stages.info import info
from vggfeat.store import read_descriptors

STATE = random_state()


def load(path: Path, **options: Any) -> VGG:
    return load_net(None, path, device="cpu", **options)


def assert_same(net: VGG, state: State) -> None:
    mine = net.state_dict()
    assert list(mine) == list(state)
    for name, value in state.items():
        assert torch.equal(mine[name], value), name


def with_first(state: State, corner: Any, bias: float) -> dict[str, Tensor]:
    """The tensors with other values in the first filter's top left corner and the first bias."""
    first, biases = state["features.0.weight"].clone(), state["features.0.bias"].clone()
    first[0, :, 0, 0], biases[0] = torch.tensor(corner), bias
    return {**state, "features.0.weight": first, "features.0.bias": biases}


# --- what each form holds ---

BY_LAYOUT: dict[str, Preprocessing] = {
    "torch": TORCHVISION,
    "safetensors": TORCHVISION,
    "timm safetensors": TORCHVISION,
    "timm bin": TORCHVISION,
    "jcjohnson": OXFORD,
    "keras legacy": OXFORD,
    "keras weights": OXFORD,
    "keras archive": OXFORD,
    "onnx zoo": TORCHVISION,
    "matconvnet": OXFORD_RGB,
    "matconvnet old": OXFORD_RGB,
    "matconvnet 7.3": OXFORD_RGB,
}
"""The others do not tell."""


@pytest.mark.parametrize("form", WRITERS)
def test_a_form_gives_torchvisions_tensors_and_the_preprocessing_that_it_tells(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, "D", STATE)
    if form in BY_LAYOUT:
        loaded = load(path)
        assert loaded.preprocessing == BY_LAYOUT[form]
    else:
        with pytest.raises(WeightsError, match="neither its layout nor its values tell which input it expects; say it"):
            load(path)
        loaded = load(path, preprocessing="torchvision")
        assert loaded.preprocessing == TORCHVISION
    assert (loaded.net, loaded.width, loaded.num_classes, loaded.weights_name) == ("D", WIDTH, 1000, path.name)
    assert_same(loaded, STATE)


@pytest.mark.parametrize("form", [form for form in WRITERS if form not in ("jcjohnson", "mcn")])
def test_a_form_without_fully_connected_layers_gives_a_net_without_them(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, "D", without_top(STATE))
    loaded = load(path, preprocessing="oxford")
    assert (loaded.net, loaded.width, loaded.has_top, loaded.num_classes) == ("D", WIDTH, False, 0)
    assert_same(loaded, without_top(STATE))


@pytest.mark.parametrize("net", ["A", "B", "E"])
@pytest.mark.parametrize("form", ["timm safetensors", "keras weights", "onnx keras", "matconvnet", "npz", "npy"])
def test_the_other_nets_are_told_by_their_shapes(form: str, net: str, tmp_path: Path) -> None:
    state = random_state(net, width=1 / 32, seed=1)
    loaded = load(WRITERS[form](tmp_path, net, state), preprocessing="oxford")
    assert (loaded.net, loaded.width) == (net, 1 / 32)
    assert_same(loaded, state)


def test_a_bare_trunk_is_read(tmp_path: Path) -> None:
    path = bare_trunk(tmp_path, "D", without_top(STATE))
    assert_same(load(path, preprocessing="oxford"), without_top(STATE))


WRAPPINGS: dict[str, Callable[[State], dict[str, Any]]] = {
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "model.": lambda state: {f"model.{name}": value for name, value in state.items()},
    "net.": lambda state: {f"net.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    "state_dict": lambda state: {"state_dict": dict(state), "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": dict(state), "optimizer_state_dict": {"state": {}}},
    "lightning": lambda state: {
        "pytorch-lightning_version": "2.1",
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "hparams_name": "kwargs",
    },
    "twice": lambda state: {"checkpoint": 1, "model": {"state_dict": dict(state)}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("names", [dict, timm_names, without_top])
def test_wrappers_and_prefixes_are_taken_off(
    names: Callable[[State], dict[str, Tensor]], wrapping: str, tmp_path: Path
) -> None:
    torch.save(WRAPPINGS[wrapping](names(STATE)), tmp_path / "net.ckpt.pth")
    loaded = load(tmp_path / "net.ckpt.pth", preprocessing="torchvision")
    assert_same(loaded, without_top(STATE) if names is without_top else STATE)


def test_a_prefix_that_not_all_names_share_is_a_foreign_tensor(tmp_path: Path) -> None:
    torch.save({**STATE, "criterion.weight": torch.ones(3)}, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"'criterion\.weight' is not a parameter of torchvision's or timm's VGG nets$"
    ):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("prefix", ["model.", "net.backbone."])
def test_beside_prefixed_names_the_odd_one_is_told(prefix: str, tmp_path: Path) -> None:
    state = {**{prefix + name: value for name, value in STATE.items()}, "loss.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "net.ckpt")
    with pytest.raises(WeightsError, match=r"'loss\.weight' is not a parameter of torchvision's or timm's VGG nets$"):
        load(tmp_path / "net.ckpt")


def test_two_nets_in_one_state_dict_are_refused(tmp_path: Path) -> None:
    torch.save({**STATE, **{f"ema.{name}": value for name, value in STATE.items()}}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"'ema\.features\.0\.weight' is not a parameter of torchvision's or timm's"):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_of_other_precisions_are_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in STATE.items()}
    assert_same(load(safetensors_file(tmp_path, "D", state)), {name: value.float() for name, value in state.items()})


@pytest.mark.parametrize("write", [keras_weights, keras_archive])
def test_keras_own_head_is_left_out_with_a_word(write: Any, tmp_path: Path, caplog: Any) -> None:
    model = keras_model("D", STATE, head=(256, 10))
    path = tmp_path / ("net.weights.h5" if write is keras_weights else "net.keras")
    (model.save_weights if write is keras_weights else model.save)(path)
    assert_same(load(path, preprocessing="oxford"), without_top(STATE))
    assert (
        caplog.messages[0] == f"{path}: its fully-connected layers are not those of a net of Table 1 and are left out"
    )


def test_keras_nested_model_with_a_head_is_read(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((224, 224, 3)), keras_model("D", STATE, top=False), keras.layers.Flatten()])
    model.add(keras.layers.Dense(5))
    model.save(tmp_path / "net.keras")
    assert_same(load(tmp_path / "net.keras", preprocessing="oxford"), without_top(STATE))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_dictionaries_of_every_protocol_are_read_without_running_anything(
    protocol: int, tmp_path: Path
) -> None:
    path = npy(tmp_path, "D", STATE)
    content = np.load(path, allow_pickle=True)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(content, stream, protocol=protocol)
    assert_same(load(path, preprocessing="oxford"), STATE)


# --- whose weights, and which input ---


@pytest.mark.parametrize("form", sorted({*WRITERS} - {"matconvnet", "matconvnet old", "matconvnet 7.3"}))
@pytest.mark.parametrize(
    ("corner", "preprocessing", "title"),
    [(OXFORD_D, OXFORD, "oxford's net D"), (OXFORD_D[::-1], OXFORD_RGB, "oxford's net D, turned to RGB")],
)
def test_oxfords_net_d_is_recognised_by_value_in_any_form(
    form: str, corner: Any, preprocessing: Preprocessing, title: str, tmp_path: Path
) -> None:
    loaded = load(WRITERS[form](tmp_path, "D", with_first(STATE, corner, OXFORD_D_BIAS)))
    assert loaded.preprocessing == preprocessing
    assert loaded.origin is not None
    assert (loaded.origin.title, loaded.origin.license) == (title, "CC BY 4.0 (Oxford VGG)")


def test_values_are_recognised_in_half_precision_and_others_are_not(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in with_first(STATE, OXFORD_D, OXFORD_D_BIAS).items()}
    assert load(torch_file(tmp_path, "D", state)).preprocessing == OXFORD
    for corner, bias in ((OXFORD_D, 0.7), ((0.42, 0.55, 0.48), OXFORD_D_BIAS)):
        loaded = load(torch_file(tmp_path, "D", with_first(STATE, corner, bias)))
        assert (loaded.preprocessing, loaded.origin) == (TORCHVISION, None)


def caffe(folder: Path, net: str, state: State) -> Path:
    (folder / "net.caffemodel").write_bytes(caffemodel(net, pairs(state)))
    return folder / "net.caffemodel"


@pytest.mark.parametrize(
    ("write", "classes", "preprocessing"),
    [
        (caffe, 1000, OXFORD),
        (caffe, 2622, VGG_FACE),
        (caffe, 205, PLACES205),
        (caffe, 365, None),
        (caffe, 1365, None),
        (caffe, 20, None),
        (WRITERS["keras weights"], 2622, VGG_FACE),
        (WRITERS["keras legacy"], 365, None),
        (WRITERS["keras legacy"], 10, None),
        (mcn, 2622, VGG_FACE_RGB),
        (mcn, 1000, None),
        (torch_file, 10, TORCHVISION),
        (torch_file, 365, None),
        (torch_file, 2622, None),
        (WRITERS["timm bin"], 10, TORCHVISION),
        (WRITERS["jcjohnson"], 20, OXFORD),
        (onnx_zoo, 1365, None),
    ],
)
def test_the_number_of_outputs_tells_other_training_sets(
    write: Any, classes: int, preprocessing: Preprocessing | None, tmp_path: Path
) -> None:
    path = write(tmp_path, "D", random_state(width=1 / 64, classes=classes))
    if preprocessing is not None:
        assert load(path).preprocessing == preprocessing
        return
    with pytest.raises(WeightsError, match="neither its layout nor its values tell which input it expects") as caught:
        load(path)
    assert ("mean image (places365CNN_mean.binaryproto)" in str(caught.value)) == (classes in (365, 1365))


@pytest.mark.parametrize("write", [keras_weights, keras_archive])
def test_keras_3_without_a_head_of_table_1_does_not_tell_its_preprocessing(write: Any, tmp_path: Path) -> None:
    """A user's own net has the names of keras.applications' there; in the legacy layout it has not."""
    path = write(tmp_path, "D", without_top(STATE))
    with pytest.raises(WeightsError, match="neither its layout nor its values tell which input it expects; say it"):
        load(path)
    assert load(WRITERS["keras legacy"](tmp_path, "D", without_top(STATE))).preprocessing == OXFORD
    model = keras_model("D", STATE, head=(256, 10))
    (model.save_weights if write is keras_weights else model.save)(path)
    with pytest.raises(WeightsError, match="neither its layout nor its values tell which input it expects; say it"):
        load(path)


def test_the_error_lists_the_choices_in_one_line_and_names_the_flag_in_a_shell(tmp_path: Path) -> None:
    path = bare_trunk(tmp_path, "D", without_top(STATE))
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: neither its layout nor its values tell which input it expects; say it with `preprocessing`: "
        "oxford (BGR less 103.939 116.779 123.68), oxford-rgb (RGB less 123.68 116.779 103.939), "
        "torchvision (RGB/255 less 0.485 0.456 0.406, over 0.229 0.224 0.225), "
        "torchvision-features (RGB/255 less 0.48235 0.45882 0.40784, over 1/255), "
        "vgg-face (BGR less 93.594 104.762 129.186), vgg-face-rgb (RGB less 129.186 104.762 93.594), "
        "places205 (BGR less 105.488 113.741 116.06), or a TOML file with channels, scale, mean, std and filter"
    )
    assert "say it with --preprocessing: oxford (BGR" in told(caught.value)


def test_preprocessing_comes_from_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'channels = "BGR"\nscale = 1\nmean = [91.5, 103.9, 131.1]\nstd = [1, 1, 1]\nfilter = "bilinear"\n'
    )
    loaded = load(bare_trunk(tmp_path, "D", without_top(STATE)), preprocessing=tmp_path / "mine.toml")
    assert loaded.preprocessing == Preprocessing("BGR", 1.0, (91.5, 103.9, 131.1), (1.0, 1.0, 1.0), "bilinear")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "channels = 'RGB'",
        "not toml",
        'channels = "RBG"\nscale = 1\nmean = [1, 2, 3]\nstd = [1, 1, 1]\nfilter = "bilinear"',
        'channels = "RGB"\nscale = 1\nmean = [1, 2]\nstd = [1, 1, 1]\nfilter = "bilinear"',
        'channels = "RGB"\nscale = 1\nmean = [1, 2, 3]\nstd = [1, 0, 1]\nfilter = "bilinear"',
        'channels = "RGB"\nscale = nan\nmean = [1, 2, 3]\nstd = [1, 1, 1]\nfilter = "bilinear"',
        'channels = "RGB"\nscale = 1\nmean = [1, 2, 3]\nstd = [1, 1, 1]\nfilter = "bilinear"\nmore = 1',
    ],
)
def test_a_toml_file_without_exactly_the_fields_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=r"mine\.toml: not a preprocessing .* becomes \(v \* scale - mean\) / std$"):
        preprocessing_of(tmp_path / "mine.toml")


def test_an_unknown_preprocessing_lists_the_names() -> None:
    with pytest.raises(UsageError) as caught:
        preprocessing_of("oxfrod")
    assert str(caught.value) == (
        f"no preprocessing 'oxfrod': no such file, and not one of {', '.join(NAMED)}; did you mean 'oxford'?"
    )


def test_a_choice_against_the_files_own_word_wins_and_is_said(tmp_path: Path, caplog: Any) -> None:
    path = torch_file(tmp_path, "D", with_first(STATE, OXFORD_D, OXFORD_D_BIAS))
    assert load(path, preprocessing="oxford").preprocessing == OXFORD
    assert caplog.messages == []
    assert load(path, preprocessing="torchvision").preprocessing == TORCHVISION
    assert caplog.messages == [
        f"{path}: RGB/255 less 0.485 0.456 0.406, over 0.229 0.224 0.225 is taken; its own preprocessing is "
        "BGR less 103.939 116.779 123.68"
    ]


def test_info_says_what_a_weights_file_of_any_form_is(tmp_path: Path) -> None:
    for form in ("safetensors", "keras weights", "onnx zoo", "matconvnet 7.3", "npy"):
        path = WRITERS[form](tmp_path, "D", with_first(without_top(STATE), OXFORD_D, OXFORD_D_BIAS))
        found = info(path).as_json()
        assert (found["kind"], found["net"], found["width"], found["num_classes"]) == ("weights", "D", WIDTH, 0)
        assert (found["source"], found["license"]) == ("oxford's net D", "CC BY 4.0 (Oxford VGG)")
        assert found["layers"][-1] == "pool5"
    path = WRITERS["npz"](tmp_path, "D", STATE)
    found = info(path).as_json()
    assert (found["kind"], found["preprocessing"], found["num_classes"]) == ("weights", None, 1000)
    assert info(load(path, preprocessing="oxford").save(tmp_path / "own.pt"))["kind"] == "checkpoint"


def test_one_preprocessing_serves_all_nets_or_each_has_its_own(tmp_path: Path) -> None:
    path = bare_trunk(tmp_path, "D", without_top(STATE))
    options: dict[str, Any] = {"device": "cpu"}
    one = load_nets(None, [path, path], preprocessing=("oxford",), **options)
    assert [net.preprocessing for net in one] == [OXFORD, OXFORD]
    each = load_nets(None, [path, path], preprocessing=("oxford", "torchvision"), **options)
    assert [net.preprocessing for net in each] == [OXFORD, TORCHVISION]
    with pytest.raises(UsageError, match=r"^2 nets and 3 times `preprocessing`: give one for all nets, or one each$"):
        load_nets(None, [path, path], preprocessing=("oxford",) * 3, **options)


@pytest.mark.parametrize(
    ("mean", "preprocessing"),
    [
        (MEAN_RGB, OXFORD_RGB),
        ((129.1863, 104.7624, 93.594), VGG_FACE_RGB),
        (None, None),
        (np.random.default_rng(0).uniform(90, 130, (1, 1, 3)).repeat(4, 1) + np.arange(4)[:, None], None),
    ],
)
def test_matconvnets_mean_colour_is_taken_and_a_mean_image_is_not(
    mean: Any, preprocessing: Preprocessing | None, tmp_path: Path
) -> None:
    if isinstance(mean, np.ndarray):
        from scipy.io import loadmat, savemat

        path = matconvnet(tmp_path, "D", STATE, mean=None)
        savemat(path, {"layers": loadmat(path)["layers"], "meta": {"normalization": {"averageImage": mean}}})
    else:
        path = matconvnet(tmp_path, "D", STATE, mean=mean)
    if preprocessing is None:
        with pytest.raises(WeightsError, match="neither its layout nor its values tell"):
            load(path)
    else:
        found = load(path).preprocessing
        assert found.channels == preprocessing.channels
        assert found.mean == pytest.approx(preprocessing.mean, abs=1e-4)


def test_the_command_takes_preprocessing_and_records_it(tmp_path: Path, photos: Path, capsys: Any) -> None:
    path = bare_trunk(tmp_path, "D", without_top(STATE))
    words = ["extract", str(photos), "--weights", str(path), "--layer", "pool5", "--scales", "256", "--quiet"]
    assert run([*words, "-o", str(tmp_path / "a.h5")]) == 1
    assert "say it with --preprocessing: oxford (BGR" in capsys.readouterr().err
    assert run([*words, "-o", str(tmp_path / "a.h5"), "--preprocessing", "oxford"]) == 0
    made = read_descriptors(tmp_path / "a.h5")
    assert made.attributes["settings"]["nets"][0]["preprocessing"]["mean"] == [103.939, 116.779, 123.68]
    assert "--preprocessing oxford" in making_command(made)


# --- before anything is fetched ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, "`weights=oxford`: published weights have width 1, not 0.5; take `weights=none`"),
        ({"num_classes": 20}, "`weights=oxford`: published weights score 1000 classes, not 20"),
        ({"preprocessing": "torchvision"}, "`weights=oxford`: oxford's weights of net D have their own preprocessing"),
        ({"layers": ["conv5_4"]}, "net D (VGG-16) has no layer 'conv5_4'; it has conv1_1, "),
        ({"layers": ["fc9"]}, "net D (VGG-16) has no layer 'fc9'; it has conv1_1, "),
    ],
)
def test_what_published_weights_cannot_have_is_refused_before_they_are_fetched(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGGFEAT_CACHE", str(tmp_path))  # empty: fetching would be a DownloadError
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        load_net("vgg16", "oxford", **options)


def test_a_layer_that_a_file_lacks_is_refused(tmp_path: Path) -> None:
    path = bare_trunk(tmp_path, "D", without_top(STATE))
    assert load(path, preprocessing="oxford", layers=["conv5_3", "pool5"]).net == "D"
    with pytest.raises(UsageError, match="has no fully-connected layers, so no fc7; take `layer=pool5`$"):
        load(path, preprocessing="oxford", layers=["fc7"])
    with pytest.raises(UsageError, match=r"^net D \(VGG-16\) has no layer 'conv5_4'"):
        load(path, preprocessing="oxford", layers=["conv5_4"])


# --- damage, lies and foreign content ---


@pytest.mark.parametrize("form", WRITERS)
def test_a_cut_file_ends_in_one_line(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, "D", random_state(width=1 / 64, classes=3))
    content = path.read_bytes()
    for tenth in range(1, 10):
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(WeightsError) as caught:
            load(path, preprocessing="oxford")
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


SPOILT: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "nan": (lambda s: s["features.5.weight"].view(-1)[3:4].fill_(torch.nan), "has values that are NaN or infinite$"),
    "inf": (lambda s: s["classifier.6.bias"][1:2].fill_(-torch.inf), "has values that are NaN or infinite$"),
    "missing layer": (
        lambda s: (s.pop("features.28.weight"), s.pop("features.28.bias")),
        "have the shapes of no net of Table 1, at no width factor$",
    ),
    "wrong shape": (
        lambda s: s.update({"features.2.weight": torch.ones(4, 5, 3, 3)}),
        "have the shapes of no net of Table 1, at no width factor$",
    ),
    "wrong bias": (lambda s: s.update({"features.2.bias": torch.ones(5)}), r"has 4 outputs and 5 biases$"),
}


@pytest.mark.parametrize("fault", SPOILT)
@pytest.mark.parametrize("form", ["torch", "safetensors", "timm bin", "onnx zoo", "mcn"])
def test_spoilt_tensors_are_named_for_what_they_are(form: str, fault: str, tmp_path: Path) -> None:
    spoil, message = SPOILT[fault]
    state = {name: value.clone() for name, value in STATE.items()}
    spoil(state)
    if fault == "missing layer" and form in ("onnx zoo", "mcn"):
        pytest.skip("these writers number the layers anew")
    path = WRITERS[form](tmp_path, "D", state)
    with pytest.raises(WeightsError, match=message):
        load(path, preprocessing="oxford")


def test_safetensors_headers_that_lie_are_refused(tmp_path: Path) -> None:
    sound = safetensors_file(tmp_path, "D", random_state(width=1 / 64, classes=3)).read_bytes()
    length = int.from_bytes(sound[:8], "little")
    header = sound[8 : 8 + length].rstrip()
    path = tmp_path / "lie.safetensors"
    for changed, reason in (
        (header.replace(b'"F32"', b'"I32"'), "holds I32, no floating-point numbers"),
        (header.replace(b"[1,3,3,3]", b"[9,9,9,9]"), r"of shape \(9, 9, 9, 9\) lies at bytes"),
        (header.replace(b"[1,3,3,3]", b"[1,3,3,-3]"), "has sizes that are not natural numbers"),
        (header[:-5], "no readable safetensors file"),
        (b"[" * 100_000, "no readable safetensors file"),
        (b"{}", "at no width factor|of no net"),
    ):
        path.write_bytes(len(changed).to_bytes(8, "little") + (b"{" + changed[1:]) + sound[8 + length :])
        with pytest.raises(WeightsError, match=reason):
            load(path)


class _Runs:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.proof),)


def test_a_dictionary_with_code_is_never_run(tmp_path: Path) -> None:
    content = np.array({"conv1_1": [_Runs(tmp_path / "proof"), 1]}, dtype=object)
    np.save(tmp_path / "net.npy", content, allow_pickle=True)
    np.savez(tmp_path / "net.npz", conv1_1_W=content)
    with pytest.raises(WeightsError, match=r"not read, because its pickle asks for posix\.mkdir and so could run code"):
        load(tmp_path / "net.npy")
    with pytest.raises(WeightsError, match="an array of Python objects"):
        load(tmp_path / "net.npz")
    assert not (tmp_path / "proof").exists()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "stream",
    [
        opcodes(b"cnumpy\ndtype\n", b"}(X\x04\x00\x00\x00name", b"K\x01", b"u", b"b"),  # changes a function
        opcodes(b"cnumpy\nndarray\n", b"(", b"K\x01", b"t", b"\x81"),  # makes an object of it
        opcodes(b"cbuiltins\neval\n", b"(X\x01\x00\x00\x001", b"t", b"R"),
        opcodes(b"cnumpy.core.multiarray\nscalar\n", b")", b"R"),
        opcodes(b"X\x01\x00\x00\x00x", b"Q"),  # a persistent id
        opcodes(b"c_codecs\nencode\n", b"(X\x01\x00\x00\x00xX\x03\x00\x00\x00hex", b"t", b"R"),
        opcodes(b"\x82\x01"),  # copyreg's extension registry
    ],
)
def test_pickles_made_to_escape_are_refused(stream: bytes, tmp_path: Path) -> None:
    with (tmp_path / "net.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(stream)
    with pytest.raises(WeightsError, match=r"net\.npy: (not read, because its pickle|no readable \.npy file|holds a)"):
        load(tmp_path / "net.npy")


def test_an_npz_that_swells_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "net.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1_1_W.npy", b"\0" * (1 << 22))
    content = (tmp_path / "net.npz").read_bytes()
    claim = (1 << 22).to_bytes(4, "little")
    assert content.count(claim) == 2
    (tmp_path / "net.npz").write_bytes(content.replace(claim, (1 << 31).to_bytes(4, "little")))
    with pytest.raises(WeightsError, match=r"conv1_1_W\.npy claims 2147483648 bytes, more than it can have"):
        load(tmp_path / "net.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(3)}, r"'x' is not a layer of a VGG net \(conv1_1_W, .., fc8_b\)$"),
        ({"conv1_1_W": np.ones((3, 3, 3, 4))}, "conv1_1 has a weight alone; every layer has two arrays$"),
        ({"conv1_1_W": np.ones((3, 3, 3, 4), int), "conv1_1_b": np.ones(4)}, "holds int64, no floating-point numbers$"),
    ],
)
def test_other_arrays_than_a_nets_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **arrays)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "net.npz")


def changed_onnx(path: Path, change: Callable[[Any], Any]) -> Path:
    model = onnx.load(path)
    change(model.graph)
    onnx.save_model(model, path)
    return path


def insert(graph: Any, before: str, kind: str, *more: str, **settings: Any) -> None:
    """Puts an operator in front of the first one of a kind."""
    place = next(i for i, node in enumerate(graph.node) if node.op_type == before)
    below = graph.node[place].input[0]
    graph.node.insert(place, helper.make_node(kind, [below, *more], ["inserted"], **settings))
    graph.node[place + 1].input[0] = "inserted"


def external(graph: Any) -> None:
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def scaled(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32([1 / 255]), "scale"))
    insert(graph, "Conv", "Mul", "scale")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, r"its convolutional part has an operator Mul \('inserted'\), which no net of Table 1 has$"),
        (
            lambda graph: insert(graph, "MaxPool", "AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
            r"its convolutional part has an operator AveragePool \('inserted'\), which no net of Table 1 has$",
        ),
        (
            lambda graph: graph.node[0].attribute.append(helper.make_attribute("group", 3)),
            "Conv .* that is not a convolution of stride 1 with stored weights$",
        ),
        (external, "'vgg0_conv0_weight' has its values in another file: join them with onnx.save_model"),
    ],
)
def test_onnx_graphs_that_compute_something_else_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = onnx_zoo(tmp_path, "D", STATE)
    if change is not scaled and change is not external:
        onnx_model = onnx.load(path)
        for attribute in list(onnx_model.graph.node[0].attribute):
            if attribute.name == "group":
                onnx_model.graph.node[0].attribute.remove(attribute)
        onnx.save_model(onnx_model, path)
    with pytest.raises(WeightsError, match=message):
        load(changed_onnx(path, change))


def first(graph: Any, kind: str) -> Any:
    return next(node for node in graph.node if node.op_type == kind)


def setting(kind: str, **settings: Any) -> Callable[[Any], None]:
    """Gives the first operator of a kind other settings; None takes one away."""

    def change(graph: Any) -> None:
        node = first(graph, kind)
        kept = [one for one in node.attribute if one.name not in settings]
        given = [helper.make_attribute(name, value) for name, value in settings.items() if value is not None]
        del node.attribute[:]
        node.attribute.extend([*kept, *given])

    return change


def without(kind: str, every: bool = False) -> Callable[[Any], None]:
    """Takes out the first operator of a kind, or all of them."""

    def change(graph: Any) -> None:
        for node in [node for node in graph.node if node.op_type == kind][: None if every else 1]:
            for other in graph.node:
                other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
            graph.node.remove(node)

    return change


def moved_pooling(graph: Any) -> None:
    without("MaxPool")(graph)
    insert(graph, "Relu", "MaxPool", kernel_shape=[2, 2], strides=[2, 2])


def normalised_at_the_end(graph: Any) -> None:
    """Between conv5_3 and its ReLU."""
    place = max(i for i, node in enumerate(graph.node) if node.op_type == "Conv")
    graph.node.insert(place + 1, helper.make_node("Sigmoid", [graph.node[place].output[0]], ["inserted"]))
    graph.node[place + 2].input[0] = "inserted"


def bypassed(graph: Any) -> None:
    """conv3_3 reads the map that conv3_2 reads."""
    convs = [node for node in graph.node if node.op_type == "Conv"]
    convs[6].input[0] = convs[5].input[0]


PAD = "whose padding does not keep the size$"
STEP = r"vgg\.onnx: has the weights of net D \(VGG-16\), but computes something else: its step "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("Conv", auto_pad="VALID", pads=None), PAD),
        (setting("Conv", auto_pad="VALID"), PAD),
        (setting("Conv", auto_pad="ODD", pads=None), PAD),
        (setting("Conv", pads=None), PAD),
        (setting("Conv", pads=[0, 0, 2, 2]), PAD),
        (setting("MaxPool", strides=[1, 1]), "5 is MaxPool 2x2 of stride 1x1, not MaxPool 2x2 of stride 2x2$"),
        (setting("MaxPool", strides=None), "5 is MaxPool 2x2 of stride 1x1, not MaxPool 2x2 of stride 2x2$"),
        (setting("MaxPool", kernel_shape=[3, 3]), "5 is MaxPool 3x3 of stride 2x2, not MaxPool 2x2 of stride 2x2$"),
        (setting("MaxPool", pads=[1] * 4), "5 is MaxPool 2x2 of stride 2x2, padded or dilated, not MaxPool 2x2 of"),
        (without("Relu", every=True), "2 is Conv, not Relu$"),
        (without("Relu"), "2 is Conv, not Relu$"),
        (without("MaxPool"), "5 is Conv, not MaxPool 2x2 of stride 2x2$"),
        (without("MaxPool", every=True), "5 is Conv, not MaxPool 2x2 of stride 2x2$"),
        (moved_pooling, "2 is MaxPool 2x2 of stride 2x2, not Relu$"),
        (lambda graph: insert(graph, "MaxPool", "LRN", size=5, alpha=5e-4, bias=2.0), "5 is LRN, not MaxPool 2x2 of"),
        (normalised_at_the_end, "30 is Sigmoid, not Relu$"),
        (bypassed, "15 is Conv of an earlier map, not Conv$"),
        (
            lambda graph: insert(graph, "Conv", "Transpose", perm=[0, 1, 3, 2]),
            r"it has an operator Transpose \('inserted'\) of order \[0, 1, 3, 2\]$",
        ),
    ],
)
@pytest.mark.parametrize("top", [True, False])
def test_onnx_trunks_with_other_steps_than_their_nets_are_refused(
    change: Any, message: str, top: bool, tmp_path: Path
) -> None:
    path = changed_onnx(onnx_zoo(tmp_path, "D", STATE if top else without_top(STATE)), change)
    with pytest.raises(WeightsError, match=STEP + message if message[0].isdigit() else message):
        load(path)


def test_onnx_without_the_last_pooling_is_refused(tmp_path: Path) -> None:
    path = onnx_zoo(tmp_path, "D", without_top(STATE))
    changed_onnx(path, lambda graph: graph.node.pop())
    with pytest.raises(WeightsError, match=STEP + "31 is missing, not MaxPool 2x2 of stride 2x2$"):
        load(path)


def test_onnx_padding_may_be_said_as_same(tmp_path: Path) -> None:
    path = onnx_zoo(tmp_path, "D", STATE)
    for padding in ("SAME_UPPER", "SAME_LOWER"):
        changed_onnx(path, setting("Conv", auto_pad=padding, pads=None))
        assert_same(load(path), STATE)


def test_onnx_tells_a_with_local_response_normalisation_from_a(tmp_path: Path) -> None:
    state = random_state("A", width=1 / 64)
    path = onnx_zoo(tmp_path, "A", state)
    assert load(path).net == "A"
    with pytest.raises(UsageError, match=r"holds net A \(VGG-11\), not A-LRN"):
        load_net("A-LRN", path, device="cpu")
    constants = {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0}
    changed_onnx(path, lambda graph: insert(graph, "MaxPool", "LRN", **constants))
    assert load(path).net == "A-LRN"
    changed_onnx(path, setting("LRN", alpha=1e-4))
    with pytest.raises(WeightsError, match="its step 3 is LRN of other constants, not MaxPool 2x2 of stride 2x2$"):
        load(path)


def test_something_between_onnxs_fully_connected_layers_leaves_the_head_out(tmp_path: Path, caplog: Any) -> None:
    """The layers would fit, but a batch normalisation between them would be lost."""

    def between(graph: Any) -> None:
        width = STATE["classifier.0.bias"].shape[0]
        graph.initializer.append(numpy_helper.from_array(np.ones(width, np.float32), "norm"))
        place = [i for i, node in enumerate(graph.node) if node.op_type == "MatMul"][1]
        below = graph.node[place].input[0]
        graph.node.insert(place, helper.make_node("Mul", [below, "norm"], ["normed"]))
        graph.node[place + 1].input[0] = "normed"

    path = changed_onnx(onnx_keras(tmp_path, "D", STATE), between)
    assert_same(load(path, preprocessing="oxford"), without_top(STATE))
    assert "its fully-connected layers are not those of a net of Table 1 and are left out" in caplog.text


def test_without_onnx_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_zoo(tmp_path, "D", random_state(width=1 / 64))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"ONNX files are read by the package onnx: pip install vggfeat\[formats\]$"):
        load(path)


def test_batch_normalisation_of_keras_is_refused(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    model.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(WeightsError, match="batch_normalization has 4 arrays of weights, not the kernel and bias"):
        load(tmp_path / "net.weights.h5")


def test_a_reference_out_of_a_matlab_file_is_not_followed(tmp_path: Path) -> None:
    path = WRITERS["matconvnet 7.3"](tmp_path, "D", random_state(width=1 / 64))
    with h5py.File(path, "r+") as file:
        layer = file["#refs#/layer_conv1_1"]
        del layer["weights"]
        layer["weights"] = h5py.ExternalLink("/etc/hostname", "x")
    with pytest.raises(WeightsError, match="'weights' is a link and not data of this file: refused$"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vgg_16.ckpt", b"\0" * 64 + bytes.fromhex("57fb808b247547db"), "a TensorFlow checkpoint, which vggfeat does"),
        ("model.ckpt.index", b"\0" * 64 + bytes.fromhex("57fb808b247547db"), "a TensorFlow checkpoint, which vggfeat"),
        ("model.ckpt.data-00000-of-00001", b"\x01\x02" * 64, "a TensorFlow checkpoint, which vggfeat does not read"),
        ("saved_model.pb", b"\x08\x01\x12\x20" + b"x" * 32, "a TensorFlow SavedModel, which vggfeat does not read"),
        ("VGG_FACE.t7", b"\x04\0\0\0\x01\0\0\0", "a Torch7 file, which vggfeat does not read; the Python package"),
    ],
)
def test_forms_that_are_not_read_say_what_they_are_and_how_to_convert(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"^{re.escape(f'{tmp_path / name}: {message}')}") as caught:
        load(tmp_path / name)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.ckpt", "net.meta", "net.t7", "net.pb"])
def test_torchs_older_format_is_read_under_any_suffix(name: str, tmp_path: Path) -> None:
    torch.save(dict(STATE), tmp_path / name, _use_new_zipfile_serialization=False)
    assert_same(load(tmp_path / name), STATE)


def mat_element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content


def mat_file(folder: Path, *elements: bytes) -> Path:
    (folder / "net.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements))
    return folder / "net.mat"


def mat_numbers(size: int) -> bytes:
    """The content of a matrix `layers` of this many bytes, all 0."""
    flags = mat_element(6, struct.pack("<II", 9, 0))
    sides = mat_element(5, struct.pack("<ii", 1, size))
    return flags + sides + mat_element(1, b"layers") + b"\0\0" + mat_element(2, bytes(size))


MAT_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nested": (
        lambda: mat_element(15, zlib.compress(mat_element(15, mat_numbers(8)))),
        "a compressed element that holds an element of type 15, not a matrix",
    ),
    "nested behind a matrix": (
        lambda: mat_element(
            15,
            zlib.compress(
                mat_element(14, mat_numbers(8)) + mat_element(15, zlib.compress(mat_element(14, mat_numbers(1 << 24))))
            ),
        ),
        r"a compressed matrix that has not the \d+ bytes that it claims",
    ),
    "a claim": (
        lambda: mat_element(15, zlib.compress(struct.pack("<II", 14, 1 << 30) + mat_numbers(8))),
        "a compressed matrix that claims 1073741824 bytes, more than it can have",
    ),
    "a small claim": (
        lambda: mat_element(15, zlib.compress(struct.pack("<II", 14, 64) + mat_numbers(1 << 24))),
        "a compressed matrix that has not the 64 bytes that it claims",
    ),
    "cut short": (
        lambda: mat_element(15, zlib.compress(mat_element(14, mat_numbers(4096)))[:-8]),
        r"a compressed matrix that has not the \d+ bytes that it claims",
    ),
}


@pytest.mark.parametrize("bomb", MAT_BOMBS)
def test_a_matlab_file_that_swells_is_refused_before_it_takes_memory(bomb: str, tmp_path: Path) -> None:
    content, message = MAT_BOMBS[bomb]
    path = mat_file(tmp_path, content())
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=rf"net\.mat: .*{message}"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_compressed_matlab_file_is_read(tmp_path: Path) -> None:
    from scipy.io import loadmat, savemat

    path = matconvnet(tmp_path, "D", STATE)
    content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, content, do_compression=True)
    assert_same(load(path), STATE)


def test_torchscript_is_named_and_not_run(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py", "net/version"):
            archive.writestr(name, b"x")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "net.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'net.pt'}: a TorchScript archive, which holds code; save its tensors alone with "
        "torch.save(torch.jit.load(FILE).state_dict(), 'net.pth')"
    )


# --- the real thing ---

TRUNK = os.environ.get("VGGFEAT_TRUNK", "")


@pytest.mark.skipif(not TRUNK, reason="VGGFEAT_TRUNK names no folder with Oxford's convolutional layers in three forms")
def test_oxfords_real_trunk_gives_one_pool5_in_three_forms(shared_data: Path) -> None:
    from PIL import Image

    names = ("vgg16_notop.h5", "vgg16_features.npz", "vgg16.onnx")
    nets = [load(Path(TRUNK) / name, precision="fp32") for name in names]
    for net in nets:
        assert (net.net, net.width, net.has_top, net.preprocessing) == ("D", 1.0, False, OXFORD)
        assert net.origin is not None and net.origin.title == "oxford's net D"
    with h5py.File(Path(TRUNK) / names[0]) as file:
        layers = [
            [torch.from_numpy(file[layer][name][()]) for name in file[layer].attrs["weight_names"]]
            for layer in file.attrs["layer_names"]
        ]
    pictures = sorted((shared_data / "caltech101" / "101_ObjectCategories").glob("*/*.jpg"))
    for path in pictures[:: len(pictures) // 10][:10]:
        image = np.asarray(Image.open(path).convert("RGB").resize((224, 224)), np.float32)
        x = torch.from_numpy(image[..., ::-1] - np.float32([103.939, 116.779, 123.68])).permute(2, 0, 1)[None]
        plain = x
        with torch.inference_mode():
            for place, (kernel, bias) in enumerate(layers):  # the plain loop
                plain = torch.relu(torch.conv2d(plain, kernel.permute(3, 2, 0, 1), bias, padding=1))
                if place in (1, 3, 6, 9, 12):
                    plain = torch.max_pool2d(plain, 2)
            found = [net.features(x) for net in nets]
        scale = float(plain.max())
        assert scale > 1
        for one in found:
            assert one.shape == (1, 512, 7, 7)
            assert float((one - plain).abs().max()) <= 1e-5 * scale


def test_the_writers_state_is_torchvisions() -> None:
    with torch.device("meta"):
        names = list(torchvision.models.vgg16().state_dict())
    assert list(STATE) == names
