"""Measures against hand-computed cases, scikit-learn and a slow reading of the definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vggfeat.errors import UsageError
from vggfeat.metrics import (
    average_precision,
    class_recalls,
    confusion_matrix,
    localisation_error,
    mean_class_recall,
    topk_error,
)


def slow_ap(labels: list[int], scores: list[float], definition: str) -> Fraction:
    """Average precision in exact fractions, straight from its words."""
    judged = [(score, label) for score, label in zip(scores, labels, strict=True) if label != 0]
    positives = sum(label == 1 for _, label in judged)
    ranking = sorted(judged, key=lambda pair: -pair[0])  # Python's sort is stable
    points = []
    for n in range(1, len(ranking) + 1):
        hits = sum(label == 1 for _, label in ranking[:n])
        points.append((Fraction(hits, positives), Fraction(hits, n)))
    if definition == "voc2007":
        levels = [Fraction(k, 10) for k in range(11)]
        return sum((max((p for r, p in points if r >= t), default=Fraction(0)) for t in levels), Fraction(0)) / 11
    area, last = Fraction(0), Fraction(0)
    for recall in sorted({r for r, _ in points}):
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return area


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])), max_size=40),
    st.sampled_from(["voc2007", "voc2010"]),
)
def test_ap_equals_a_slow_reading_of_its_definition(pairs: list[tuple[int, float]], definition: str) -> None:
    labels, scores = [label for label, _ in pairs], [score for _, score in pairs]
    value = average_precision(labels, scores, definition)  # type: ignore[arg-type]
    if 1 in labels:
        assert value == pytest.approx(float(slow_ap(labels, scores, definition)), abs=1e-12)
    else:
        assert math.isnan(value)


def test_ap_of_a_case_by_hand() -> None:
    # Ranking + - + - - +: precision 1, 1/2, 2/3, 2/4, 2/5, 3/6 at recall 1/3, 1/3, 2/3, 2/3, 2/3, 1.
    labels, scores = [1, -1, 1, -1, -1, 1], [6, 5, 4, 3, 2, 1]
    # Recalls 0 to .3 read 1, .4 to .6 read 2/3, .7 to 1 read 1/2.
    assert average_precision(labels, scores, "voc2007") == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    assert average_precision(labels, scores, "voc2010") == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


@pytest.mark.parametrize("tenths", [3, 6, 7])
def test_recalls_that_are_no_exact_floats_are_reached(tenths: int) -> None:
    # Ten positives; after `tenths` of them come negatives, so the precision at exactly that recall matters.
    labels = [1] * tenths + [-1] * 90 + [1] * (10 - tenths)
    scores = list(range(len(labels), 0, -1))
    floor = 10 / 100
    expected = ((tenths + 1) * 1 + (10 - tenths) * floor) / 11
    assert average_precision(labels, scores, "voc2007") == pytest.approx(expected, abs=1e-12)


def test_difficult_images_ranked_first_are_neither_hit_nor_miss() -> None:
    for definition in ("voc2007", "voc2010"):
        assert average_precision([0, 0, 1, -1], [9, 8, 7, 6], definition) == 1.0  # type: ignore[arg-type]


def test_ties_stay_in_image_set_order() -> None:
    assert average_precision([1, -1], [0.5, 0.5], "voc2010") == 1.0
    assert average_precision([-1, 1], [0.5, 0.5], "voc2010") == 0.5


def test_images_without_a_score_come_last() -> None:
    assert average_precision([1, -1, 1], [-math.inf, -5, 3], "voc2010") == pytest.approx((1 + 2 / 3) / 2)


def test_no_positives_give_nan_and_an_empty_set_too() -> None:
    assert math.isnan(average_precision([-1, 0], [1, 2]))
    assert math.isnan(average_precision([], []))


def test_ap_bounds_scikit_learns_average_precision_from_above() -> None:
    # scikit-learn takes no envelope; without ties its value is the mean precision at the hits.
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = np.where(rng.random(300) < 0.2, 1, -1)
        scores = labels * 0.7 + rng.standard_normal(300)
        plain = sk.average_precision_score(labels == 1, scores)
        envelope = average_precision(labels, scores, "voc2010")
        assert plain <= envelope <= plain + 0.05
    # Where every precision is already the largest from there on, both are the same number.
    labels, scores = [1, 1, -1, 1, -1, -1, -1, 1], list(range(8, 0, -1))
    assert average_precision(labels, scores, "voc2010") == pytest.approx(
        sk.average_precision_score(np.equal(labels, 1), scores)
    )


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, -1], [0.0, math.nan], "the score of image 1 is NaN"),
        ([1, 2], [0.0, 1.0], "labels must be 1, 0 (difficult) or -1"),
        ([1], [0.0, 1.0], "labels (1,) and scores (2,) must be two vectors of one length"),
    ],
)
def test_ap_refuses_what_makes_no_sense(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        average_precision(labels, scores)
    assert str(caught.value) == message


def test_an_unknown_definition_lists_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="valid: voc2007, voc2010"):
        average_precision([1], [1.0], "voc2008")  # type: ignore[arg-type]


def test_class_recall_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 9, 500), rng.integers(0, 9, 500)
    assert class_recalls(labels, predicted, 9) == pytest.approx(sk.recall_score(labels, predicted, average=None))
    assert mean_class_recall(labels, predicted) == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert (confusion_matrix(labels, predicted) == sk.confusion_matrix(labels, predicted)).all()


def test_mean_class_recall_weighs_classes_not_images_and_skips_absent_ones() -> None:
    assert mean_class_recall([0, 0, 0, 0, 2], [0, 0, 0, 1, 1], num_classes=4) == pytest.approx((0.75 + 0.0) / 2)
    assert np.isnan(class_recalls([0], [0], num_classes=2)[1])
    assert math.isnan(mean_class_recall([], []))


def test_classes_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match="class 3, but the number of classes is 3"):
        confusion_matrix([0, 3], [0, 0], num_classes=3)
    with pytest.raises(ValueError, match="labels must be a vector of class indices from 0"):
        mean_class_recall([-1], [0])
    with pytest.raises(ValueError, match="predicted must be a vector of class indices"):
        mean_class_recall([0], [0.5])


def test_topk_error_agrees_with_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.standard_normal((200, 7)), rng.integers(0, 7, 200)
    for k in (1, 5):
        expected = 1 - sk.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
        assert topk_error(labels, scores, k) == pytest.approx(expected)


def test_topk_ties_count_against_the_image() -> None:
    constant = np.zeros((4, 10))
    assert topk_error([0, 3, 5, 9], constant, 5) == 1.0
    assert topk_error([0, 3, 5, 9], constant, 10) == 0.0
    assert topk_error([1], [[1.0, 1.0, 0.0]], 1) == 1.0
    assert topk_error([1], [[1.0, 1.0, 0.0]], 2) == 0.0


@pytest.mark.parametrize(
    ("labels", "scores", "k", "message"),
    [
        ([0], [[1.0, math.nan]], 1, "a score of image 0 is NaN"),
        ([0], [[1.0, 2.0]], 3, "k = 3 is not between 1 and the number of classes, 2"),
        ([2], [[1.0, 2.0]], 1, "class 2, but the number of classes is 2"),
        ([0, 1], [[1.0, 2.0]], 1, "scores (1, 2) must have one row for each label, 2 in all"),
    ],
)
def test_topk_refuses_what_makes_no_sense(labels: list[int], scores: list[list[float]], k: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        topk_error(labels, scores, k)
    assert str(caught.value) == message


def test_localisation_needs_the_class_and_an_iou_above_one_half() -> None:
    truth = [[[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 20, 40, 40]], [[0, 0, 10, 10]], [[0, 0, 10, 10]]]
    classes = [[3, 1], [0, 2], [1, 0], [5, 3]]
    half, more = [0, 0, 10, 5], [0, 0, 10, 6]
    boxes = [
        [more, half],  # right at once
        [half, [21, 20, 40, 40]],  # second guess, second of its boxes
        [more, more],  # right place, class never guessed
        [more, half],  # an IoU of exactly 0.5 is not above it
    ]
    labels = [3, 2, 9, 3]
    assert localisation_error(labels, truth, classes, boxes, 1) == 3 / 4
    assert localisation_error(labels, truth, classes, boxes, 2) == 2 / 4


def test_localisation_error_of_no_truth_and_of_no_images() -> None:
    assert localisation_error([0], [[]], [[0]], [[[0, 0, 1, 1]]], 1) == 1.0
    assert math.isnan(localisation_error([], [], np.empty((0, 5), int), np.empty((0, 5, 4))))


def test_localisation_error_agrees_with_a_slow_reading() -> None:
    rng = np.random.default_rng(3)
    labels, classes = rng.integers(0, 4, 200), np.array([rng.permutation(4)[:3] for _ in range(200)])
    truth = [np.sort(rng.random((rng.integers(1, 4), 2, 2)), axis=1).reshape(-1, 4) for _ in range(200)]
    boxes = np.sort(rng.random((200, 3, 2, 2)), axis=2).reshape(200, 3, 4)

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(w, 0) * max(h, 0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    right = [
        any(classes[i, g] == labels[i] and max(overlap(boxes[i, g], t) for t in truth[i]) > 0.5 for g in range(3))
        for i in range(200)
    ]
    assert 0 < sum(right) < 200
    assert localisation_error(labels, truth, classes, boxes, 3) == pytest.approx(1 - np.mean(right))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [[]], [[0]], [[[0, 0, 1, 1]]], 2), "k = 2 is not between 1 and the number of guesses, 1"),
        (([0], [[]], [[0]], [[[0, 0, 1, math.nan]]], 1), "a box of image 0 is NaN"),
        (
            ([0], [[]], [[0]], [[[0, 0, 1]]], 1),
            "labels of length 1 and true boxes of length 1 need classes (N, K) and boxes (N, K, 4), not (1, 1) and (1, 1, 3)",
        ),
    ],
)
def test_localisation_error_refuses_what_makes_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        localisation_error(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("truth", "placed", "message"),
    [
        ([0, 0, 1, math.nan], [0, 0, 1, 1], "true boxes of image 0: boxes must be finite numbers"),
        ([0, 0, 1, math.inf], [0, 0, 1, 1], "true boxes of image 0: boxes must be finite numbers"),
        ([0, 0, 1], [0, 0, 1, 1], "true boxes of image 0: boxes (1, 3) must be (N, 4)"),
        ([0, 0, 1, 1], [0, 0, 1, math.inf], "a box of image 0 is infinite"),
    ],
)
def test_localisation_error_refuses_boxes_that_are_none(truth: list[float], placed: list[float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        localisation_error([0], [[truth]], [[0]], [[placed]], 1)
    assert str(caught.value) == message


def test_booleans_are_no_labels_of_an_average_precision():
    """False would be 0, which is difficult: no negative image would be left, and every ranking perfect."""
    with pytest.raises(ValueError) as error:
        average_precision(np.array([True, False, False]), [0.1, 0.9, 0.5])
    assert str(error.value) == "labels are 1, 0 (difficult) or -1, not booleans: give np.where(labels, 1, -1)"
