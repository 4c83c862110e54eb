"""One row of a corpus, and rows to and from an Arrow table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from allophone.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One stretch of speech by one speaker, and what is known about it. Unknown text fields are None, never ``""``."""

    id: str
    path: str
    """Sound file, relative to the corpus folder where it lies inside it, otherwise absolute."""
    offset_seconds: float = 0.0
    duration_seconds: float
    sample_rate: int
    """Hz, as stored; waveforms handed out are always 16 kHz."""
    language: str
    """ISO 639-3 and ISO 15924: ``fra_Latn``."""
    speaker: str | None = None
    text: str | None = None
    label: str | None = None
    group: str | None = None
    """Content that this utterance shares with others, for example the same prompt in other languages."""
    translations: Mapping[str, str] = field(default_factory=dict)
    """Language to text."""
    split: str | None = None
    source: str | None = None
    licence: str | None = None
    synthetic: bool = False
    sha256: str | None = None
    """Of the samples (mono, own rate, 16-bit little-endian), so that a copy in another container is found."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further columns, where they have a value, as they came; as text where a column has values of several types."""


COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "path": pa.string(),
    "offset_seconds": pa.float64(),
    "duration_seconds": pa.float64(),
    "sample_rate": pa.int64(),
    "language": pa.string(),
    "speaker": pa.string(),
    "text": pa.string(),
    "label": pa.string(),
    "group": pa.string(),
    "translations": pa.map_(pa.string(), pa.string()),
    "split": pa.string(),
    "source": pa.string(),
    "licence": pa.string(),
    "synthetic": pa.bool_(),
    "sha256": pa.string(),
}
"""Columns of ``corpus.parquet`` in their order."""

_REQUIRED = ("id", "path", "duration_seconds", "sample_rate", "language")


def to_table(utterances: Iterable[Utterance]) -> pa.Table:
    """Arrow table of utterances: :data:`COLUMNS`, then the extra columns that any of them has."""
    rows = list(utterances)
    columns = {
        name: pa.array(
            [list(row.translations.items()) if name == "translations" else getattr(row, name) for row in rows], kind
        )
        for name, kind in COLUMNS.items()
    }
    for name in dict.fromkeys(key for row in rows for key in row.extra):
        columns[name] = _extra_column([row.extra.get(name) for row in rows])
    return pa.table(columns)


def _extra_column(values: list[Any]) -> pa.Array:
    """Values as they came, where they are of one type; otherwise all as text, structures as JSON."""
    kept = [_without_empty(value) for value in values]
    try:
        return pa.array(kept)
    except (pa.ArrowException, OverflowError):  # such as 1 in one row and "n/a" in another
        return pa.array([None if value is None else _as_text(value) for value in kept], pa.string())


def _without_empty(value: Any) -> Any:
    """A value without structures that hold nothing, which Parquet cannot write; None where nothing is left."""
    if isinstance(value, Mapping):
        return {str(key): kept for key, item in value.items() if (kept := _without_empty(item)) is not None} or None
    if isinstance(value, list | tuple):
        return [_without_empty(item) for item in value]
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def from_table(table: pa.Table, where: str) -> tuple[Utterance, ...]:
    """Utterances of an Arrow table.

    Args:
        table: At least id, path, duration_seconds, sample_rate, language; unknown columns become ``extra``.
        where: File, for messages.

    Raises:
        DataError: A required column is missing or empty in a row, or two rows have the same id.
    """
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {missing}; found {table.column_names}. Every corpus needs {list(_REQUIRED)}; "
            "make one with `allophone corpus import`."
        )
    utterances = tuple(_from_row(row, number, where) for number, row in enumerate(table.to_pylist()))
    require_unique_ids(utterances, where)
    return utterances


def require_unique_ids(utterances: Iterable[Utterance], where: str) -> None:
    """Raise ``DataError`` naming both files when two utterances have the same id."""
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        other = seen.setdefault(utterance.id, utterance)
        if other is not utterance:
            raise DataError(
                f"{where}: two utterances have the id {utterance.id!r}: {other.path} at {other.offset_seconds:g} s and "
                f"{utterance.path} at {utterance.offset_seconds:g} s. Give each its own id."
            )


def _from_row(row: dict[str, Any], number: int, where: str) -> Utterance:
    empty = [name for name in _REQUIRED if row[name] is None or row[name] == ""]
    if empty:
        raise DataError(f"{where}, row {number} (id {row['id']!r}): {empty} is empty; every utterance needs it.")
    known = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "") and name != "translations"}
    return Utterance(
        **known,
        translations=_translations(row.get("translations")),
        extra={name: value for name, value in row.items() if name not in COLUMNS and value is not None},
    )


def _translations(value: Any) -> dict[str, str]:
    """Translations from an Arrow map (pairs), a struct (dict) or JSON text."""
    if not value:
        return {}
    pairs = json.loads(value) if isinstance(value, str) else value
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return {str(language): str(text) for language, text in items if text}


def content(utterance: Utterance) -> dict[str, Any]:
    """Everything that makes an utterance what it is, for hashing: all but where the file lies and extra columns."""
    values = {name.name: getattr(utterance, name.name) for name in dataclasses.fields(utterance)}
    return {name: value for name, value in values.items() if name not in ("path", "extra")} | {
        "translations": dict(sorted(utterance.translations.items()))
    }
