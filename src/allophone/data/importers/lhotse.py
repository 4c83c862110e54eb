"""lhotse cuts (``cuts.jsonl``, ``cuts.jsonl.gz``), read as JSON: lhotse itself is not needed, and no command is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allophone.data.importers.entry import Entry, tag_of
from allophone.data.importers.table import json_lines
from allophone.errors import DataError

_SAVE = "In lhotse, `cuts.save_audios(folder)` writes plain files; save the cuts that it returns and import those."
_CUTS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")


def is_lhotse(row: Mapping[str, Any]) -> bool:
    """Whether the first line of a JSON-lines file is lhotse's."""
    return row.get("type") in _CUTS or "sources" in row or ("recording_id" in row and "start" in row)


def read_lhotse(path: Path, *, language: str | None = None) -> list[Entry]:
    """Read cuts.

    A cut with several supervisions gives an utterance for each; otherwise the whole cut is the utterance.

    Raises:
        DataError: A line is not a cut of one recording in one plain file with all its channels and no
            transformation.
    """
    entries: list[Entry] = []
    for number, cut in json_lines(path):
        entries += _entries(cut, path, f"{path}, line {number}", language)
    if not entries:
        raise DataError(f"{path}: no cuts.")
    return entries


def _entries(cut: Mapping[str, Any], path: Path, where: str, language: str | None) -> list[Entry]:
    sound = _sound_file(cut, path, where)
    start, supervisions = float(cut.get("start", 0.0)), cut.get("supervisions") or []
    if len(supervisions) <= 1:
        spoken = supervisions[0] if supervisions else {}
        return [_entry(cut["id"], sound, start, float(cut["duration"]), spoken, where, language)]
    return [
        _entry(spoken["id"], sound, start + float(spoken["start"]), float(spoken["duration"]), spoken, where, language)
        for spoken in supervisions
    ]


def _entry(
    name: str, sound: Path, start: float, duration: float, spoken: Mapping[str, Any], where: str, language: str | None
) -> Entry:
    tag = language or spoken.get("language")
    return Entry(
        path=sound,
        id=str(name),
        where=where,
        offset_seconds=start,
        duration_seconds=duration,
        language=tag_of(str(tag), where) if tag else None,
        speaker=spoken.get("speaker") or None,
        text=spoken.get("text") or None,
        extra=dict(spoken.get("custom") or {}),
    )


def _sound_file(cut: Mapping[str, Any], path: Path, where: str) -> Path:
    """The one plain file of a cut."""
    kind = cut.get("type", "MonoCut")
    recording = cut.get("recording")
    if kind not in ("MonoCut", "MultiCut"):
        raise DataError(f"{where}: a {kind}, which exists only as a recipe of sounds. {_SAVE}")
    if not recording:
        raise DataError(
            f"{where}: not a cut with its recording (found {sorted(cut)}). Make cuts first: "
            "CutSet.from_manifests(recordings=..., supervisions=...), then `.to_eager().to_file('cuts.jsonl.gz')`."
        )
    if recording.get("transforms"):
        raise DataError(f"{where}: the recording is transformed on the fly ({recording['transforms']}). {_SAVE}")
    sources = recording["sources"]
    if len(sources) != 1:
        raise DataError(f"{where}: a recording in {len(sources)} files; expected one. {_SAVE}")
    source = sources[0]
    if source["type"] != "file":
        way_out = "Commands in manifests are never run. " if source["type"] == "command" else ""
        raise DataError(f"{where}: the sound comes from a {source['type']!r} source; expected a file. {way_out}{_SAVE}")
    chosen = cut.get("channel", 0)
    if len(source["channels"]) > len(chosen if isinstance(chosen, list) else [chosen]):
        raise DataError(
            f"{where}: channel {chosen} of a file with channels {source['channels']}; channels of a file are averaged "
            f"here, never chosen. {_SAVE}"
        )
    sound = Path(source["source"])
    return sound if sound.is_absolute() or not (path.parent / sound).exists() else path.parent / sound
