from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from allophone.data.sampler import BUCKET_RATIO, BatchSampler
from allophone.errors import ConfigError, DataError

DURATIONS = np.random.default_rng(0).uniform(0.5, 12.0, 300)
LANGUAGES = ["ita_Latn"] * 270 + ["bul_Cyrl"] * 30
SOURCES = ["a"] * 200 + ["b"] * 70 + ["a"] * 30


def sampler(
    *, alpha: float = 1.0, beta: float = 1.0, seed: int = 0, batch_seconds: float = 60.0, crop_seconds: float = 10.0
) -> BatchSampler:
    return BatchSampler(
        DURATIONS.tolist(),
        LANGUAGES,
        SOURCES,
        batch_seconds=batch_seconds,
        crop_seconds=crop_seconds,
        alpha=alpha,
        beta=beta,
        seed=seed,
    )


def epoch(it: BatchSampler, number: int = 0) -> list[list[int]]:
    return [[draw.row for draw in it.batch(number, i)] for i in range(it.num_batches(number))]


def test_natural_shares_hear_everything_once() -> None:
    for number in range(3):
        rows = [row for batch in epoch(sampler(), number) for row in batch]
        assert sorted(rows) == list(range(300))


def test_budget_holds_with_padding() -> None:
    for batch in epoch(sampler(alpha=0.3)):
        assert len(batch) * min(10.0, DURATIONS[batch].max()) <= 60.0 + 1e-9


def test_batches_are_well_filled_and_of_near_equal_length() -> None:
    batches = epoch(sampler())
    lengths = [np.minimum(DURATIONS[batch], 10.0) for batch in batches]
    assert sum(length.sum() for length in lengths) > 0.85 * 60.0 * len(batches)
    kept = sum(len(length) * length.min() for length in lengths) / sum(length.sum() for length in lengths)
    assert kept > 0.95
    assert np.median([length.max() / length.min() for length in lengths]) < BUCKET_RATIO**3


def test_what_a_batch_cuts_off_is_not_counted() -> None:
    whole = sampler()
    cut = BatchSampler(
        DURATIONS.tolist(), LANGUAGES, SOURCES, batch_seconds=60.0, crop_seconds=10.0, equal_lengths=True
    )
    assert epoch(cut) == epoch(whole)
    expected: Counter[str] = Counter()
    for position, batch in enumerate(epoch(cut)):
        shortest = min(10.0, DURATIONS[batch].min())
        heard = Counter(LANGUAGES[row] for row in batch)
        assert cut.seconds_by_language(cut.batch(0, position)) == pytest.approx(
            {name: count * shortest for name, count in heard.items()}
        )
        for name, count in heard.items():
            expected[name] += count * shortest
    drawn = cut.seconds_drawn(cut.num_batches(0))
    for name, value in expected.items():
        assert sum(seconds for key, seconds in drawn.items() if key[0] == name) == pytest.approx(value)
    assert sum(drawn.values()) < sum(whole.seconds_drawn(whole.num_batches(0)).values())


def test_batch_is_a_pure_function() -> None:
    assert sampler().batch(3, 2) == sampler().batch(3, 2)
    used = sampler()
    for number in (0, 5, 1, 3):
        epoch(used, number)
    assert used.batch(3, 2) == sampler().batch(3, 2)


def test_epochs_and_seeds_differ() -> None:
    assert epoch(sampler(), 0) != epoch(sampler(), 1)
    assert epoch(sampler(), 0) != epoch(sampler(seed=1), 0)
    first = {frozenset(batch) for batch in epoch(sampler(), 0)}
    assert len(first & {frozenset(batch) for batch in epoch(sampler(), 1)}) < len(first) / 2


def test_order_of_batches_is_not_by_length() -> None:
    longest = [DURATIONS[batch].max() for batch in epoch(sampler())]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_alpha_zero_gives_languages_equal_time() -> None:
    seconds: Counter[str] = Counter()
    for batch in epoch(sampler(alpha=0.0)):
        for row in batch:
            seconds[LANGUAGES[row]] += min(10.0, DURATIONS[row])
    total = sum(seconds.values())
    assert seconds["bul_Cyrl"] / total == pytest.approx(0.5, abs=0.04)
    assert total == pytest.approx(np.minimum(DURATIONS, 10.0).sum(), rel=0.05)


def test_repeats_are_numbered() -> None:
    it = sampler(alpha=0.0)
    draws = [draw for i in range(it.num_batches(0)) for draw in it.batch(0, i)]
    assert len(set(draws)) == len(draws)
    times = Counter(draw.row for draw in draws)
    rare = [times[row] for row in range(270, 300)]
    assert max(rare) - min(rare) <= 1 and min(rare) >= 3
    assert max(times[row] for row in range(270)) <= 1


def test_advance_runs_through_epochs() -> None:
    it = sampler()
    state = it.state()
    total = sum(it.num_batches(number) for number in range(3))
    for _ in range(total):
        state = it.advance(state, 1)
    assert (state.epoch, state.position) == (3, 0)
    assert it.advance(it.state(), total + 2) == it.state(3, 2)


def test_state_is_three_integers() -> None:
    state = sampler(seed=7).state(2, 5)
    assert (state.epoch, state.position, state.seed) == (2, 5, 7)
    with pytest.raises(DataError, match="saved with seed 8, this one has 7"):
        sampler(seed=7).advance(replace(state, seed=8), 1)


def test_batch_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="batch 10000 was asked for"):
        sampler().batch(0, 10000)


def test_nothing_to_sample() -> None:
    with pytest.raises(DataError, match="no utterance to sample from"):
        BatchSampler([], [], [], batch_seconds=1.0, crop_seconds=1.0)


def test_columns_of_different_length() -> None:
    with pytest.raises(DataError, match="differ in number"):
        BatchSampler([1.0, 2.0], ["a"], ["b"], batch_seconds=3.0, crop_seconds=3.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_duration_that_is_not_positive(bad: float) -> None:
    with pytest.raises(DataError, match="the first is row 1"):
        BatchSampler([1.0, bad], ["a", "a"], ["b", "b"], batch_seconds=3.0, crop_seconds=3.0)


def test_crop_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="fit into a batch"):
        sampler(batch_seconds=5.0, crop_seconds=6.0)
