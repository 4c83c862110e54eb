"""NeMo manifests: JSON lines with ``audio_filepath``, ``duration``, ``text`` and, if there, ``offset`` and ``lang``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allophone.data.importers.entry import Entry, entry_from_row
from allophone.data.importers.table import json_lines
from allophone.errors import DataError


def is_nemo(row: Mapping[str, Any]) -> bool:
    """Whether the first line of a JSON-lines file is NeMo's."""
    return "audio_filepath" in row


def read_nemo(path: Path, *, language: str | None = None) -> list[Entry]:
    """Read a manifest; relative paths start at its folder.

    For a speech translation manifest (``source_lang`` differs from ``target_lang``) the text is kept as a translation.

    Raises:
        DataError: The manifest is of tarred audio, or a line lacks a path or has a value that cannot be read.
    """
    entries = []
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        if "shard_id" in row:
            raise DataError(
                f"{where}: a manifest of tarred audio (shard_id). Unpack the shards and use their manifest."
            )
        source, target = row.get("source_lang"), row.get("target_lang")
        values = {key: value for key, value in row.items() if key not in ("source_lang", "target_lang")}
        if source and not row.get("lang"):
            values["lang"] = source
        if source and target and source != target:
            values["translations"] = {target: values.pop("text", None)}
        entries.append(entry_from_row(values, where=where, root=path.parent, language=language))
    if not entries:
        raise DataError(f"{path}: no rows; expected one an utterance.")
    return entries
