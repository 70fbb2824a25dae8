"""`--recipe FILE` of the commands: a table of options each, flags win, mistakes are named."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
import pytest
from making import clusters, write_descriptors
from shipped import parsed

from vggfeat.cli import VERBS, run, vggfeat
from vggfeat.cli.recipes import _key
from vggfeat.errors import RecipeError
from vggfeat.training.recipe import load_recipe

Source = click.core.ParameterSource

EXPERIMENT = """
[extract]
net = ["D", "shallow b"]
weights = "none"
scales = [256, 384]
aggregate = "average"
flip = false
exif = true
keep-scales = true
max-read-failures = 7
paths = ["a.jpg", "b.jpg"]

[svm]
C = [0.1, 1]
test-fraction = 0.5
files = "a.h5"

[merge]
shards = ["a.shard-0-of-2.h5", "a.shard-1-of-2.h5"]
output = "a.h5"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(EXPERIMENT)
    return Path("r.toml")


def test_every_command_takes_a_recipe() -> None:
    for verb in VERBS:
        command = vggfeat.get_command(None, verb)  # type: ignore[arg-type]
        assert command is not None
        assert sum("--recipe" in param.opts for param in command.params) == 1, verb


def test_each_command_reads_its_own_table(recipe: Path) -> None:
    extract = parsed("vggfeat extract --recipe r.toml").params
    assert {
        name: extract[name] for name in ("net", "weights", "scales", "aggregate", "flip", "exif", "keep_scales")
    } == {
        "net": ("D", "shallow-B"),
        "weights": ("none",),
        "scales": (256, 384),
        "aggregate": "average",
        "flip": False,
        "exif": True,
        "keep_scales": True,
    }
    assert (extract["max_read_failures"], extract["paths"]) == (7, ("a.jpg", "b.jpg"))
    svm = parsed("vggfeat svm --recipe r.toml").params
    assert (svm["C"], svm["test_fraction"], svm["files"], svm["aggregate"]) == ((0.1, 1.0), 0.5, ("a.h5",), None)
    merge = parsed("vggfeat merge --recipe r.toml").params
    assert (len(merge["shards"]), merge["output"]) == (2, "a.h5"), "what a command must be given, a recipe may give"


def test_a_list_of_numbers_may_be_written_as_on_the_command_line(recipe: Path) -> None:
    recipe.write_text(
        '[extract]\nscales = "256,384"\n[bench]\nscales = 512\n[localise]\nscales = [[256], [352, 384]]\n'
    )
    assert parsed("vggfeat extract --recipe r.toml").params["scales"] == (256, 384)
    assert parsed("vggfeat bench --recipe r.toml").params["scales"] == (512,)
    localise = "vggfeat localise --recipe r.toml --weights a.pt"
    assert parsed(localise).params["scales"] == ((256,), (352, 384))
    for text in ("[352, 384]", '"352,384"', '["352,384"]'):
        recipe.write_text(f"[localise]\nscales = {text}\n")
        assert parsed(localise).params["scales"] == ((352, 384),)


@pytest.mark.parametrize("first", [True, False])
def test_flags_and_arguments_win_wherever_they_stand(recipe: Path, first: bool) -> None:
    flags = "--net E --scales 512 --flip --max-read-failures 9 c.jpg"
    words = f"--recipe r.toml {flags}" if first else f"{flags} --recipe r.toml"
    context = parsed(f"vggfeat extract {words}")
    params = context.params
    assert (params["net"], params["scales"], params["flip"], params["max_read_failures"], params["paths"]) == (
        ("E",),
        (512,),
        True,
        9,
        ("c.jpg",),
    )
    assert params["aggregate"] == "average", "what no flag names is the recipe's"
    sources = {name: context.get_parameter_source(name) for name in ("scales", "aggregate", "store")}
    assert sources == {"scales": Source.COMMANDLINE, "aggregate": Source.DEFAULT_MAP, "store": Source.DEFAULT}


def test_the_environment_wins_over_a_recipe_that_travels(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text('[svm]\ndata = "theirs"\n')
    assert parsed("vggfeat svm --recipe r.toml").params["data"] == "theirs"
    monkeypatch.setenv("VGGFEAT_DATA", "mine")
    assert parsed("vggfeat svm --recipe r.toml").params["data"] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('agregate = "stack"', "r.toml: [extract] no option 'agregate'; did you mean 'aggregate'? valid: paths, net, "),
        ("keep_scales = true", "r.toml: [extract] no option 'keep_scales'; did you mean 'keep-scales'? "),
        ('recipe = "other.toml"', "r.toml: [extract] no option 'recipe'; "),
        (
            'net = "shalow-B"',
            "r.toml: [extract] net: no net 'shalow-B'; did you mean 'shallow-B'? valid: A (VGG-11), A-LRN, ",
        ),
        (
            'aggregate = "stak"',
            "r.toml: [extract] aggregate: 'stak' is not one of 'stack', 'average', 'max'; did you mean 'stack'?\n",
        ),
        ('scales = [256, "x"]', "r.toml: [extract] scales: '256,x' is not a comma-separated list of numbers (Q,Q,..)"),
        ("scales = [256.5]", "r.toml: [extract] scales: '256.5' is not a comma-separated list of numbers (Q,Q,..)"),
        ("workers = 0", "r.toml: [extract] workers: 0 is not in the range x>=1"),
        ("flip = 1", "r.toml: [extract] flip: expected true or false\n"),
        ("seed = true", "r.toml: [extract] seed: expected a text or a number\n"),
        ('output = ["a.h5"]', "r.toml: [extract] output: expected a text or a number\n"),
        ("net = [[1]]", "r.toml: [extract] net: expected a text or a number\n"),
        ("[svn]\nC = 1", "r.toml: no command 'svn'; did you mean 'svm'? valid: nets, "),
        ("scales = 1\nscales = 2", "r.toml: no TOML: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_the_nearest_name(
    recipe: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(f"[extract]\n{text}\n")
    assert run(["extract", "a.jpg", "--recipe", "r.toml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"vggfeat: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export --recipe r.toml", "r.toml: no table [export]; it has [extract], [svm], [merge]"),
        ("train --recipe r.toml", "r.toml: no training recipe and no table [train]; it has [extract], [svm], [merge]"),
        ("svm --recipe gone.toml", "gone.toml: this recipe cannot be read: No such file or directory"),
        (
            "localise --recipe training.toml",
            "training.toml: 'net' is outside of any table: put options into a table named like their command, such as "
            "[localise]; a training recipe is for vggfeat train",
        ),
    ],
)
def test_a_file_for_other_commands_is_refused(
    recipe: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("training.toml").write_text('net = "D"\n[localise]\nhead = "pcr"\n')
    assert run(shlex.split(command)) == 2
    assert capsys.readouterr().err == f"vggfeat: {message}\n"


def test_train_takes_its_table_of_a_file_for_several_commands(recipe: Path) -> None:
    recipe.write_text(EXPERIMENT + '[train]\nnet = "A"\n[train.sgd]\nbatch_size = 32\n')
    trained = load_recipe(recipe)
    assert (trained.net, trained.sgd.batch_size, trained.sgd.momentum) == ("A", 32, 0.9)
    assert parsed("vggfeat svm --recipe r.toml").params["C"] == (0.1, 1.0)
    recipe.write_text("[train]\nnett = 1\n")
    with pytest.raises(RecipeError, match=r"^r.toml: no recipe key 'nett'; did you mean 'net'\?"):
        load_recipe(recipe)


def test_posteriors_refuse_what_a_recipe_says_of_images(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text('[evaluate]\nview = "crops"\n')
    assert run(["evaluate", "p.h5", "--recipe", "r.toml"]) == 2
    assert capsys.readouterr().err == (
        "vggfeat: --view goes with images; FILES are posteriors that are scored as they are\n"
    )


def test_no_two_options_of_a_command_share_a_key() -> None:
    for verb in VERBS:
        command = vggfeat.get_command(None, verb)  # type: ignore[arg-type]
        assert command is not None
        keys = [key for param in command.params if (key := _key(param))]
        assert len(set(keys)) == len(keys), verb


def test_an_svm_by_recipe_is_the_svm_by_flags(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, values = clusters([12, 12, 12])
    write_descriptors(Path("a.h5"), dataset, values)
    assert run(["svm", "--recipe", "r.toml", "--json", "--quiet", "-o", "m.h5"]) == 0
    by_recipe = json.loads(capsys.readouterr().out)
    assert run(["svm", "a.h5", "--C", "0.1,1", "--test-fraction", "0.5", "--json", "--quiet"]) == 0
    by_flags = json.loads(capsys.readouterr().out)
    assert by_recipe["C"] == [0.1, 1.0]
    for name in ("mean", "std", "per_class", "descriptors"):
        assert by_recipe[name] == by_flags[name]
    assert run(["info", "m.h5", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["command"]
    assert made.endswith("vggfeat svm a.h5 --C 0.1,1.0 --test-fraction 0.5 -o m.h5"), "it repeats without the recipe"
