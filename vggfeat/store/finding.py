"""The descriptor file that is meant where none is named."""

from __future__ import annotations

from pathlib import Path

from vggfeat.datasets import NAMES
from vggfeat.datasets.archives import PUBLISHED
from vggfeat.errors import UsageError, unknown_name
from vggfeat.store.shards import is_shard_name

FOLDER = Path("descriptors")
"""Where `extract` writes its files by default."""


def find_descriptors(dataset: str | None) -> Path:
    """The only file `descriptors/<dataset>-*.h5`. Raises UsageError, with advice, unless there is exactly one."""
    if dataset is None:
        raise UsageError("no descriptors: name descriptor files, or the data set by `dataset`")
    if dataset not in NAMES:
        raise unknown_name("data set", dataset, NAMES)
    # voc2012-*.h5 would match voc2012-action's files too.
    longer = tuple(f"{name}-" for name in NAMES if name.startswith(f"{dataset}-"))
    found = sorted(
        path
        for path in FOLDER.glob(f"{dataset}-*.h5")
        if not path.name.startswith(longer) and not is_shard_name(path.name)
    )
    if not found:
        raise UsageError(
            f"no {FOLDER}/{dataset}-*.h5 here: name the files, or extract the data set",
            advice="extract" if dataset in PUBLISHED else "extract_own",
            dataset=dataset,
        )
    if len(found) > 1:
        names = " ".join(map(str, found))
        raise UsageError(f"several descriptor files of {dataset}: name one, or those to stack: {names}")
    return found[0]
