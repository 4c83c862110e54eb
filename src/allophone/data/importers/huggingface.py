"""Hugging Face ``datasets`` with an Audio column: a folder that ``save_to_disk`` wrote, or an object in memory.

The library is optional and is asked for paths and bytes only; sound is decoded by ours.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from allophone.audio.io import AUDIO_SUFFIXES
from allophone.data.importers.entry import SPLITS, Entry, entry_from_row
from allophone.errors import DataError


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_dataset(source: object) -> bool:
    """Whether an object is a ``Dataset``, ``IterableDataset``, ``DatasetDict`` or a dict of them."""
    return hasattr(source, "cast_column") or (isinstance(source, Mapping) and all(map(is_dataset, source.values())))


def read_huggingface(source: Any, *, media: Path, language: str | None = None) -> list[Entry]:
    """Read a dataset, or the dataset of each split.

    A column ``id`` names the utterances only if its values differ; often it numbers the sentences.

    Args:
        source: The folder or the object.
        media: Folder where sound that the dataset holds as bytes is written, named by its SHA-256.
        language: Tag that takes the place of the rows' own.

    Raises:
        DataError: The library is missing, there is no Audio column, or a row lacks its sound.
    """
    name = str(source) if isinstance(source, Path) else type(source).__name__
    loaded = _library().load_from_disk(str(source)) if isinstance(source, Path) else source
    splits = dict(loaded.items()) if isinstance(loaded, Mapping) else {"": loaded}
    entries: list[Entry] = []
    for split, dataset in splits.items():
        where = f"{name}, split {split!r}" if split else name
        entries += _read_split(dataset, split or str(getattr(dataset, "split", None) or ""), where, media, language)
    if not entries:
        raise DataError(f"{name}: no rows; expected one an utterance.")
    return entries


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "A Hugging Face dataset needs the library: pip install datasets (or export the dataset to AudioFolder)."
        ) from error
    return datasets


def _read_split(dataset: Any, split: str, where: str, media: Path, language: str | None) -> list[Entry]:
    features = dataset.features or {}
    column = next((name for name, kind in features.items() if type(kind).__name__ == "Audio"), None)
    if column is None:
        raise DataError(
            f"{where}: no Audio column; found {list(features)}. Cast the one that holds paths: "
            "dataset.cast_column('audio', datasets.Audio())."
        )
    undecoded = dataset.cast_column(column, _library().Audio(decode=False))
    entries = [
        _entry(row, column, features, f"{where}, row {number}", number, split, media, language)
        for number, row in _rows(undecoded)
    ]
    repeated = {name for name, count in Counter(entry.id for entry in entries).items() if count > 1}
    if not repeated:
        return entries
    return [replace(entry, id=f"{split or 'row'}-{number:07d}") for number, entry in enumerate(entries)]


def _rows(dataset: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from enumerate(dataset)


def _entry(
    row: Mapping[str, Any],
    column: str,
    features: Mapping[str, Any],
    where: str,
    number: int,
    split: str,
    media: Path,
    language: str | None,
) -> Entry:
    values = {
        name: features[name].int2str(value) if hasattr(features[name], "int2str") and value is not None else value
        for name, value in row.items()
        if name not in (column, "path", "file")  # "path" beside Audio is where the sound lay when the dataset was made
    }
    if values.get("id") in (None, ""):
        values["id"] = f"{split or 'row'}-{number:07d}"
    path = _sound_file(row[column], where, media)
    split = SPLITS.get(split.lower(), split)
    return entry_from_row({**values, "path": str(path)}, where=where, root=path.parent, language=language, split=split)


def _sound_file(audio: Mapping[str, Any] | None, where: str, media: Path) -> Path:
    """The file of a row; bytes are written to ``media`` first."""
    if audio is None or (audio.get("bytes") is None and not audio.get("path")):
        raise DataError(f"{where}: the Audio column holds neither bytes nor a path. Filter such rows out first.")
    if audio.get("bytes") is None:
        return Path(audio["path"]).absolute()
    suffix = Path(audio.get("path") or "").suffix.lower()
    name = hashlib.sha256(audio["bytes"]).hexdigest() + (suffix if suffix in AUDIO_SUFFIXES else ".audio")
    path = media / name
    if not path.exists():
        media.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(audio["bytes"])
        partial.replace(path)
    return path
