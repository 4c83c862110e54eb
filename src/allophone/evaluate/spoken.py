"""Speech that was made, as others hear it: a recognizer, a predictor of opinions, of pitch and of voices.

Nobody who judges here has seen the units or trained the vocoder. Each judge also hears the recordings, because what it
gets wrong there is not the vocoder's doing.
Shape letters: S samples, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.audio.pitch import pitch
from allophone.errors import DataError
from allophone.evaluate.result import Result, Signature, result_from_interval
from allophone.evaluate.transcripts import CHUNK, Transcribe
from allophone.metrics.error_rate import ErrorCounts, character_error_counts, word_error_counts
from allophone.metrics.intervals import Interval, bootstrap
from allophone.text.normalize import normalize

PITCH_HOP = 320
"""Samples between two comparisons of pitch."""
SEMITONES = 12.0
"""In an octave."""
NORMALIZER = "allophone.text.normalize 1"
Array = NDArray[np.float64]
Predict = Callable[[Tensor], float]
"""Mark of a waveform ``(S,)``."""
Embed = Callable[[Sequence[Tensor]], Tensor]
"""Vectors ``(N, D)`` of waveforms ``(S,)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    name: str
    waveform: Tensor
    """Shape ``(S,)``."""
    text: str
    language: str
    speaker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """Who listens; None = that column is left out."""

    transcribe: Callable[[str], Transcribe]
    """A recognizer, told a language."""
    predict_mos: Predict | None = None
    embed: Embed | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spoken:
    """What one system was heard as, one value a clip, in one order for all systems."""

    transcripts: tuple[str, ...]
    """As the recognizer wrote them."""
    characters: ErrorCounts
    """Texts normalized for their script."""
    words: ErrorCounts
    """The same, words."""
    raw_characters: ErrorCounts
    """Texts as they are: case, punctuation and digits count."""
    mos: Array | None
    """Predicted marks from 1 to 5. Shape ``(N,)``."""
    pitch: tuple[Array, Array]
    """Squared semitones between made and recorded, and frames with a voice in both. Shapes ``(N,)``."""
    voicing: tuple[Array, Array]
    """Frames with a voice in one of the two only, and all frames. Shapes ``(N,)``."""
    similarity: Array | None
    """Cosine of the voice to that of the recording. Shape ``(N,)``."""


def score_spoken(clips: Sequence[Clip], made: Sequence[Tensor], judges: Judges) -> Spoken:
    """Have one system's speech judged.

    Args:
        clips: Recordings.
        made: What was made of each, ``(S,)``, aligned with the recording at its first sample and not longer.
        judges: Who listens.

    Raises:
        DataError: Clips and waveforms do not belong together.
    """
    if len(made) != len(clips) or any(len(new) > len(clip.waveform) for new, clip in zip(made, clips, strict=False)):
        raise DataError(f"{len(made)} waveforms were made of {len(clips)} clips; each must be as long or shorter.")
    heard = _transcripts(clips, made, judges)
    texts = [clip.text for clip in clips]
    both = [[normalize(text, clip.language) for text, clip in zip(side, clips, strict=True)] for side in (texts, heard)]
    compared = np.array([_pitch_errors(clip.waveform, new) for clip, new in zip(clips, made, strict=True)])
    similarity = None
    if judges.embed is not None:
        recorded = judges.embed([clip.waveform for clip in clips])
        similarity = torch.nn.functional.cosine_similarity(recorded, judges.embed(made)).double().numpy()
    return Spoken(
        transcripts=tuple(heard),
        characters=character_error_counts(*both),
        words=word_error_counts(*both),
        raw_characters=character_error_counts(texts, heard),
        mos=None if judges.predict_mos is None else np.array([judges.predict_mos(new) for new in made]),
        pitch=(compared[:, 0], compared[:, 1]),
        voicing=(compared[:, 2], compared[:, 3]),
        similarity=similarity,
    )


def _transcripts(clips: Sequence[Clip], made: Sequence[Tensor], judges: Judges) -> list[str]:
    """Clips of a language together, long ones with long ones."""
    found: dict[int, str] = {}
    for language in dict.fromkeys(clip.language for clip in clips):
        transcribe = judges.transcribe(language)
        own = sorted(
            (number for number, clip in enumerate(clips) if clip.language == language),
            key=lambda number: len(made[number]),
        )
        for start in range(0, len(own), CHUNK):
            part = own[start : start + CHUNK]
            found |= zip(part, transcribe([made[number] for number in part]), strict=True)
    return [found[number] for number in range(len(clips))]


def _pitch_errors(recorded: Tensor, made: Tensor) -> tuple[float, float, float, float]:
    """Squared semitones and frames where both have a voice; frames where one has, and all."""
    first, second = (pitch(wave[: len(made)], PITCH_HOP).double() for wave in (recorded, made))
    voiced = [one[:, 1] > 0.5 for one in (first, second)]
    both = voiced[0] & voiced[1]
    squares = (SEMITONES * (first[both, 0] - second[both, 0])).square().sum()
    return float(squares), float(both.sum()), float((voiced[0] != voiced[1]).sum()), float(len(first))


def spoken_results(scores: Spoken, signature: Signature, *, seeds: Sequence[int] = ()) -> list[Result]:
    """Results of one system with intervals over clips."""
    rates = {
        "character error": scores.characters,
        "word error": scores.words,
        "character error, texts as they are": scores.raw_characters,
    }
    columns: list[tuple[str, Interval, str, bool]] = [
        (name, bootstrap(counts.errors, counts.lengths).scaled(100.0), "%", False) for name, counts in rates.items()
    ]
    if scores.mos is not None:
        columns.append(("predicted MOS", bootstrap(scores.mos), "of 5", True))
    if scores.pitch[1].sum():
        columns.append(("pitch error", _root(bootstrap(*scores.pitch)), "semitones", False))
    columns.append(("voicing error", bootstrap(*scores.voicing).scaled(100.0), "%", False))
    if scores.similarity is not None:
        columns.append(("voice similarity", bootstrap(scores.similarity).scaled(100.0), "% cosine", True))
    return [
        result_from_interval(name, interval, unit=unit, higher_is_better=higher, signature=signature, seeds=seeds)
        for name, interval, unit, higher in columns
    ]


def _root(interval: Interval) -> Interval:
    return Interval(interval.value**0.5, interval.low**0.5, interval.high**0.5, interval.n)
