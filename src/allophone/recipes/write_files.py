"""Translating and transcribing files of any length, piece by piece; nothing is imported that only training needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from allophone.audio.io import load_audio
from allophone.data.decoding import pieces
from allophone.errors import CheckpointError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.speech_translator import INFO_FILE, load_speech_translator
from allophone.models.token_decoder import SearchConfig
from allophone.models.transcriber import load_transcriber


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenPiece:
    """A stretch of a recording and what was written for it."""

    start_seconds: float
    end_seconds: float
    text: str
    confidence: float
    """0 to 1."""


def written_pieces(
    audio: Path, clock: FrameClock, write: Callable[[Tensor], tuple[str, float]], longest_seconds: float = 20.0
) -> list[WrittenPiece]:
    """Cut a recording where it is quietest and write every piece that has a frame.

    Args:
        audio: Sound file.
        clock: Of the encoder.
        write: From a waveform ``(S,)`` at 16 kHz to a text and its confidence.
        longest_seconds: No piece is longer.

    Raises:
        DataError: The file cannot be read.
    """
    found = []
    for start, samples in pieces(iter([load_audio(audio).numpy()]), SAMPLE_RATE, longest_seconds):
        if clock.count(len(samples)):
            text, confidence = write(torch.from_numpy(samples))
            found.append(
                WrittenPiece(
                    start_seconds=start / SAMPLE_RATE,
                    end_seconds=(start + len(samples)) / SAMPLE_RATE,
                    text=text,
                    confidence=confidence,
                )
            )
    return found


def translate_file(model: str | Path, audio: Path, language: str, *, beams: int = 5) -> list[WrittenPiece]:
    """Translate a recording of any length, cut where it is quietest.

    Args:
        model: Folder that ``translate train`` wrote.
        audio: Sound file.
        language: To write, in any tag.
        beams: Texts kept in the search.

    Raises:
        DataError: The model does not write the language, or the file cannot be read.
        CheckpointError: The model cannot be read.
    """
    folder = Path(model)
    if not (folder / INFO_FILE).exists():
        raise CheckpointError(
            f"{folder}: no translator there. Name one, or make one: `allophone translate train --corpus starter`."
        )
    translator = load_speech_translator(folder)
    search = SearchConfig(beams=beams, max_tokens=translator.decoder.max_positions)

    def write(waveform: Tensor) -> tuple[str, float]:
        (found,) = translator.generate(waveform[None], torch.tensor([len(waveform)]), [language], search)
        return found.text, found.confidence

    return written_pieces(audio, translator.clock, write)


def transcribe_file(model: str | Path, audio: Path, *, width: int = 16) -> list[WrittenPiece]:
    """Transcribe a recording of any length, cut where it is quietest.

    Args:
        model: What ``transcribe train`` wrote.
        audio: Sound file.
        width: Texts kept in the search; 1 is greedy.

    Raises:
        DataError: The file cannot be read.
        CheckpointError: The model cannot be read.
    """
    transcriber = load_transcriber(model)

    def write(waveform: Tensor) -> tuple[str, float]:
        (found,) = transcriber.transcribe(waveform[None], torch.tensor([len(waveform)]), width=width)
        return found.text, found.confidence

    return written_pieces(audio, transcriber.clock, write)
