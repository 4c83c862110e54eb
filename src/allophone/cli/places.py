"""The word 'starter' where a model or a corpus is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allophone.cli.console import progress

if TYPE_CHECKING:
    from allophone.data.corpus import Corpus


def open_corpus(path: Path, language: str | None = None) -> Corpus:
    """The starter corpus, or anything that ``Corpus.open`` reads.

    Args:
        path: ``starter`` (a folder of that name is ``./starter``), a corpus folder, a folder of audio or a manifest.
        language: Language of recordings that do not say their own; a corpus folder says it and is not asked.
    """
    from allophone.data.corpus import CORPUS_TABLE, Corpus
    from allophone.run.starter import STARTER, starter_corpus

    if str(path) == STARTER:
        return starter_corpus()
    if (path / CORPUS_TABLE).is_file():
        return Corpus.open(path)
    with progress("reading recordings") as report:
        return Corpus.open(path, language=language, progress=report)


def model_folder(name: str) -> str | Path:
    """The starter encoder's folder for ``starter``; anything else as it is."""
    from allophone.run.starter import STARTER, starter_model

    return starter_model() if name == STARTER else name
