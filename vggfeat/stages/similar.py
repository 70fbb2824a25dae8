"""The most similar images in a descriptor file, to given pictures or to one another."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vggfeat._version import __version__
from vggfeat.datasets import Dataset
from vggfeat.datasets.folder import Images, as_dataset
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import StoreError, UsageError
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.settings import Overrides, RecordedWeights, RunOptions, in_place_of_recorded
from vggfeat.page import parts, similarity
from vggfeat.page.commands import data_root, keeping_command, note_on, similar_command, with_data, with_report
from vggfeat.page.html import Part, check_page
from vggfeat.page.pictures import Pictures
from vggfeat.results import Result, short_repr
from vggfeat.store import Descriptors, File, as_descriptors
from vggfeat.store.neighbours import near_duplicates, nearest
from vggfeat.store.reader import warn_of_part
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Progress, callback, with_bar
from vggfeat.system.numbers import number_of
from vggfeat.system.values import real, whole

Match = tuple[str, float]
"""(id, cosine)."""


@dataclass(frozen=True, repr=False)
class Query:
    """A picture and the images of the file that are most similar to it."""

    id: str
    matches: tuple[Match, ...] = ()
    """Most similar first."""
    error: str = ""
    """Why the picture could not be described."""

    __repr__ = short_repr

    def as_json(self) -> dict[str, Any]:
        """Plain data: the id, with its matches or its error."""
        if self.error:
            return {"id": self.id, "error": self.error}
        return {"id": self.id, "matches": [{"id": id, "cosine": cosine} for id, cosine in self.matches]}


@dataclass(frozen=True)
class Similar(Result):
    """Neighbours of pictures, or the near-duplicates within a file."""

    features: Path
    nets: str
    """The nets that described the images, with their widths and weights, in words."""
    queries: tuple[Query, ...] = ()
    pairs: tuple[tuple[str, str, float], ...] | None = None
    """(id, id, cosine), most similar first; None where pictures were given."""
    found: int = 0
    """Pairs above the threshold, of which `pairs` has the most similar."""
    report: Path | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Why pictures could not be described, by id."""
        return {query.id: query.error for query in self.queries if query.error}

    def as_json(self) -> dict[str, Any]:
        """Plain data: `queries`, or `pairs` and `found`."""
        made: dict[str, Any] = {"features": str(self.features), "nets": self.nets}
        if self.pairs is None:
            made["queries"] = [query.as_json() for query in self.queries]
        else:
            made["pairs"] = [{"ids": [first, second], "cosine": cosine} for first, second, cosine in self.pairs]
            made["found"] = self.found
        return made | ({"report": str(self.report)} if self.report else {})


@with_checked_arguments
@with_bar("similar", "compared")
def similar(
    features: File,
    images: Images | None = None,
    *,
    count: int | None = None,
    at_least: float | None = None,
    most: int | None = None,
    report: str | Path | None = None,
    data: str | Path | None = None,
    exif: bool | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    weights: RecordedWeights = (),
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = True,
) -> Similar:
    """Finds the nearest neighbours of pictures in a descriptor file or, without pictures, its near-duplicates.

    Similarity is the cosine between descriptors. Pictures are described with the nets and settings that the file
    records. Memory does not grow with the file: a million descriptors need no more than a thousand do.

    Args:
        features: a file of descriptors: its path, or what `read_descriptors` gave.
        images: the pictures: paths of images, folders and tar files, or a Dataset. None compares all images of the file
            with one another.
        count: neighbours of each picture; 10 by default.
        at_least: the smallest cosine of near-duplicates; 0.98 by default.
        most: pairs of near-duplicates that are kept, the most similar ones; 10,000 by default.
        report: folder for a page that shows the pictures.
        data: the data root, where the page looks for the file's images; by default where the file says that they were,
            else "data".
        exif: honour the EXIF orientation of pictures; by default as for the file's own images.
        max_megapixels: pictures of more million pixels fail.
        weights: names or files in place of the weights that the file records, one for each of its nets; their hash must
            be the recorded one.
        seed: of nets with random weights; by default the recorded one.
        device, offline: as `load_net` takes them.
        precision: as `load_net` takes it; by default the recorded one.
        workers: threads that decode pictures ahead of the nets; as many as there are cores by default.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (done, total,
            failed): of pictures described, then of rows or pairs compared.

    Raises UsageError or StoreError where the file holds no descriptors or the arguments contradict each other, and
    ModelError where its nets cannot be had.
    """
    held = as_descriptors(features)
    if held.holds_posteriors:
        raise StoreError(f"{held.path} holds class posteriors, not descriptors")
    warn_of_part(held)
    if not len(held.done):
        raise StoreError(f"{held.path} holds no descriptor yet")
    numbers = _Numbers.of(count, at_least, most)
    of_pictures = {"count": count, "weights": weights or None, "seed": seed, "device": device, "precision": precision}
    of_pictures |= {"workers": workers, "exif": exif}
    if images is None:
        _check_left_out(of_pictures, "pictures: name some")
    else:
        _check_left_out({"at_least": at_least, "most": most}, "a file alone: leave the pictures out")
    if report is None:
        _check_left_out({"data": data}, "`report`")
    check_page(report)
    queries = None if images is None else as_dataset(images)
    overrides = Overrides(
        exif=exif,
        max_megapixels=max_megapixels,
        weights=in_place_of_recorded(weights),
        seed=seed,
        device=device,
        precision=precision,
        offline=offline,
        workers=RunOptions(workers).threads,
    )
    tick = callback(progress) or (lambda done, total, failed: None)
    if queries is None:
        least, pairs = numbers.at_least, numbers.most
        found, chosen = _within(held, least, pairs, tick), {"at-least": least, "most": pairs}
        measure = f"cosine of at least {least:g}; at most {number_of(pairs, 'pair')}"
    else:
        chosen = {"count": numbers.count, **_in_flags(overrides)}
        found = _neighbours(held, queries, numbers.count, tick, overrides)
        measure = f"cosine; the {number_of(numbers.count, 'nearest image')} of each picture"
    if report is None:
        return found
    asked = None if queries is None else Pictures(queries.samples, exif=queries.exif)
    command, note = similar_command(held.path, chosen, queries)
    lines = [keeping_command(held, data), with_data(with_report(command, report), data)]
    made = _made(held, measure, lines, [note_on(held), note])
    return replace(found, report=similarity.write_page(report, found.as_json(), asked, _pictures(held, data), made))


@dataclass(frozen=True)
class _Numbers:
    """How much is found, where nothing is given."""

    count: int = 10
    at_least: float = 0.98
    most: int = 10_000

    @staticmethod
    def of(count: int | None, at_least: float | None, most: int | None) -> _Numbers:
        usual = _Numbers()
        numbers = _Numbers(
            usual.count if count is None else whole("count", count),
            usual.at_least if at_least is None else real("at_least", at_least),
            usual.most if most is None else whole("most", most),
        )
        if numbers.count < 1 or numbers.most < 1:
            raise UsageError("`count` and `most` start at 1")
        return numbers


def _check_left_out(options: Mapping[str, Any], what: str) -> None:
    """Raises UsageError for an option that is given where it would change nothing, saying with what it goes."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"`{name}` goes with {what}")


def _in_flags(overrides: Overrides) -> dict[str, Any]:
    """The options that change what is found, by flag; those at their defaults are left out."""
    most = overrides.max_megapixels
    return {
        "weights": overrides.weights,
        "seed": overrides.seed,
        "precision": overrides.precision,
        "exif": overrides.exif,
        "no-exif": overrides.exif is False,
        "max-megapixels": None if most == MAX_MEGAPIXELS else f"{most:g}",
    }


def _made(held: Descriptors, measure: str, lines: Sequence[str], notes: Sequence[str]) -> Part:
    """How the page was made."""
    versions = {"vggfeat": __version__, "python": platform.python_version(), "numpy": version("numpy")}
    terms = parts.described({**held.attributes, "path": str(held.path)}) | {
        "similarity": measure,
        "compared with": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return parts.made(terms, lines, notes)


def _within(held: Descriptors, at_least: float, most: int, tick: Progress) -> Similar:
    pairs = near_duplicates(held, at_least, most=most, progress=lambda done, total: tick(done, total, 0))
    rows = zip(pairs.rows.tolist(), pairs.cosines.tolist(), strict=True)
    return Similar(
        held.path,
        held.nets,
        pairs=tuple((held.ids[i], held.ids[j], cosine) for (i, j), cosine in rows),
        found=pairs.found,
    )


def _check_boxes(held: Descriptors, images: Dataset) -> None:
    """Raises UsageError for pictures without the persons' boxes that the file's descriptors are of."""
    region = held.attributes["region"]
    if region != "image" and any(sample.box is None for sample in images.samples):
        raise UsageError(
            f"{held.path} describes persons' boxes (`region={region}`), which these pictures do not have: leave the "
            "pictures out, or extract with `region=image`"
        )


def _neighbours(held: Descriptors, images: Dataset, count: int, tick: Progress, overrides: Overrides) -> Similar:
    from vggfeat.inference.recorded import recorded_extractors

    if not images.samples:
        raise UsageError("no images to compare")
    _check_boxes(held, images)
    (extractor,) = recorded_extractors(
        held.path,
        [held.attributes["settings"]],
        dataset=str(held.attributes["dataset"]),
        namings=[held.naming],
        images=images,
        overrides=overrides,
    )
    failures: dict[int, str] = {}
    described = []
    try:
        for rows, block in describe_blocks(extractor, images.samples):
            failures |= {rows.start + row: reason for row, reason in block.failures.items()}
            described.append(block.descriptors)
            tick(rows.stop, len(images.samples), len(failures))
    finally:
        extractor.close()
    good = [row for row in range(len(images.samples)) if row not in failures]
    near = nearest(held, np.concatenate(described)[good], count, progress=lambda done, total: tick(done, total, 0))
    matches = {
        row: tuple((held.ids[at], cosine) for at, cosine in zip(rows, cosines, strict=True))
        for row, rows, cosines in zip(good, near.rows.tolist(), near.cosines.tolist(), strict=True)
    }
    queries = (
        Query(sample.id, matches.get(row, ()), failures.get(row, "")) for row, sample in enumerate(images.samples)
    )
    return Similar(held.path, held.nets, tuple(queries))


def _pictures(held: Descriptors, data: str | Path | None) -> Pictures:
    """Thumbnails of the file's images, as they lie on disk now."""
    exif = bool(held.attributes["settings"]["exif"])
    return Pictures.of(str(held.attributes["dataset"]), data_root(data, held.naming), held.ids, exif=exif)
