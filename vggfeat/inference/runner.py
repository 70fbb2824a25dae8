"""What extraction, scoring and localisation share: decoding ahead of the nets, and two steps of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from vggfeat.datasets import Sample, images
from vggfeat.datasets.decoding import Decoded, Decoders, collected
from vggfeat.datasets.images import Picture
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import ImageError, UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.nets.catalog import Filter

Work = TypeVar("Work")
Found = TypeVar("Found")

Wanted = tuple[str, Filter, int]
"""A rescaled picture that the nets need of every sample: region ("image" or "box"), filter, smallest side Q."""


@dataclass(frozen=True)
class Rescaled:
    """One sample, decoded and rescaled."""

    sample: Sample
    size: tuple[int, int]
    """The image's (width, height)."""
    pictures: dict[Wanted, Picture]


class Runner(ABC, Generic[Work, Found]):
    """Runs nets over samples: `prepare` decodes in the background, `run` gives the nets their work, `gather` ends it.

    Args:
        nets: all on one device.
        wanted: the rescaled pictures that `run` takes of each sample; nets that share a filter share them.
        exif: honour the EXIF orientation.
        workers: threads that decode and rescale ahead of the nets.
        max_megapixels: images of more million pixels fail.

    Raises UsageError for nets on several devices or in several number formats, and for a `max_megapixels` that lets no
    image through.
    """

    def __init__(
        self,
        nets: Sequence[DenseNet],
        wanted: Iterable[Wanted],
        *,
        exif: bool,
        workers: int,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        for name in ("device", "precision"):
            found = list(dict.fromkeys(str(getattr(net, name)) for net in nets))
            if len(found) > 1:
                raise UsageError(f"nets with `{name}={found[0]}` and with `{name}={found[1]}`: load all with one")
        if not max_megapixels > 0:
            raise UsageError(f"`max_megapixels` {max_megapixels} is not above 0")
        self._dense = tuple(nets)
        self._wanted = tuple(dict.fromkeys(wanted))
        self._exif = exif
        self._max_megapixels = max_megapixels
        self._pool = Decoders(workers)

    @property
    def in_background(self) -> bool:
        """Whether `run` returns before the nets are done."""
        return self._dense[0].device.type == "cuda"

    def prepare(self, samples: Sequence[Sample]) -> list[Future[Rescaled]]:
        """Starts decoding and rescaling in the background."""
        return [self._pool.submit(self._rescaled, sample) for sample in samples]

    @abstractmethod
    def run(self, rescaled: Sequence[Rescaled]) -> Work:
        """Gives the nets their work on the samples that could be decoded; a GPU does it in the background."""

    @abstractmethod
    def gather(self, decoded: Decoded, work: Work) -> Found:
        """Waits for the work and returns the results of all samples, failed ones included."""

    def describe(self, samples: Sequence[Sample]) -> Found:
        """The results of these samples at once, in their order."""
        decoded, rescaled = collected(self.prepare(samples))
        return self.gather(decoded, self.run(rescaled))

    def close(self) -> None:
        """Ends the decoding threads."""
        self._pool.end()

    def _rescaled(self, sample: Sample) -> Rescaled:
        picture = images.decode(sample.source(), exif=self._exif, max_megapixels=self._max_megapixels, name=sample.id)
        parts = {region: _region(picture, sample, region) for region, _, _ in self._wanted}
        pictures = {(region, filter, Q): images.rescale(parts[region], Q, filter) for region, filter, Q in self._wanted}
        return Rescaled(sample, picture.size, pictures)


def _region(picture: images.RGBImage, sample: Sample, region: str) -> images.RGBImage:
    if region == "image":
        return picture
    if sample.box is None:
        raise ImageError('has no box: the region "box" needs a data set of boxes, such as voc2012-action')
    return images.crop(picture, sample.box)
