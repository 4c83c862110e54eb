"""ESC-50, UrbanSound8K and FSD50K: sounds with a table of labels, and the parts that their authors fixed.

The folds of the first two are kept in ``extra["fold"]`` (1 to 5, 1 to 10): clips of one recording are in one fold, so
parts that are drawn otherwise leak. FSD50K has splits, and several labels a clip, which stand in ``label`` as its table
has them: with commas between them, and underscores. `tune` leaves clips of several labels out, and says how many.

Source: Piczak 2015 (ESC-50), Salamon et al. 2014 (UrbanSound8K), Fonseca et al. 2020, arXiv:2010.00475 (FSD50K).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from allophone.data.importers.entry import Entry, tag_of
from allophone.data.importers.sounds import NO_LANGUAGE
from allophone.errors import DataError

ESC_TABLE, URBAN_TABLE, FSD_TABLE = "meta/esc50.csv", "metadata/UrbanSound8K.csv", "FSD50K.ground_truth/dev.csv"
FSD_SPLITS = {"train": "train", "val": "dev"}


def is_esc50(folder: Path) -> bool:
    """Whether a folder holds ``meta/esc50.csv``."""
    return (folder / ESC_TABLE).is_file()


def is_urbansound8k(folder: Path) -> bool:
    """Whether a folder holds ``metadata/UrbanSound8K.csv``."""
    return (folder / URBAN_TABLE).is_file()


def is_fsd50k(folder: Path) -> bool:
    """Whether a folder holds ``FSD50K.ground_truth/dev.csv``."""
    return (folder / FSD_TABLE).is_file()


def read_esc50(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``audio`` by ``meta/esc50.csv``.

    Raises:
        DataError: A column is missing.
    """
    columns = ("filename", "fold", "category", "src_file", "esc10")
    return [
        Entry(
            path=folder / "audio" / row["filename"],
            id=Path(row["filename"]).stem,
            where=where,
            language=tag_of(language or NO_LANGUAGE, where),
            label=row["category"].replace("_", " "),
            group=f"esc-50/{row['src_file']}",
            extra={"fold": int(row["fold"]), "esc10": row["esc10"] == "True"},
        )
        for where, row in _rows(folder / ESC_TABLE, columns)
    ]


def read_urbansound8k(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``audio/fold1`` to ``audio/fold10`` by ``metadata/UrbanSound8K.csv``.

    Raises:
        DataError: A column is missing.
    """
    columns = ("slice_file_name", "fsID", "salience", "fold", "class")
    return [
        Entry(
            path=folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
            id=Path(row["slice_file_name"]).stem,
            where=where,
            language=tag_of(language or NO_LANGUAGE, where),
            label=row["class"].replace("_", " "),
            group=f"urbansound8k/{row['fsID']}",
            extra={"fold": int(row["fold"]), "foreground": row["salience"] == "1"},
        )
        for where, row in _rows(folder / URBAN_TABLE, columns)
    ]


def read_fsd50k(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``FSD50K.dev_audio`` (train and dev) and ``FSD50K.eval_audio`` (test) by their tables.

    Raises:
        DataError: A column is missing, or a split is unknown.
    """
    entries = []
    for part, columns in (("dev", ("fname", "labels", "split")), ("eval", ("fname", "labels"))):
        table = folder / "FSD50K.ground_truth" / f"{part}.csv"
        for where, row in _rows(table, columns) if table.is_file() else ():
            split = "test" if part == "eval" else FSD_SPLITS.get(row["split"])
            if split is None:
                raise DataError(f"{where}: split is {row['split']!r}; expected one of {list(FSD_SPLITS)}.")
            entries.append(
                Entry(
                    path=folder / f"FSD50K.{part}_audio" / f"{row['fname']}.wav",
                    id=row["fname"],
                    where=where,
                    language=tag_of(language or NO_LANGUAGE, where),
                    label=row["labels"],
                    split=split,
                )
            )
    return entries


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Place and values of each row of a table with a line of column names."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{table}: no column {missing}; found {reader.fieldnames}. Copy the table again.")
        for row in reader:
            yield f"{table}, line {reader.line_num}", row
