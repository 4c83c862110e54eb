"""Transcripts by another model: what retrieval of speech is compared with, and what speech that was made is scored by.

The cascade transcribes first and then compares texts. Any speech recognizer of ``transformers`` will do (Whisper, CTC),
and a Whisper of faster-whisper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import pipeline

from allophone.data.lines import grown_lines
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.distributed import device
from allophone.errors import CheckpointError, DataError
from allophone.evaluate.faster_whisper import is_faster_whisper, whisper_hash, whisper_languages, whisper_texts
from allophone.frames import SAMPLE_RATE, samples_to_seconds
from allophone.models.conversion import model_hash
from allophone.text.languages import parse_language

Transcribe = Callable[[Sequence[Tensor]], list[str]]
"""Texts of waveforms ``(S,)`` at 16 kHz."""
CHUNK = 8
"""Recordings transcribed at once."""
TOKENS_A_SECOND = 20
MOST_TOKENS = 400
"""At once; Whisper's decoder has 448 places, some of which its prompt takes."""
WHISPERS = {"jw": "jv"}
"""Its own codes to ISO 639."""


def load_transcriber(folder_or_hub_id: str | Path, language: str | None = None) -> Transcribe:
    """A speech recognizer of ``transformers``, or of faster-whisper where the folder is one of CTranslate2.

    Args:
        folder_or_hub_id: Which.
        language: What is spoken, for a recognizer of several languages that generates text; None = it finds out itself.

    A recognizer that generates text stops at 20 tokens a second, because what it makes of noise may not end by itself.
    Whisper reads 30 s at once; longer recordings go through ``transformers``' own long form, one at a time.

    Raises:
        CheckpointError: There is no such recognizer.
        ConfigError: It is one of CTranslate2, and faster-whisper is not installed.
        DataError: It does not know the language.
    """
    if is_faster_whisper(folder_or_hub_id):
        return _faster(Path(folder_or_hub_id), language)
    recognizer = _recognizer(str(folder_or_hub_id))
    told = _told(recognizer, language)

    window = getattr(recognizer.feature_extractor, "chunk_length", None)  # seconds; Whisper's alone
    most_samples = math.inf if window is None else window * SAMPLE_RATE

    def transcribe(waveforms: Sequence[Tensor]) -> list[str]:
        short = [wave for wave in waveforms if len(wave) <= most_samples]
        together = iter(_heard(recognizer, short, told) if short else ())
        return [
            next(together) if len(wave) <= most_samples else _heard(recognizer, [wave], told, long=True)[0]
            for wave in waveforms
        ]

    return transcribe


def _heard(recognizer: Any, waveforms: Sequence[Tensor], told: dict[str, str], *, long: bool = False) -> list[str]:
    """Texts of waveforms ``(S,)``; ``long`` where there is one that is longer than the recognizer reads at once."""
    given = [{"raw": waveform.numpy(), "sampling_rate": SAMPLE_RATE} for waveform in waveforms]
    options: dict[str, Any] = {}
    if recognizer.model.can_generate():
        most = _most_tokens(max(len(waveform) for waveform in waveforms))
        options = {"generate_kwargs": {**told, "max_new_tokens": most}}
    if long:
        options["return_timestamps"] = True  # by which the next window begins where the last one was understood
    with torch.inference_mode():
        found = recognizer(given, batch_size=len(given), **options)
    return [" ".join(str(one["text"]).split()) for one in found]


def _most_tokens(samples: int) -> int:
    return min(MOST_TOKENS, 8 + int(TOKENS_A_SECOND * samples_to_seconds(samples)))


def _faster(folder: Path, language: str | None) -> Transcribe:
    codes = whisper_languages(folder)
    code = None if language is None or not codes else _whisper_code(codes, language)

    def transcribe(waveforms: Sequence[Tensor]) -> list[str]:
        most = [_most_tokens(len(waveform)) for waveform in waveforms]
        return whisper_texts(folder, waveforms, code, most)

    return transcribe


def transcriber_hash(folder_or_hub_id: str | Path) -> str:
    """First 16 hex digits of the SHA-256 over the recognizer's parameters; for faster-whisper of their file.

    Raises:
        CheckpointError: There is no such recognizer.
    """
    if is_faster_whisper(folder_or_hub_id):
        return whisper_hash(folder_or_hub_id)
    return model_hash(_recognizer(str(folder_or_hub_id)).model)


@lru_cache(maxsize=1)
def _recognizer(folder_or_hub_id: str) -> Any:
    try:
        return pipeline("automatic-speech-recognition", model=folder_or_hub_id, device=device(), dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder_or_hub_id}: not a speech recognizer that transformers can load "
            f"({' '.join(str(error).split())}). Name one such as openai/whisper-base, or its folder."
        ) from error


def _told(recognizer: Any, language: str | None) -> dict[str, str]:
    """What a recognizer that generates is told: to transcribe, in which language; nothing where it has but one.

    Without a task Whisper is prompted as it never was in training, and cuts off or repeats words.
    """
    settings = getattr(recognizer.model, "generation_config", None)
    tokens = getattr(settings, "lang_to_id", None)
    if tokens is None:
        return {}
    if language is None:
        return {"task": "transcribe"}
    return {"language": _whisper_code([token.strip("<|>") for token in tokens], language), "task": "transcribe"}


def _whisper_code(codes: Sequence[str], language: str) -> str:
    """The one of Whisper's codes that names a language."""
    wanted = parse_language(language).code
    for code in codes:
        if parse_language(WHISPERS.get(code, code)).code == wanted:
            return code
    raise DataError(f"The recognizer was not trained on {language}; take one that was, or leave its language out.")


def _kept_transcripts(file: Path) -> dict[tuple[str, str], str]:
    """Transcripts of earlier calls, by id and hash."""
    lines = (line.split("\t") for line in grown_lines(file))
    return {(line[0], line[1]): line[2] for line in lines if len(line) == 3}  # before, lines had no hash


def _recording(row: Utterance, cache: WaveformCache[Utterance]) -> tuple[str, str]:
    """What a transcript is kept by: other corpora may call other recordings by the same id."""
    return row.id, row.sha256 or hashlib.sha256(cache.get(row).numpy().tobytes()).hexdigest()


def transcripts_file(folder: Path, folder_or_hub_id: str | Path) -> Path:
    """Where a folder keeps what one recognizer heard, for :func:`transcribe_all`.

    Raises:
        CheckpointError: There is no such recognizer.
    """
    return folder / f"transcripts-{transcriber_hash(folder_or_hub_id)}.tsv"


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
        file: Table of id, SHA-256 of the samples and transcript, which grows; those of another recognizer go into
            another file.
        progress: Called with (utterances done, all).

    Raises:
        DataError: The recognizer gives another number of texts than it was given recordings.
    """
    known = _kept_transcripts(file)
    keys = {row.id: _recording(row, cache) for row in rows}
    # By length: a recognizer that generates text goes on until the longest of a batch has ended.
    missing = sorted((row for row in rows if keys[row.id] not in known), key=lambda row: row.duration_seconds)
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        texts = transcribe([cache.get(row) for row in part])
        if len(texts) != len(part):
            raise DataError(f"The recognizer gave {len(texts)} texts for {len(part)} recordings; one each is needed.")
        found = {keys[row.id]: " ".join(text.split()) for row, text in zip(part, texts, strict=True)}
        with file.open("a", encoding="utf-8") as table:
            table.writelines("\t".join((*key, text)) + "\n" for key, text in found.items())
        known |= found
        progress(min(start + CHUNK, len(missing)), len(missing))
    return [known[keys[row.id]] for row in rows]
