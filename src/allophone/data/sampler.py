"""Which utterances make which batch: a pure function of (seed, epoch, position).

Nothing here is drawn in sequence: the batches of an epoch follow from the seed and the epoch's number, so the
whole state of a data stream is three integers, and any rank of any world size can take up any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from allophone.data.balance import draw, draw_counts, source_weights
from allophone.errors import ConfigError, DataError
from allophone.seeding import numpy_generator

EPOCHS_COUNTED = 50
"""Epochs after which hours that will be drawn are reckoned by the average of those before."""
BUCKET_RATIO = 1.04
"""Longest over shortest duration of one bucket; inside a bucket the order is random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerState:
    """Where a stream of batches stands; ``position`` counts the batches of all ranks within ``epoch``."""

    epoch: int
    position: int
    seed: int


class Draw(NamedTuple):
    """One utterance in a batch."""

    row: int
    """Place of the utterance in the sequences that the sampler was given."""
    repeat: int
    """How often this utterance was drawn before in the same epoch; > 0 only where it is over-sampled."""


class PlannedSampler(ABC):
    """Batches of an epoch that follow from its number; kinds of samplers differ in how they plan one.

    Args:
        seed: Seed of every draw.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._plan = lru_cache(maxsize=2)(self._make_plan)

    @abstractmethod
    def _make_plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Rows and repeats of each batch of an epoch, shape ``(rows of the batch, 2)`` each."""

    @abstractmethod
    def any_row(self, generator: torch.Generator) -> int:
        """One row, drawn with the chance that it has in any epoch."""

    @abstractmethod
    def seconds_by_language(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Seconds that the draws of one batch hear of each language, clips counted as far as they are heard."""

    def state(self, epoch: int = 0, position: int = 0) -> SamplerState:
        """The state that stands before batch ``position`` of ``epoch``."""
        return SamplerState(epoch=epoch, position=position, seed=self.seed)

    def num_batches(self, epoch: int) -> int:
        """Batches of one epoch; may differ by a few between epochs."""
        return len(self._plan(epoch))

    def batch(self, epoch: int, position: int) -> tuple[Draw, ...]:
        """Batch number ``position`` of ``epoch``: a pure function of the two and the seed.

        Raises:
            DataError: The epoch has no such batch.
        """
        plan = self._plan(epoch)
        if not 0 <= position < len(plan):
            raise DataError(f"Epoch {epoch} has batches 0 to {len(plan) - 1}; batch {position} was asked for.")
        return tuple(Draw(int(row), int(repeat)) for row, repeat in plan[position])

    def place(self, state: SamplerState) -> int:
        """Batches of all ranks that come before ``state``, from the first epoch on."""
        return sum(self.num_batches(epoch) for epoch in range(state.epoch)) + state.position

    def advance(self, state: SamplerState, batches: int) -> SamplerState:
        """The state ``batches`` batches later, running on into the next epochs.

        Raises:
            DataError: ``state`` was made with another seed.
        """
        if state.seed != self.seed:
            raise DataError(
                f"The data stream was saved with seed {state.seed}, this one has {self.seed}. Use {state.seed}."
            )
        epoch, position = state.epoch, state.position + batches
        while position >= (size := self.num_batches(epoch)):
            epoch, position = epoch + 1, position - size
        return self.state(epoch, position)


class BatchSampler(PlannedSampler):
    """Batches of near-equal duration with balanced languages and sources.

    An epoch draws as many seconds as the corpus has (clips counted up to ``crop_seconds``); with ``alpha`` and
    ``beta`` 1 every utterance comes exactly once. Where the clips of a batch are cut to its shortest, a few percent
    less are heard.

    Args:
        durations_seconds: One duration an utterance, positive.
        languages: One language tag an utterance.
        sources: One source name an utterance.
        batch_seconds: Most seconds of audio in a batch, padding included.
        crop_seconds: Longest piece of an utterance that is used; at most ``batch_seconds``.
        alpha: Exponent between languages, see :func:`~allophone.data.balance.language_weights`.
        beta: Exponent between the sources of a language.
        equal_lengths: Clips of a batch are cut to its shortest, see
            :class:`~allophone.data.collate.CollateConfig`; what is heard is counted so.
        seed: Seed of every draw.

    Raises:
        DataError: There is no utterance, the sequences differ in length, or a duration is not positive.
        ConfigError: A budget is not positive, or a crop does not fit into a batch.
    """

    def __init__(
        self,
        durations_seconds: Sequence[float],
        languages: Sequence[str],
        sources: Sequence[str],
        *,
        batch_seconds: float,
        crop_seconds: float,
        alpha: float = 1.0,
        beta: float = 1.0,
        equal_lengths: bool = False,
        seed: int = 0,
    ) -> None:
        durations = np.asarray(durations_seconds, dtype=np.float64)
        _check(durations, languages, sources, batch_seconds, crop_seconds)
        super().__init__(seed)
        self.batch_seconds, self._equal_lengths = batch_seconds, equal_lengths
        self._seconds = np.minimum(durations, crop_seconds)
        self._buckets = np.floor(np.log(self._seconds) / np.log(BUCKET_RATIO)).astype(np.int64)
        self._languages = tuple(languages)
        self._groups = _group_rows(languages, sources)
        seconds = self.seconds_there()
        self.weights = source_weights(seconds, alpha=alpha, beta=beta)
        """Share of the seconds of an epoch that each (language, source) gets."""
        total = sum(seconds.values())
        targets = [self.weights[key] * total / seconds[key] * len(rows) for key, rows in self._groups.items()]
        self.draws = dict(zip(self._groups, draw_counts(targets), strict=True))
        """Utterances drawn in an epoch per (language, source)."""

    def any_row(self, generator: torch.Generator) -> int:
        """One row, drawn with the chance that it has in any epoch: languages and sources balanced as in batches."""
        group, member = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        draws = np.cumsum([self.draws[key] for key in self._groups])
        rows = list(self._groups.values())[int(np.searchsorted(draws, group * draws[-1], side="right"))]
        return int(rows[int(member * len(rows))])

    def seconds_by_language(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Seconds that the draws of one batch hear of each language, clips counted as far as they are heard."""
        rows = np.asarray([draw.row for draw in draws], dtype=np.int64)
        seconds: dict[str, float] = {}
        for row, heard in zip(rows, self._heard(rows), strict=True):
            seconds[self._languages[row]] = seconds.get(self._languages[row], 0.0) + float(heard)
        return seconds

    def _heard(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds that are heard of each row of one batch, shape ``(rows,)``."""
        seconds = self._seconds[rows]
        return np.full_like(seconds, seconds.min()) if self._equal_lengths else seconds

    def seconds_there(self) -> dict[tuple[str, str], float]:
        """Seconds of each (language, source), clips counted up to ``crop_seconds``."""
        return {key: float(self._seconds[rows].sum()) for key, rows in self._groups.items()}

    def seconds_drawn(self, batches: int) -> dict[tuple[str, str], float]:
        """Seconds of each (language, source) that the first ``batches`` batches hear; nothing is decoded for it.

        After :data:`EPOCHS_COUNTED` epochs, further batches count as those before did on average.
        """
        heard, epoch = np.zeros(len(self._seconds)), 0
        left = batches
        while left > 0 and epoch < EPOCHS_COUNTED:
            taken = [batch[:, 0] for batch in self._plan(epoch)[:left]]
            seconds = np.concatenate([self._heard(rows) for rows in taken])
            heard += np.bincount(np.concatenate(taken), weights=seconds, minlength=len(heard))
            left, epoch = left - len(taken), epoch + 1
        scale = batches / (batches - left) if left else 1.0
        return {key: scale * float(heard[rows].sum()) for key, rows in self._groups.items()}

    def _make_plan(self, epoch: int) -> list[NDArray[np.int64]]:
        drawn = np.concatenate([self._draw_group(epoch, key) for key in self._groups])
        generator = numpy_generator(self.seed, "batches", epoch)
        drawn = drawn[np.lexsort((generator.random(len(drawn)), self._buckets[drawn[:, 0]]))]
        seconds = self._seconds[drawn[:, 0]]
        batches = [drawn[start:stop] for start, stop in _cut(seconds, self.batch_seconds)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def _draw_group(self, epoch: int, key: tuple[str, str]) -> NDArray[np.int64]:
        rows = self._groups[key]
        members, repeats = draw(len(rows), self.draws[key], numpy_generator(self.seed, "draw", epoch, *key))
        return np.stack([rows[members], repeats], axis=1)


def _check(
    durations: NDArray[np.float64],
    languages: Sequence[str],
    sources: Sequence[str],
    batch_seconds: float,
    crop_seconds: float,
) -> None:
    if len(durations) == 0:
        raise DataError(
            "There is no utterance to sample from. Is the corpus empty after filtering by split or language?"
        )
    if not len(durations) == len(languages) == len(sources):
        raise DataError(
            f"Durations ({len(durations)}), languages ({len(languages)}) and sources ({len(sources)}) differ in number."
        )
    bad = np.flatnonzero(~(np.isfinite(durations) & (durations > 0)))
    if len(bad):
        raise DataError(
            f"{len(bad)} utterances have no positive duration; the first is row {bad[0]} with {durations[bad[0]]} s. "
            f"Import the corpus again so that they are quarantined."
        )
    if not 0 < crop_seconds <= batch_seconds:
        raise ConfigError(f"A crop must be positive and fit into a batch; got {crop_seconds} s in {batch_seconds} s.")


def _group_rows(languages: Sequence[str], sources: Sequence[str]) -> dict[tuple[str, str], NDArray[np.int64]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(languages, sources, strict=True)):
        groups.setdefault(key, []).append(row)
    return {key: np.asarray(groups[key], dtype=np.int64) for key in sorted(groups)}


def _cut(seconds: NDArray[np.float64], budget: float) -> list[tuple[int, int]]:
    """Cut a sequence into runs whose count times longest member stays within ``budget``."""
    cuts: list[tuple[int, int]] = []
    start, longest = 0, 0.0
    for i, duration in enumerate(seconds.tolist()):
        grown = max(longest, duration)
        if i > start and grown * (i - start + 1) > budget + 1e-9:
            cuts.append((start, i))
            start, grown = i, duration
        longest = grown
    cuts.append((start, len(seconds)))
    return cuts
