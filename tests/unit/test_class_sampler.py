"""P x K batches: companions for all, classes evenly, utterances in rounds, three integers of state."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from allophone.data.class_sampler import ClassBatches, ClassSampler
from allophone.data.sampler import Draw
from allophone.errors import ConfigError, DataError

CLASSES = [0] * 20 + [1] * 3 + [2] + [3] * 8 + [4] * 5


def sampler(classes: list[int] = CLASSES, p: int = 3, k: int = 2, seed: int = 0) -> ClassSampler:
    size = ClassBatches(classes=p, per_class=k)
    rows = [[number] for number in classes]
    return ClassSampler(rows, [4.0] * len(rows), ["fra_Latn"] * len(rows), size, crop_seconds=3.0, seed=seed)


def every(one: ClassSampler, epoch: int = 0) -> list[tuple[Draw, ...]]:
    return [one.batch(epoch, position) for position in range(one.num_batches(epoch))]


def test_each_batch_has_p_classes_with_k_utterances() -> None:
    for epoch in range(3):
        for batch in every(sampler(), epoch):
            counts = Counter(CLASSES[draw.row] for draw in batch)
            assert len(counts) == 3 and set(counts.values()) == {2}
            assert len(set(batch)) == len(batch)  # an utterance that comes twice is another draw of it


def test_classes_come_evenly_and_no_utterance_twice_before_all() -> None:
    drawn = [draw for epoch in range(5) for batch in every(sampler(), epoch) for draw in batch]
    counts = Counter(CLASSES[draw.row] for draw in drawn)
    assert max(counts.values()) - min(counts.values()) <= 2 * 5  # one turn an epoch
    epoch = [draw for batch in every(sampler()) for draw in batch]
    for number in range(5):
        times = Counter(draw.row for draw in epoch if CLASSES[draw.row] == number)
        assert max(times.values()) - min([times[row] for row, c in enumerate(CLASSES) if c == number]) <= 1
    for row, times in Counter(draw.row for draw in epoch).items():
        assert sorted(draw.repeat for draw in epoch if draw.row == row) == list(range(times))


def test_few_classes_share_the_places() -> None:
    one = sampler([0] * 30 + [1] * 30, p=16, k=4)
    assert (one.num_classes, one.per_class) == (2, 32)
    assert Counter(draw.row < 30 for draw in one.batch(0, 0)) == {True: 32, False: 32}


def test_an_utterance_of_several_classes_serves_all_of_them() -> None:
    size = ClassBatches(classes=2, per_class=2)
    one = ClassSampler([[0, 1], [0], [1]], [1.0] * 3, ["und"] * 3, size, crop_seconds=1.0)
    assert sorted(draw.row for draw in one.batch(0, 0)) == [0, 0, 1, 2]
    assert len(set(one.batch(0, 0))) == 4


def test_the_state_is_three_integers() -> None:
    one, other = sampler(), sampler()
    assert one.num_batches(0) == 7  # 37 utterances in batches of 6
    state = one.advance(one.state(), 10)
    assert (state.epoch, state.position) == (1, 3) and one.place(state) == 10
    assert other.batch(state.epoch, state.position) == every(one, 1)[3]
    assert every(one, 0) != every(one, 1) and every(one, 0) != every(sampler(seed=1), 0)
    with pytest.raises(DataError, match="saved with seed 0"):
        sampler(seed=1).advance(state, 1)


def test_seconds_and_single_rows() -> None:
    one = sampler()
    assert one.seconds_by_language(one.batch(0, 0)) == {"fra_Latn": 18.0}
    generator = torch.Generator().manual_seed(0)
    rows = Counter(CLASSES[one.any_row(generator)] for _ in range(500))
    assert set(rows) == set(range(5)) and max(rows.values()) < 150


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody has a companion"):
        ClassBatches(per_class=1)
    with pytest.raises(DataError, match="the first is row 1"):
        ClassSampler([[0], []], [1.0] * 2, ["und"] * 2, ClassBatches(), crop_seconds=1.0)
    with pytest.raises(DataError, match="there is no utterance"):
        ClassSampler([], [], [], ClassBatches(), crop_seconds=1.0)
