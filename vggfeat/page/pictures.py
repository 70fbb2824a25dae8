"""Thumbnails embedded in a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vggfeat.datasets import Dataset, Sample, images, listing, load_dataset
from vggfeat.datasets.decoding import Decoders
from vggfeat.datasets.origin import Origin
from vggfeat.errors import ImageError, VggfeatError
from vggfeat.page.html import Html, breakable, tag
from vggfeat.system.launch import default_workers

SIDE = 128
"""Longer side of a thumbnail in pixels: 1.5 times the size on the page, for sharp screens and print."""

SLOW = 60.0
"""Seconds to wait for an image before the page goes without it."""


def title_of(dataset: str, data: str | Path, origin: Origin | None = None) -> str:
    """What pages call a data set; "": by its name.

    The user's own images are called by their folder: that of the data set "folder" by `data`, that of images named one
    by one by their origin, if that is one path.
    """
    if dataset == listing.NAME and origin is not None and len(origin.paths) == 1:
        one = Path(origin.paths[0])
        return one.name or one.resolve().name
    return Path(data).resolve().name if dataset == "folder" else ""


class Pictures:
    """Thumbnails by id. A missing image becomes a box with its id; without a data set only ids are shown.

    Args:
        samples: the data set's samples.
        exif: honour the EXIF orientation.
        missing: the reason if there is no data set.
        side: longer side of a thumbnail in pixels.
        title: what pages call the data set (`title_of`).
    """

    def __init__(
        self,
        samples: Iterable[Sample] = (),
        *,
        exif: bool = False,
        missing: str = "",
        title: str = "",
        side: int = SIDE,
    ) -> None:
        self._side = side
        self.missing = missing
        self.title = title
        self._samples = {sample.id: sample for sample in samples}
        self._exif = exif
        self._made: dict[str, str | ImageError] = {}

    @classmethod
    def of(
        cls,
        name: str,
        data: str | Path,
        ids: Iterable[str] = (),
        *,
        exif: bool = True,
        origin: Origin | None = None,
    ) -> Pictures:
        """The images of a data set on disk; without them, ids and the reason.

        Args:
            name: of the data set. Images that a user named one by one ("images") have their paths as ids.
            data: the data root, or the folder of the user's own images.
            ids: the images' ids.
            exif: honour the EXIF orientation of images named one by one; a data set says it for its own.
            origin: how images were named one by one.
        """
        if name == listing.NAME:
            title = title_of(name, data, origin)
            return cls((Sample(id, id) for id in ids), exif=exif, title=title)
        try:
            dataset: Dataset = load_dataset(name, data)
        except VggfeatError as error:
            return cls(missing=str(error))
        return cls(dataset.samples, exif=dataset.exif, title=title_of(name, data))

    def prepare(self, ids: Iterable[str]) -> None:
        """Decodes these images in parallel."""
        wanted = [id for id in dict.fromkeys(ids) if id not in self._made and not self.missing]
        patience = SLOW
        with Decoders(default_workers()) as pool:
            for id, made in [(id, pool.submit(self._make, id)) for id in wanted]:
                try:
                    self._made[id] = made.result(patience)
                except TimeoutError:  # the disk hangs: do not wait again for each of the other images
                    self._made[id], patience = ImageError(f"not read in {SLOW:.0f} s: the disk does not answer"), 0.0

    def _make(self, id: str) -> str | ImageError:
        """The thumbnail as a data URI, or the error."""
        sample = self._samples.get(id)
        if sample is None:
            return ImageError("no longer there")
        try:
            picture = images.decode(sample.source(), exif=self._exif)
            if sample.box is not None:
                picture = images.crop(picture, sample.box)
            content = images.thumbnail(picture, self._side)
        except ImageError as error:
            return error
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"

    def failures(self) -> dict[str, str]:
        """The prepared images that cannot be shown, with reasons."""
        return {id: str(made) for id, made in self._made.items() if isinstance(made, ImageError)}

    def uri(self, id: str) -> Html | None:
        """The thumbnail as a data URI; None for a picture that cannot be shown."""
        if self.missing:
            return None
        self.prepare([id])
        made = self._made[id]
        return None if isinstance(made, ImageError) else Html(made)

    def named(self, id: str, *before: Any) -> Html:
        """A list item: the image above its id, and what to print before that."""
        return self.show(id, *before, *(() if self.uri(id) is None else (breakable(id),)))

    def show(self, id: str, *below: Any) -> Html:
        """A list item: the image, with its id as alternative text, and what to print below."""
        if self.missing:
            return tag("li", f"{id} ", *below, class_="named")
        self.prepare([id])
        made = self._made[id]
        if isinstance(made, ImageError):
            picture = tag("span", breakable(id), class_="gone", title=str(made))
        else:
            picture = tag("img", src=Html(made), alt=id, title=id)
        return tag("li", picture, *below)
