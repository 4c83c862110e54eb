"""CREMA-D, RAVDESS and EmoDB: acted emotions, everything in the names of the files.

Labels are the classes of the table of captions (``angry``, ``happy``, ...). EmoDB is scored by leaving one speaker out,
so each of its ten speakers is a fold; the other two have no official parts, and are parted by speaker. All speakers act
the same few sentences, so these are no groups that parts could keep from one another; they stand in ``extra``.

Source: the corpora's own descriptions: Cao et al. 2014 (CREMA-D), Livingstone and Russo 2018 (RAVDESS), Burkhardt et
al. 2005 (EmoDB).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from allophone.data.importers.entry import Entry, tag_of
from allophone.errors import DataError

K = TypeVar("K", str, int)
CREMA_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
CREMA_SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
RAVDESS_SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")
EMODB_EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
"""By the first letter of the German word."""
EMODB_SPEAKERS = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}
_CREMA = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})$")
_RAVDESS = re.compile(r"\d\d-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)$")
_EMODB = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z]?)$")


def is_crema_d(folder: Path) -> bool:
    """Whether a folder holds ``AudioWAV/1001_DFA_ANG_XX.wav``."""
    return _any_matches(folder.glob("AudioWAV/*.wav"), _CREMA)


def is_ravdess(folder: Path) -> bool:
    """Whether a folder holds ``Actor_01/03-01-01-01-01-01-01.wav``."""
    return _any_matches(folder.glob("Actor_*/*.wav"), _RAVDESS)


def is_emodb(folder: Path) -> bool:
    """Whether a folder holds ``wav/03a01Fa.wav``."""
    return _any_matches(folder.glob("wav/*.wav"), _EMODB)


def read_crema_d(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``AudioWAV`` and, where it lies there, ``VideoDemographics.csv`` with age and sex of the actors.

    Raises:
        DataError: A file's name is not of the form ``1001_DFA_ANG_XX.wav``.
    """
    actors = _crema_actors(folder / "VideoDemographics.csv")
    entries = []
    for path in sorted(folder.glob("AudioWAV/*.wav")):
        actor, sentence, emotion, level = _parts(path, _CREMA, "1001_DFA_ANG_XX.wav")
        entries.append(
            Entry(
                path=path,
                id=path.stem,
                where=str(path),
                language=tag_of(language or "eng", str(path)),
                speaker=f"crema-d-{actor}",
                text=_known(CREMA_SENTENCES, sentence, path),
                label=_known(CREMA_EMOTIONS, emotion, path),
                extra={"sentence": sentence, "level": level, **actors.get(actor, {})},
            )
        )
    return entries


def read_ravdess(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read the recordings of all actors, speech and song (told apart by ``channel`` in ``extra``).

    Raises:
        DataError: A file's name is not of the form ``03-01-06-01-02-01-12.wav``.
    """
    entries = []
    for path in sorted(folder.glob("Actor_*/*.wav")):
        form = "03-01-06-01-02-01-12.wav"
        channel, emotion, level, sentence, _, actor = map(int, _parts(path, _RAVDESS, form))
        entries.append(
            Entry(
                path=path,
                id=path.stem,
                where=str(path),
                language=tag_of(language or "eng", str(path)),
                speaker=f"ravdess-{actor:02}",
                text=_known(dict(enumerate(RAVDESS_SENTENCES, 1)), sentence, path),
                label=_known(dict(enumerate(RAVDESS_EMOTIONS, 1)), emotion, path),
                extra={
                    "sentence": str(sentence),
                    "channel": "song" if channel == 2 else "speech",
                    "level": "strong" if level == 2 else "normal",
                    "gender": "male" if actor % 2 else "female",
                },
            )
        )
    return entries


def read_emodb(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read ``wav``; every speaker is a fold.

    Raises:
        DataError: A file's name is not of the form ``03a01Fa.wav``.
    """
    entries = []
    for path in sorted(folder.glob("wav/*.wav")):
        speaker, sentence, emotion, take = _parts(path, _EMODB, "03a01Fa.wav")
        entries.append(
            Entry(
                path=path,
                id=path.stem,
                where=str(path),
                language=tag_of(language or "deu", str(path)),
                speaker=f"emodb-{speaker}",
                label=_known(EMODB_EMOTIONS, emotion, path),
                extra={
                    "fold": 1 + sorted(EMODB_SPEAKERS).index(_one_of(EMODB_SPEAKERS, speaker, path)),
                    "sentence": sentence,
                    "gender": EMODB_SPEAKERS[speaker],
                    "take": take or "a",
                },
            )
        )
    return entries


def _any_matches(paths: Iterable[Path], pattern: re.Pattern[str]) -> bool:
    first = next(iter(paths), None)
    return first is not None and pattern.match(first.stem) is not None


def _parts(path: Path, pattern: re.Pattern[str], form: str) -> tuple[str, ...]:
    match = pattern.match(path.stem)
    if match is None:
        raise DataError(f"{path}: expected a name such as {form}. Remove what does not belong to the corpus.")
    return match.groups()


def _known(table: dict[K, str], key: K, path: Path) -> str:
    return table[_one_of(table, key, path)]


def _one_of(table: dict[K, str], key: K, path: Path) -> K:
    if key not in table:
        raise DataError(f"{path}: {key!r} in its name is none of {list(table)}.")
    return key


def _crema_actors(table: Path) -> dict[str, dict[str, str]]:
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        return {
            row["ActorID"]: {"gender": row["Sex"].lower(), "years": row["Age"]}
            for row in csv.DictReader(file)
            if row.get("ActorID") and row.get("Sex") and row.get("Age")
        }
