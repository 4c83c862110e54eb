"""Texts for recordings that have none, by another model; each says that a machine made it, and which."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.errors import DataError
from allophone.evaluate.transcripts import Transcribe, load_transcriber, transcribe_all, transcriber_hash
from allophone.run.progress import Report, counted, silent

MADE_BY = "text_made_by"
"""Column that names the model a text comes from; people's texts have none."""
TABLE = "machine-texts-{}.tsv"
"""What a model has written so far, by the hash of its parameters, so that no text goes under another model's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineTexts:
    """What was written."""

    corpus: Corpus
    """As it lies in the folder."""
    made: dict[str, int]
    """Texts that the model made, per language."""
    silent: int
    """Recordings in which it found nothing to write."""


def write_machine_texts(corpus: Corpus, model: str | Path, *, out: Path, report: Report = silent) -> MachineTexts:
    """Save a corpus in which recordings without a text have one that a model wrote; an interrupted call goes on.

    Args:
        corpus: Texts that it has are kept as they are.
        model: Speech recognizer or audio captioner of ``transformers`` (a pipeline for automatic speech recognition).
            One of several languages is told what is spoken, where it was trained on that.
        out: Folder of the corpus that is written.
        report: Told how far it is.

    Raises:
        DataError: Every recording has a text.
        CheckpointError: There is no such model.
    """
    rows = [row for row in corpus if not row.text]
    if not rows:
        raise DataError(f"{corpus.name}: all {len(corpus)} recordings have a text; there is nothing to write.")
    name = Path(model).name if Path(model).exists() else str(model)
    cache, found = WaveformCache(corpus), dict[str, str]()
    table = out / TABLE.format(transcriber_hash(model))
    for language in sorted({row.language for row in rows}):
        part = [row for row in rows if row.language == language]
        progress = counted(report(f"Writing texts, {language}"))
        texts = transcribe_all(part, cache, _transcriber_of(model, language), table, progress)
        found |= {row.id: text for row, text in zip(part, texts, strict=True) if text.strip()}
    written = tuple(
        replace(row, text=found[row.id], extra={**row.extra, MADE_BY: name}) if row.id in found else row
        for row in corpus
    )
    saved = corpus.with_utterances(written).save(out)
    made = Counter(row.language for row in rows if row.id in found)
    return MachineTexts(corpus=saved, made=dict(made), silent=len(rows) - len(found))


def _transcriber_of(model: str | Path, language: str) -> Transcribe:
    """The model, told what is spoken where it was trained on that."""
    try:
        return load_transcriber(model, language)
    except DataError:
        return load_transcriber(model)
