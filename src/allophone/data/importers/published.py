"""Public corpora in the folders that their authors hand out: which one lies there, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from allophone.data.importers import emotions, labelled_sounds, spoken_words
from allophone.data.importers.entry import Entry

PUBLISHED: dict[str, tuple[Callable[[Path], bool], Callable[..., list[Entry]]]] = {
    "CREMA-D": (emotions.is_crema_d, emotions.read_crema_d),
    "RAVDESS": (emotions.is_ravdess, emotions.read_ravdess),
    "EmoDB": (emotions.is_emodb, emotions.read_emodb),
    "ESC-50": (labelled_sounds.is_esc50, labelled_sounds.read_esc50),
    "UrbanSound8K": (labelled_sounds.is_urbansound8k, labelled_sounds.read_urbansound8k),
    "FSD50K": (labelled_sounds.is_fsd50k, labelled_sounds.read_fsd50k),
    "Speech Commands": (spoken_words.is_speech_commands, spoken_words.read_speech_commands),
    "MSWC": (spoken_words.is_mswc, spoken_words.read_mswc),
    "FLEURS": (spoken_words.is_fleurs, spoken_words.read_fleurs),
}
"""Name, whether a folder is it, and what reads it."""


def published_corpus(folder: Path) -> str | None:
    """The corpus whose layout a folder has; None for every other folder."""
    return next((name for name, (is_it, _) in PUBLISHED.items() if is_it(folder)), None)


def read_published(name: str, folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read a corpus of :data:`PUBLISHED`.

    Args:
        name: Which.
        folder: Where it lies.
        language: In place of the corpus' own.

    Raises:
        DataError: A name or a table is not as the corpus has them.
    """
    return PUBLISHED[name][1](folder, language=language)
