"""Batches of P classes with K utterances each, so that every utterance has a companion of its class.

As :class:`~allophone.data.sampler.BatchSampler`, a pure function of (seed, epoch, position): the whole state is three
integers. Source: the P x K batches of Hermans et al. 2017, arXiv:1703.07737, section 2; what PairTune
(arXiv:2309.11895) does was not published.
Shape letters: C classes, P classes of a batch, K utterances of a class in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from allophone.data.sampler import Draw, PlannedSampler
from allophone.errors import ConfigError, DataError
from allophone.seeding import numpy_generator


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassBatches:
    """Size of a batch."""

    classes: int = 16
    """P. Where there are fewer classes, they share the P x K places evenly."""
    per_class: int = 4
    """K, utterances of each class in a batch, at least 2."""

    def __post_init__(self) -> None:
        if self.classes < 1 or self.per_class < 2:
            raise ConfigError(
                f"A batch needs at least 1 class and 2 utterances of each, or nobody has a companion; got "
                f"{self.classes} and {self.per_class}."
            )


class ClassSampler(PlannedSampler):
    """Batches of P x K utterances; all classes come equally often, however many utterances they have.

    Classes are taken in shuffled rounds, and the utterances of a class in shuffled rounds of their own, so none comes
    again before all have come. A class with fewer than K utterances repeats some within a batch; each repeat has a crop
    and perturbation of its own, so its companion is another view of itself. An epoch has as many places as there are
    utterances, to the next whole batch.

    Args:
        classes: Numbers of the classes of each utterance; one utterance may belong to several.
        durations_seconds: One duration an utterance.
        languages: One language tag an utterance.
        size: P and K.
        crop_seconds: Longest piece of an utterance that is used.
        seed: Seed of every draw.

    Raises:
        DataError: There is no utterance, the sequences differ in length, or an utterance has no class.
    """

    def __init__(
        self,
        classes: Sequence[Sequence[int]],
        durations_seconds: Sequence[float],
        languages: Sequence[str],
        size: ClassBatches,
        *,
        crop_seconds: float,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not len(classes) == len(durations_seconds) == len(languages) or not classes:
            raise DataError(
                f"Classes ({len(classes)}), durations ({len(durations_seconds)}) and languages ({len(languages)}) "
                "differ in number, or there is no utterance. Is the corpus empty after filtering by split?"
            )
        mute = [row for row, numbers in enumerate(classes) if not numbers]
        if mute:
            raise DataError(f"{len(mute)} utterances have no class, the first is row {mute[0]}. Leave them out.")
        members: dict[int, list[int]] = {}
        for row, numbers in enumerate(classes):
            for number in numbers:
                members.setdefault(number, []).append(row)
        self._members = {number: np.asarray(members[number], dtype=np.int64) for number in sorted(members)}
        self._seconds = np.minimum(np.asarray(durations_seconds, dtype=np.float64), crop_seconds)
        self._languages = tuple(languages)
        places = size.classes * size.per_class
        self.num_classes = min(size.classes, len(members))
        """P as it is: no more than there are classes."""
        self.per_class = max(size.per_class, places // self.num_classes)
        """K as it is: more where classes are fewer than P."""
        self._batches = -(-len(classes) // (self.num_classes * self.per_class))

    def num_batches(self, epoch: int) -> int:
        """Batches of one epoch, the same in all."""
        return self._batches

    def any_row(self, generator: torch.Generator) -> int:
        """One row: a class with equal chances, then one of its utterances."""
        which, member = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        rows = list(self._members.values())[int(which * len(self._members))]
        return int(rows[int(member * len(rows))])

    def seconds_by_language(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Seconds that some draws hear of each language, clips counted up to ``crop_seconds``."""
        seconds: dict[str, float] = {}
        for row, _ in draws:
            seconds[self._languages[row]] = seconds.get(self._languages[row], 0.0) + float(self._seconds[row])
        return seconds

    def _make_plan(self, epoch: int) -> list[NDArray[np.int64]]:
        rounds = [_Round(np.asarray(list(self._members)), self.seed, "classes", epoch)]
        utterances = {number: _Round(rows, self.seed, "class", epoch, number) for number, rows in self._members.items()}
        drawn: Counter[int] = Counter()
        batches = []
        for _ in range(self._batches):
            rows = []
            for number in rounds[0].take(self.num_classes):
                for row in utterances[number].take(self.per_class):
                    rows.append((row, drawn[row]))
                    drawn[row] += 1
            batches.append(np.asarray(rows, dtype=np.int64))
        return batches


class _Round:
    """Values in shuffled rounds: each comes once before any comes again."""

    def __init__(self, values: NDArray[np.int64], seed: int, *keys: object) -> None:
        self._values, self._generator = values, numpy_generator(seed, *keys)
        self._left: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next ``count`` values; none twice among them where there are enough."""
        taken: list[int] = []
        while len(taken) < count:
            if not self._left:
                fresh: list[int] = self._generator.permutation(self._values).tolist()
                have = set(taken)  # goes to the end of the new round, so that it is not taken again at once
                self._left = [v for v in fresh if v not in have] + [v for v in fresh if v in have]
            taken.append(self._left.pop(0))
        return taken
