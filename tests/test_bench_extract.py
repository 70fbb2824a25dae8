import pytest

from vggfeat.nets.catalog import net_spec
from vggfeat.stages.bench import extract as stage
from vggfeat.stages.bench.yardsticks import SIZES, flops, make_photos


def test_the_figures_stand_beside_their_yardsticks(monkeypatch):
    monkeypatch.setattr(stage, "matrix_rate", lambda precision, device: 2e11)
    ticks = []
    result = stage.bench_extract(
        "B",
        width=1 / 16,
        scales=(224, 256),
        layers=("fc7", "pool5", "fc7"),
        precisions=("fp32", "fp32"),
        number=7,
        plain=3,
        rounds=1,
        progress=lambda *counts: ticks.append(counts),
    )
    assert (result["net"], result["images"], result["scales"], result["rounds"]) == ("B", 7, [224, 256], 1)
    assert [(run["layer"], run["precision"]) for run in result["runs"]] == [("fc7", "fp32"), ("pool5", "fp32")]
    for run in result["runs"]:  # a layer or precision named twice is one run
        assert run["least_cosine_to_plain"] == pytest.approx(1, abs=1e-6)
        assert run["share_of_matrix_rate"] == pytest.approx(run["tflops"] / 0.2)
        ratio = run["images_per_second"] / result["plain_torchvision_images_per_second"][run["layer"]]
        assert run["times_plain_torchvision"] == pytest.approx(ratio)
    shapes = [SIZES[i % len(SIZES)] for i in range(7)]
    sides = [(Q * w // min(w, h), Q * h // min(w, h)) for w, h in shapes for Q in (224, 256)]
    for run in result["runs"]:
        work = 2 * sum(flops(net_spec("B"), w, h, 1 / 16, run["layer"]) for w, h in sides)  # both views
        assert run["tflops"] * 1e12 == pytest.approx(work / 7 * run["images_per_second"])
    assert ticks == [(0, 1, 0), (1, 1, 0)]


def test_a_net_that_torchvision_does_not_have_stands_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "matrix_rate", lambda precision, device: 2e11)
    photos = make_photos(tmp_path, 2)
    result = stage.bench_extract("shallow-B", width=1 / 16, scales=(224,), precisions=("fp32",), paths=photos, rounds=1)
    assert result["images"] == 2
    assert result["plain_torchvision_images_per_second"] == {}
    assert "times_plain_torchvision" not in result["runs"][0]
    assert result["loader_images_per_second"] > 0
