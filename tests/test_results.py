"""What the stages return: read like a dictionary, and as README's Python lines read it."""

from dataclasses import dataclass

import numpy as np
import pytest

from vggfeat.errors import UsageError
from vggfeat.inference.prediction import Prediction
from vggfeat.results import Result


@dataclass(frozen=True)
class Found(Result):
    mean: float
    files: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"mean": self.mean, "paths": list(self.files)}


def test_a_result_reads_like_a_dictionary_of_its_published_names() -> None:
    found = Found(0.5, ("a.h5",))
    assert dict(found) == {"mean": 0.5, "paths": ["a.h5"]} == {**found}
    assert list(found) == list(found.keys()) == ["mean", "paths"]
    assert dict(found.items()) == dict(found)
    assert "mean" in found
    assert "files" not in found
    assert (found["mean"], found.get("mean"), found.get("files"), found.get("files", 3)) == (0.5, 0.5, None, 3)
    with pytest.raises(KeyError, match="^'files'$"):
        found["files"]


def test_the_best_classes_come_first_and_equal_scores_in_the_classes_order() -> None:
    one = Prediction("a.jpg", np.array([0.25, 0.5, 0.25], np.float32))
    names = ("ant", "bee", "cat")
    assert one.best(names) == [("bee", 0.5)]
    assert one.best(names, 2) == [("bee", 0.5), ("ant", 0.25)]
    assert one.best(names, None) == [("bee", 0.5), ("ant", 0.25), ("cat", 0.25)]
    assert one.best(names, 0) == []
    with pytest.raises(UsageError, match="^`count` -1 is not 0 or more$"):
        one.best(names, -1)  # it used to leave out the worst class


def test_a_picture_that_could_not_be_read_has_no_best_class() -> None:
    assert Prediction("a.jpg", None, "empty file").best(("ant", "bee")) == []
