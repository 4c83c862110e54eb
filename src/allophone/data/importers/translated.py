"""Corpora of translated speech as they are handed out: CoVoST 2, Europarl-ST, and the layout of MuST-C and IWSLT.

* CoVoST 2: ``covost_v2.SRC_TGT.tsv`` (``path``, ``translation``, ``split``) beside Common Voice's ``validated.tsv``, or
  the three files ``covost_v2.SRC_TGT.{train,dev,test}.tsv`` that its script makes (``path``, ``sentence``,
  ``translation``, ``client_id``); ``validated.tsv`` and ``clips/`` lie in ``SRC/`` or in the same folder.
* Europarl-ST: ``SRC/audios/NAME.m4a``, and in ``SRC/TGT/{train,dev,test}/`` the lines of ``segments.lst``
  (``NAME START END``), ``segments.SRC`` and ``segments.TGT`` belong together.
* MuST-C and the low-resource tasks of IWSLT (Tamasheq-French): ``SPLIT/wav/`` and ``SPLIT/txt/SPLIT.yaml``, whose lines
  belong to those of ``SPLIT/txt/SPLIT.LANG``; below ``en-de/data/`` or in ``taq_fra_clean/``.

An utterance that is translated into several languages is one row. Source: the corpora's own scripts and papers,
arXiv:2007.10310, arXiv:1911.03167, arXiv:2205.01987.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from allophone.data.importers.entry import SPLITS, Entry, tag_of
from allophone.data.lines import text_lines
from allophone.errors import DataError

_COVOST = re.compile(r"covost_v2\.([A-Za-z-]+)_([A-Za-z-]+?)(?:\.(train|dev|test))?\.tsv")
_PAIR = re.compile(r"([a-z]{2,3})[-_]([a-z]{2,3})(?![a-z])")
COVOST_SPLITS = {"train_covost": "train"}
"""Clips that CoVoST 2 added to a split of Common Voice. Its own script adds them to train alone, so those that it added
to dev and test keep their names and are in neither."""
MUSTC_SPLITS = {"tst-COMMON": "test"}
"""The part that papers report; ``tst-HE`` keeps its name."""
_FIELD = re.compile(r"(\w+): *('[^']*'|\"[^\"]*\"|[^,}]+)")


def is_covost(folder: Path) -> bool:
    """Whether tables of CoVoST 2 lie in a folder."""
    return any(_COVOST.fullmatch(path.name) for path in folder.glob("covost_v2.*.tsv"))


def is_europarl(folder: Path) -> bool:
    """Whether a folder has the layout of Europarl-ST."""
    return next(folder.glob("*/*/*/segments.lst"), None) is not None


def is_mustc(folder: Path) -> bool:
    """Whether a folder has the layout of MuST-C."""
    return next(_listings(folder), None) is not None


def read_covost(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read all tables of CoVoST 2 in a folder; clips without a sentence in ``validated.tsv`` are an error.

    Raises:
        DataError: A table lacks a column, ``validated.tsv`` is missing or lacks a clip, or a language is not known.
    """
    found: dict[str, Entry] = {}
    validated: dict[str, dict[str, dict[str, str]]] = {}
    for table in sorted(folder.glob("covost_v2.*.tsv")):
        match = _COVOST.fullmatch(table.name)
        if match is None:
            raise DataError(f"{table}: expected a name such as covost_v2.fr_en.tsv or covost_v2.fr_en.train.tsv.")
        source, target, split = match.groups()
        for number, row in _rows(table, ("path", "translation")):
            where = f"{table}, line {number}"
            if "sentence" not in row:
                if source not in validated:
                    validated[source] = _validated(folder, source)
                row = {**row, **_of_clip(validated[source], row["path"], where)}
            named = split or row.get("split", "")
            _add(
                found,
                Entry(
                    path=_clip(folder, source, row["path"]),
                    id=f"{source}/{Path(row['path']).stem}",
                    where=where,
                    language=tag_of(language or source, where),
                    speaker=row.get("client_id") or None,
                    text=row["sentence"] or None,
                    translations={tag_of(target, where): row["translation"]} if row["translation"] else {},
                    split=COVOST_SPLITS.get(named, _split(named)),
                    source="CoVoST 2",
                ),
            )
    return list(found.values())


def read_europarl(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read all directions of Europarl-ST; ``train-noisy`` keeps its name, so nothing is trained on it unasked.

    Raises:
        DataError: Files of a direction have different numbers of lines, or a line is incomplete.
    """
    found: dict[str, Entry] = {}
    for listing in sorted(folder.glob("*/*/*/segments.lst")):
        part, target = listing.parent, listing.parent.parent.name
        source = part.parent.parent.name
        lines = text_lines(listing)
        own, other = (_beside(part / f"segments.{code}", listing, len(lines)) for code in (source, target))
        speakers = _speakers(part / "speakers.lst", [line.split()[0] for line in lines if line.split()])
        for number, (line, text, translation) in enumerate(zip(lines, own, other, strict=True), 1):
            where, words = f"{listing}, line {number}", line.split()
            if len(words) != 3 or not all(re.fullmatch(r"\d+(\.\d+)?", word) for word in words[1:]):
                raise DataError(f"{where}: {line!r}; expected 'NAME START END' in seconds.")
            name, start, end = words[0], float(words[1]), float(words[2])
            _add(
                found,
                Entry(
                    path=_audio(folder / source / "audios", name),
                    id=f"{name}@{start:g}-{end:g}",
                    where=where,
                    offset_seconds=start,
                    duration_seconds=end - start,
                    language=tag_of(language or source, where),
                    speaker=speakers.get(name),
                    text=text or None,
                    translations={tag_of(target, where): translation} if translation else {},
                    split=_split(part.name),
                    source="Europarl-ST",
                ),
            )
    return list(found.values())


def read_mustc(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read all splits in the layout of MuST-C.

    The spoken language is that of the first code in the folder's name (``en-de``, ``taq_fra_clean``), or ``language``.

    Raises:
        DataError: The spoken language is not known, files of a split have different numbers of lines, or a line is not
            ``- {duration: 4.2, offset: 0.0, speaker_id: one, wav: one.wav}``.
    """
    entries: list[Entry] = []
    for listing in sorted(_listings(folder)):
        names = (folder.name, *(path.name for path in listing.relative_to(folder).parents), folder.parent.name)
        pair = next((match for name in names if (match := _PAIR.match(name))), None)
        if language is None and pair is None:
            raise DataError(
                f"{listing}: nothing says which language is spoken; expected a folder such as en-de or taq_fra_clean. "
                "Give it with --language."
            )
        spoken = tag_of(language or (pair[1] if pair else ""), str(listing))
        lines = [line for line in text_lines(listing) if line.strip()]
        texts = {
            tag_of(path.suffix[1:], str(path)): _beside(path, listing, len(lines))
            for path in sorted(listing.parent.glob(f"{listing.stem}.*"))
            if path.suffix != ".yaml" and re.fullmatch(r"\.[a-z]{2,3}", path.suffix)
        }
        for number, line in enumerate(lines):
            where = f"{listing}, line {number + 1}"
            row = {key: value.strip().strip("'\"") for key, value in _FIELD.findall(line)}
            if not {"duration", "offset", "wav"} <= row.keys():
                raise DataError(f"{where}: {line.strip()!r}; expected duration, offset and wav.")
            said = {tag: part[number] for tag, part in texts.items() if part[number]}
            split = listing.parent.parent.name
            entries.append(
                Entry(
                    path=_audio(listing.parent.parent / "wav", row["wav"]),
                    id=f"{split}/{Path(row['wav']).stem}@{float(row['offset']):g}",
                    where=where,
                    offset_seconds=float(row["offset"]),
                    duration_seconds=float(row["duration"]),
                    language=spoken,
                    speaker=row.get("speaker_id") or None,
                    text=said.pop(spoken, None),
                    translations=said,
                    split=MUSTC_SPLITS.get(split, _split(split)),
                    source=folder.name,
                )
            )
    return entries


def _listings(folder: Path) -> Iterator[Path]:
    for pattern in ("*/txt/*.yaml", "data/*/txt/*.yaml"):
        yield from (path for path in folder.glob(pattern) if path.stem == path.parent.parent.name)


def _add(found: dict[str, Entry], entry: Entry) -> None:
    """One row an utterance: further translations of it join the first."""
    known = found.setdefault(entry.id, entry)
    if (known.split, known.path, known.text) != (entry.split, entry.path, entry.text):
        raise DataError(
            f"{entry.where}: {entry.id!r} is also in {known.where}, in another split or with another text; each "
            "utterance can be in one split only."
        )
    found[entry.id] = replace(known, translations={**known.translations, **entry.translations})


def _split(name: str) -> str | None:
    return SPLITS.get(name.lower(), name) or None


def _rows(table: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in needed if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(f"{table}: no columns {missing}; found {reader.fieldnames}. Download the table again.")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{table}, line {reader.line_num}: not as many values as columns. Download it again.")
            yield reader.line_num, row


def _validated(folder: Path, source: str) -> dict[str, dict[str, str]]:
    """Sentences and speakers of a language of Common Voice, by clip."""
    for path in (folder / source / "validated.tsv", folder / "validated.tsv"):
        if path.is_file():
            return {row["path"]: row for _, row in _rows(path, ("path", "sentence"))}
    raise DataError(
        f"{folder}: no validated.tsv, which has the sentences. Put that of Common Voice ({source}) beside the tables "
        f"or, where several languages are spoken, into {source}/."
    )


def _of_clip(validated: dict[str, dict[str, str]], name: str, where: str) -> dict[str, str]:
    if name not in validated:
        raise DataError(
            f"{where}: {name!r} is not in validated.tsv. Take that of its language in Common Voice 4, which "
            "CoVoST 2 was made from."
        )
    return {key: validated[name].get(key, "") for key in ("sentence", "client_id")}


def _clip(folder: Path, source: str, name: str) -> Path:
    places = (folder / source / "clips", folder / "clips", folder)
    return next((found for place in places if (found := place / name).exists()), folder / "clips" / name)


def _audio(folder: Path, name: str) -> Path:
    """A recording whose ending may not be told."""
    whole = folder / name
    if whole.is_file():
        return whole
    return next(iter(sorted(folder.glob(f"{name}.*"))), whole)


def _speakers(path: Path, names: list[str]) -> dict[str, str]:
    """Speech to speaker, where there is a line for each speech."""
    speeches = list(dict.fromkeys(names))
    lines = [line.split() for line in text_lines(path)] if path.is_file() else []
    lines = [words for words in lines if words]
    return {name: words[-1] for name, words in zip(speeches, lines, strict=True)} if len(lines) == len(speeches) else {}


def _beside(path: Path, listing: Path, count: int) -> list[str]:
    """Lines of a file that belong to those of a listing."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; its lines belong to those of {listing.name}. Unpack the corpus again.")
    found = [line.strip() for line in text_lines(path)]
    if len(found) != count:
        raise DataError(f"{path}: {len(found)} lines, {listing.name} has {count}; they belong together line by line.")
    return found
