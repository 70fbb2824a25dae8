import dataclasses
import fnmatch
import math
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped import RECIPES, TABLES, TRAINING, commands, header, parsed

from vggfeat.cli.advice import told
from vggfeat.errors import RecipeError, UsageError
from vggfeat.training.recipe import Augment, Recipe, Schedule, Sgd, differences, dump_recipe, load_recipe


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_defaults_are_the_papers():
    recipe = load_recipe()
    assert recipe.sgd == Sgd(256, 0.01, 0.9, 5e-4, 0.5, "all")
    assert (recipe.schedule.epochs, recipe.schedule.decreases, recipe.schedule.divisor) == (74, 3, 10.0)
    assert (recipe.augment.S, recipe.augment.flip, recipe.augment.colour_std) == ((256, 256), True, 0.1)
    assert recipe.init.scheme == "glorot"


def test_a_file_extends_another_one_relative_to_itself_and_flags_override_both(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "base.toml", 'net = "E"\n[sgd]\nbatch_size = 64\nlearning_rate = 0.1\n')
    child = written(
        tmp_path / "sub", "c.toml", 'extends = "../base.toml"\n[sgd]\nlearning_rate = 1\n[augment]\nS = [256, 512]\n'
    )
    recipe = load_recipe(child, {"augment.S": 384, "net": "shallow b"})
    assert recipe.net == "shallow-B"
    assert recipe.sgd == Sgd(batch_size=64, learning_rate=1.0)
    assert recipe.augment.S == (384, 384)
    assert load_recipe(child).augment.Q == 384, "half-way between the ends"


@pytest.mark.parametrize(
    ("base", "child", "named"),
    [
        ("[sgd]\nbatch_size = 0", 'extends = "base.toml"\n[sgd]\nmomentum = 0.5', "base.toml"),
        ("[sgd]\nbatch_size = 64", 'extends = "base.toml"\n[sgd]\nbatch_size = 0', "child.toml"),
        ("[sgd]\nbatch_size = -1", 'extends = "base.toml"\n[sgd]\nbatch_size = 0', "child.toml"),
    ],
)
def test_a_wrong_value_is_told_with_the_name_of_the_file_that_has_it(tmp_path, base, child, named):
    written(tmp_path, "base.toml", base)
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, "child.toml", child))
    assert str(caught.value) == f"{tmp_path / named}: sgd.batch_size=0: must be at least 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sgd]\nlearning_rat = 1", "{file}: [sgd] no recipe key 'learning_rat'; did you mean 'learning_rate'? "),
        (
            "epochs = 3",
            "{file}: no recipe key 'epochs'; did you mean 'schedule.epochs'? "
            "valid: net, width, seed, precision, data, augment, sgd, ",
        ),
        ("sgd = 3", "{file}: sgd is a section of keys, not 3"),
        ("[sgd]\nbatch_size = 2.5", "{file}: [sgd] batch_size = 2.5: expected a whole number"),
        ("[augment]\nflip = 1", "{file}: [augment] flip = 1: expected true or false"),
        ("[augment]\nS = [256]", "{file}: [augment] S = [256]: expected a whole number or [min, max]"),
        ("[augment]\nS = 128", "{file}: augment.S=128: must be at least 224, the smaller side first"),
        ("[augment]\nS = [512, 256]", "{file}: augment.S=512-256: must be at least 224, the smaller side first"),
        (
            "[schedule]\nmeasure = 'top3'",
            "{file}: schedule.measure=top3: no such choice; did you mean 'top5'? valid: top5, ",
        ),
        ("net = 'F'", "no net 'F'; valid: A (VGG-11), A-LRN"),
        ("net = ", "{file}: no TOML: "),
        ("extends = 'gone.toml'", "{file}: extends = 'gone.toml': there is no file {folder}/gone.toml"),
        ("extends = 'r.toml'", "{file}: extends itself, by way of {file}"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(tmp_path, text, message):
    file = written(tmp_path, "r.toml", text)
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(message.format(file=file, folder=tmp_path))


def test_the_mark_that_windows_editors_begin_with_is_no_part_of_the_text(tmp_path):
    (tmp_path / "r.toml").write_text('net = "A"\n', encoding="utf-8-sig")
    assert load_recipe(tmp_path / "r.toml").net == "A"


def test_an_unknown_override_is_an_error_too():
    with pytest.raises(RecipeError, match=r"^no recipe key 'schedule.patienc'; did you mean 'schedule.patience'\?"):
        load_recipe(None, {"schedule.patienc": 3})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schedule.epochs", 0, "--epochs 0: must be at least 1"),
        ("augment.S", 100, "--S 100: must be at least 224, the smaller side first"),
        ("augment.S", [300, 256], "--S 300-256: must be at least 224, the smaller side first"),
        (
            "sgd.trainable",
            "conv9",
            "--trainable conv9: no such choice; did you mean 'conv5_3'? valid: all, fc, conv1_1",
        ),
        ("sgd.batch_size", "many", "--batch-size many: expected a whole number"),
        ("sgd.batch_size", 2**70, "--batch-size: expected a number below 9.22337e+18"),
        ("sgd.learning_rate", math.inf, "--learning-rate inf: expected a finite number"),
        ("schedule.patience", 0, "--set schedule.patience=0: must be at least 1"),
        ("width", -1.0, "--width -1.0: must be positive"),
        ("seed", -1, "--seed -1: must be at least 0"),
        ("data.validation_fraction", 2, "--set data.validation_fraction=2.0: must be between 0 and 1"),
    ],
)
def test_a_wrong_value_is_named_by_the_flag_that_sets_it(key, value, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, {key: value})
    assert told(caught.value).startswith(message)


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_the_papers_literal_variance_stops_with_advice(std):
    with pytest.raises(
        RecipeError, match=r"logits of 1e8 and ends in NaN; take `init.std=0.01`, or `init.scheme=glorot`$"
    ):
        load_recipe(None, {"init.scheme": "gaussian", "init.std": std})
    assert load_recipe(None, {"init.scheme": "glorot", "init.std": std}).init.std == std


@given(
    st.builds(
        Recipe,
        net=st.sampled_from(["A", "E", "shallow-B"]),
        width=st.floats(1e-6, 10),
        augment=st.builds(Augment, S=st.tuples(st.integers(224, 300), st.integers(300, 400)), flip=st.booleans()),
        schedule=st.builds(Schedule, least_gain=st.floats(0, 1e300), measure=st.sampled_from(["top1", "loss"])),
        precision=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    )
)
def test_a_resolved_recipe_reads_back_as_it_was(tmp_path_factory, recipe):
    file = tmp_path_factory.mktemp("recipe") / "r.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe


def test_differences_name_the_key_and_both_values():
    old, new = (dataclasses.asdict(Recipe(sgd=Sgd(batch_size=n))) for n in (256, 128))
    assert differences(old, new) == {"sgd.batch_size": "256, now 128"}
    assert differences(old, old) == {}


@pytest.mark.parametrize("given", [{"sgd.trainable": "fc"}, {"task": "localise"}])
def test_the_first_difference_is_the_one_that_the_others_follow_from(given):
    old, new = (dataclasses.asdict(load_recipe(None, overrides)) for overrides in (given, {}))
    changed = list(differences(old, new))
    assert changed[0] in given
    assert len(changed) > 1


# The recipes that ship


def test_the_base_recipe_spells_out_every_default():
    base = load_recipe(RECIPES / "base.toml")
    assert base == Recipe()
    text = (RECIPES / "base.toml").read_text()
    keys = [line.partition(" = ")[0] for line in dump_recipe(base).splitlines() if " = " in line]
    assert [key for key in keys if f"\n{key} = " not in text] == []


def test_there_is_a_recipe_for_each_net_and_scale_of_table_3():
    rows = {(recipe.net, recipe.augment.label, recipe.sgd.trainable) for recipe in map(load_recipe, TRAINING)}
    deep = {(net, S, "all") for net in "CDE" for S in ("256", "384", "256-512")}
    assert {("A", "256", "all"), ("A-LRN", "256", "all"), ("B", "256", "all")} | deep <= rows
    assert ("D", "256-512", "fc") in rows, "the submission's multi-scale net (Table 6)"


runnable = pytest.mark.parametrize("file", [f for f in TRAINING if f.name != "base.toml"], ids=lambda f: f.stem)


@runnable
def test_a_shipped_recipe_says_how_to_run_it_and_what_to_expect(file):
    lines = header(file)
    trainings = [shlex.split(line) for line in lines if line.startswith("vggfeat train")]
    assert trainings == [["vggfeat", "train", "--recipe", f"recipes/{file.name}"]]
    assert any(line.startswith("Expected") for line in lines)
    assert any(line.startswith("Cost") for line in lines)


@runnable
def test_the_commands_of_a_header_parse_and_read_what_this_recipe_writes(file):
    recipe = load_recipe(file)
    first, *others = [parsed(line) for line in commands(file)]
    assert first.info_name == "train"
    assert load_recipe(RECIPES.parent / first.params["recipe_file"]) == recipe
    weights = [c.params["weights"] for c in others if c.info_name == "evaluate" and not c.params["files"]]
    if recipe.task == "classify":
        assert weights, "the score in the header is that of an evaluation"
        assert set(weights) == {(f"checkpoints/{recipe.name}/best.pt",)}


def test_no_two_recipes_write_to_the_same_folder():
    files = [file for file in TRAINING if file.name != "base.toml"]
    names = {load_recipe(file).name: file.name for file in files}
    assert len(names) == len(files)
    assert names["ilsvrc2012-D-256-512-fc"] == "D-256-512-fc.toml"


@pytest.fixture
def in_the_checkout(monkeypatch):
    """Headers name recipes as seen from there."""
    monkeypatch.chdir(RECIPES.parent)


def test_fusions_take_posteriors_that_other_commands_keep(in_the_checkout):
    evaluations = [parsed(line) for file in [*TRAINING, *TABLES] for line in commands(file) if "evaluate" in line]
    kept = {one.params["output"] for one in evaluations} - {None}
    fusions = [one.params["files"] for one in evaluations if one.params["files"]]
    assert len(fusions) >= 7
    for files in fusions:
        assert all(fnmatch.filter(kept, pattern) for pattern in files), files
    (seven,) = [files for files in fusions if any("fc" in name for name in files)]
    assert len({name for pattern in seven for name in fnmatch.filter(kept, pattern)}) == 7


# PAPER: Tables 3 and 4, validation errors top-1/top-5 in % at one and at several test scales.
ONE_SCALE = {
    "A-256": "29.6/10.4",
    "A-LRN-256": "29.7/10.5",
    "B-256": "28.7/9.9",
    "C-256": "28.1/9.4",
    "C-384": "28.1/9.3",
    "C-256-512": "27.3/8.8",
    "D-256": "27.0/8.8",
    "D-384": "26.8/8.7",
    "D-256-512": "25.6/8.1",
    "E-256": "27.3/9.0",
    "E-384": "26.9/8.7",
    "E-256-512": "25.5/8.0",
}
SEVERAL = {
    "B-256": "28.2/9.6",
    "C-256": "27.7/9.2",
    "C-384": "27.8/9.2",
    "C-256-512": "26.3/8.2",
    "D-256": "26.6/8.6",
    "D-384": "26.5/8.6",
    "D-256-512": "24.8/7.5",
    "E-256": "26.9/8.7",
    "E-384": "26.7/8.6",
    "E-256-512": "24.8/7.5",
}


def test_headers_and_tables_quote_the_papers_errors():
    readme = (RECIPES / "README.md").read_text()
    for name, error in ONE_SCALE.items():
        text = (RECIPES / f"{name}.toml").read_text()
        assert f"top-1/top-5: {error} % at Q = " in text
        assert f"[{name}]({name}.toml) {error} |" in readme
        if name in SEVERAL:
            assert f"\n# {SEVERAL[name]} % at Q = " in text
            row = next(row for row in readme.split("## Table 4")[1].splitlines() if row.startswith(f"| {name[0]} |"))
            assert SEVERAL[name] in row


def test_every_recipe_stands_in_the_table_of_tables():
    readme = (RECIPES / "README.md").read_text()
    for file in [*TRAINING, *TABLES]:
        assert f"({file.name})" in readme or file.name == "base.toml"
    for target in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (RECIPES / target).exists(), target


@pytest.mark.parametrize("file", TRAINING, ids=lambda f: f.stem)
def test_a_chain_starts_where_another_recipe_ends(file):
    recipe = load_recipe(file)
    made = {f"checkpoints/{r.name}/best.pt": r for r in map(load_recipe, TRAINING) if r.sgd.trainable == "all"}
    if recipe.task == "localise":  # Appendix A: from the classification net of the same scale
        source = made[recipe.init.checkpoint]
        assert (source.task, source.net, source.augment) == ("classify", recipe.net, recipe.augment)
    elif recipe.init.checkpoint:
        source = made[recipe.init.checkpoint]
        before = {"256": ("A", "256"), "384": (recipe.net, "256"), "256-512": (recipe.net, "384")}
        assert (source.net, source.augment.label) == before[recipe.augment.label]
    else:
        assert recipe.augment.label == "256"
    # Sect. 3.1: the rate of 1e-3 is the fine-tuning's alone.
    first = recipe.augment.label == "256" and recipe.task == "classify"
    assert recipe.sgd.learning_rate == (0.01 if first else 0.001)


def test_there_is_a_recipe_for_each_row_of_tables_8_and_9():
    found = {
        (recipe.augment.label, recipe.sgd.trainable, recipe.localise.head)
        for recipe in map(load_recipe, TRAINING)
        if recipe.task == "localise"
    }
    assert found == {("384", "fc", "scr"), ("384", "fc", "pcr"), ("384", "all", "pcr"), ("256", "all", "pcr")}
