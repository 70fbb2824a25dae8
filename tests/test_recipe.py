import dataclasses
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggfeat.errors import RecipeError, UsageError
from vggfeat.recipe import Augment, Recipe, Schedule, Sgd, differences, dump_recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"


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
    ("text", "message"),
    [
        ("[sgd]\nlearning_rat = 1", "{file}: [sgd] no recipe key 'learning_rat'; did you mean 'learning_rate'? "),
        ("epochs = 3", "{file}: no recipe key 'epochs'; valid: net, width, seed, precision, data, augment, sgd, "),
        ("sgd = 3", "{file}: sgd is a section of keys, not 3"),
        ("[sgd]\nbatch_size = 2.5", "{file}: [sgd] batch_size = 2.5: expected a whole number"),
        ("[augment]\nflip = 1", "{file}: [augment] flip = 1: expected true or false"),
        ("[augment]\nS = [256]", "{file}: [augment] S = [256]: expected a whole number or [min, max]"),
        ("[augment]\nS = 128", "augment.S [128, 128]: must be a side, or [min, max], of at least 224"),
        ("[augment]\nS = [512, 256]", "augment.S [512, 256]: must be a side, or [min, max], of at least 224"),
        ("[schedule]\nmeasure = 'top3'", "no schedule.measure 'top3'; did you mean 'top5'? valid: top5, top1, loss"),
        ("net = 'F'", "no net 'F'; valid: A, A-LRN"),
        ("net = ", "{file}: no TOML: "),
        ("extends = 'gone.toml'", "{folder}/gone.toml: this recipe cannot be read: No such file or directory"),
        ("extends = 'r.toml'", "{file}: extends itself, by way of {file}"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_the_way_out(tmp_path, text, message):
    file = written(tmp_path, "r.toml", text)
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(message.format(file=file, folder=tmp_path))


def test_an_unknown_override_is_an_error_too():
    with pytest.raises(RecipeError, match=r"^\[schedule\] no recipe key 'patienc'; did you mean 'patience'\?"):
        load_recipe(None, {"schedule.patienc": 3})


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_the_papers_literal_variance_stops_with_advice(std):
    with pytest.raises(RecipeError, match=r"logits of 1e8 and ends in NaN; take --init-std 0.01, or --init glorot$"):
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
    assert differences(old, new) == ["sgd.batch_size: 256, now 128"]
    assert differences(old, old) == []


# The recipes that ship


def shipped() -> list[Path]:
    return sorted(RECIPES.glob("*.toml"))


def test_the_base_recipe_spells_out_every_default():
    base = load_recipe(RECIPES / "base.toml")
    assert base == Recipe()
    text = (RECIPES / "base.toml").read_text()
    keys = [line.partition(" = ")[0] for line in dump_recipe(base).splitlines() if " = " in line]
    assert [key for key in keys if f"\n{key} = " not in text] == []


def test_there_is_a_recipe_for_each_net_and_scale_of_table_3():
    rows = {(recipe.net, recipe.augment.label, recipe.sgd.trainable) for recipe in map(load_recipe, shipped())}
    deep = {(net, S, "all") for net in "CDE" for S in ("256", "384", "256-512")}
    assert {("A", "256", "all"), ("A-LRN", "256", "all"), ("B", "256", "all")} | deep <= rows
    assert ("D", "256-512", "fc") in rows, "the submission's multi-scale net (Table 6)"


@pytest.mark.parametrize("file", [f for f in shipped() if f.name != "base.toml"], ids=lambda f: f.stem)
def test_a_shipped_recipe_says_how_to_run_it_and_what_to_expect(file):
    header = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    commands = [shlex.split(line) for line in header if line.startswith("vggfeat train")]
    assert commands == [["vggfeat", "train", "--recipe", f"recipes/{file.name}"]]
    assert any(line.startswith("Expected") and "top-1/top-5" in line for line in header)
    assert any(line.startswith("Cost") for line in header)


@pytest.mark.parametrize("file", shipped(), ids=lambda f: f.stem)
def test_a_chain_starts_where_another_recipe_ends(file):
    recipe = load_recipe(file)
    made = {f"checkpoints/{r.name}/best.pt": r for r in map(load_recipe, shipped()) if r.sgd.trainable == "all"}
    if recipe.init.checkpoint:
        source = made[recipe.init.checkpoint]
        before = {"256": ("A", "256"), "384": (recipe.net, "256"), "256-512": (recipe.net, "384")}
        assert (source.net, source.augment.label) == before[recipe.augment.label]
    else:
        assert recipe.augment.label == "256"
    # Sect. 3.1: the rate of 1e-3 is the fine-tuning's alone.
    assert recipe.sgd.learning_rate == (0.01 if recipe.augment.label == "256" else 0.001)
