"""A plain folder of sound files: language from an argument or a sub-folder, text from ``X.txt`` beside ``X.wav``."""

from __future__ import annotations

from pathlib import Path

from allophone.audio.io import AUDIO_SUFFIXES
from allophone.data.importers.entry import SPLITS, Entry, default_id
from allophone.errors import DataError
from allophone.text.languages import Language, parse_language

AMBIGUOUS = frozenset(("wav", "ogg", "raw", "dev", "val", "out", "tmp", "mic", "voc", "new", "bad"))
"""Folder names that are ISO 639-3 codes by accident; ``wav_Latn`` names the language."""


def read_folder(root: Path, *, language: str | None = None) -> list[Entry]:
    """List the sound files below a folder.

    The language is ``language``, or the name of the first or (below ``train``, ``dev``, ``test``) second folder on
    the way to a file, if it is a language tag. A name that is both a language and a common folder name
    (:data:`AMBIGUOUS`) is taken for the latter.

    Raises:
        DataError: There is no folder, or no sound file in it.
    """
    base = root.parent if root.is_file() else root
    return [_entry(path, base, language) for path in sound_files(root)]


def sound_files(root: Path) -> list[Path]:
    """Sound files below a folder, sorted, hidden ones left out; or the one file that ``root`` is.

    Raises:
        DataError: There is no folder, or no sound file in it.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder. Check the path.")
    paths = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and not _hidden(path, root)
    )
    if not paths:
        found = sorted({path.suffix for path in root.rglob("*") if path.is_file()})
        raise DataError(
            f"{root}: no sound files in this folder or below it (endings found: {found or 'none, it is empty'}; "
            f"expected one of {sorted(AUDIO_SUFFIXES)})."
        )
    return paths


def language_of_folder(name: str) -> Language | None:
    """The language that a folder's name stands for, if it does."""
    if name.lower() in AMBIGUOUS:
        return None
    try:
        return parse_language(name)
    except DataError:
        return None


def _entry(path: Path, root: Path, language: str | None) -> Entry:
    folders = list(path.relative_to(root).parts[:-1])
    split = SPLITS.get(folders[0].lower()) if folders else None
    candidates = folders[1:2] if split else folders[:1]
    if split is None and len(folders) > 1:  # fra/train/a.wav
        split = SPLITS.get(folders[1].lower())
    spoken = (
        parse_language(language) if language else next(iter(filter(None, map(language_of_folder, candidates))), None)
    )
    text = path.with_suffix(".txt")
    return Entry(
        path=path,
        id=default_id(path, root),
        where=str(path),
        language=spoken.tag if spoken else None,
        text=_read_text(text) if text.is_file() else None,
        split=split,
    )


def _read_text(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it again as UTF-8.") from error


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
