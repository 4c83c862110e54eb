"""Manifests with one row an utterance: CSV, TSV, JSONL, Parquet, and AudioFolder's ``metadata.*`` beside the files."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from allophone.data.importers.entry import Entry, entry_from_row, require_columns
from allophone.errors import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".jsonl.gz", ".json", ".parquet")


def read_table(path: Path, *, language: str | None = None, split: str | None = None) -> list[Entry]:
    """Read a manifest.

    Columns may have any of the names in :data:`~allophone.data.importers.entry.ALIASES`; others are kept. Relative
    paths start at the manifest's folder (or its ``clips``, ``audio`` or ``wavs``).

    Raises:
        DataError: The file is not what its ending says, or a row lacks a path or has a value that cannot be read.
    """
    entries = [
        entry_from_row(row, where=f"{path}, line {number}", root=path.parent, language=language, split=split)
        for number, row in rows_of(path)
    ]
    if not entries:
        raise DataError(f"{path}: no rows; expected one an utterance.")
    return entries


def read_audio_folder(root: Path, *, language: str | None = None) -> list[Entry]:
    """Read the ``metadata.csv|jsonl|parquet`` files of a folder; one may lie in each split's sub-folder.

    Raises:
        DataError: As :func:`read_table`.
    """
    entries: list[Entry] = []
    for table in metadata_files(root):
        split = None if table.parent == root else table.parent.name
        entries += read_table(table, language=language, split=split)
    return entries


def metadata_files(root: Path) -> list[Path]:
    """Metadata tables of a folder and its immediate sub-folders."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    return [folder / name for folder in folders for name in METADATA_NAMES if (folder / name).is_file()]


def rows_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line number (from 1) and values of each row."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif name.endswith((".jsonl", ".jsonl.gz", ".json")):
            yield from json_lines(path)
        else:
            yield from _delimited_rows(path, "\t" if name.endswith(".tsv") else ",")
    except (UnicodeDecodeError, OSError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as its ending says ({error}). Save it again, text as UTF-8."
        ) from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON-lines file (also gzipped), with their line numbers."""
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error.msg}); expected one object a line (JSON Lines)."
                ) from error
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {number}: a {type(value).__name__}; expected one object a line.")
            yield number, value


def _delimited_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    bare = delimiter == "\t"  # Common Voice has bare quotes in its TSV
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL)
        require_columns(reader.fieldnames or [], str(path))
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: {'more' if None in row else 'fewer'} values than the "
                    f"{len(reader.fieldnames or [])} columns of the first line. Quote values that hold a {delimiter!r}."
                )
            yield reader.line_num, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table = pq.read_table(path)
    require_columns(table.column_names, str(path))
    for number, row in enumerate(table.to_pylist(), 1):
        if isinstance(row.get("translations"), list):
            row["translations"] = dict(row["translations"])
        yield number, row
