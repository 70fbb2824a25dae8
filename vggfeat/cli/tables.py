"""Tables for the terminal: scores on stderr, listings on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vggfeat.cli.columns import columns, show
from vggfeat.cli.console import note, stderr
from vggfeat.metrics import chance_topk_error
from vggfeat.nets.wording import net_words, size_words, width_words
from vggfeat.system.numbers import number_of
from vggfeat.system.text import printable

if TYPE_CHECKING:  # the stages import torch and scikit-learn
    from vggfeat.classifiers.protocols.results import SVMResult
    from vggfeat.inference.evaluation import Evaluation
    from vggfeat.inference.posteriors import Confusion
    from vggfeat.nets.inference_form import Method
    from vggfeat.stages.bench.convolutions import ConvolutionBench
    from vggfeat.stages.bench.extract import ExtractBench
    from vggfeat.stages.bench.solvers import SolverBench
    from vggfeat.stages.bench.svm import SVMBench
    from vggfeat.stages.localise import Localisation


def print_failures(
    errors: dict[str, str], total: int, shown: int = 10, where: str = "in the file: vggfeat info --failed"
) -> None:
    """Lists the first failed images with their reasons, the number of all, and where to see the others."""
    for name, reason in list(errors.items())[:shown]:
        note(f"skipped {name}: {reason}")
    more = f" ({len(errors) - shown} more {where})" if len(errors) > shown else ""
    note(f"{len(errors)} of {number_of(total, 'image')} skipped{more}")


PER_CLASS_SHOWN = 25
"""Up to this many classes are listed one by one."""


def print_svm(result: SVMResult) -> None:
    """Prints an SVM run's scores on stderr: each split, the classes if few, mean and deviation."""
    multi = result.measure == "mAP"
    label = "mAP" if multi else "mean class recall"
    table = columns(">split", ">train", ">val", ">test", ">C", f">{label} %", ">seconds")
    for number, split in enumerate(result.splits, start=1):
        counts = [str(count) for count in (split.train, split.val, split.test)]
        C = "per class" if isinstance(split.C, dict) else f"{split.C:.3g}"
        table.add_row(str(number), *counts, C, _percent(split.value), f"{sum(split.seconds.values()):.1f}")
    console = stderr()
    if len(result.per_class) <= PER_CLASS_SHOWN:
        classes = _table("class", "AP %" if multi else "recall %")
        for name, value in result.per_class.items():
            classes.add_row(Text(printable(name)), _percent(value))
        show(console, classes)
    show(console, table)
    if result.by_layer is not None:
        layers = columns("layer", ">values", f">{label} %", ">+-")
        for one in result.by_layer:
            layers.add_row(one.layer, str(one.dim), _percent(one.mean), "" if one.std is None else _percent(one.std))
        show(console, layers)
    if result.left_out:
        note(f"left out, without a descriptor: {len(result.left_out)}, {printable(result.left_out[0])} first")
    files = ", ".join(printable(file["path"]) for file in result.descriptors)
    nets = "; ".join(dict.fromkeys(printable(file["nets"]) for file in result.descriptors))
    deviation = "" if result.std is None else f" +- {_percent(result.std)}"
    splits = f" over {len(result.splits)} splits" if deviation else ""
    score = f"{label} {_percent(result.mean)}{deviation} % (chance {_percent(result.chance)}){splits}"
    note(f"{result.dataset}: {score}")
    note(f"net {nets}; {files}")


def print_evaluation(result: Evaluation) -> None:
    """Prints errors on stderr: a row per net or file, their fusion last; classes and confusions if asked for."""
    console = stderr()
    if result.per_class is not None and result.confusions is not None:
        _print_classes(console, result.per_class, result.confusions)
    tops = [k for k in (1, 5) if result.classes > k or k == 1]  # few classes have no top-5 error
    table = _table("net", "view", "Q", "images", *(f"top-{k} error %" for k in tops))
    for row in result.rows:
        errors = [_optional(error, ".1f") for error in (row.top1_error, row.top5_error)[: len(tops)]]
        several = len(result.rows) > 1
        name = "average of these" if several and row is result.rows[-1] else row.nets
        name += f", {row.path}" if several and row is not result.rows[-1] else ""
        table.add_row(Text(printable(name)), row.view, ",".join(map(str, row.scales)), str(row.images), *errors)
    if any(row.top1_error is not None for row in result.rows):
        chance = (f"{chance_topk_error(result.classes, k):.1f}" for k in tops)
        table.add_row("chance", "", "", "", *chance)
    show(console, table)


def print_localisation(result: Localisation) -> None:
    """Prints localisation errors on stderr: a row for the nets and one for each trivial answer."""
    central = result.protocol == "1"
    table = _table("boxes", "Q", "merged up to", "images", "top-1 error %", "top-5 error %")
    names = " + ".join(
        f"{net_words(net.net, net.weights, net.width)}, {head}"
        for net, head in zip(result.nets, result.heads, strict=True)
    )
    of_nets = dict.fromkeys(",".join(map(str, net.scales)) for net in result.nets)
    scales, count = "; ".join(of_nets), str(result.images)
    errors = [_optional(error, ".1f") for error in (result.top1_error, result.top5_error)]
    table.add_row(Text(printable(names)), scales, _optional(result.threshold, "g"), count, *errors)
    for name, value in (("the whole image", result.whole_image), ("the mean box of training", result.mean_box)):
        error = _optional(value, ".1f")
        table.add_row(name, "", "", count, *((error, "-") if central else ("-", error)))
    show(stderr(), table)
    if result.unlocated:
        images = number_of(result.unlocated, "image has", "images have")
        verb = "is" if result.unlocated == 1 else "are"
        note(f"{images} no box to compare with and {verb} left out")


def _print_classes(console: Console, errors: dict[str, float | None], confusions: Sequence[Confusion]) -> None:
    worst = sorted(errors.items(), key=lambda entry: -1.0 if entry[1] is None else entry[1], reverse=True)
    classes = _table("class", "top-1 error %")
    for name, error in worst[:PER_CLASS_SHOWN]:
        classes.add_row(Text(printable(name)), _optional(error, ".1f"))
    show(console, classes)
    if len(worst) > PER_CLASS_SHOWN:
        note(f"the worst {PER_CLASS_SHOWN} of {len(worst)} classes (--json has all)")
    pairs = _table("true class", "images")
    pairs.add_column("taken for")
    for pair in confusions:
        pairs.add_row(Text(printable(pair.true)), str(pair.count), Text(printable(pair.predicted)))
    show(console, pairs)


def _percent(value: float | None) -> str:
    """0.9181 -> 91.8; "-" for a missing value."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def print_bench(result: dict[str, Any]) -> None:
    """Prints the measured figures on stdout, each beside its yardstick."""
    out = Console(highlight=False)
    if "extract" in result:
        _print_bench_extract(out, result["extract"])
    if "train" in result:
        _print_bench_train(out, result["train"])
    if "svm" in result:
        _print_bench_svm(out, result["svm"])
    if "convolutions" in result:
        _print_bench_convolutions(out, result["convolutions"])
    if "solvers" in result:
        _print_bench_solvers(out, result["solvers"])


def _print_bench_svm(out: Console, figures: SVMBench) -> None:
    table = _table("svm", "ours s", "LinearSVC s", "ratio", "2 processes", "one C", "largest gap")
    for name, row in figures.sizes.items():
        scaled = "*" if row.liblinear_scaled else ""
        table.add_row(
            name,
            f"{row.newton_seconds:.1f}",
            f"{row.liblinear_seconds:.0f}{scaled}",
            f"{row.ratio:.0f}",
            f"{row.ratio_two_processes:.0f}",
            f"{row.cold_ratio:.0f}",
            f"{row.max_gap:.0e}",
        )
    show(out, table)
    for name, row in figures.sizes.items():
        if row.liblinear_scaled:
            timed = f"{row.liblinear_classes_timed} of {number_of(row.classes, 'class')}"
            out.print(f"* {name}: LinearSVC timed on {timed} and scaled")


def _print_bench_extract(out: Console, extract: ExtractBench) -> None:
    table = _table("layer", "precision", "images/s", "TFLOP/s", "of matrix rate", "x plain loop", "cosine to it")
    for row in extract.runs:
        table.add_row(
            row.layer,
            row.precision,
            f"{row.images_per_second:.2f}",
            f"{row.tflops:.3f}",
            f"{row.share_of_matrix_rate:.0%}",
            _optional(row.times_plain_torchvision, ".2f"),
            _optional(row.least_cosine_to_plain, ".6f"),
        )
    scales, machine = ",".join(map(str, extract.scales)), extract.machine
    net = net_words(extract.net, "none", extract.width)
    out.print(f"extract: net {net}, Q {scales}, flips; {machine['name']}, {number_of(machine['threads'], 'thread')}")
    show(out, table)
    for layer, rate in extract.plain_torchvision_images_per_second.items():
        out.print(f"plain torchvision loop up to {layer}: {rate:.2f} images/s")
    out.print(f"decoding and rescaling alone: {extract.loader_images_per_second:.0f} images/s on one core")


def _print_bench_convolutions(out: Console, bench: ConvolutionBench) -> None:
    ways: tuple[Method, ...] = ("direct", "nnpack")
    table = _table("layer", "channels", "map", *ways, "taken")
    for row in bench.layers:
        rates = [_optional(row.gflops.get(way), ".0f") for way in ways]
        table.add_row(
            row.layer, f"{row.channels} -> {row.out_channels}", f"{row.height}x{row.width}", *rates, row.chosen
        )
    machine = bench.machine
    out.print(f"convolutions: net {bench.net}, Q {bench.scale}, fp32, GFLOP/s as if computed directly")
    out.print(f"{machine['name']}, {number_of(machine['threads'], 'thread')}")
    show(out, table)
    out.print(f"the ways taken: {bench.times_direct:.2f} times as fast as direct ones")


def _print_bench_solvers(out: Console, bench: SolverBench) -> None:
    table = _table("images", "values", "classes", "Gram matrix s", "weights s", "taken", "times the faster")
    for row in bench.problems:
        table.add_row(
            f"{row.images:,}",
            f"{row.values:,}",
            f"{row.classes:,}",
            f"{row.seconds['gram']:.2f}",
            f"{row.seconds['primal']:.2f}",
            {"gram": "Gram matrix", "primal": "weights"}[row.chosen],
            f"{row.lost:.2f}",
        )
    show(out, table)


def _print_bench_train(out: Console, train: dict[str, Any]) -> None:
    machine, both = train["machine"], train["synchronisation"]
    table = _table("precision", "images/s", "TFLOP/s", "of matrix rate", "x plain loop")
    for row in train["runs"]:
        table.add_row(
            row["precision"],
            f"{row['images_per_second']:.1f}",
            f"{row['tflops']:.3f}",
            f"{row['share_of_matrix_rate']:.0%}",
            _optional(row.get("times_plain_torchvision"), ".2f"),
        )
    out.print(
        f"train: net {size_words(train['net'], train['width'])}, batch {train['batch_size']}; {machine['name']}, "
        f"{number_of(machine['threads'], 'thread')}"
    )
    show(out, table)
    out.print(f"plain torchvision loop: {_optional(train['plain_torchvision_images_per_second'], '.1f')} images/s")
    for row in train["head"]:
        times = row["times_plain_torchvision"]
        out.print(
            f"fully-connected layers alone, {width_words(row['width'])}, batch {row['batch_size']}, "
            f"{row['precision']}: {row['images_per_second']:.0f} images/s"
            + ("" if times is None else f", {times:.2f} x plain loop")
        )
    for row in train["loader"]:
        out.print(f"loader alone, threads {row['threads']}: {row['images_per_second']:.0f} crops/s")
    if both is None:
        out.print(f"2 processes: not measured ({train['synchronisation_missing']})", markup=False)
    else:
        setting = (
            f"{both['processes']} processes ({both['backend']}, {number_of(both['images_per_process'], 'image')} each)"
        )
        together, without = both["seconds_per_update"], both["seconds_per_update_without"]
        out.print(f"{setting}: {together:.3f} s per update, {without:.3f} s without synchronisation")
        megabytes, alone = both["gradient_megabytes"], both["seconds_of_all_reduce_alone"]
        out.print(f"all-reduce of {megabytes:.0f} MB of gradients by itself: {alone:.3f} s")


def print_quickstart(rows: list[dict[str, Any]], words: str) -> None:
    """Prints quickstart's scores on stdout, best first, and what they are scores of."""
    table = _table("features", "mean class recall", "deviation")
    for row in sorted(rows, key=lambda row: -row["mean"]):
        table.add_row(row["features"], f"{row['mean']:.1%}", "" if row["std"] is None else f"{row['std']:.1%}")
    out = Console(highlight=False)
    show(out, table)
    out.print(words)


def _table(first: str, *numbers: str) -> Table:
    """A table of numbers under a first column of names."""
    return columns(first, *(f">{name}" for name in numbers))


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
