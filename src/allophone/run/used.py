"""Which recordings something was made from: a table beside it, so that a speaker can be found in all that they are in.

It stays in run folders. Models and packs that are given away hold hashes alone, no names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from allophone.data.utterance import Utterance
from allophone.errors import DataError

USED = "used.parquet"
COLUMNS = ("use", "id", "speaker", "language", "sha256")
USES = ("trained", "clustered", "labelled")
"""Weights were trained on it; centroids were fitted on it; it was only given labels."""


def record_use(folder: Path, uses: Mapping[str, Iterable[Utterance]]) -> Path:
    """Write which utterances what lies in ``folder`` was made from; ``uses`` has keys of :data:`USES`."""
    rows = [(use, row.id, row.speaker, row.language, row.sha256) for use, members in uses.items() for row in members]
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(COLUMNS)}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{USED}"
    pq.write_table(pa.table(columns), partial, compression="zstd")
    partial.replace(folder / USED)
    return folder / USED


def read_use(folder: Path) -> dict[str, list[dict[str, str | None]]] | None:
    """Rows by use; None where nothing was recorded.

    Raises:
        DataError: The table cannot be read.
    """
    path = folder / USED
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a table that can be read ({error}). Make the run again, or delete it.") from error
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing:
        raise DataError(f"{path}: no columns {missing}; expected {list(COLUMNS)}. Make the run again, or delete it.")
    found: dict[str, list[dict[str, str | None]]] = {}
    for row in rows:
        found.setdefault(row["use"], []).append(row)
    return found
