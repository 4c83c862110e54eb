"""Turn any source of recordings into a corpus folder, with a list of what could not be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allophone.data.corpus import CORPUS_TABLE, Corpus
from allophone.data.decoding import MAX_SECONDS
from allophone.data.gather import gather, source_name
from allophone.data.importers.detect import Format
from allophone.data.quarantine import Quarantined, require_small_loss, save_quarantine
from allophone.engine import Engine
from allophone.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What an import did."""

    corpus: Corpus
    """As it lies in the folder."""
    format: Format
    """The format that was found: ``folder``, ``kaldi``, ``lhotse``, ..."""
    quarantined: tuple[Quarantined, ...]
    """Also in ``quarantine.tsv`` and ``quarantine.parquet``."""
    texts_lost: int
    """Recordings longer than a minute whose text was left out, because they were cut."""


def import_corpus(
    source: Any,
    *,
    out: str | Path,
    language: str | None = None,
    sounds: bool = False,
    max_loss: float = 0.05,
    max_seconds: float = MAX_SECONDS,
    workers: int | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Decode a source once and write a corpus folder for it; sound files stay where they are.

    Args:
        source: Anything that :meth:`Corpus.open` reads, other than a corpus folder.
        out: Folder to write: ``corpus.parquet``, ``corpus.json``, ``quarantine.tsv``, ``quarantine.parquet`` and, for
            sound that the source holds as bytes, ``audio/``.
        language: Language of every recording, in place of the source's own.
        sounds: The source is a folder of sounds that are not speech; its folders or file names become labels.
        max_loss: Largest share of a language's recordings that may be unusable.
        max_seconds: Longer recordings are cut into pieces at quiet points.
        workers: Threads that decode; one a core when None.
        engine: Where files are decoded; None is this process. The corpus is the same with any.
        progress: Called with (files done, files in all).

    Raises:
        DataError: ``out`` already holds a corpus, the source cannot be read, a language is not known, two utterances
            have one id, or too many recordings are unusable (the lists of them are written first).
    """
    out = Path(out)
    if (out / CORPUS_TABLE).exists():
        raise DataError(f"{out}: there is a corpus already. Remove it, or import into another folder.")
    found = gather(
        source,
        media=out / "audio",
        language=language,
        sounds=sounds,
        max_seconds=max_seconds,
        workers=workers,
        engine=engine,
        progress=progress,
    )
    save_quarantine(found.quarantined, out)
    listed_in = f"The whole list is in {out / 'quarantine.tsv'}. "
    require_small_loss(found.utterances, found.quarantined, max_loss, listed_in)
    corpus = Corpus.gathered(found, source_name(source)).save(out)
    return ImportReport(corpus=corpus, format=found.format, quarantined=found.quarantined, texts_lost=found.texts_lost)
