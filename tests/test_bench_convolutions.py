import json

from vggfeat.cli import run
from vggfeat.cli.tables import print_bench
from vggfeat.nets import nnpack
from vggfeat.nets.catalog import NETS
from vggfeat.nets.inference_form import has_fast_convolutions, method
from vggfeat.stages.bench.convolutions import ConvolutionBench, LayerRate, bench_convolutions


def test_the_command_measures_each_convolution_in_every_way(capsys):
    arguments = ["bench", "convolutions", "--net", "C", "--scales", "224", "--width", "0.0625", "--json", "--quiet"]
    assert run(arguments) == 0
    told = json.loads(capsys.readouterr().out)["convolutions"]
    spec = NETS["C"]
    convolutions = [name for name in spec.layer_names if name.startswith("conv")]
    expected = [name for name, conv in zip(convolutions, spec.convs, strict=True) if conv.kernel == 3]
    assert [row["layer"] for row in told["layers"]] == expected and "conv3_3" not in expected
    assert [(row["height"], row["width"]) for row in told["layers"]][::3] == [
        (224, 299),
        (112, 150),
        (28, 38),
        (14, 19),
    ]
    assert [row["out_channels"] for row in told["layers"]] == [4, 4, 8, 8, 16, 16, 32, 32, 32, 32]
    ways = {"direct"} | ({"nnpack"} if nnpack.is_available() else set())
    assert all(set(row["gflops"]) == ways and min(row["gflops"].values()) > 0 for row in told["layers"])
    assert {row["chosen"] for row in told["layers"]} == {"direct"} and told["times_direct"] == 1


def test_a_wide_layer_names_the_way_that_inference_takes():
    row = bench_convolutions("A", scale=224, repeats=1).layers[-1]
    expected = method(512, 512, 14 * 19) if has_fast_convolutions() else "direct"
    assert (row.layer, row.chosen) == ("conv5_2", expected)


def test_the_table_shows_what_the_machine_lacks_as_a_dash(capsys):
    rows = (
        LayerRate("conv1_2", 64, 64, 256, 341, {"direct": 80.0, "nnpack": 145.5}, "nnpack"),
        LayerRate("conv5_1", 512, 512, 16, 22, {"direct": 73.0}, "direct"),
    )
    machine = {"device": "cpu", "name": "AMD EPYC", "threads": 2, "torch": "2.14.1"}
    print_bench({"convolutions": ConvolutionBench("D", 256, machine, rows, 1.93)})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv1_2", "64", "->", "64", "256x341", "80", "146", "nnpack"] in lines
    assert ["conv5_1", "512", "->", "512", "16x22", "73", "-", "direct"] in lines
    assert ["the", "ways", "taken:", "1.93", "times", "as", "fast", "as", "direct", "ones"] in lines
