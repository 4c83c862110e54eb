"""Same prompt, other voice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError, DataError
from allophone.evaluate.retrieval import Representation, retrieve_prompts

REPRESENTATIONS: list[Representation] = ["mean", "slices", "frames"]


def utterances(count: int, seed: int, dim: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 14, (count,), generator=generator)
    return [torch.randn(int(length), dim, generator=generator) for length in lengths]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_same_frames_are_always_found(representation: Representation, distance: str) -> None:
    items = utterances(15, 0)
    result = retrieve_prompts(items, items, range(15), range(15), representation=representation, distance=distance)  # type: ignore[arg-type]
    assert result.recall(1) == 100.0
    assert result.interval(1).low == 100.0


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_random_frames_score_chance_within_the_interval(representation: Representation) -> None:
    prompts = range(60)
    result = retrieve_prompts(utterances(60, 1), utterances(60, 2), prompts, prompts, representation=representation)
    assert result.chance == pytest.approx({1: 100 / 60, 5: 500 / 60})
    interval = result.interval(5)
    assert interval.low <= result.chance[5] <= interval.high
    assert interval.value == pytest.approx(result.recall(5)) and interval.n == 60


def test_standardizing_undoes_a_voice_that_scales_and_shifts() -> None:
    first = utterances(20, 0)
    voice = torch.linspace(0.1, 20, 6)
    second = [item * voice + 30 * voice for item in first]
    raw, standardized = (
        retrieve_prompts(first, second, range(20), range(20), standardize=flag).recall(1) for flag in (False, True)
    )
    assert standardized == 100.0 and raw < 60.0


def test_order_in_time_counts_for_warping_and_not_for_the_mean() -> None:
    first = utterances(20, 0)
    second = [item.flip(0) for item in first]
    recalls = {
        r: retrieve_prompts(first, second, range(20), range(20), representation=r).recall(1) for r in REPRESENTATIONS
    }
    assert recalls["mean"] == 100.0
    assert recalls["slices"] < 60.0 and recalls["frames"] < 60.0


def test_prompts_of_one_voice_only_are_left_out() -> None:
    items = utterances(6, 0)
    result = retrieve_prompts(items[:4], items[1:], ["a", "b", "c", None], ["b", "c", None, "e", "f"])
    assert result.groups == ("b", "c", "b", "c")
    assert result.chance[1] == 50.0 and len(result.hits[1]) == 4


def test_any_take_of_a_prompt_is_right() -> None:
    items = utterances(4, 0)
    result = retrieve_prompts(items[:2], [items[0], items[1], items[2]], ["a", "b"], ["a", "b", "a"])
    assert result.hits[1][:2].tolist() == [1, 1]


def test_hits_stand_in_the_order_of_groups() -> None:
    first, second = utterances(5, 0), utterances(5, 0)
    second[3] = utterances(1, 99)[0]
    result = retrieve_prompts(first, second, list("abcde"), list("abcde"), representation="frames")
    missed = {group for group, hit in zip(result.groups, result.hits[1], strict=True) if hit == 0}
    assert missed <= {"d"} and result.groups == tuple("abcdeabcde")


def test_bad_input_is_refused() -> None:
    items = utterances(3, 0)
    with pytest.raises(DataError, match="second voice has 3 utterances but 2 prompts"):
        retrieve_prompts(items, items, "abc", "ab")
    with pytest.raises(DataError, match="look at the corpus' group column"):
        retrieve_prompts(items, items, "abc", "xyz")
    with pytest.raises(ConfigError, match="known: mean, slices, frames"):
        retrieve_prompts(items, items, "abc", "abc", representation="segments")  # type: ignore[arg-type]
