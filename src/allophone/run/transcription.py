"""From a corpus with transcripts to a transcriber by CTC, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.methods.transcription import Transcription, TranscriptionConfig
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.transcriber import (
    INFO_FILE,
    SpellingDecoderConfig,
    Transcriber,
    alphabet_of,
    save_transcriber,
)
from allophone.run.config import DataConfig
from allophone.run.progress import Report, silent
from allophone.run.texts import Heard, TextRun, execute_with_texts, heard_with_texts
from allophone.train.config import TrainConfig

CREATED_BY = "allophone transcribe"


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscribeConfig:
    """A complete training of a transcriber."""

    name: str
    """What the model card calls it."""
    seed: int
    """Of initialization, sampling and dropout."""
    dropout: float
    """Before the linear layer."""
    decoder: SpellingDecoderConfig | None = None
    """A decoder beside CTC, which re-ranks its texts; None = CTC alone."""
    method: TranscriptionConfig
    """What is trained."""
    data: DataConfig
    """What is heard."""
    train: TrainConfig
    """For how long and how."""


def execute_transcription(
    config: TranscribeConfig, corpus: Corpus, run_dir: Path, *, encoder: Encoder, report: Report = silent
) -> TextRun:
    """Train a transcriber, or go on with it; nothing is done where the same run is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is heard; the alphabet is made from its transcripts.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/``, ``used.parquet`` and ``model/``.
        encoder: Of speech; it is changed in place.
        report: Told how far each stage is.

    Raises:
        AllophoneError: What the stages raise.
    """
    heard = heard_with_texts(corpus, config.data)
    begun_from = model_hash(encoder)
    origin = {"config": to_dict(config), "corpus": heard.corpus.hash, "encoder": begun_from}

    def build() -> Transcription:
        return Transcription(build_transcriber(config, heard, encoder), config.method)

    def keep(method: Transcription, folder: Path) -> None:
        card = _card(config, heard, begun_from)
        save_transcriber(method.model, folder, card, parents=(begun_from,), created_by=CREATED_BY)

    return execute_with_texts(
        config,
        heard,
        run_dir,
        origin=origin,
        clock=encoder.clock,
        finished=is_transcriber,
        build=build,
        save=keep,
        report=report,
    )


def is_transcriber(folder: Path) -> bool:
    """Whether a folder holds a whole transcriber."""
    return (folder / INFO_FILE).exists()


def build_transcriber(config: TranscribeConfig, heard: Heard, encoder: Encoder) -> Transcriber:
    """A transcriber before training, with all characters of the transcripts."""
    alphabet = alphabet_of([row.text or "" for row in heard.corpus], [row.language for row in heard.corpus])
    return Transcriber(encoder, alphabet, config.dropout, config.decoder)


def _card(config: TranscribeConfig, heard: Heard, parent: str) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(heard.corpus.hours().items()))
    beside = "" if config.decoder is None else " and a decoder that re-ranks what it spells"
    return (
        f"# {config.name}\n\nA speech encoder ({parent}) with a linear layer that spells by CTC{beside}, trained with "
        f"allophone ({config.train.steps} updates).\n\nHeard: {heard.corpus.name}, {len(heard.corpus)} utterances; "
        f"hours: {hours}.\n\nIt writes lower case without punctuation, in whatever language it believes to hear.\n"
    )
