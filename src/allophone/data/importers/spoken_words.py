"""Speech Commands, the Multilingual Spoken Words Corpus (MSWC) and FLEURS, with the parts that their authors fixed.

A word is both label and text. FLEURS numbers its sentences the same in all languages, so the number is the group, and
texts in other languages are found through it.

Source: Warden 2018, arXiv:1804.03209; Mazumder et al. 2021 (MSWC); Conneau et al. 2022, arXiv:2205.12446 (FLEURS).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from allophone.data.importers.entry import SPLITS, Entry, tag_of
from allophone.data.lines import text_lines
from allophone.errors import DataError
from allophone.text.languages import parse_language

COMMAND_LISTS = {"validation_list.txt": "dev", "testing_list.txt": "test"}
NOISE = "_background_noise_"
"""Folder of Speech Commands whose recordings are minutes of noise, and no words."""
MSWC_COLUMNS = ("SET", "LINK", "WORD", "VALID", "SPEAKER", "GENDER")
FLEURS_COLUMNS = 7
"""Number of the sentence, file, text, normalized text, characters, samples, gender; there is no line of names."""


def is_speech_commands(folder: Path) -> bool:
    """Whether a folder holds ``validation_list.txt`` and ``testing_list.txt``."""
    return all((folder / name).is_file() for name in COMMAND_LISTS)


def is_mswc(folder: Path) -> bool:
    """Whether a folder, or one in it, holds ``clips`` and ``fr_splits.csv``."""
    return bool(_mswc_tables(folder))


def is_fleurs(folder: Path) -> bool:
    """Whether a folder, or one in it, holds ``audio/train`` (or another split) beside ``train.tsv`` without names."""
    return bool(_fleurs_tables(folder))


def read_speech_commands(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``WORD/SPEAKER_nohash_0.wav``; what is in neither list is for training. The noise is left out."""
    lists = {line.strip(): split for name, split in COMMAND_LISTS.items() for line in text_lines(folder / name)}
    entries = []
    for path in sorted(folder.glob("*/*.wav")):
        word, name = path.parent.name, f"{path.parent.name}/{path.name}"
        if word == NOISE:
            continue
        entries.append(
            Entry(
                path=path,
                id=name.removesuffix(".wav"),
                where=str(path),
                language=tag_of(language or "eng", str(path)),
                speaker=f"speech-commands-{path.stem.split('_nohash_')[0]}",
                text=word,
                label=word,
                split=lists.get(name, "train"),
            )
        )
    return entries


def read_mswc(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read one language (``clips`` and ``fr_splits.csv``) or a folder of several (``fr/clips``, ``fr/fr_splits.csv``).

    Words that did not pass the corpus' own check (``VALID``) are left out.

    Raises:
        DataError: A column is missing, a split or a language is unknown.
    """
    return [entry for table in _mswc_tables(folder) for entry in _mswc_entries(table, language)]


def read_fleurs(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read one language (``train.tsv``, ``audio/train``) or a folder of several (``fr_fr/train.tsv``, ...).

    Raises:
        DataError: A line has another number of columns, or a language is unknown.
    """
    return [entry for table in _fleurs_tables(folder) for entry in _fleurs_entries(table, language)]


def _mswc_tables(folder: Path) -> list[Path]:
    found = [*folder.glob("*_splits.csv"), *folder.glob("*/*_splits.csv")]
    return sorted(table for table in found if (table.parent / "clips").is_dir())


def _mswc_entries(table: Path, language: str | None) -> Iterator[Entry]:
    code = table.name.removesuffix("_splits.csv")
    tag = tag_of(language or code.replace("-", "_"), str(table))
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != MSWC_COLUMNS:
            raise DataError(f"{table}: columns are {reader.fieldnames}; expected {list(MSWC_COLUMNS)}.")
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            if row["SET"].lower() not in SPLITS:
                raise DataError(f"{where}: SET is {row['SET']!r}; expected TRAIN, DEV or TEST.")
            if row["VALID"] == "True":
                yield Entry(
                    path=table.parent / "clips" / row["LINK"],
                    id=f"{code}/{row['LINK'].removesuffix('.opus')}",
                    where=where,
                    language=tag,
                    speaker=row["SPEAKER"] or None,
                    text=row["WORD"],
                    label=row["WORD"],
                    split=SPLITS[row["SET"].lower()],
                    extra={"gender": row["GENDER"].lower()} if row["GENDER"] in ("MALE", "FEMALE") else {},
                )


def _fleurs_tables(folder: Path) -> list[Path]:
    names = ("train.tsv", "dev.tsv", "test.tsv")
    found = [root / name for root in [folder, *sorted(folder.glob("*/"))] for name in names]
    return [table for table in found if table.is_file() and (table.parent / "audio" / table.stem).is_dir()]


def _fleurs_entries(table: Path, language: str | None) -> Iterator[Entry]:
    code, split = table.parent.name, SPLITS[table.stem]
    tag = language or code.split("_")[0]
    if language is None and code.split("_")[1:2] in (["hans"], ["hant"]):
        tag = f"{tag}_{code.split('_')[1].title()}"
    try:
        tag = parse_language(tag).tag
    except DataError as error:
        raise DataError(f"{table}: the folder's name is to be a language such as fr_fr. {error}") from error
    for number, line in enumerate(text_lines(table), 1):
        values = line.split("\t")
        if len(values) != FLEURS_COLUMNS:
            raise DataError(f"{table}, line {number}: {len(values)} columns; expected {FLEURS_COLUMNS}.")
        sentence, name, text, normalized, _, _, gender = values
        yield Entry(
            path=table.parent / "audio" / table.stem / name,
            id=f"{code}/{split}/{Path(name).stem}",
            where=f"{table}, line {number}",
            language=tag,
            text=text,
            group=f"fleurs/{sentence}",
            split=split,
            source="fleurs",
            extra={"normalized": normalized, **({"gender": gender.lower()} if gender in ("MALE", "FEMALE") else {})},
        )
