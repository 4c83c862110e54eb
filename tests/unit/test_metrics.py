"""Classification, error rates and retrieval scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allophone.errors import ConfigError, DataError, NumericsError, ShapeError
from allophone.metrics.classification import accuracy, confusion, macro_f1, recall_per_class
from allophone.metrics.error_rate import character_error_counts, edit_distance, word_error_counts
from allophone.metrics.retrieval import chance_recall, dtw_distance, dtw_distances, recall_at


def test_confusion_has_truth_in_rows() -> None:
    counts = confusion(np.array([1, 1, 0]), np.array([0, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_perfect_predictions_score_one() -> None:
    truth = np.array([0, 2, 1, 2])
    assert accuracy(truth, truth) == 1.0
    assert macro_f1(truth, truth) == 1.0


def test_recall_of_an_absent_class_is_nan_and_not_zero() -> None:
    recall = recall_per_class(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert recall[0] == 0.5 and recall[1] == 1.0 and np.isnan(recall[2])


@pytest.mark.parametrize(("predicted", "truth"), [([0, 1], [0]), ([], []), ([[0]], [[0]])])
def test_confusion_refuses_other_shapes(predicted: list[int], truth: list[int]) -> None:
    with pytest.raises(DataError, match=r"expected \(items,\) both, not empty"):
        confusion(np.array(predicted, dtype=np.int64), np.array(truth, dtype=np.int64), 2)


def test_confusion_refuses_ids_out_of_range() -> None:
    with pytest.raises(DataError, match="class ids 0 to 5, expected 0 to 1"):
        confusion(np.array([0, 5]), np.array([0, 1]), 2)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance_by_hand(reference: str, hypothesis: str, errors: int) -> None:
    assert edit_distance(reference, hypothesis) == errors
    assert edit_distance(hypothesis, reference) == errors


def test_error_rate_is_a_ratio_of_sums() -> None:
    counts = character_error_counts(["abcd", "x"], ["abcd", "yz"])
    assert counts.errors.tolist() == [0, 2] and counts.lengths.tolist() == [4, 1]
    assert counts.rate == pytest.approx(0.4)


def test_words_are_separated_by_any_space() -> None:
    counts = word_error_counts(["the  cat\tsat"], ["the cat sat down"])
    assert (counts.errors.tolist(), counts.lengths.tolist()) == ([1], [3])


def test_error_rate_refuses_unequal_lists_and_empty_references() -> None:
    with pytest.raises(DataError, match="2 references but 1 hypotheses"):
        character_error_counts(["a", "b"], ["a"])
    with pytest.raises(DataError, match="all 2 references are empty"):
        character_error_counts(["", ""], ["a", "b"])


def test_recall_counts_a_query_when_its_partner_is_among_the_first_k() -> None:
    similarity = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    hits = recall_at(similarity, torch.tensor([0, 2]), (1, 2, 3))
    assert [hits[k].tolist() for k in (1, 2, 3)] == [[1, 0], [1, 0], [1, 1]]


def test_constant_similarities_score_chance() -> None:
    truth = torch.arange(10)
    hits = recall_at(torch.zeros(10, 10), truth, (1, 5))
    assert float(hits[1].mean()) == pytest.approx(0.1)
    assert float(hits[5].mean()) == pytest.approx(0.5)


def test_ties_of_several_right_candidates_score_chance_too() -> None:
    right = torch.zeros(2, 10, dtype=torch.bool)
    right[0, :4] = right[1, 3:6] = True
    for level in (0.0, 1.0):
        hits = recall_at(torch.full((2, 10), level), right, (1, 3, 8, 20))
        assert {k: float(hits[k].mean()) for k in hits} == pytest.approx(chance_recall(right, (1, 3, 8, 20)))
    similarity = torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0, 0.0]])  # one better, then two right and two wrong ones alike
    hits = recall_at(similarity, torch.tensor([[False, True, True, False, False, True]]), (1, 2, 3, 4))
    assert [float(hits[k]) for k in hits] == pytest.approx([0, 1 / 2, 5 / 6, 1])


def test_random_similarities_score_chance_with_several_right_candidates() -> None:
    generator = torch.Generator().manual_seed(1)
    right = torch.zeros(4000, 12, dtype=torch.bool)
    right[:, :3] = True
    hits = recall_at(torch.randn(4000, 12, generator=generator), right, (1, 5))
    for k, chance in chance_recall(right, (1, 5)).items():
        assert float(hits[k].mean()) == pytest.approx(chance, abs=0.03)


def test_chance_with_one_right_candidate_is_k_over_n() -> None:
    chance = chance_recall(torch.eye(20, dtype=torch.bool), (1, 5, 50))
    assert chance == pytest.approx({1: 0.05, 5: 0.25, 50: 1.0})


def test_recall_refuses_nan_bad_shapes_and_lost_partners() -> None:
    with pytest.raises(NumericsError, match="query 1 is NaN"):
        recall_at(torch.tensor([[1.0, 0.0], [float("nan"), 0.0]]), torch.arange(2))
    with pytest.raises(ShapeError, match=r"truth is \(3,\)"):
        recall_at(torch.zeros(2, 2), torch.arange(3))
    with pytest.raises(DataError, match="query 1 has no right candidate"):
        recall_at(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


def test_dtw_ignores_how_long_a_frame_is_held() -> None:
    frames = torch.eye(4)
    slow = frames.repeat_interleave(torch.tensor([3, 1, 2, 5]), dim=0)
    assert dtw_distance(frames, slow) == 0.0
    assert dtw_distance(frames, slow.flip(0)) > 0.3


def test_dtw_is_symmetric_and_grows_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randn(length, 6, generator=generator) for length in (3, 8, 12)]
    distances = dtw_distances(sequences, sequences)
    torch.testing.assert_close(distances, distances.T, atol=1e-6, rtol=1e-5)
    noise = torch.randn(12, 6, generator=generator)
    near, far = (dtw_distance(sequences[2], sequences[2] + scale * noise) for scale in (0.1, 1.0))
    assert 0 < near < far


def test_dtw_of_a_pair_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(5, 4, generator=generator)]
    candidates = [torch.randn(int(length), 4, generator=generator) for length in torch.arange(1, 40)]
    together = dtw_distances(queries, candidates, "euclidean")[0]
    alone = torch.tensor([dtw_distance(queries[0], candidate, "euclidean") for candidate in candidates])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_dtw_of_roots_of_probabilities_is_squared_hellinger() -> None:
    first, second = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.1, 0.6, 0.3]])
    hellinger = 0.5 * (first.sqrt() - second.sqrt()).square().sum()
    assert dtw_distance(first.sqrt(), second.sqrt()) * 2 == pytest.approx(float(hellinger), abs=1e-6)


def test_dtw_refuses_empty_sequences_other_dims_and_unknown_distances() -> None:
    with pytest.raises(ShapeError, match=r"candidate 1 is \(0, 3\)"):
        dtw_distances([torch.ones(2, 3)], [torch.ones(2, 3), torch.ones(0, 3)])
    with pytest.raises(ShapeError, match=r"expected \(frames >= 1, 3\)"):
        dtw_distances([torch.ones(2, 3)], [torch.ones(2, 4)])
    with pytest.raises(ShapeError, match="0 candidates"):
        dtw_distances([torch.ones(2, 3)], [])
    with pytest.raises(ConfigError, match="known: cosine, euclidean"):
        dtw_distances([torch.ones(2, 3)], [torch.ones(2, 3)], "manhattan")  # type: ignore[arg-type]
