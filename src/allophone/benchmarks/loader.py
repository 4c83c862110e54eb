"""Disk to batches: our stream against a plain ``torch`` loader of the same corpus, one process each, no thread.

The plain loader decodes an utterance whenever it is drawn, takes utterances in random order and pads. Ours keeps
decoded audio, and batches by length; it crops nothing here and draws masks, which the plain one does not. The first
epoch of both decodes everything and is told apart from the timed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from allophone.batch import SpeechBatch
from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.models.hubert import published_config
from allophone.run.starter import starter_corpus

PLAIN = "torch DataLoader"
BATCH_SECONDS = 60.0
Seen = list[tuple[str, int, float]]
"""Id, samples of whole frames and their energy, of each utterance of an epoch."""


def run(
    *, seconds: float = 1800.0, timing: Timing | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time an epoch.

    Args:
        seconds: Audio of the part of the starter corpus that is read.
        timing: Rounds and clock.
        progress: Called with (done, total) after each epoch of one way.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`; besides, seconds of the ``first_epoch`` and the share
        of ``padding`` of each. ``equal_output`` means that both gave the same utterances with the same samples, those
        after the last whole frame aside, which only the plain loader hands on.
    """
    timing = timing or Timing()
    corpus = starter_corpus()
    utterances = _some(corpus, 20.0 if timing.quick else seconds)
    total = sum(utterance.duration_seconds for utterance in utterances)
    ours, plain = stream(corpus, utterances), plain_loader(corpus, utterances)
    shares: dict[str, float] = {}
    seen: dict[str, Seen] = {}
    clock = published_config("hubert-base").clock

    def read(name: str, batches: Iterable[tuple[Sequence[str], Tensor, Tensor]]) -> None:
        real, size, told = 0, 0, []
        for ids, waveform, lengths in batches:
            real, size = real + int(lengths.sum()), size + waveform.numel()
            if name not in seen:
                whole = [clock.samples(clock.count(length)) for length in lengths.tolist()]
                energies = [
                    float(row[:size].double().square().sum()) for row, size in zip(waveform, whole, strict=True)
                ]
                told += list(zip(ids, whole, energies, strict=True))
        shares[name] = 1 - real / size
        seen.setdefault(name, sorted(told))

    ways = {
        OURS: lambda: read(OURS, (_parts(batch) for batch in ours())),
        PLAIN: lambda: read(PLAIN, plain),
    }
    first = alternated(ways, 1, timing.now())
    return Measured(
        name="loader",
        seconds=alternated(ways, timing.pairs, timing.now(), progress),
        amount=total,
        unit="seconds of audio a second",
        equal=same(seen[OURS], seen[PLAIN]),
        more={
            "first_epoch": {name: values[0] for name, values in first.items()},
            "padding": shares,
            "utterances": len(utterances),
        },
    ).result()


def same(one: Seen, other: Seen) -> bool:
    """Whether two epochs had the same utterances; energies differ by the rounding to 16 bits that we keep."""
    return [told[:2] for told in one] == [told[:2] for told in other] and all(
        abs(mine[2] - theirs[2]) <= 1e-3 * theirs[2] + 1e-6 for mine, theirs in zip(one, other, strict=True)
    )


def stream(corpus: Corpus, utterances: Sequence[Utterance]) -> Callable[[], Iterable[SpeechBatch]]:
    """One epoch of our stream, each time that it is called."""
    longest = max(utterance.duration_seconds for utterance in utterances)
    sampler = BatchSampler(
        [utterance.duration_seconds for utterance in utterances],
        [utterance.language for utterance in utterances],
        [utterance.source or "" for utterance in utterances],
        batch_seconds=max(BATCH_SECONDS, longest),
        crop_seconds=longest,
    )
    config = CollateConfig(crop_seconds=longest + 1.0, equal_lengths=False)
    batches = BatchStream(corpus, utterances, None, sampler, published_config("hubert-base").clock, config, prefetch=0)

    def epoch() -> Iterable[SpeechBatch]:
        batches.seek(sampler.state())
        for _ in range(sampler.num_batches(0)):
            yield next(batches)

    return epoch


def plain_loader(corpus: Corpus, utterances: Sequence[Utterance]) -> DataLoader[Any]:
    """A map-style dataset, random batches of a fixed number of utterances, zero padding."""
    mean = sum(utterance.duration_seconds for utterance in utterances) / len(utterances)
    size = max(1, round(BATCH_SECONDS / mean))

    def padded(items: Sequence[tuple[str, Tensor]]) -> tuple[list[str], Tensor, Tensor]:
        rows = [row for _, row in items]
        return [name for name, _ in items], pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows])

    return DataLoader(_Recordings(corpus, utterances), batch_size=size, shuffle=True, collate_fn=padded)


class _Recordings(Dataset[tuple[str, Tensor]]):
    """Decodes what is asked for."""

    def __init__(self, corpus: Corpus, utterances: Sequence[Utterance]) -> None:
        self._corpus, self._utterances = corpus, utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        utterance = self._utterances[index]
        return utterance.id, self._corpus.audio(utterance)


def _parts(batch: SpeechBatch) -> tuple[Sequence[str], Tensor, Tensor]:
    return batch.ids, batch.waveform, batch.waveform_lengths


def _some(corpus: Corpus, seconds: float) -> list[Utterance]:
    """Every n-th utterance, at least a frame long, up to so many seconds."""
    total = sum(utterance.duration_seconds for utterance in corpus)
    every = max(1, int(total / seconds))
    return [utterance for utterance in corpus.utterances[::every] if utterance.duration_seconds >= 0.1]
