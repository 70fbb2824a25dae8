"""New images described exactly as a file records: the same nets, checked by hash, and the same settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vggfeat.datasets import Dataset
from vggfeat.datasets.sample import OWN
from vggfeat.errors import ModelError, UsageError
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings, Overrides
from vggfeat.nets.networks import VGG
from vggfeat.nets.preprocessing import Preprocessing
from vggfeat.nets.weights import NAMES, load_net
from vggfeat.store.naming import Naming
from vggfeat.system.bars import Fetching
from vggfeat.system.files import is_file
from vggfeat.system.numbers import number_of


def recorded_extractors(
    path: Path,
    inputs: Sequence[Mapping[str, Any]],
    *,
    dataset: str,
    namings: Sequence[Naming] = (),
    images: Dataset | None = None,
    overrides: Overrides | None = None,
    progress: Fetching | None = None,
) -> list[Extractor]:
    """One extractor for each of the records in a file; a net that several of them share is loaded once.

    Args:
        path: the file with the records, for messages.
        inputs: what `Extractor.provenance` recorded.
        dataset: name of the data set that the records are of.
        namings: where the weights of each record were read, if that is known: they are looked for there.
        images: the new images.
        overrides: what is chosen in place of the record; by default nothing.
        progress: called with (bytes, total) while weights are fetched.

    Raises ModelError where the weights are not those of the record, UsageError for a number of weights that is not that
    of the nets, and for a seed without random weights.
    """
    own = overrides or Overrides()
    nets = [net for one in inputs for net in one["nets"]]
    _check_given(path, nets, own.weights, own.seed)
    given = iter(own.weights) if own.weights else itertools.repeat(None)
    places = itertools.chain.from_iterable(_places(inputs, namings))
    loaded: dict[tuple[str, str], VGG] = {}
    extractors = []
    for one in inputs:
        its_nets = []
        for net in one["nets"]:
            # All of the record: files of the same weights may be other nets (A-LRN) or expect other input.
            key = (json.dumps(net, sort_keys=True), own.precision or one["precision"])
            name: str | None = next(given)
            place = next(places)
            if key not in loaded:
                options: dict[str, Any] = {"device": own.device, "precision": key[1]}
                options |= {"offline": own.offline, "progress": progress}
                known = place if is_file(place) else None
                loaded[key] = _recorded_net(path, net, name, known, seed=own.seed, **options)
            its_nets.append(loaded[key])
        recorded = one["exif"] if dataset in OWN or images is None else images.exif
        settings = DescriptorSettings.of(one, recorded if own.exif is None else own.exif)
        extractors.append(Extractor(its_nets, settings, workers=own.workers, max_megapixels=own.max_megapixels))
    return extractors


def _check_given(path: Path, nets: Sequence[Mapping[str, Any]], weights: Sequence[str], seed: int | None) -> None:
    """Raises UsageError and ModelError for weights and a seed that cannot be those of the nets, before one is read."""
    if weights and len(weights) != len(nets):
        names = ", ".join(f"{net['net']} ({net['weights']})" for net in nets)
        verb = "is" if len(weights) == 1 else "are"
        raise UsageError(
            f"{path} needs the weights of {number_of(len(nets), 'net')}, {len(weights)} {verb} given; its nets: {names}"
        )
    if seed is not None and "none" not in (weights or [net["weights"] for net in nets]):
        raise UsageError(f"`seed` goes with random weights; those that {path} records are not")
    for net, name in zip(nets, weights, strict=False):  # none at all, or one each
        if net["weights"] == "none" and name != "none":
            instead = "leave `weights` out" if len(nets) == 1 else "give `weights=none` for this net"
            raise ModelError(f"{path} was made with random weights of net {net['net']}, not with {name}: {instead}")


def _places(inputs: Sequence[Mapping[str, Any]], namings: Sequence[Naming]) -> Iterator[Sequence[str]]:
    """The weights' places by net, of each record; empty where they are unknown."""
    known = namings if len(namings) == len(inputs) else [Naming()] * len(inputs)
    for one, naming in zip(inputs, known, strict=True):
        count = len(one["nets"])
        yield naming.weights if len(naming.weights) == count else [""] * count


def _recorded_net(
    path: Path, recorded: Mapping[str, Any], given: str | None, place: str | None, *, seed: int | None, **options: Any
) -> VGG:
    """The net of a record, its weights checked.

    Args:
        path: the file with the record.
        given: the weights to take, if the user names them.
        place: where they were read, if there still is a file.
    """
    name = given or place or recorded["weights"]
    if given is None and place is None and name not in NAMES and not is_file(name):
        raise ModelError(f"{path} needs the weights {name} of net {recorded['net']}: give the file with `weights`")
    random = name == "none"
    seed = recorded.get("seed", 0) if seed is None else seed
    # A file need not tell its preprocessing; the record does.
    try:
        expects = Preprocessing.from_record(recorded["preprocessing"]) if recorded["preprocessing"] else None
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path}: damaged record of a net's preprocessing ({error})") from error
    width = recorded["width"] if random else None
    net = load_net(recorded["net"], name, width=width, seed=seed, preprocessing=expects, **options)
    if net.precision == "int8":
        net.input_maxima = recorded.get("input_maxima")
    if net.fingerprint() != recorded["weights_sha256"]:
        file = "give the file with `weights`" + (f" in place of {given}" if given else "")
        advice = "give the `seed` of the extraction" if recorded["weights"] == "none" else file
        raise ModelError(
            f"{path} was made with weights {recorded['weights']} of sha256 {recorded['weights_sha256']}, "
            f"these are {net.fingerprint()}: {advice}"
        )
    return net
