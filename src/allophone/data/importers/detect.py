"""Which importer reads a source, found from what lies there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from allophone.audio.io import AUDIO_SUFFIXES
from allophone.data.importers.entry import SPLITS, Entry
from allophone.data.importers.fairseq import is_fairseq, read_fairseq
from allophone.data.importers.folder import language_of_folder, read_folder
from allophone.data.importers.huggingface import is_dataset, is_saved_dataset, read_huggingface
from allophone.data.importers.kaldi import read_kaldi
from allophone.data.importers.lhotse import is_lhotse, read_lhotse
from allophone.data.importers.mlsuperb import (
    is_mlsuperb,
    is_mlsuperb_challenge,
    read_mlsuperb,
    read_mlsuperb_challenge,
)
from allophone.data.importers.nemo import is_nemo, read_nemo
from allophone.data.importers.published import PUBLISHED, published_corpus, read_published
from allophone.data.importers.sounds import read_sounds
from allophone.data.importers.table import (
    TABLE_SUFFIXES,
    json_lines,
    metadata_files,
    read_audio_folder,
    read_table,
)
from allophone.data.importers.translated import (
    is_covost,
    is_europarl,
    is_mustc,
    read_covost,
    read_europarl,
    read_mustc,
)
from allophone.errors import DataError

Format: TypeAlias = Literal[
    "folder",
    "audiofolder",
    "table",
    "split tables",
    "fairseq",
    "kaldi",
    "nemo",
    "lhotse",
    "huggingface",
    "mlsuperb",
    "mlsuperb challenge",
    "covost",
    "europarl-st",
    "must-c",
    "sounds",
    "CREMA-D",
    "RAVDESS",
    "EmoDB",
    "ESC-50",
    "UrbanSound8K",
    "FSD50K",
    "Speech Commands",
    "MSWC",
    "FLEURS",
]


def detect_format(source: Any) -> Format:
    """Name the format of a folder, a file, or a ``datasets`` object.

    Raises:
        DataError: There is nothing, or a file whose ending is not known.
    """
    if not isinstance(source, str | Path):
        if is_dataset(source):
            return "huggingface"
        raise DataError(f"Cannot open a {type(source).__name__} as a corpus; expected a path or a `datasets` object.")
    path = Path(source)
    if path.is_dir():
        return _folder_format(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. Check the path.")
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return "folder"
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json")):
        first = next((row for _, row in json_lines(path)), {})
        return "lhotse" if is_lhotse(first) else "nemo" if is_nemo(first) else "table"
    if path.suffix.lower() == ".tsv" and is_fairseq(path):
        return "fairseq"
    if path.name.lower().endswith(TABLE_SUFFIXES):
        return "table"
    raise DataError(
        f"{path}: neither a sound file nor a manifest by its ending; expected one of {sorted(TABLE_SUFFIXES)}, "
        "a folder of recordings, or a Kaldi data folder (with wav.scp)."
    )


def read_entries(
    source: Any, *, media: Path, language: str | None = None, sounds: bool = False
) -> tuple[Format, list[Entry]]:
    """Read a source with the importer for its format.

    Args:
        source: Path or ``datasets`` object.
        media: Where sound that is embedded in the source is written.
        language: Tag for every utterance, in place of the source's own.
        sounds: It is a folder of sounds that are not speech, which no look at it could tell.

    Raises:
        DataError: The source cannot be read, or holds nothing.
    """
    if sounds:
        return "sounds", read_sounds(Path(source), language=language)
    kind = detect_format(source)
    if kind == "huggingface":
        given = Path(source) if isinstance(source, str | Path) else source
        return kind, read_huggingface(given, media=media, language=language)
    path = Path(source)
    if kind in PUBLISHED:
        return kind, read_published(kind, path, language=language)
    match kind:
        case "split tables":
            entries = [
                entry for table in split_tables(path) for entry in _read_split_table(table, path, media, language)
            ]
        case "audiofolder":
            entries = read_audio_folder(path, language=language)
        case "kaldi":
            entries = read_kaldi(path, language=language)
        case "fairseq":
            entries = read_fairseq(path, language=language)
        case "nemo":
            entries = read_nemo(path, language=language)
        case "lhotse":
            entries = read_lhotse(path, language=language)
        case "mlsuperb":
            entries = read_mlsuperb(path, language=language)
        case "mlsuperb challenge":
            entries = read_mlsuperb_challenge(path, language=language)
        case "covost":
            entries = read_covost(path, language=language)
        case "europarl-st":
            entries = read_europarl(path, language=language)
        case "must-c":
            entries = read_mustc(path, language=language)
        case "table":
            entries = read_table(path, language=language)
        case _:
            entries = read_folder(path, language=language)
    return kind, entries


def split_tables(folder: Path) -> list[Path]:
    """Manifests of a folder that are named for splits: ``train.tsv``, ``dev.tsv``, ``test.tsv``.

    Where it has none, those of the folders in it that hold ``clips``: Common Voice in several languages (``fr/clips``,
    ``fr/train.tsv``, ...).

    Raises:
        DataError: Some of those have tables, others none.
    """
    own = _split_tables_in(folder)
    if own:
        return own
    parts = {path: _split_tables_in(path) for path in sorted(folder.iterdir()) if (path / "clips").is_dir()}
    without = [path.name for path, tables in parts.items() if not tables]
    if without and any(parts.values()):
        raise DataError(
            f"{folder}: {', '.join(without)} holds clips and no train.tsv, dev.tsv or test.tsv, which other folders "
            "there have. Add the tables, or import the folders one by one."
        )
    return [table for tables in parts.values() for table in tables]


def _split_tables_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.lower().endswith(TABLE_SUFFIXES) and path.name.split(".")[0].lower() in SPLITS
    )


def _folder_format(folder: Path) -> Format:
    if (folder / "wav.scp").is_file():
        return "kaldi"
    if is_mlsuperb_challenge(folder):
        return "mlsuperb challenge"
    if is_mlsuperb(folder):
        return "mlsuperb"
    if is_covost(folder):
        return "covost"
    if is_europarl(folder):
        return "europarl-st"
    if is_mustc(folder):
        return "must-c"
    if is_saved_dataset(folder):
        return "huggingface"
    published = published_corpus(folder)
    if published is not None:
        return cast(Format, published)
    if metadata_files(folder):
        return "audiofolder"
    return "split tables" if split_tables(folder) else "folder"


def _read_split_table(table: Path, folder: Path, media: Path, language: str | None) -> list[Entry]:
    """Entries of one table; below a folder of several, ids begin with the table's own, which may name the language."""
    if detect_format(table) == "table":
        entries = read_table(table, language=language, split=table.name.split(".")[0].lower())
    else:
        entries = read_entries(table, media=media, language=language)[1]
    if table.parent == folder:
        return entries
    part = table.parent.name
    spoken = language_of_folder(part)
    return [
        replace(entry, id=f"{part}/{entry.id}", language=entry.language or (spoken.tag if spoken else None))
        for entry in entries
    ]
