"""What every importer yields, and how differently named columns become its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allophone.errors import DataError, suggest
from allophone.text.languages import language_named, parse_language


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A stretch of a sound file as a manifest tells it: not decoded, not checked."""

    path: Path
    id: str
    where: str
    """File and line, for messages."""
    offset_seconds: float = 0.0
    duration_seconds: float | None = None
    """None: to the end of the file."""
    num_samples: int | None = None
    """Length of the whole file at its own rate, where the manifest tells it; checked when decoding."""
    language: str | None = None
    """As ``fra_Latn``."""
    speaker: str | None = None
    text: str | None = None
    label: str | None = None
    group: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    source: str | None = None
    licence: str | None = None
    synthetic: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "utterance_id", "utt_id", "uttid", "key"),
    "path": ("path", "audio", "file", "file_name", "filename", "audio_filepath", "audio_path", "wav", "wav_path"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "language": ("language", "lang", "locale", "lang_id", "language_id"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id"),
    "offset_seconds": ("offset_seconds", "offset", "start", "start_time"),
    "duration_seconds": ("duration_seconds", "duration"),
    "end_seconds": ("end_seconds", "end", "end_time"),
    "label": ("label", "intent", "class"),
    "group": ("group",),
    "translations": ("translations",),
    "split": ("split",),
    "source": ("source",),
    "licence": ("licence", "license"),
    "synthetic": ("synthetic",),
}
"""Field to the column names that mean it, in order of preference; a table may use any of them."""

SPLITS = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
"""Names of splits as others write them to ours."""

AUDIO_FOLDERS = ("", "clips", "audio", "wav", "wavs")
"""Sub-folders where a table's sound files are looked for (Common Voice: ``clips``)."""


def entry_from_row(
    row: Mapping[str, Any], *, where: str, root: Path, language: str | None = None, split: str | None = None
) -> Entry:
    """Turn a row of a table into an entry.

    Args:
        row: Column name to value; unknown columns are kept in ``extra``.
        where: File and line, for messages.
        root: Folder that relative paths start from.
        language: Tag that takes the place of the row's own.
        split: Split of rows that have no column for it.

    Raises:
        DataError: The row has no path, or a value that cannot be read.
    """
    fields = _by_field(row)
    name = fields.pop("path", None)
    if name is None:
        raise DataError(
            f"{where}: no path of a sound file. Name the column one of {list(ALIASES['path'])}; found {sorted(row)}."
        )
    path = locate(str(name), root)
    offset = _number(fields.pop("offset_seconds", None), "offset", where) or 0.0
    duration = _number(fields.pop("duration_seconds", None), "duration", where)
    end = _number(fields.pop("end_seconds", None), "end", where)
    tag = language or fields.pop("language", None)
    fields.pop("language", None)
    given = str(fields.pop("id", "") or "")
    texts: dict[str, Any] = {
        key: str(fields.pop(key)) for key in ("speaker", "text", "label", "group", "source", "licence") if key in fields
    }
    split_name = str(fields.pop("split", None) or split or "")
    return Entry(
        path=path,
        id=given or default_id(path, root) + (f"@{offset:g}" if offset else ""),
        where=where,
        offset_seconds=offset,
        duration_seconds=duration if duration is not None or end is None else end - offset,
        language=tag_of(str(tag), where) if tag else None,
        split=SPLITS.get(split_name.lower(), split_name) or None,
        synthetic=_truth(fields.pop("synthetic", False)),
        translations=_translations(fields.pop("translations", None), where),
        extra=fields.pop("extra"),
        **texts,
    )


def tag_of(tag: str, where: str) -> str:
    """``parse_language(tag).tag``, also of an English name (``French``); the place is named when it is neither."""
    try:
        return parse_language(tag).tag
    except DataError as error:
        named = language_named(tag)
        if named is None:
            raise DataError(f"{where}: {error}") from error
        return named.tag


def locate(name: str, root: Path) -> Path:
    """Where a sound file of a table lies; ``root / name`` when it is nowhere."""
    path = Path(name)
    if path.is_absolute():
        return path
    return next((found for folder in AUDIO_FOLDERS if (found := root / folder / path).exists()), root / path)


def default_id(path: Path, root: Path) -> str:
    """Path within ``root``, without the ending."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return inside.with_suffix("").as_posix()


def require_languages(entries: Iterable[Entry]) -> None:
    """Raise ``DataError`` when the language of an entry is not known."""
    unknown = [entry.where for entry in entries if entry.language is None]
    if unknown:
        raise DataError(
            f"The language of {len(unknown)} recordings is not known (first: {unknown[0]}). Give it (language='fra', "
            "--language fra), put the files in sub-folders named by language (fra/, swh/), or add a column 'language'. "
            "'und' says that it is not known."
        )


def require_unique_entries(entries: Iterable[Entry]) -> None:
    """Raise ``DataError`` naming both places when two entries have the same id."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        other = seen.setdefault(entry.id, entry)
        if other is not entry:
            raise DataError(
                f"Two utterances have the id {entry.id!r}: {other.path} ({other.where}) and "
                f"{entry.path} ({entry.where}). "
                "Give each its own id (a column 'id'), or remove one."
            )


def _by_field(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name, without empty ones; the columns that no field took, under ``extra``."""
    used: set[str] = set()
    fields: dict[str, Any] = {}
    for name, aliases in ALIASES.items():
        column = next((alias for alias in aliases if row.get(alias) not in (None, "")), None)
        if column is not None:
            fields[name] = row[column]
            used.add(column)
    known = used | {
        name for name in row if row[name] in (None, "") and any(name in names for names in ALIASES.values())
    }
    fields["extra"] = {str(column): value for column, value in row.items() if column not in known}
    return fields


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} is {value!r}; expected seconds as a number.") from error


def _truth(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def _translations(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str) and value.startswith("{"):  # of a table without structures
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: translations are not JSON ({error}); found {value!r}.") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: translations are {value!r}; expected an object {{language: text}}.")
    return {tag_of(str(tag), where): str(text) for tag, text in value.items() if text}


def require_columns(columns: Iterable[str], where: str) -> None:
    """Raise ``DataError`` when no column of a table can be the path."""
    names = list(columns)
    if not set(names) & set(ALIASES["path"]):
        hint = suggest(names[0], ALIASES["path"]) if names else ""
        raise DataError(
            f"{where}: no column with the path of the sound file; found {names}, "
            f"expected one of {list(ALIASES['path'])}. "
            f"{hint} A table without a line of column names needs one."
        )
