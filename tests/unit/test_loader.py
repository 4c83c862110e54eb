from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.batch import SpeechBatch
from allophone.data import loader
from allophone.data.class_sampler import ClassBatches, ClassSampler
from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream, WaveformCache
from allophone.data.sampler import BatchSampler
from allophone.errors import AudioError, DataError
from allophone.frames import FrameClock

CLOCK = FrameClock(hop=320, receptive_field=400)


@dataclass(frozen=True)
class Row:
    id: str
    samples: int


class Source:
    """Noise that is no multiple of 2**-15, and a count of who was decoded how often."""

    def __init__(self, broken: str = "") -> None:
        self.decoded: Counter[str] = Counter()
        self.broken = broken

    def audio(self, row: Row, /) -> Tensor:
        if row.id == self.broken:
            raise AudioError(f"{row.id}.wav: not audio.")
        self.decoded[row.id] += 1
        return 1.2 * torch.rand(row.samples, generator=torch.Generator().manual_seed(row.samples)) - 0.6


ROWS = [Row(f"u{i}", 6_000 + 700 * i) for i in range(20)]


def stream(
    source: Source | None = None, *, prefetch: int = 2, cache_bytes: int = 2**30, seed: int = 0
) -> BatchStream[Row]:
    sampler = BatchSampler(
        [row.samples / 16_000 for row in ROWS], ["a"] * 20, ["b"] * 20, batch_seconds=4.0, crop_seconds=0.8, seed=seed
    )
    units = {row.id: np.arange(CLOCK.count(row.samples)) for row in ROWS}
    config = CollateConfig(crop_seconds=0.8)
    return BatchStream(
        source or Source(), ROWS, units, sampler, CLOCK, config, cache_bytes=cache_bytes, prefetch=prefetch
    )


def same(a: SpeechBatch, b: SpeechBatch) -> bool:
    assert a.masked is not None and b.masked is not None and a.units is not None and b.units is not None
    return (
        a.ids == b.ids
        and torch.equal(a.waveform, b.waveform)
        and torch.equal(a.units, b.units)
        and torch.equal(a.masked, b.masked)
    )


@pytest.fixture
def two() -> Iterator[tuple[BatchStream[Row], BatchStream[Row]]]:
    with closing(stream()) as first, closing(stream(prefetch=0, cache_bytes=0)) as second:
        yield first, second


def test_thread_and_cache_change_nothing(two: tuple[BatchStream[Row], BatchStream[Row]]) -> None:
    for _ in range(25):  # several epochs
        assert same(next(two[0]), next(two[1]))
        assert two[0].state() == two[1].state()
    assert two[0].state().epoch >= 2


def test_seek_returns_to_a_state(two: tuple[BatchStream[Row], BatchStream[Row]]) -> None:
    first, second = two
    for _ in range(3):
        next(first)
    state = first.state()
    ahead = [next(first) for _ in range(6)]
    first.seek(state)
    second.seek(state)
    for expected in ahead:
        assert same(next(first), expected) and same(next(second), expected)


def test_state_counts_what_was_taken_not_what_was_prepared() -> None:
    with closing(stream(prefetch=5)) as it:
        assert it.state().position == 0
        next(it)
        assert (it.state().epoch, it.state().position) == (0, 1)


def test_iterates() -> None:
    with closing(stream(prefetch=0)) as it:
        assert isinstance(next(iter(it)), SpeechBatch)


def test_seek_refuses_another_seed() -> None:
    it = stream(seed=3)
    with pytest.raises(DataError, match="saved with seed 4"):
        it.seek(replace(it.state(), seed=4))


def test_everything_is_decoded_once_when_it_fits() -> None:
    source = Source()
    it = stream(source, prefetch=0)
    while it.state().epoch < 3:
        next(it)
    assert set(source.decoded.values()) == {1} and len(source.decoded) == 20


def test_cache_keeps_to_its_budget() -> None:
    source = Source()
    cache = WaveformCache(source, budget_bytes=2 * 14_000)
    for _ in range(3):
        for row in (Row("x", 13_000), Row("y", 2_000), Row("z", 1_000)):
            cache.get(row)
    assert source.decoded == {"x": 1, "y": 3, "z": 1}
    assert cache.used_bytes == 2 * 14_000


def test_first_and_later_reads_are_the_same_sixteen_bits() -> None:
    cache = WaveformCache(Source(), 2**20)
    first, again = cache.get(ROWS[0]), cache.get(ROWS[0])
    assert first.dtype == torch.float32 and torch.equal(first, again)
    assert torch.equal(first * 32768, (first * 32768).round())
    assert (first - Source().audio(ROWS[0])).abs().max() <= 0.5 / 32768 + 1e-7


def test_loud_samples_are_clipped_not_wrapped() -> None:
    class Loud:
        def audio(self, row: Row, /) -> Tensor:
            return torch.tensor([1.0, -1.5, 1.5])

    assert WaveformCache(Loud()).get(ROWS[0]).tolist() == [32767 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_bad_file_is_named(prefetch: int) -> None:
    with closing(stream(Source(broken="u7"), prefetch=prefetch)) as it:
        for _ in range(2):  # and again: the error does not pass
            with pytest.raises(DataError, match=r"Cannot decode utterance 'u7': u7\.wav: not audio"):
                while it.state().epoch < 1:
                    next(it)


def test_samples_that_are_not_numbers_are_named() -> None:
    class Broken:
        def audio(self, row: Row, /) -> Tensor:
            return torch.tensor([0.0, float("nan")])

    with pytest.raises(DataError, match="'u0' holds NaN"):
        WaveformCache(Broken()).get(ROWS[0])


def test_utterance_without_units_is_named() -> None:
    it = stream(prefetch=0)
    it._units = {}
    with pytest.raises(DataError, match="No units for utterance"):
        next(it)


def test_ranks_share_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = stream(prefetch=0)
    expected = [next(alone) for _ in range(12)]
    monkeypatch.setattr(loader, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        it = stream(prefetch=0)
        assert [same(next(it), batch) for batch in expected[rank::3]] == [True] * 4
        assert it.state() == alone.state()


def test_labels_come_with_their_place_in_the_run() -> None:
    sampler = ClassSampler(
        [[i % 3] for i in range(20)], [0.5] * 20, ["a"] * 20, ClassBatches(classes=3, per_class=2), crop_seconds=0.4
    )
    config = CollateConfig(crop_seconds=0.4, mask_probability=0.0)
    classes = {row.id: (i % 3, 7) if i == 4 else (i % 3,) for i, row in enumerate(ROWS)}
    one = BatchStream(Source(), ROWS, None, sampler, CLOCK, config, prefetch=0, classes=classes)
    batches = [next(one) for _ in range(6)]  # 4 an epoch
    for place, batch in enumerate(batches):
        assert batch.labels is not None and batch.labels.place == place
        rows = [[*classes[name], *[-1] * (batch.labels.classes.shape[1] - len(classes[name]))] for name in batch.ids]
        assert batch.labels.classes.tolist() == rows and sorted(batch.labels.classes[:, 0].tolist()) == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]
    state = sampler.advance(sampler.state(), 5)
    again = one.batch(state)
    assert same_labels(again, batches[5]) and torch.equal(again.waveform, batches[5].waveform)
    del classes["u4"]
    with pytest.raises(DataError, match="'u4' has no class"):
        [next(one) for _ in range(4)]


def same_labels(a: SpeechBatch, b: SpeechBatch) -> bool:
    assert a.labels is not None and b.labels is not None
    return torch.equal(a.labels.classes, b.labels.classes) and a.labels.place == b.labels.place
