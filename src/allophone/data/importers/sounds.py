"""A folder of sounds that are not speech: the label is the folder that a file lies in, or the file's own name."""

from __future__ import annotations

import re
from pathlib import Path

from allophone.data.importers.entry import Entry, default_id
from allophone.data.importers.folder import sound_files
from allophone.text.languages import parse_language

NO_LANGUAGE = "zxx"
"""ISO 639's code for what has no linguistic content."""


def read_sounds(root: Path, *, language: str | None = None) -> list[Entry]:
    """List the sound files below a folder with their labels.

    ``dog/1.wav`` and ``animals/dog/1.wav`` are labelled ``dog``; so are ``dog.wav``, ``dog_2.wav`` and ``dog-03.wav``
    directly in the folder. Sub-folders are never taken for languages or splits, nor files beside a sound for its text.

    Args:
        root: Folder, or one sound file.
        language: In place of ``zxx`` (no linguistic content), for example ``und`` for recorded babble.

    Raises:
        DataError: There is no folder, or no sound file in it; or the language is unknown.
    """
    tag = parse_language(language or NO_LANGUAGE).tag
    base = root.parent if root.is_file() else root
    return [
        Entry(path=path, id=default_id(path, base), where=str(path), language=tag, label=label_of(path, base))
        for path in sound_files(root)
    ]


def label_of(path: Path, root: Path) -> str:
    """What a sound is, by where it lies: spaces for underscores, without a number at the end of a file's name."""
    if path.parent != root:
        return _words(path.parent.name)
    return _words(re.sub(r"[\W_]*\d+$", "", path.stem) or path.stem)


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
