"""What units stand for: their use, and their agreement with phones beside shuffled labels, with intervals.

Source: Hsu et al. 2021, arXiv:2106.07447, section V-B. The interval is that of resampled utterances, moved so that the
resamples' mean lies on the value: resampling itself raises these scores, as every plug-in estimate of information.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from allophone.errors import ConfigError, DataError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.metrics.intervals import Interval
from allophone.metrics.units import cluster_purity, dead_units, joint_counts, phone_purity, pnmi, usage_entropy
from allophone.seeding import numpy_generator
from allophone.units.encode import Units

Ids = NDArray[np.int64]

SCORES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "pnmi": pnmi,
    "phone_purity": phone_purity,
    "cluster_purity": cluster_purity,
}
PHONE_COLUMNS = ["id", "start_seconds", "end_seconds", "phone"]
PHONE_FORMATS = (
    f"the tab-separated columns {', '.join(PHONE_COLUMNS)} in UTF-8, or the phones.parquet of a corpus (id, and "
    f"phones: a list of phone, start_seconds, end_seconds)"
)
PARQUET = b"PAR1"
"""How Parquet files begin."""
PhoneRow: TypeAlias = tuple[str, str, Any, Any, Any]
"""Where it stands, utterance id, start, end, phone."""


@dataclass(frozen=True, slots=True)
class PhoneInterval:
    """One phone of an utterance."""

    start_seconds: float
    end_seconds: float
    phone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneAgreement:
    """Scores against phone labels, each beside the same score with the phones shuffled over the frames."""

    utterances: int
    frames: int
    """Frames that lie in a phone."""
    unlabelled_frames: int
    """Frames of the same utterances that do not, left out."""
    phones: int
    """Different phones."""
    pnmi: Interval
    phone_purity: Interval
    cluster_purity: Interval
    chance_pnmi: float
    chance_phone_purity: float
    chance_cluster_purity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """Use of the units and, where there are labels, what they stand for."""

    codebook_hash: str
    num_units: int
    unit_rate: float
    utterances: int
    frames: int
    usage_entropy: float
    """Share of log K."""
    dead_units: int
    """Units that no frame has."""
    most_used_share: float
    """Share of frames of the most frequent unit."""
    phones: PhoneAgreement | None

    def __str__(self) -> str:
        lines = [
            f"codebook {self.codebook_hash}: {self.num_units} units at {self.unit_rate:g} Hz, "
            f"{self.utterances} utterances, {self.frames} frames ({self.frames / self.unit_rate / 3600:.2f} h)",
            f"usage entropy {self.usage_entropy:.3f} of 1, dead units {self.dead_units}, "
            f"most used unit {100 * self.most_used_share:.1f} % of frames",
        ]
        if self.phones is not None:
            labelled = self.phones
            lines.append(
                f"against {labelled.phones} phones, {labelled.frames} frames of {labelled.utterances} utterances "
                f"({labelled.unlabelled_frames} frames without a label left out):"
            )
            for name in SCORES:
                score: Interval = getattr(labelled, name)
                lines.append(
                    f"  {name.replace('_', ' '):<15}{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
                    f"   shuffled {getattr(labelled, f'chance_{name}'):.3f}"
                )
        return "\n".join(lines)


def unit_report(
    units: Units,
    phones: Mapping[str, Sequence[PhoneInterval]] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> UnitReport:
    """Judge units.

    Args:
        units: What ``encode_units`` gave.
        phones: Phones of some or all of the utterances.
        resamples: Of the utterances, for the 95 % intervals.
        seed: Of the resampling and of the shuffling.

    Returns:
        Use of all units; agreement where ``phones`` has the utterance.

    Raises:
        DataError: There are no units, no labelled utterance, or only one phone.
    """
    counts = units.counts()
    return UnitReport(
        codebook_hash=units.codebook_hash,
        num_units=units.num_units,
        unit_rate=units.unit_rate,
        utterances=len(units),
        frames=int(counts.sum()),
        usage_entropy=usage_entropy(counts),
        dead_units=dead_units(counts),
        most_used_share=float(counts.max() / counts.sum()),
        phones=None if phones is None else _agreement(units, phones, resamples, seed),
    )


def report(units: Path | str, *, phones: Path | str | None = None, resamples: int = 1000, seed: int = 0) -> UnitReport:
    """Judge the units in a file against the phones in another.

    Args:
        units: What ``Units.save`` wrote.
        phones: What :func:`read_phones` reads.
        resamples: Of the utterances.
        seed: Of the resampling and of the shuffling.

    Raises:
        CheckpointError: The units cannot be read.
        DataError: A file does not hold what it should.
    """
    labels = None if phones is None else read_phones(phones)
    return unit_report(Units.load(units), labels, resamples=resamples, seed=seed)


def read_phones(path: Path | str) -> dict[str, list[PhoneInterval]]:
    """Read phone labels, by the content of the file.

    Either text, tab-separated, UTF-8, with a header ``id start_seconds end_seconds phone``; or Parquet as it lies
    beside a corpus (``phones.parquet``), with an ``id`` and a list of phone, start_seconds, end_seconds a row.

    Raises:
        DataError: There is no such file, it is neither, or a row is not so; the message names the line or utterance.
    """
    path = Path(path)
    phones: dict[str, list[PhoneInterval]] = {}
    try:
        with path.open("rb") as file:
            rows = _parquet_rows if file.read(len(PARQUET)) == PARQUET else _text_rows
        for where, name, start, end, phone in rows(path):
            try:
                interval = PhoneInterval(float(start), float(end), str(phone))
            except (TypeError, ValueError):
                interval = PhoneInterval(np.nan, np.nan, "")
            if not np.isfinite([interval.start_seconds, interval.end_seconds]).all():
                raise DataError(f"{path}, {where}: times {start!r} and {end!r}; expected two times in seconds.")
            phones.setdefault(name, []).append(interval)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {PHONE_FORMATS}.") from error
    return phones


def _text_rows(path: Path) -> Iterator[PhoneRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if reader.fieldnames is None or list(reader.fieldnames) != PHONE_COLUMNS:
            raise DataError(f"{path}: header {reader.fieldnames}; expected {PHONE_FORMATS}.")
        for row in reader:
            yield f"line {reader.line_num}", row["id"], row["start_seconds"], row["end_seconds"], row["phone"]


def _parquet_rows(path: Path) -> Iterator[PhoneRow]:
    table = pq.read_table(path, partitioning=None)
    if not {"id", "phones"} <= set(table.column_names):
        raise DataError(f"{path}: columns {table.column_names}; expected {PHONE_FORMATS}.")
    for row in table.select(["id", "phones"]).to_pylist():
        for one in row["phones"] or ():
            where = f"utterance {row['id']!r}"
            try:
                yield where, row["id"], one["start_seconds"], one["end_seconds"], one["phone"]
            except (TypeError, KeyError) as error:
                raise DataError(f"{path}, {where}: phone {one}; expected {PHONE_FORMATS}.") from error


def phones_of_frames(intervals: Sequence[PhoneInterval], frames: int, clock: FrameClock) -> list[str | None]:
    """Phone at the center of each frame; None where there is none.

    Args:
        intervals: In any order; of overlapping ones the later start wins.
        frames: Units of the utterance.
        clock: How the frames behind the units cut time.

    Raises:
        DataError: An interval ends before it starts.
    """
    labels: list[str | None] = [None] * frames
    for interval in sorted(intervals, key=lambda interval: interval.start_seconds):
        if interval.end_seconds < interval.start_seconds:
            raise DataError(f"Phone {interval.phone!r} ends before its start: {interval}.")
        times = np.array([interval.start_seconds, interval.end_seconds])
        first, end = np.ceil((times * SAMPLE_RATE - clock.center(0)) / clock.hop - 1e-9).astype(int)
        for frame in range(max(0, first), min(frames, end)):
            labels[frame] = interval.phone
    return labels


def _agreement(
    units: Units, phones: Mapping[str, Sequence[PhoneInterval]], resamples: int, seed: int
) -> PhoneAgreement:
    if resamples < 1:
        raise ConfigError(f"unit_report: resamples is {resamples}; expected at least 1.")
    names = [name for name in units if name in phones]
    labels = [phones_of_frames(phones[name], len(units.labels[name]), units.clock) for name in names]
    alphabet = {phone: i for i, phone in enumerate(sorted({p for row in labels for p in row if p is not None}))}
    if len(alphabet) < 2:
        raise DataError(
            f"{len(names)} of {len(units)} utterances have phone labels, with {len(alphabet)} different phones on "
            "their frames; at least 2 are needed. Check that ids and times (seconds) of the labels fit the corpus."
        )
    phone_ids = [np.array([-1 if p is None else alphabet[p] for p in row], dtype=np.int64) for row in labels]
    unit_ids = [units.labels[name].astype(np.int64) for name in names]
    kept = [row >= 0 for row in phone_ids]
    utterance = np.repeat(np.arange(len(names)), [int(keep.sum()) for keep in kept])
    unit, phone = np.concatenate(unit_ids)[np.concatenate(kept)], np.concatenate(phone_ids)[np.concatenate(kept)]
    table = _Table(utterance, unit, phone, units.num_units, len(alphabet))
    scores = table.scores(resamples, seed)
    shuffled = joint_counts(
        unit, numpy_generator(seed, "shuffled phones").permutation(phone), units.num_units, len(alphabet)
    )
    return PhoneAgreement(
        utterances=len(names),
        frames=len(unit),
        unlabelled_frames=sum(len(row) for row in phone_ids) - len(unit),
        phones=len(alphabet),
        pnmi=scores["pnmi"],
        phone_purity=scores["phone_purity"],
        cluster_purity=scores["cluster_purity"],
        chance_pnmi=pnmi(shuffled),
        chance_phone_purity=phone_purity(shuffled),
        chance_cluster_purity=cluster_purity(shuffled),
    )


class _Table:
    """Counts of (unit, phone) per utterance, sparse, so that a resample is one weighted count."""

    def __init__(self, utterance: Ids, unit: Ids, phone: Ids, num_units: int, num_phones: int) -> None:
        self._shape = (num_units, num_phones)
        self._utterances = int(utterance.max()) + 1
        cells = num_units * num_phones
        keys, self._counts = np.unique(utterance * cells + unit * num_phones + phone, return_counts=True)
        self._rows, self._cells = np.divmod(keys, cells)

    def joint(self, weights: Ids) -> NDArray[np.float64]:
        """Table of the utterances, each so many times. Shape ``(K, P)``."""
        flat = np.bincount(self._cells, self._counts * weights[self._rows], minlength=self._shape[0] * self._shape[1])
        return flat.astype(np.float64).reshape(self._shape)

    def scores(self, resamples: int, seed: int) -> dict[str, Interval]:
        """Every score on all utterances with its 95 % interval."""
        whole = self.joint(np.ones(self._utterances, dtype=np.int64))
        generator = numpy_generator(seed, "utterances of units")
        even = np.full(self._utterances, 1.0 / self._utterances)
        drawn: dict[str, list[float]] = {name: [] for name in SCORES}
        for weights in generator.multinomial(self._utterances, even, size=resamples):
            joint = self.joint(weights)
            if (joint.sum(0) > 0).sum() < 2:
                continue
            for name, score in SCORES.items():
                drawn[name].append(score(joint))
        intervals = {}
        for name, score in SCORES.items():
            value, samples = score(whole), np.array(drawn[name] or [np.nan])
            low, high = np.quantile(samples, [0.025, 0.975]) - samples.mean() + value
            intervals[name] = Interval(value, float(max(low, 0.0)), float(min(high, 1.0)), self._utterances)
        return intervals
