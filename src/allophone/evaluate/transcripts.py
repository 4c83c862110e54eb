"""Transcripts by another model, for the row that every retrieval of speech has to be compared with.

The cascade transcribes first and then compares texts. Any speech recognizer of ``transformers`` will do (Whisper, CTC).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import pipeline

from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError, DataError
from allophone.frames import SAMPLE_RATE

Transcribe = Callable[[Sequence[Tensor]], list[str]]
"""Texts of waveforms ``(S,)`` at 16 kHz."""
CHUNK = 8
"""Recordings transcribed at once."""


def load_transcriber(folder_or_hub_id: str | Path) -> Transcribe:
    """A speech recognizer of ``transformers``, which finds out the language itself where it has several.

    Raises:
        CheckpointError: There is no such recognizer.
    """
    try:
        recognizer: Any = pipeline("automatic-speech-recognition", model=str(folder_or_hub_id), device="cpu")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder_or_hub_id}: not a speech recognizer that transformers can load "
            f"({' '.join(str(error).split())}). Name one such as openai/whisper-base, or its folder."
        ) from error

    def transcribe(waveforms: Sequence[Tensor]) -> list[str]:
        given = [{"raw": waveform.numpy(), "sampling_rate": SAMPLE_RATE} for waveform in waveforms]
        with torch.inference_mode():
            return [" ".join(str(found["text"]).split()) for found in recognizer(given, batch_size=len(given))]

    return transcribe


def transcribe_all(
    rows: Sequence[Utterance],
    cache: WaveformCache[Utterance],
    transcribe: Transcribe,
    file: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Transcripts of utterances, in order; ``file`` keeps them, so that an interrupted call goes on.

    Args:
        rows: Utterances.
        cache: Decodes them.
        transcribe: The recognizer.
        file: Table of id and transcript, which grows; those of another recognizer go into another file.
        progress: Called with (utterances done, all).

    Raises:
        DataError: The recognizer gives another number of texts than it was given recordings.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = dict(line.split("\t", 1) for line in lines if "\t" in line)
    missing = [row for row in rows if row.id not in known]
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        texts = transcribe([cache.get(row) for row in part])
        if len(texts) != len(part):
            raise DataError(f"The recognizer gave {len(texts)} texts for {len(part)} recordings; one each is needed.")
        found = {row.id: " ".join(text.split()) for row, text in zip(part, texts, strict=True)}
        with file.open("a", encoding="utf-8") as table:
            table.writelines(f"{name}\t{text}\n" for name, text in found.items())
        known |= found
        progress(min(start + CHUNK, len(missing)), len(missing))
    return [known[row.id] for row in rows]
