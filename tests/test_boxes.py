"""Boxes against torchvision's IoU, hand-made merges and a slow reading of the merging rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

import vggfeat
from vggfeat.boxes import best_merged, clip, from_targets, iou, merge, merge_each, to_targets, visible

RNG = np.random.default_rng(0)


def random_boxes(n: int, side: float = 100.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.random((n, 2)) * side
    return np.concatenate([corner, corner + rng.random((n, 2)) * side], axis=1)


# Overlap


def test_iou_agrees_with_torchvision():
    a, b = random_boxes(40, seed=1), random_boxes(30, seed=2)
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert 0 < (expected > 0).mean() < 1
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert vggfeat.boxes.iou(a[0], b) == pytest.approx(expected[:1], abs=1e-12), "one box is a list of one"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0.0),  # they share an edge
        ((0, 0, 4, 4), (2, 2, 6, 6), 4 / 28),
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),  # one inside of the other
        ((-4, -4, 4, 4), (-2, -2, 6, 6), 36 / 92),  # coordinates may be negative
        ((0, 0, 3, 2), (0, 0, 2, 3), 4 / 8),
        ((1, 1, 1, 5), (1, 1, 1, 5), 0.0),  # no area, no overlap
        ((3, 3, 1, 1), (0, 0, 4, 4), 0.0),  # inside out
    ],
)
def test_iou_of_cases_by_hand(a, b, expected):
    assert iou([a], [b])[0, 0] == pytest.approx(expected)
    assert iou([b], [a])[0, 0] == pytest.approx(expected)


def test_iou_of_no_boxes_is_empty():
    assert iou(np.empty((0, 4)), random_boxes(3)).shape == (0, 3)
    assert iou(random_boxes(3), []).shape == (3, 0)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 4]], "boxes (1, 3) must be (N, 4)"),
        ([[0, 0, 4, 4, 0, 0, 4, 4]], "boxes (1, 8) must be (N, 4)"),
        ([[[0, 0, 4, 4]]], "boxes (1, 1, 4) must be (N, 4)"),
        (3, "boxes () must be (N, 4)"),
        ([[0, 0, 4, math.nan]], "boxes must be finite numbers"),
        ([[0, 0, 4, math.inf]], "boxes must be finite numbers"),
    ],
)
def test_iou_refuses_what_are_no_boxes(boxes, message):
    for pair in ((boxes, [[0, 0, 4, 4]]), ([[0, 0, 4, 4]], boxes)):
        with pytest.raises(ValueError) as caught:
            iou(*pair)
        assert str(caught.value) == message


def test_visible_is_the_share_inside_and_its_area():
    share, area = visible([[0, 0, 4, 2], [6, 6, 10, 10], [3, 3, 3, 9]], [2, 0, 8, 8])
    assert share == pytest.approx([0.5, 0.25, 0])
    assert area == pytest.approx([4, 4, 0])


def test_clip_cuts_at_the_picture():
    assert clip([[-3, 5, 70, 40], [80, 2, 90, 3]], (64, 32)).tolist() == [[0, 5, 64, 32], [64, 2, 64, 3]]


# Regression targets


def test_a_target_is_centre_and_size_in_units_of_the_window():
    # A 448-pixel picture at smallest side 224: one pixel of the window is two of the picture.
    assert to_targets([112, 0, 336, 448], [0, 0, 448, 448]).tolist() == [0.5, 0.5, 0.5, 1.0]
    assert to_targets([112, 0, 168, 448], [56, 0, 280, 224]) == pytest.approx([84 / 224, 1.0, 0.25, 2.0])
    assert to_targets([112, 0, 168, 448], [56, 0, 280, 224], mirrored=True) == pytest.approx(
        [140 / 224, 1.0, 0.25, 2.0]
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_decoding_inverts_encoding(seed, mirrored):
    boxes, windows = random_boxes(5, seed=seed), random_boxes(5, seed=seed + 1)
    assert from_targets(to_targets(boxes, windows, mirrored), windows, mirrored) == pytest.approx(boxes, abs=1e-6)


def test_mirrored_targets_are_those_of_the_mirrored_picture():
    width, boxes, windows = 300.0, random_boxes(6, seed=3), random_boxes(6, seed=4)

    def mirror(values):
        return np.stack([width - values[:, 2], values[:, 1], width - values[:, 0], values[:, 3]], axis=1)

    assert to_targets(boxes, windows, mirrored=True) == pytest.approx(to_targets(mirror(boxes), mirror(windows)))


def test_negative_sizes_decode_to_no_area():
    assert from_targets([0.5, 0.5, -0.3, 0.5], [0, 0, 224, 224]).tolist() == [112, 56, 112, 168]


# Merging


def slow_merge(boxes, scores, threshold):
    """OverFeat's procedure, word for word: a list, the best pair of it, its replacement."""
    entries = [(np.array(box, dtype=float), 1, float(score)) for box, score in zip(boxes, scores, strict=True)]

    def match(a, b):
        (xa, ya), (xb, yb) = [((m[0] + m[2]) / 2, (m[1] + m[3]) / 2) for m in (a, b)]
        area = [(m[2] - m[0]) * (m[3] - m[1]) for m in (a, b)]
        return math.dist((xa, ya), (xb, yb)) / math.sqrt(sum(area) / 2) + 1 - iou(a, b)[0, 0]

    while len(entries) > 1:
        pairs = [(match(entries[i][0], entries[j][0]), i, j) for i in range(len(entries)) for j in range(i)]
        best, i, j = min(pairs)
        if best > threshold:
            break
        (a, na, sa), (b, nb, sb) = entries[i], entries[j]
        entries = [entry for place, entry in enumerate(entries) if place not in (i, j)]
        entries.append(((na * a + nb * b) / (na + nb), na + nb, sa + sb))
    entries.sort(key=lambda entry: -entry[2])
    return np.array([box for box, _, _ in entries]), np.array([score for *_, score in entries])


def test_two_close_boxes_become_their_average_with_the_sum_of_their_scores():
    # Centres 2 apart, areas 100: 0.2 + 1 - 80/120 = 0.5333.
    boxes, scores = [[0, 0, 10, 10], [2, 0, 12, 10]], [0.3, 0.4]
    kept, rating = merge(boxes, scores, 0.54)
    assert kept.tolist() == [[1, 0, 11, 10]]
    assert rating == pytest.approx([0.7])
    kept, rating = merge(boxes, scores, 0.53)
    assert kept.tolist() == [[2, 0, 12, 10], [0, 0, 10, 10]], "best first"
    assert rating.tolist() == [0.4, 0.3]


def test_coordinates_are_weighted_by_the_windows_merged():
    # The two equal boxes go first (match 0); the third then moves them by a third of its distance.
    kept, rating = merge([[0, 0, 10, 10], [3, 0, 13, 10], [0, 0, 10, 10]], [0.1, 0.2, 0.4], 1.0)
    assert kept == pytest.approx(np.array([[1, 0, 11, 10]]))
    assert rating == pytest.approx([0.7])


def test_of_pairs_that_match_equally_well_the_first_is_merged():
    """Box 4 matches box 1 as well as the merged box 2 does, which stands before it."""
    boxes = [[0, 0, 2, 2], [1, 0.25, 3, 2.25], [1, -0.25, 3, 1.75], [-1, 0, 1, 2]]
    kept, rating = merge(boxes, [1, 2, 4, 8], 1.2)
    assert kept == pytest.approx(np.array([[-1, 0, 1, 2], [2 / 3, 0, 8 / 3, 2]]))
    assert rating.tolist() == [8, 7]


def test_agreement_of_many_windows_beats_one_sure_one():
    lone, crowd = [50, 50, 60, 60], [0, 0, 10, 10]
    kept, rating = merge([lone, crowd, crowd, crowd], [0.5, 0.2, 0.2, 0.2], 0.3)
    assert kept.tolist() == [crowd, lone]
    assert rating == pytest.approx([0.6, 0.5])


def test_the_best_pair_goes_first_and_changes_what_follows():
    # 0-4 and 4-8 are equally far; 4-7 is nearer. Merging 4 and 7 first takes the middle out of 0's reach.
    boxes = [[0, 0, 20, 20], [4, 0, 24, 20], [7, 0, 27, 20]]
    kept, _ = merge(boxes, [3.0, 1.0, 1.0], 0.55)
    assert kept.tolist() == [[0, 0, 20, 20], [5.5, 0, 25.5, 20]]
    assert merge(boxes[:2], [3.0, 1.0], 0.55)[0].tolist() == [[2, 0, 22, 20]], "without the third they would merge"


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.5, math.inf])
@pytest.mark.parametrize("seed", range(6))
def test_merging_equals_a_slow_reading_of_the_rule(threshold, seed):
    boxes, scores = random_boxes(25, seed=seed), np.random.default_rng(seed).random(25)
    expected = slow_merge(boxes, scores, threshold)
    kept, rating = merge(boxes, scores, threshold)
    assert len(kept) == len(expected[0])
    assert kept == pytest.approx(expected[0])
    assert rating == pytest.approx(expected[1])
    assert rating.sum() == pytest.approx(scores.sum()), "no confidence is lost"


def test_zero_merges_equal_boxes_only_and_infinity_all():
    boxes = np.concatenate([random_boxes(8), random_boxes(8)[:3]])  # the first three stand there twice
    assert len(merge(boxes, np.ones(11), 0.0)[0]) == 8
    kept, rating = merge(boxes, np.ones(11), math.inf)
    assert kept == pytest.approx(boxes.mean(axis=0)[None])
    assert rating.tolist() == [11.0]


def test_points_merge_only_with_themselves():
    point = [5.0, 5.0, 5.0, 5.0]
    kept, rating = merge([point, [6, 6, 6, 6], point], [1, 1, 1], math.inf)
    assert kept.tolist() == [point, [6, 6, 6, 6]]
    assert rating.tolist() == [2, 1]


def test_no_boxes_stay_no_boxes():
    kept, rating = merge(np.empty((0, 4)), [], 0.5)
    assert (kept.shape, rating.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([[0, 0, 1]], [1], "boxes (1, 3) and scores (1,) must be (N, 4) and (N,)"),
        ([[0, 0, 1, 1]], [1, 2], "boxes (1, 4) and scores (2,) must be (N, 4) and (N,)"),
        ([[0, 0, 1, math.nan]], [1], "boxes and scores must be finite numbers"),
        ([[0, 0, 1, 1]], [math.inf], "boxes and scores must be finite numbers"),
    ],
)
def test_merging_refuses_what_makes_no_sense(boxes, scores, message):
    with pytest.raises(ValueError) as caught:
        merge(boxes, scores, 0.5)
    assert str(caught.value) == message


def test_several_thresholds_at_once_give_what_each_gives_alone():
    boxes, scores, thresholds = random_boxes(20, seed=7), RNG.random(20), [0.0, 0.4, 0.9, math.inf]
    for threshold, (kept, rating) in zip(thresholds, merge_each(boxes, scores, thresholds), strict=True):
        alone = merge(boxes, scores, threshold)
        assert np.array_equal(kept, alone[0])
        assert np.array_equal(rating, alone[1])


@pytest.mark.parametrize("seed", range(4))
def test_boxes_that_windows_repeat_merge_as_a_slow_reading_of_the_rule_says(seed):
    """What nets give over an image: a cloud about one object, some of it cut at the border, some boxes several times."""
    rng = np.random.default_rng(seed)
    cloud = np.clip(np.array([2, 2, 60, 90]) + rng.normal(0, 8, (30, 4)), 0, 80)
    boxes = np.concatenate([cloud, cloud[::3]])[rng.permutation(40)]
    scores = rng.random(40)
    for threshold, (kept, rating) in zip([0.0, 0.2, 0.5], merge_each(boxes, scores, [0.0, 0.2, 0.5]), strict=True):
        expected = slow_merge(boxes, scores, threshold)
        assert len(kept) == len(expected[0]) < 40
        assert rating == pytest.approx(expected[1])
        assert kept == pytest.approx(expected[0])


def test_equal_boxes_stay_what_they_are_however_many():
    box = [0.1, 0.2, 0.7, 1.3]  # no binary fractions: an average of eleven could end beside it
    kept, rating = merge([box] * 11, np.ones(11), 0.0)
    assert kept.tolist() == [box]
    assert rating.tolist() == [11]


def test_classes_side_by_side_give_what_each_gives_alone():
    thresholds = [0.0, 0.4, 0.9, math.inf]
    boxes = np.stack([random_boxes(20, side, seed) for side, seed in ((100.0, 1), (300.0, 2), (10.0, 3))])
    boxes[2, 5:12] = boxes[2, 4]  # one class comes to its end sooner
    scores = np.random.default_rng(4).random((3, 20))
    best = best_merged(boxes, scores, thresholds)
    assert best.shape == (4, 3, 4)
    for number, threshold in enumerate(thresholds):
        for of_class, its_boxes, its_scores in zip(best[number], boxes, scores, strict=True):
            assert of_class.tolist() == merge(its_boxes, its_scores, threshold)[0][0].tolist()
