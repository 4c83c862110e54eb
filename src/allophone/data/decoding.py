"""Decode every sound file of a source once, in parallel, to find how long, how sound and how unique each one is.

Shape letters: N samples at the file's own rate, mono.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from allophone.audio.io import MIN_SAMPLES, AudioInfo, Samples, audio_blocks, probe_audio
from allophone.data.importers.entry import Entry
from allophone.data.quarantine import Quarantined
from allophone.data.utterance import Utterance
from allophone.engine import Engine, Shard, confirm_unreadable, cut, decoding_engine
from allophone.errors import AudioError
from allophone.frames import SAMPLE_RATE

MAX_SECONDS = 30.0
"""Longer recordings are cut into pieces."""
MAX_SECONDS_WITH_TEXT = 60.0
"""A recording with a text stays whole up to here, because nobody knows which words fall into which piece."""
OVERRUN_SECONDS = 0.1
"""Disagreement between a manifest and a file that rounding explains."""

SHARD_FILES = 8
"""Sound files that a worker takes at a time. What becomes of a file does not depend on it."""

SILENT_RANGE = 2 / 32768
"""Samples that differ by no more than this (two steps of 16 bit) are silence."""

Outcome: TypeAlias = Utterance | Quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What became of a source's entries; both lists in the order of the entries."""

    utterances: tuple[Utterance, ...]
    quarantined: tuple[Quarantined, ...]
    texts_lost: int
    """Entries whose text was left out because the recording was too long and had to be cut."""


def decode_entries(
    entries: Sequence[Entry],
    *,
    max_seconds: float = MAX_SECONDS,
    workers: int | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Decode what the entries name and turn each into utterances or a reason why not.

    Entries that lie in one file are decoded by one thread, in order of time. Memory is bounded by
    ``workers * max_seconds``, however long a file is.

    Args:
        entries: With languages (see :func:`~allophone.data.importers.entry.require_languages`).
        max_seconds: Longest piece; longer recordings are cut where it is quietest.
        workers: Threads; one a core when None.
        engine: Where files are decoded; None is this process.
        progress: Called with (files done, files in all).
    """
    by_file: dict[str, list[int]] = {}
    for number in sorted(range(len(entries)), key=lambda number: entries[number].offset_seconds):
        by_file.setdefault(_absolute(entries[number].path), []).append(number)
    outcomes: list[list[Outcome]] = [[] for _ in entries]
    files = sorted(by_file, key=lambda path: min(by_file[path]))
    shards = cut([_File(path, tuple(entries[number] for number in by_file[path])) for path in files], SHARD_FILES)
    engine, job, done = decoding_engine(engine, workers), _Decode(max_seconds), 0
    for shard, decoded in zip(shards, engine.map(job, shards), strict=True):
        confirm_unreadable(engine, _refused(shard, decoded), lambda: _refused(shard, job(shard)))  # noqa: B023 (at once)
        for file, found in zip(shard.items, decoded, strict=True):
            for number, outcome in zip(by_file[file.path], found, strict=True):
                outcomes[number] = outcome
            done += 1
            if progress is not None:
                progress(done, len(by_file))
    flat = [outcome for group in outcomes for outcome in group]
    return Decoded(
        utterances=tuple(outcome for outcome in flat if isinstance(outcome, Utterance)),
        quarantined=tuple(outcome for outcome in flat if isinstance(outcome, Quarantined)),
        texts_lost=sum(
            len(group) > 1 and entry.text is not None for entry, group in zip(entries, outcomes, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    """Absolute."""
    entries: tuple[Entry, ...]
    """What lies in it, in order of time."""


@dataclass(frozen=True, slots=True)
class _Decode:
    """Outcomes of each entry of each file of a shard."""

    max_seconds: float

    def __call__(self, shard: Shard[_File]) -> list[list[list[Outcome]]]:
        return [[_decode_entry(entry, file.path, self.max_seconds) for entry in file.entries] for file in shard.items]


def _refused(shard: Shard[_File], decoded: Sequence[Sequence[Sequence[Outcome]]]) -> list[str]:
    """Files of which something could not be used."""
    return [
        file.path
        for file, found in zip(shard.items, decoded, strict=True)
        if any(isinstance(outcome, Quarantined) for group in found for outcome in group)
    ]


def pieces(blocks: Iterator[Samples], sample_rate: int, max_seconds: float) -> Iterator[tuple[int, Samples]]:
    """Cut a stream of samples into pieces of at most ``max_seconds`` at its quietest points.

    A cut lies in the second half of the longest allowed piece, and never within a second of the end.

    Yields:
        First sample and samples, shape ``(N,)``, of each piece; together they are the whole stream.
    """
    longest, spare = int(max_seconds * sample_rate), min(sample_rate, int(max_seconds * sample_rate) // 4)
    held, start = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= longest + spare:
            cut = _quietest(held, longest // 2, longest, sample_rate)
            yield start, held[:cut]
            held, start = held[cut:], start + cut
    if len(held) > longest:
        cut = _quietest(held, longest // 2, min(longest, len(held) - spare), sample_rate)
        yield start, held[:cut]
        held, start = held[cut:], start + cut
    if len(held) or start == 0:
        yield start, held


def samples_sha256(samples: Samples) -> str:
    """SHA-256 (hex) of samples, shape ``(N,)``, as 16-bit little-endian integers."""
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    return hashlib.sha256(integers.tobytes()).hexdigest()


def _quietest(samples: Samples, low: int, high: int, sample_rate: int) -> int:
    """Middle of the quietest 100 ms between two samples."""
    step, width = max(1, sample_rate // 50), 5
    energy = np.square(samples[low : low + (high - low) // step * step]).reshape(-1, step).sum(axis=1)
    if len(energy) < width:
        return high
    smooth = np.convolve(energy, np.ones(width), mode="valid")
    return low + (int(smooth.argmin()) * 2 + width) * step // 2


def _decode_entry(entry: Entry, path: str, max_seconds: float) -> list[Outcome]:
    """Utterances of one entry, or why there are none."""
    limit = max(max_seconds, MAX_SECONDS_WITH_TEXT) if entry.text else max_seconds
    try:
        info = probe_audio(path)
        start, num_frames = _part(entry, path, info)
        blocks = audio_blocks(path, start=start, num_frames=num_frames, info=info)
        found = [
            _outcome(entry, path, start + first, samples, info)
            for first, samples in pieces(blocks, info.sample_rate, limit)
        ]
    except AudioError as error:
        return [_quarantined(entry, path, str(error).removeprefix(f"{path}: "), entry.offset_seconds)]
    return found if len(found) == 1 else [_as_piece(outcome, number) for number, outcome in enumerate(found)]


def _part(entry: Entry, path: str, info: AudioInfo) -> tuple[int, int | None]:
    """First sample and number of samples that an entry names, checked against the file's header."""
    rate, known = info.sample_rate, info.num_frames
    if not math.isfinite(entry.offset_seconds) or not math.isfinite(entry.duration_seconds or 0):
        raise AudioError(
            f"{path}: {entry.where} names {entry.duration_seconds} s from {entry.offset_seconds} s; expected numbers. "
            "Correct the manifest."
        )
    start = round(entry.offset_seconds * rate)
    num_frames = None if entry.duration_seconds is None else round(entry.duration_seconds * rate)
    tolerance = round(OVERRUN_SECONDS * rate)
    if entry.num_samples is not None and known and abs(entry.num_samples - known) > tolerance:
        raise AudioError(
            f"{path}: has {known} samples, but {entry.where} says {entry.num_samples}. Make the manifest again."
        )
    if start < 0 or (num_frames is not None and num_frames <= 0):
        raise AudioError(
            f"{path}: {entry.where} names {entry.duration_seconds} s from {entry.offset_seconds} s; expected an offset "
            "of at least 0 and a duration above 0."
        )
    if known and (start >= known or (num_frames is not None and start + num_frames > known + tolerance)):
        end = (start + (num_frames or 0)) / rate
        raise AudioError(
            f"{path}: ends at {info.duration_seconds:.3f} s, but {entry.where} names the part from "
            f"{entry.offset_seconds:.3f} s to {end:.3f} s. Correct the manifest."
        )
    return start, min(num_frames, known - start) if known and num_frames is not None else num_frames


def _outcome(entry: Entry, path: str, start: int, samples: Samples, info: AudioInfo) -> Outcome:
    """One piece: an utterance, unless it is too short or silent."""
    offset = start / info.sample_rate
    if len(samples) * SAMPLE_RATE < MIN_SAMPLES * info.sample_rate:
        reason = f"too short: {len(samples)} samples at {info.sample_rate} Hz, less than one 25 ms frame"
        return _quarantined(entry, path, reason, offset)
    if float(np.ptp(samples)) <= SILENT_RANGE:
        reason = f"silent: all {len(samples) / info.sample_rate:.2f} s have the same value"
        return _quarantined(entry, path, reason, offset)
    return Utterance(
        id=entry.id,
        path=path,
        offset_seconds=offset,
        duration_seconds=len(samples) / info.sample_rate,
        sample_rate=info.sample_rate,
        language=str(entry.language),
        speaker=entry.speaker,
        text=entry.text,
        label=entry.label,
        group=entry.group,
        translations=entry.translations,
        split=entry.split,
        source=entry.source,
        licence=entry.licence,
        synthetic=entry.synthetic,
        sha256=samples_sha256(samples),
        extra=entry.extra,
    )


def _as_piece(outcome: Outcome, number: int) -> Outcome:
    """A piece of a longer recording: its own id, and no text, because whose words are whose is not known."""
    name = f"{outcome.id}-{number:04d}"
    if isinstance(outcome, Quarantined):
        return replace(outcome, id=name)
    return replace(outcome, id=name, text=None, translations={})


def _quarantined(entry: Entry, path: str, reason: str, offset_seconds: float) -> Quarantined:
    return Quarantined(
        path=path, language=str(entry.language), reason=reason, id=entry.id, offset_seconds=offset_seconds
    )


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (links are kept as the user laid them)
