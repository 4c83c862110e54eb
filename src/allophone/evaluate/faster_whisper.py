"""Whisper in CTranslate2's format, read by faster-whisper: the same model, on a CPU several times as fast.

Such a folder holds ``model.bin``; ``ct2-transformers-converter --model WHISPER --output_dir FOLDER --copy_files
tokenizer.json preprocessor_config.json`` makes one of any Whisper of ``transformers``. Shape letter: S samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allophone.errors import CheckpointError, ConfigError
from allophone.frames import SAMPLE_RATE

WEIGHTS, TOKENIZER = "model.bin", "tokenizer.json"
AGAIN = (
    "Convert it again: ct2-transformers-converter --model WHISPER --output_dir FOLDER --copy_files tokenizer.json "
    "preprocessor_config.json"
)
WINDOW = 30 * SAMPLE_RATE
"""Samples that Whisper reads at once."""
BEAMS = 5
"""As the pipeline of ``transformers`` searches."""
MOST_ASKED = 440
"""Tokens; Whisper's decoder has 448 places, some of which its prompt takes. CTranslate2 goes to half of it, 220 in 30
seconds, as OpenAI's own decoder does; ``transformers`` goes on to 400."""
NOT_JUDGED = {
    "temperature": 0.0,
    "no_speech_threshold": None,
    "log_prob_threshold": None,
    "compression_ratio_threshold": None,
    "condition_on_previous_text": False,
}
"""No text is thrown away or drawn again for how it looks: what was heard is what is scored, the same each time."""


def is_faster_whisper(folder: str | Path) -> bool:
    """Whether a folder is one for faster-whisper."""
    return (Path(folder) / WEIGHTS).is_file()


def whisper_languages(folder: str | Path) -> list[str]:
    """Whisper's codes of the languages that it knows; empty where it knows English alone.

    Raises:
        CheckpointError: The folder cannot be read.
        ConfigError: faster-whisper is not installed.
    """
    model = _whisper(str(folder))
    known = model.supported_languages if model.model.is_multilingual else []  # of any Whisper, not of this one
    return [code for code in known if model.hf_tokenizer.token_to_id(f"<|{code}|>") is not None]


def whisper_texts(
    folder: str | Path, waveforms: Sequence[Tensor], language: str | None, most_tokens: Sequence[int]
) -> list[str]:
    """Texts of waveforms; those longer than :data:`WINDOW` window by window, each from where the last was understood.

    Args:
        folder: With ``model.bin``.
        waveforms: Shape ``(S,)`` each, 16 kHz.
        language: Whisper's code; None = it finds out itself.
        most_tokens: Of each text, at most.

    Raises:
        CheckpointError: The folder cannot be read.
        ConfigError: faster-whisper is not installed.
    """
    model, texts = _whisper(str(folder)), []
    for waveform, most in zip(waveforms, most_tokens, strict=True):
        segments, _ = model.transcribe(
            waveform.numpy(),
            language=language,
            beam_size=BEAMS,
            max_new_tokens=min(2 * most, MOST_ASKED),  # it stops at half of what it is given
            without_timestamps=len(waveform) <= WINDOW,
            **NOT_JUDGED,
        )
        texts.append(" ".join(" ".join(segment.text for segment in segments).split()))
    return texts


def whisper_hash(folder: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of ``model.bin``."""
    with (Path(folder) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=1)
def _whisper(folder: str) -> Any:
    try:
        import faster_whisper
    except ImportError as error:
        raise ConfigError(
            f"{folder} holds a Whisper of CTranslate2, which faster-whisper reads: `pip install 'allophone[whisper]'`."
        ) from error
    if not (Path(folder) / TOKENIZER).is_file():  # faster-whisper would fetch another one's from the hub
        raise CheckpointError(f"{folder}: {TOKENIZER} is missing. {AGAIN}")
    try:
        return faster_whisper.WhisperModel(
            folder, device="cpu", cpu_threads=torch.get_num_threads(), local_files_only=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{folder}: not a Whisper that faster-whisper can load ({' '.join(str(error).split())}). {AGAIN}"
        ) from error
