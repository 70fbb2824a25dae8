"""What `nets` and `info` print for people."""

import json
import re

import pytest
from making import clusters, write_descriptors

from vggfeat.cli import run
from vggfeat.cli.listings import LISTED, print_info
from vggfeat.nets.catalog import NETS, WEIGHTS


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_nets_has_a_line_for_every_net_and_every_published_file_within_80_columns(capsys):
    assert run(["nets"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    nets, weights = (part.splitlines() for part in "\n".join(lines).split("\n\n"))
    assert [line.split()[0] for line in nets[1 : len(NETS) + 1]] == list(NETS)
    assert sorted(tuple(line.split()[:2]) for line in weights[1 : len(WEIGHTS) + 1]) == sorted(
        (row.source, row.net) for row in WEIGHTS
    )
    assert re.search(r"^D +VGG-16 +16 +138M +2x64 2x128 3x256 3x512 3x512$", "\n".join(nets), re.M)
    assert re.search(r"^C +16 +134M +2x64 2x128 2x256\+1x1 2x512\+1x1 2x512\+1x1$", "\n".join(nets), re.M)


def test_the_blocks_of_a_net_are_its_layers(capsys):
    """Counting the notation's convolutions gives the depth: three more layers are fully-connected."""
    assert run(["nets"]) == 0
    for line in capsys.readouterr().out.splitlines()[1 : len(NETS) + 1]:
        words = line.split()
        at = next(at for at, word in enumerate(words) if re.fullmatch(r"\d+M", word))
        blocks = words[at + 1 :]
        runs = [run for block in blocks for run in block.split("+") if run != "LRN"]
        counted = sum(int(match[1]) if (match := re.match(r"(\d)x\d\d", run)) else 1 for run in runs)
        assert counted + 3 == NETS[words[0]].weight_layers, line


def test_info_is_a_table_and_ends_with_the_command(tmp_path, capsys):
    dataset, values = clusters([20, 25, 30])
    path = write_descriptors(tmp_path / "d.h5", dataset, values, failed=(3,))
    assert run(["info", str(path)]) == 0
    text = capsys.readouterr().out
    table, command = text.split("\nto make it again:\n")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in table.splitlines() if not line.startswith("  "))
    assert (rows["kind"], rows["rows"], rows["failed"], rows["flip"]) == ("descriptors", "75", "1", "yes")
    assert "  failed: class000/0003.jpg: cannot be read\n" in table
    assert command.startswith("  vggfeat extract --net D ")
    assert run(["info", str(path), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"fingerprint", "failed_images", "command"}


def test_info_rounds_numbers_counts_long_lists_and_shows_nested_values(capsys):
    names = [f"c{k}" for k in range(40)]
    print_info(
        {
            "path": "m.h5",
            "mean": 0.8166666666666667,
            "std": None,
            "rate": 0.000123456789,
            "class_names": names,
            "inputs": [{"net": "D", "flip": True}],
            "preprocessing": {"channels": "RGB", "mean": [123.68, 116.779]},
            "training": {"recipe": {"net": "D"}, "epoch": 3},
        }
    )
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "path": "m.h5",
        "mean": "81.7 %",
        "std": "-",
        "rate": "0.0001235",
        "class names": f"40: {', '.join(names[:LISTED])}, .. (--json has all)",
        "input 1: net": "D",
        "input 1: flip": "yes",
        "preprocessing": "channels RGB, mean 123.7 116.8",
        "training: epoch": "3",
    }


def test_control_characters_of_a_file_do_not_reach_the_terminal(capsys):
    print_info({"path": "a\x1b[31m", "failed_images": {"b\x07": "c\n"}, "command": "d\x1b"})
    assert not re.search(r"[^\n -~]", capsys.readouterr().out)


def test_info_of_a_folder_says_what_to_name_instead(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a/1.jpg", "run/last.pt", "run/best.pt", "run/recipe.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder, said in (
        (
            "photos",
            "photos is a folder without descriptors, models or nets: 'vggfeat extract photos' describes the pictures "
            "in it",
        ),
        ("run", "run is a folder: name a file in it, such as run/best.pt"),
    ):
        assert run(["info", folder]) == 1
        assert capsys.readouterr().err == f"vggfeat: {said}\n"
