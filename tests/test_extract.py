"""The main road, through the stage and through the command line, on small pictures and narrow nets."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets import Dataset, Sample
from vggfeat.datasets.images import decode, rescale
from vggfeat.errors import StoreError, UsageError
from vggfeat.inference.extractor import DescriptorSettings, Extractor
from vggfeat.nets.layers import LAYERS
from vggfeat.nets.networks import VGG, glorot_

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32"]


def narrow(seed=0, name="A") -> VGG:
    return glorot_(VGG(name, width=1 / 16), seed=seed).eval()


def one_by_one(net: VGG, path: str, scales, flip=True) -> np.ndarray:
    """(S, D): the paper's words, one image and scale at a time, independent of batching and pooling."""
    rows = []
    for Q in scales:
        x = torch.from_numpy(rescale(decode(path), Q).copy()).permute(2, 0, 1)[None].float()
        x = x - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
        with torch.inference_mode():
            views = [net.dense(view).mean((1, 2))[0].numpy() for view in ([x, x.flip(3)] if flip else [x])]
        rows.append(sum(views) / len(views))
    return np.stack(rows)


def unit(v):
    return v / np.linalg.norm(v)


@pytest.mark.parametrize("aggregate", ["stack", "average", "max"])
@pytest.mark.parametrize("flip", [True, False])
def test_descriptors_are_the_papers(photos, tmp_path, aggregate, flip):
    net = narrow()
    path = vggfeat.extract(
        photos, net=net, scales=(224, 256), aggregate=aggregate, flip=flip, output=tmp_path / "out.h5"
    )
    made = vggfeat.read_descriptors(path)
    assert made.ids == sorted(map(str, photos.iterdir()))
    pool = {"stack": np.ravel, "average": lambda d: d.mean(0), "max": lambda d: d.max(0)}[aggregate]
    for id, got in zip(made.ids, made.read(), strict=True):
        assert np.allclose(got, unit(pool(one_by_one(net, id, (224, 256), flip))), atol=1e-5)


def test_several_nets_are_stacked_unit_vectors(photos, tmp_path):
    nets = [narrow(1), narrow(2, "B")]
    both = vggfeat.read_descriptors(vggfeat.extract(photos, net=nets, scales=(224,), output=tmp_path / "both.h5"))
    alone = [
        vggfeat.read_descriptors(vggfeat.extract(photos, net=net, scales=(224,), output=tmp_path / f"{i}.h5")).read()
        for i, net in enumerate(nets)
    ]
    assert np.allclose(both.read(), np.concatenate(alone, axis=1) / np.sqrt(2), atol=1e-6)
    assert both.attributes["net"] == "A+B"


def test_kept_scales_give_the_other_aggregations_without_the_net(photos, tmp_path):
    kept = vggfeat.read_descriptors(
        vggfeat.extract(photos, net=narrow(), scales=(224, 256), keep_scales=True, output=tmp_path / "kept.h5")
    )
    for aggregate in ("average", "max", "stack"):
        direct = vggfeat.read_descriptors(
            vggfeat.extract(
                photos, net=narrow(), scales=(224, 256), aggregate=aggregate, output=tmp_path / f"{aggregate}.h5"
            )
        )
        assert np.array_equal(kept.aggregated(aggregate), direct.read())


def test_fc6_is_another_layer(photos, tmp_path):
    fc6 = vggfeat.read_descriptors(
        vggfeat.extract(photos, net=narrow(), scales=(224,), layer="fc6", output=tmp_path / "6.h5")
    )
    fc7 = vggfeat.read_descriptors(vggfeat.extract(photos, net=narrow(), scales=(224,), output=tmp_path / "7.h5"))
    assert fc6.attributes["layer"] == "fc6"
    assert not np.allclose(fc6.read(), fc7.read())


def test_regions_take_the_samples_box(photos):
    path = str(photos / "0.jpg")
    with Image.open(path) as picture:
        picture.crop((10, 5, 50, 35)).save(photos / "cut.png")
    box, cut = Sample("a", path, box=(10, 5, 50, 35)), Sample("b", str(photos / "cut.png"))
    settings = {"scales": (224,), "exif": False}
    inside = Extractor([narrow()], DescriptorSettings(region="box", **settings)).describe([box])
    image = Extractor([narrow()], DescriptorSettings(**settings)).describe([box, cut])
    both = Extractor([narrow()], DescriptorSettings(region="both", **settings)).describe([box])
    assert np.allclose(inside.descriptors[0], image.descriptors[1], atol=1e-6)
    assert np.allclose(
        both.descriptors[0], np.concatenate([image.descriptors[0], inside.descriptors[0]]) / np.sqrt(2), atol=1e-6
    )
    missing = Extractor([narrow()], DescriptorSettings(region="box", **settings)).describe([cut])
    assert missing.failures == {0: 'has no box: the region "box" needs a data set of boxes, such as voc2012-action'}


def test_activations_that_are_not_finite_fail_their_row_by_name(photos):
    net = narrow()
    with torch.no_grad():
        net.classifier[3].bias[0] = float("inf")
    described = Extractor([net], DescriptorSettings(scales=(224,))).describe([Sample("a", str(photos / "0.jpg"))])
    assert described.failures == {0: "the net's activations are not finite"}
    assert np.isnan(described.descriptors).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (256, 200)}, "scale 200 is under 224, the smallest for fully-connected layers"),
        ({"scales": ()}, "no scales: name at least one smallest side, such as 256"),
        ({"scales": (256, 256)}, "scales 256,256: one is named twice"),
        ({"aggregate": "mean"}, "no aggregation 'mean'; valid: stack, average, max"),
        ({"layer": "scores"}, f"no layer 'scores'; valid: {', '.join(LAYERS)}"),
        ({"store": "int8"}, "no number format of the file 'int8'; valid: float32, float16"),
        ({"resume": True, "overwrite": True}, "`resume` and `overwrite`: choose one"),
        (
            {"net": ["A", "D", "E"], "weights": ["none", "none"]},
            "3 nets and 2 weights: give one `weights` for all nets, or one each",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(photos, settings, message):
    with pytest.raises(UsageError) as error:
        vggfeat.extract(photos, **{"net": narrow(), **settings})
    assert str(error.value) == message


def test_an_empty_list_is_refused():
    with pytest.raises(UsageError, match="^no images to extract from$"):
        vggfeat.extract(Dataset("none", ()), net=narrow())


def cli(*args, **options):
    return subprocess.run([sys.executable, "-m", "vggfeat", *args], capture_output=True, **options)


def test_a_list_at_the_end_of_a_pipe_becomes_one_file(photos, tmp_path):
    listed = subprocess.run(["find", photos, "-name", "*.jpg"], capture_output=True, check=True).stdout
    done = cli("extract", *NARROW, "--scales", "224,256", "--aggregate", "stack", input=listed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"descriptors/images-A-none-224_256-stack.h5\n"
    made = vggfeat.read_descriptors(tmp_path / "descriptors/images-A-none-224_256-stack.h5")
    assert made.ids == listed.decode().split()
    assert made.dim == 512
    assert np.allclose(np.linalg.norm(made.read(), axis=1), 1)


def test_the_command_line_and_python_write_the_same_values(photos, tmp_path):
    assert run(["extract", str(photos), *NARROW, "--scales", "224", "-o", str(tmp_path / "a.h5")]) == 0
    vggfeat.extract(
        [str(photos)], net="A", weights="none", width=0.0625, precision="fp32", scales=[224], output=tmp_path / "b.h5"
    )
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_weights_from_a_file_bring_their_net(photos, tmp_path, capsys):
    net = narrow(7, "B")
    net.save(tmp_path / "b.pt")
    out = tmp_path / "a.h5"
    assert (
        run(["extract", str(photos), "--weights", str(tmp_path / "b.pt"), "--scales", "224", "-o", str(out), "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert {k: result[k] for k in ("rows", "net", "weights", "dim", "failed")} == {
        "rows": 6,
        "net": "B",
        "weights": "b.pt",
        "dim": 256,
        "failed": {},
    }


def test_broken_images_cost_their_own_row_and_exit_code_3(photos, tmp_path, capsys):
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:300])
    (photos / "3.jpg").write_text("<html>not found</html>")
    assert run(["extract", str(photos), *NARROW, "--scales", "224", "-o", str(tmp_path / "a.h5")]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a.h5'}\n"
    assert f"skipped {photos / '3.jpg'}: no image: an HTML or XML page" in captured.err
    assert "2 of 6 images skipped" in captured.err
    made = vggfeat.read_descriptors(tmp_path / "a.h5")
    assert made.status.tolist() == [1, 2, 1, 2, 1, 1]
    assert len(made) == 6


def test_when_every_image_is_broken_the_file_still_says_why(tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("x")
    assert run(["extract", str(tmp_path / "a.jpg"), *NARROW, "-o", str(tmp_path / "a.h5")]) == 3
    assert vggfeat.read_descriptors(tmp_path / "a.h5").status.tolist() == [2]


def test_a_mended_image_is_filled_in_by_resume(photos, tmp_path, capsys):
    good, out = (photos / "2.jpg").read_bytes(), tmp_path / "a.h5"
    (photos / "2.jpg").write_bytes(b"")
    command = ["extract", str(photos), *NARROW, "--scales", "224", "-o", str(out)]
    assert run(command) == 3
    assert run(command) == 1
    assert capsys.readouterr().err.endswith(
        f"vggfeat: {out} exists: --resume goes on with it, --overwrite replaces it\n"
    )
    (photos / "2.jpg").write_bytes(good)
    assert run([*command, "--resume"]) == 0
    resumed = vggfeat.read_descriptors(out).read()
    assert run([*command, "--overwrite"]) == 0
    assert np.allclose(resumed, vggfeat.read_descriptors(out).read(), atol=1e-6)


def test_lists_name_ids_and_may_be_separated_by_nul(photos, tmp_path):
    (tmp_path / "list.tsv").write_text(f"first\t{photos / '0.jpg'}\nsecond\t{photos / '1.jpg'}\n")
    assert (
        run(["extract", "--list", str(tmp_path / "list.tsv"), *NARROW, "--scales", "224", "-o", str(tmp_path / "a.h5")])
        == 0
    )
    assert vggfeat.read_descriptors(tmp_path / "a.h5").ids == ["first", "second"]
    odd = tmp_path / "two\nlines.jpg"
    shutil.copy(photos / "0.jpg", odd)
    done = cli(
        "extract", "-0", "-", *NARROW, "--scales", "224", "-o", tmp_path / "b.h5", input=os.fsencode(odd) + b"\0"
    )
    assert done.returncode == 0, done.stderr
    assert vggfeat.read_descriptors(tmp_path / "b.h5").ids == [str(odd)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.jpg", "--dataset", "folder"], "images from PATHS, --list and --dataset: choose one"),
        ([".", "--dataset", "folder"], ". and --dataset folder: choose one; --data . is both"),
        (["x.jpg", "-0"], "-0 describes a list: it goes with - or --list"),
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (
            ["--scales", "256,big"],
            "Invalid value for '--scales': '256,big' is not a comma-separated list of numbers (Q,Q,..)",
        ),
        (["--net", "F", "."], "no net 'F'"),
        (["--aggregate", "mean"], "Invalid value for '--aggregate'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(photos, args, message, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert run(["extract", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vggfeat: ")
    assert message in captured.err


def test_no_list_and_no_pipe_is_an_error_not_a_wait(tmp_path):
    done = cli("extract", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "vggfeat: no images: name files or folders, pipe a list in, or give --dataset or --list\n"
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_says_how_to_go_on(photos, tmp_path, how):
    paths = []
    for i in range(64):
        paths.append(photos / f"copy{i}.jpg")
        shutil.copy(photos / f"{i % 6}.jpg", paths[-1])
    (tmp_path / "list").write_text("\n".join(map(str, paths)))
    out = tmp_path / "a.h5"
    command = ["extract", "--list", str(tmp_path / "list"), *NARROW, "--scales", "224,256", "-o", str(out)]
    running = subprocess.Popen([sys.executable, "-m", "vggfeat", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        if out.exists():
            with contextlib.suppress(StoreError):  # between its creation and its first rows
                if len(vggfeat.read_descriptors(out).done) > 0:
                    break
        time.sleep(0.02)
    running.send_signal(how)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "the same command with --resume goes on" in err
    before = vggfeat.read_descriptors(out)
    assert 0 < len(before.done) < 64
    assert run([*command, "--resume"]) == 0
    resumed = out.read_bytes()
    assert run([*command, "--overwrite"]) == 0
    assert out.read_bytes() == resumed, "the same bytes as an undisturbed run"


def test_extraction_never_imports_torchvision(photos, tmp_path):
    code = (
        "import sys, torch\n"
        "torch.nn.Conv2d(1, 1, 1, device='meta')\n"  # at which torch 2.4 imports sympy by itself
        "of_torch = 'sympy' in sys.modules\n"
        "import vggfeat\n"
        f"vggfeat.extract([{str(photos)!r}], net='A', weights=None, width=1/16, scales=[224], output={str(tmp_path / 'a.h5')!r})\n"
        "assert 'torchvision' not in sys.modules and 'sklearn' not in sys.modules and 'rich' not in sys.modules\n"
        "assert of_torch or 'sympy' not in sys.modules, 'seconds at start'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Many sizes, which fragment the heap: after the first rounds the resident size stays where it is."""
    code = (
        "import sys, numpy as np, vggfeat\n"
        "from vggfeat.datasets import Dataset, Sample\n"
        "from vggfeat.datasets.images import write_png\n"
        "rng = np.random.default_rng(0)\n"
        "for i in range(64):\n"
        "    write_png(f'{i}.png', rng.integers(0, 256, (100, 100 + 2 * i, 3), dtype=np.uint8))\n"
        "samples = tuple(Sample(f'{k}-{i}', f'{i}.png') for k in range(6) for i in rng.permutation(64))\n"
        "sizes = []\n"
        "def tick(done, total, failed):\n"
        "    if done and done % 64 == 0:\n"
        "        sizes.append(int(open('/proc/self/statm').read().split()[1]) * 4 // 1024)\n"
        "vggfeat.extract(Dataset('many', samples), net='A', weights=None, width=1/16, scales=[224], output='a.h5', progress=tick)\n"
        "print(*sizes)\n"
    )
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    sizes = list(map(int, done.stdout.split()))
    assert len(sizes) == 6
    assert sizes[-1] - sizes[1] < 40, f"MB resident after each 64 images: {sizes}"


def test_an_image_inside_a_tar_file_is_read_without_unpacking(photos, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(photos / "0.jpg", "0.jpg")
    with tarfile.open(tmp_path / "shard.tar") as tar:
        member = tar.getmember("0.jpg")
    inside = Sample("a", str(tmp_path / "shard.tar"), span=(member.offset_data, member.size))
    described = Extractor([narrow()], DescriptorSettings(scales=(224,))).describe(
        [inside, Sample("b", str(photos / "0.jpg"))]
    )
    assert np.allclose(described.descriptors[0], described.descriptors[1], atol=1e-6)
    assert described.failures == {}


@pytest.mark.parametrize("region", ["box", "both"])
def test_regions_of_pictures_without_boxes_are_refused_before_a_file_is_made(region, photos, tmp_path, capsys):
    out = tmp_path / "x.h5"
    command = ["extract", str(photos), "--net", "A", "--weights", "none", "--region", region, "-o", str(out)]
    assert run(command) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: --region {region} needs a data set of boxes, such as voc2012-action: no image has one\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [{"weights": "oxford"}, {"width": 0.5}, {"seed": 3}, {"precision": "bf16"}, {"preprocessing": "torchvision"}],
)
def test_settings_of_nets_to_be_loaded_are_refused_beside_a_loaded_net(options, photos, tmp_path):
    (name,) = options
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(photos, output=tmp_path / "x.h5", net=narrow(), scales=224, **options)
    assert str(caught.value) == f"a net that is loaded has its own `{name}`: leave it out, or give it to load_net"
    assert vggfeat.extract(photos, output=tmp_path / "x.h5", net=narrow(), scales=224, precision="fp32").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "`workers` 0 is not 1 or more"),
        ({"max_read_failures": -1}, "`max_read_failures` -1 is not 0 or more"),
        ({"calibration": "list.txt", "precision": "fp32"}, "`calibration` goes with `precision=int8`"),
        ({"flip": "no"}, "`flip` 'no' is not True or False"),
        ({"resume": "yes"}, "`resume` 'yes' is not True or False"),
        ({"offline": 2}, "`offline` 2 is not True or False"),
        ({"max_megapixels": 0}, "`max_megapixels` 0 is not above 0"),
        ({"max_megapixels": math.nan}, "`max_megapixels` nan is not above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_python_as_on_the_command_line(
    options, message, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"{photos}/0.jpg\n")
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(photos, output="x.h5", net="A", weights="none", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "x.h5").exists()


def test_numpys_values_are_as_good_as_pythons(photos, tmp_path):
    """Each of them used to pass the checks and to fail later, as JSON, in torch or in HDF5."""
    plain = {"net": "A", "weights": "none", "width": 0.0625, "seed": 3, "scales": 224, "workers": 1}
    plain |= {"flip": True, "exif": False, "pre_relu": True, "keep_scales": True, "precision": "fp32"}
    plain |= {"aggregate": "max", "pool": "max", "view": "dense", "normalise": "none", "region": "image"}
    kinds = {bool: np.bool_, int: np.int64, float: np.float32, str: np.str_}
    given = {name: kinds[type(value)](value) for name, value in plain.items()}
    made = vggfeat.read_descriptors(vggfeat.extract(photos, output=tmp_path / "a.h5", **given))
    same = vggfeat.read_descriptors(vggfeat.extract(photos, output=tmp_path / "b.h5", **plain))
    assert made.attributes == same.attributes
    assert np.array_equal(made.read(), same.read())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": "2"}, "`workers` '2' is not a whole number"),
        ({"max_read_failures": 1.5}, "`max_read_failures` 1.5 is not a whole number"),
        ({"width": "x"}, "`width` 'x' is not a number"),
        ({"seed": None}, "`seed` None is not a whole number"),
        ({"seed": 1.5}, "`seed` 1.5 is not a whole number"),
        ({"progress": "x"}, "progress 'x' is not True, False or a function"),
        ({"fetching": "x"}, "fetching 'x' is not a function"),
        ({"layer": 5}, "`layer` 5 is neither a name nor several names"),
        ({"layer": ["pool5", 5]}, "`layer` ['pool5', 5] is neither a name nor several names"),
        ({"weights": 3.5}, "`weights` 3.5 is neither a name nor a path"),
        ({"aggregate": 1}, "no aggregation 1; valid: stack, average, max"),
        ({"net": 5}, "int is not a net: give a name of Table 1, such as D, or what load_net gave"),
        ({"net": []}, "no net: name at least one, such as D"),
        ({"shard": (1, 2)}, "shard (1, 2): expected a number and how many there are, such as 3/16"),
        ({"precision": None}, "no precision None; valid: auto, fp32, tf32, bf16, fp16, int8"),
    ],
)
def test_values_of_another_kind_are_named(options, message, photos, tmp_path):
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(photos, **{"output": tmp_path / "x.h5", "net": "A", "weights": "none", **options})
    assert str(caught.value) == message
