"""ML-SUPERB as it is handed out: version 1 and 2.0 as folders, the 2025 challenge as its recipe writes it.

Version 1 and 2.0 are ``SOURCE/LANGUAGE/`` with ``wav/ID.wav`` and ``transcript_{10min,1h}_train.txt``,
``transcript_10min_{dev,test}.txt``, each line ``ID LANGUAGE TEXT``. An utterance of both amounts is one row. The
challenge is ``train``, ``dev`` and ``dev_dialect`` as Kaldi folders whose texts begin with ``[iso]``.

What is a rule of the protocol and no property of the data is left to it: training utterances above 20 s, and those
beyond the five of a few-shot language, are here. Speakers are not told, so nothing shows that splits share none.

Source: ESPnet ``egs2/ml_superb/asr1/local/data_prep.py``, ``egs2/ml_superb2/asr1/local/download.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from allophone.data.importers.entry import Entry, tag_of
from allophone.data.importers.kaldi import read_kaldi
from allophone.data.lines import text_lines
from allophone.errors import DataError

FEW_SHOT = frozenset("dan lit tur srp vie kaz zul tsn epo frr tok umb bos ful ceb luo kea sun tso tos".split())
"""Languages with five training utterances each in the protocol."""
CHALLENGE = {"train": "train", "dev": "dev", "dev_dialect": "dev"}
"""Folders of the challenge to splits."""
_NAME = re.compile(r"transcript_(10min|1h)_(train|dev|test)\.txt$")
_TOKEN = re.compile(r"\[([a-z_]+)\]\s*")
_CODES = {"org_jpn": "jpn"}


def is_mlsuperb(folder: Path) -> bool:
    """Whether a folder has the layout of version 1 and 2.0."""
    return next(folder.glob("*/*/transcript_10min_*.txt"), None) is not None


def is_mlsuperb_challenge(folder: Path) -> bool:
    """Whether a folder has the layout of the challenge."""
    return (folder / "dev_dialect" / "wav.scp").is_file()


def read_mlsuperb(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read all sources and languages below a folder.

    ``extra`` holds ``train_10min`` and ``train_1h`` of training utterances, ``few_shot``, and ``code``, which is the
    language as the benchmark names it and need not be that of our tag.

    Raises:
        DataError: A line is incomplete, an utterance is in two splits or two sources, or a language is not known.
    """
    found: dict[str, Entry] = {}
    for transcript in sorted(folder.glob("*/*/transcript_*.txt")):
        match = _NAME.search(transcript.name)
        if match is None:
            raise DataError(f"{transcript}: expected a name such as transcript_10min_train.txt.")
        amount, split = match.groups()
        for number, (name, text) in enumerate(_lines(transcript), 1):
            where = f"{transcript}, line {number}"
            entry = _entry(transcript, name, text, where, split, language)
            known = found.setdefault(name, entry)
            if (known.split, known.path, known.text) != (entry.split, entry.path, entry.text):
                raise DataError(
                    f"{where}: {name!r} is also in {known.where}, in another split or source, or with another text; "
                    "an utterance may only be listed again in the other amount of the same training set."
                )
            if split == "train":
                found[name] = replace(known, extra={**known.extra, f"train_{amount}": True})
    return list(found.values())


def read_mlsuperb_challenge(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``train``, ``dev`` and ``dev_dialect``; the last is marked by ``dialect`` in ``extra``.

    Raises:
        DataError: A text has no language token, a language is not known, or a Kaldi folder cannot be read.
    """
    entries = []
    for name, split in CHALLENGE.items():
        if not (folder / name / "wav.scp").is_file():
            continue
        for one in read_kaldi(folder / name):
            token = _TOKEN.match(one.text or "")
            if token is None:
                raise DataError(f"{one.where}: text {one.text!r} does not begin with a language such as '[fra]'.")
            entries.append(
                replace(
                    one,
                    language=tag_of(language or _CODES.get(token[1], token[1]), one.where),
                    text=(one.text or "")[token.end() :].strip() or None,
                    speaker=None if one.speaker == one.id else one.speaker,
                    split=split,
                    extra={"code": token[1], "dialect": name == "dev_dialect", "few_shot": token[1] in FEW_SHOT},
                )
            )
    return entries


def _lines(transcript: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text_lines(transcript), 1):
        words = line.strip().split(maxsplit=2)
        if len(words) == 3:
            yield words[0], words[2]
        elif words:
            raise DataError(f"{transcript}, line {number}: {line.strip()!r}; expected 'ID LANGUAGE TEXT'.")


def _entry(transcript: Path, name: str, text: str, where: str, split: str, language: str | None) -> Entry:
    code, source = transcript.parent.name, transcript.parent.parent.name
    return Entry(
        path=transcript.parent / "wav" / f"{name}.wav",
        id=name,
        where=where,
        language=tag_of(language or _CODES.get(code, code), where),
        text=text,
        split=split,
        source=source,
        extra={"code": code, "few_shot": code in FEW_SHOT},
    )
