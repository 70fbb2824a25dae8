import json

import pytest

from vggfeat.cli import run
from vggfeat.cli.tables import print_bench
from vggfeat.stages.bench import problems, solvers
from vggfeat.stages.bench.solvers import FormSeconds, SolverBench, bench_solvers


def test_each_problem_is_solved_in_both_forms(monkeypatch):
    ticks = []
    engines = []
    solve = solvers.SVMPath.fits

    def fits(path, Cs):
        engines.append((type(path.engine).__name__, path.X.shape, path.n_problems))
        return solve(path, Cs)

    monkeypatch.setattr(solvers.SVMPath, "fits", fits)
    bench = bench_solvers([(90, 64), (150, 64)], classes=3, Cs=(0.1, 1), progress=lambda *counts: ticks.append(counts))
    assert engines == [(kind, shape, 3) for shape in ((90, 64), (150, 64)) for kind in ("GramEngine", "PrimalEngine")]
    assert [(row.images, row.values, row.classes, row.chosen) for row in bench.problems] == [
        (90, 64, 3, "primal"),
        (150, 64, 3, "primal"),
    ]
    assert all(set(row.seconds) == {"gram", "primal"} and min(row.seconds.values()) > 0 for row in bench.problems)
    assert ticks == [(1, 2, 0), (2, 2, 0)]


def test_a_wrong_choice_shows_what_it_costs(capsys):
    rows = (
        FormSeconds(2500, 512, 20, {"gram": 1.0, "primal": 1.5}, "gram"),
        FormSeconds(10_000, 512, 20, {"gram": 12.9, "primal": 2.4}, "gram"),
    )
    assert rows[0].lost == 1 and rows[1].lost == pytest.approx(5.375)
    print_bench({"solvers": SolverBench(rows)})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["2,500", "512", "20", "1.00", "1.50", "Gram", "matrix", "1.00"] in lines
    assert ["10,000", "512", "20", "12.90", "2.40", "Gram", "matrix", "5.38"] in lines


def test_the_command_prints_json(monkeypatch, capsys):
    monkeypatch.setattr(solvers.bench_solvers, "__defaults__", (((80, 64),),))
    monkeypatch.setitem(solvers.bench_solvers.__kwdefaults__, "classes", 2)
    assert run(["bench", "solvers", "--json", "--quiet"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["solvers"]["problems"]
    assert (told["images"], told["values"], told["classes"], told["chosen"]) == (80, 64, 2, "primal")
    assert told["lost"] >= 1


def test_the_default_sizes_have_more_images_than_values():
    assert all(images > values for images, values in problems.FORM_SIZES)
