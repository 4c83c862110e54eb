"""data/denoising in collate and loader: nothing leaks, labels stay, keys decide, and the journal can count it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.audio.augment import AugmentConfig
from allophone.audio.mixing import MixConfig
from allophone.audio.reverberation import ReverbConfig
from allophone.batch import SpeechBatch
from allophone.data import loader
from allophone.data.collate import CollateConfig, Example, collate
from allophone.data.denoising import Disturbance, Pools, disturb, disturbance_sums
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.errors import ConfigError
from allophone.frames import FrameClock
from allophone.seeding import torch_generator

CLOCK = FrameClock(hop=320, receptive_field=400)
ALWAYS = replace(MixConfig.wavlm(), probability=1.0, noise_probability=0.0, peak=1e9)
EVERYTHING = CollateConfig(
    crop_seconds=0.8, mix=MixConfig.espnet(), reverb=ReverbConfig(probability=0.5), augment=AugmentConfig()
)


@dataclass(frozen=True)
class Row:
    id: str
    samples: int


class Source:
    def audio(self, row: Row, /) -> Tensor:
        return 0.2 * torch.randn(row.samples, generator=torch.Generator().manual_seed(row.samples)).clamp(-3, 3)


class Hiss:
    """Two noises."""

    def draw(self, generator: torch.Generator) -> tuple[str, Tensor]:
        number = int(torch.randint(2, (), generator=generator))
        return f"hiss{number}", 0.1 * torch.randn(5_000, generator=torch_generator(number, "hiss"))


ROWS = [Row(f"u{i}", 9_000 + 700 * i) for i in range(20)]


def stream(config: CollateConfig, rows=ROWS, *, prefetch: int = 0, batch_seconds: float = 4.0, **extra) -> BatchStream:
    sampler = BatchSampler(
        [row.samples / 16_000 for row in rows],
        ["a", "b"] * (len(rows) // 2) + ["a"] * (len(rows) % 2),
        ["s"] * len(rows),
        batch_seconds=batch_seconds,
        crop_seconds=0.8,
    )
    units = {row.id: np.arange(CLOCK.count(row.samples)) for row in rows}
    return BatchStream(Source(), rows, units, sampler, CLOCK, config, prefetch=prefetch, **{"noise": Hiss(), **extra})


def batches(config: CollateConfig, count: int, **extra) -> list[SpeechBatch]:
    with closing(stream(config, **extra)) as it:
        return [next(it) for _ in range(count)]


def same(a: SpeechBatch, b: SpeechBatch) -> bool:
    assert a.masked is not None and b.masked is not None and a.units is not None and b.units is not None
    pairs = [(a.waveform, b.waveform), (a.units, b.units), (a.masked, b.masked)]
    return a.ids == b.ids and a.sums == b.sums and all(torch.equal(left, right) for left, right in pairs)


def test_crops_masks_and_labels_are_those_of_the_clean_primary() -> None:
    clean = batches(CollateConfig(crop_seconds=0.8), 12)
    mixed = batches(CollateConfig(crop_seconds=0.8, mix=MixConfig.wavlm()), 12)
    untouched = 0
    for a, b in zip(clean, mixed, strict=True):
        assert torch.equal(a.units, b.units) and torch.equal(a.masked, b.masked)
        assert torch.equal(a.waveform_lengths, b.waveform_lengths)
        untouched += sum(torch.equal(left, right) for left, right in zip(a.waveform, b.waveform, strict=True))
    clips = sum(len(batch.ids) for batch in clean)
    assert 0.6 * clips < untouched < clips


def test_probability_zero_is_no_mixing() -> None:
    never = CollateConfig(
        crop_seconds=0.8, mix=replace(MixConfig.wavlm(), probability=0.0), reverb=ReverbConfig(probability=0.0)
    )
    clean, off = batches(CollateConfig(crop_seconds=0.8), 6), batches(never, 6, noise=None)
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(clean, off, strict=True))
    assert not any("mixed" in name for name in clean[0].sums) and off[0].sums["mixed_noise"] == (
        0.0,
        float(len(off[0].ids)),
    )


def test_what_is_laid_over_is_a_clean_utterance_and_not_a_mixture() -> None:
    """Every clip is mixed; still each difference is a scaled stretch of one recording as it was decoded."""
    clean = batches(CollateConfig(crop_seconds=0.8), 3)
    mixed = batches(CollateConfig(crop_seconds=0.8, mix=ALWAYS), 3)
    decoded = {row.id: Source().audio(row) for row in ROWS}
    checked = 0
    for before, after in zip(clean, mixed, strict=True):
        for name, dry, wet in zip(before.ids, before.waveform, after.waveform, strict=True):
            added = (wet - dry).double()
            covered = added.nonzero().flatten()
            first, last = int(covered.min()), int(covered.max()) + 1
            assert 1 <= last - first <= len(dry) // 2
            if last - first < 400:
                continue
            piece = added[first:last]
            fits = [found for other, found in decoded.items() if other != name and holds(found.double(), piece)]
            assert len(fits) == 1
            checked += 1
    assert checked > 8


def holds(recording: Tensor, piece: Tensor) -> bool:
    """Whether ``piece`` is a scaled stretch of ``recording``: the cosine reaches 1 at some place."""
    if len(piece) > len(recording):
        return False
    size = len(recording) + len(piece)
    products = torch.fft.irfft(torch.fft.rfft(recording, size) * torch.fft.rfft(piece, size).conj(), size)
    squares = torch.cat([torch.zeros(1), recording.square()]).cumsum(0)
    norms = (squares[len(piece) :] - squares[: -len(piece)]).sqrt()
    return float((products[: len(norms)] / norms).max() / piece.norm()) > 0.999


def test_a_sample_does_not_depend_on_its_mates_or_the_size_of_the_batch() -> None:
    """In batches of one, by the same draws: mixing is as keyed as everything else."""
    config = replace(EVERYTHING, equal_lengths=False)
    large, single = batches(config, 4), batches(config, 20, batch_seconds=0.8)
    alone = {batch.ids[0]: batch for batch in single}
    assert all(len(batch.ids) == 1 for batch in single) and max(len(batch.ids) for batch in large) > 2
    for batch in large:
        for row, name in enumerate(batch.ids):
            length = int(batch.waveform_lengths[row])
            assert torch.equal(batch.waveform[row, :length], alone[name].waveform[0])


def test_threads_ranks_and_resume_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(EVERYTHING, 16)
    assert all(same(a, b) for a, b in zip(expected, batches(EVERYTHING, 16, prefetch=3, cache_bytes=0), strict=True))
    with closing(stream(EVERYTHING, prefetch=2)) as it:
        state = [(it.state(), next(it)) for _ in range(9)][8][0]
        it.seek(state)
        assert all(same(next(it), batch) for batch in expected[8:12])
    monkeypatch.setattr(loader, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        it = stream(EVERYTHING)
        assert all(same(next(it), batch) for batch in expected[rank::2])


def test_epochs_repeats_and_seeds_mix_anew() -> None:
    waveform = torch.randn(8_000, generator=torch_generator(0)) * 0.1
    drawn = [
        disturb(waveform, name, ALWAYS, None, Pools(utterances=Others()), keys)[1].mix
        for name, keys in [("a", (0, 0, 0)), ("a", (0, 1, 0)), ("a", (0, 0, 1)), ("a", (1, 0, 0)), ("b", (0, 0, 0))]
    ]
    assert len(set(drawn)) == 5


class Others:
    def other(self, utterance_id: str, generator: torch.Generator) -> tuple[str, Tensor]:
        return "other", 0.3 * torch.randn(6_000, generator=torch_generator(5))


def test_a_corpus_of_one_falls_to_noise_and_without_noise_stays_clean() -> None:
    config = CollateConfig(crop_seconds=0.8, mix=ALWAYS)
    noisy, clean = (batches(config, 3, rows=ROWS[:1], noise=noise) for noise in (Hiss(), None))
    for with_noise, without in zip(noisy, clean, strict=True):
        assert with_noise.sums["mixed_noise"] == (1.0, 1.0) and with_noise.sums["mixed_utterance"] == (0.0, 1.0)
        assert -5 <= with_noise.sums["snr_db_noise"][0] <= 20
        assert without.sums["mixed_noise"] == (0.0, 1.0) and without.sums["mixed_share"] == (0, 0.0)
        assert not torch.equal(with_noise.waveform, without.waveform)


def test_an_utterance_is_never_its_own_secondary() -> None:
    others = stream(CollateConfig(crop_seconds=0.8), rows=ROWS[:2])._pools.utterances
    assert others is not None
    for number in range(50):
        found = others.other("u0", torch_generator(0, number))
        assert found is not None and found[0] == "u1"


def test_secondaries_are_balanced_as_the_batches_are() -> None:
    sampler = BatchSampler(
        [1.0] * 100, ["big"] * 90 + ["small"] * 10, ["s"] * 100, batch_seconds=4.0, crop_seconds=1.0, alpha=0.0
    )
    rows = [sampler.any_row(torch_generator(0, number)) for number in range(4_000)]
    assert abs(sum(row >= 90 for row in rows) / 4_000 - 0.5) < 0.04
    assert set(rows) == set(range(100))


def test_sums_say_what_was_mixed() -> None:
    found = batches(EVERYTHING, 30)
    clips = sum(len(batch.ids) for batch in found)
    total = {name: tuple(sum(batch.sums[name][i] for batch in found) for i in (0, 1)) for name in found[0].sums}
    assert total["mixed_utterance"][1] == total["mixed_noise"][1] == total["reverberated"][1] == clips
    assert total["mixed_utterance"][0] + total["mixed_noise"][0] == clips  # ESPnet mixes every clip
    assert 0.3 < total["reverberated"][0] / clips < 0.7
    assert -5 < total["snr_db_utterance"][0] / total["snr_db_utterance"][1] < 5
    assert 0.15 < total["mixed_share"][0] / total["mixed_share"][1] < 0.35
    assert found[0].to("cpu").sums == found[0].sums
    assert disturbance_sums([Disturbance()], None, None) == {}


def test_silent_and_short_clips_stay_whole() -> None:
    silence, shortest = torch.zeros(8_000), torch.full((400,), 0.1)
    for clip in (silence, shortest):
        heard, done = disturb(clip, "u", ALWAYS, ReverbConfig(probability=1.0), Pools(utterances=Others()), (0, 0, 0))
        assert heard.shape == clip.shape and torch.isfinite(heard).all()
    assert torch.equal(disturb(silence, "u", ALWAYS, None, Pools(utterances=Others()), (0, 0, 0))[0], silence)
    assert done.mix is not None and done.mix.length <= 200 and done.secondary == "other" and done.reverberated


def test_measured_rooms_are_used_where_they_are_given() -> None:
    class Room:
        def draw(self, generator: torch.Generator) -> tuple[str, Tensor]:
            return "room", torch.tensor([0.0, 1.0])

    clip = torch.randn(2_000, generator=torch_generator(0)) * 0.1
    heard, _ = disturb(clip, "u", None, ReverbConfig(probability=1.0), Pools(responses=Room()), (0, 0, 0))
    torch.testing.assert_close(heard, clip, atol=1e-6, rtol=0)


def test_missing_pools_are_named() -> None:
    config = CollateConfig(crop_seconds=0.8, mix=MixConfig.wavlm())
    with pytest.raises(ConfigError, match=r"law 'wavlm' takes noise for 10% of the mixed clips, but there is no noise"):
        stream(config, noise=None)
    with pytest.raises(ConfigError, match="takes other utterances for 90%"):
        collate([Example("u", torch.rand(9_000))], None, CLOCK, config, 0, 0, Pools(noise=Hiss()))
