"""An embedded, persistent index of vectors with what they stand for: add, filter, search; no service runs.

The table is a Lance dataset: rows are added in batches, each of which is on the disk whole or not at all, so a process
that is killed loses at most the batch in hand, and what it wrote before is found again. Small tables are compared with
the query one by one, which is exact. Large ones get an inverted file (k-means cells, 8 bits a value); the best of it
are compared again with the stored vectors, and rows that came later are compared one by one until
:meth:`VectorIndex.refresh` puts them into their cells without building anew.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError, DataError, ShapeError
from allophone.text.languages import parse_language

FORMAT = "allophone-index-2"
INFO_FILE, TABLE = "index.json", "recordings"
EXACT_ROWS = 50_000
"""Up to so many rows every vector is compared; there an inverted file saves nothing that a user would notice."""
CELL_ROWS = 1_000
"""Rows of one cell of the inverted file, about."""
PROBES, REFINE = 32, 2
"""Cells that a query looks into, and how many times ``top`` candidates are compared again with the stored vectors."""
ASKED = 500
"""Keys in one condition."""
LATE_ROWS = 2_000
"""Rows outside the inverted file from which ``refresh`` puts them in; fewer are compared in a millisecond or two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexInfo:
    """What ``index.json`` says beside its format."""

    model: str
    """Folder or hub id of the model that made the vectors."""
    model_hash: str
    """Of that model; queries must come from the same."""
    dim: int
    """Values of a vector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a vector stands for: a recording, or a stretch of one."""

    key: str
    """Unique in the index."""
    id: str
    """Of the utterance."""
    corpus: str
    path: str
    """Sound file, absolute."""
    offset_seconds: float
    """Where in the file it begins."""
    duration_seconds: float
    language: str
    speaker: str | None = None
    source: str | None = None
    text: str | None = None
    sha256: str | None = None
    """Of the utterance's samples, so that a recording that was replaced is embedded again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """An answer."""

    entry: Entry
    score: float
    """Cosine with the query."""


COLUMNS = ("key", "language", "speaker", "source", "path", "sha256")
"""Fields of an entry that are asked for by themselves. The whole entry stands in one more column, as JSON: each column
that an answer is read from costs a look at the disk."""
WHOLE = "entry"
T = TypeVar("T")


class VectorIndex:
    """A folder with vectors. Made by :meth:`create` and :meth:`open`.

    Args:
        folder: Where it lies.
        info: What it was made with.
        table: The open Lance table.
    """

    def __init__(self, folder: Path, info: IndexInfo, table: Any) -> None:
        self.folder = folder
        self.info = info
        self._table = table

    @classmethod
    def create(cls, folder: Path, info: IndexInfo) -> VectorIndex:
        """Open the index in a folder, or begin one there.

        Raises:
            CheckpointError: The index there belongs to another model.
            ConfigError: The extra ``search`` is not installed.
        """
        if (folder / INFO_FILE).exists():
            found = cls.open(folder)
            found.require_model(info.model_hash)
            return found
        folder.mkdir(parents=True, exist_ok=True)
        table = _wait(_connect(folder).create_table(TABLE, schema=_schema(info.dim), exist_ok=True))
        text = json.dumps({"format": FORMAT, **to_dict(info)}, indent=2, ensure_ascii=False) + "\n"
        partial = folder / f".{INFO_FILE}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / INFO_FILE)
        return cls(folder, info, table)

    @classmethod
    def open(cls, folder: Path) -> VectorIndex:
        """Open an index.

        Raises:
            DataError: There is none, or it is damaged.
            ConfigError: The extra ``search`` is not installed.
        """
        path = folder / INFO_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = values.pop("format", None)
            if found != FORMAT:
                raise DataError(f"format is {found!r}; expected '{FORMAT}'.")
            info = from_dict(IndexInfo, values, str(path))
        except (OSError, ValueError, AttributeError, ConfigError, DataError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: not an index ({reason}). Make one with `allophone index`.") from error
        connection = _connect(folder)
        try:
            table = _wait(connection.open_table(TABLE))
        except (ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{folder}: its table is damaged ({reason}). Make the index again.") from error
        return cls(folder, info, table)

    def __len__(self) -> int:
        return int(_wait(self._table.count_rows()))

    def require_model(self, model_hash: str) -> None:
        """Refuse vectors of another model.

        Raises:
            CheckpointError: They are; cosines across two models mean nothing.
        """
        if model_hash != self.info.model_hash:
            raise CheckpointError(
                f"{self.folder} holds vectors of model {self.info.model_hash} ({self.info.model}); got model "
                f"{model_hash}. Name the model that it was made with, or make another index."
            )

    def known(self, beginning: str = "") -> dict[str, Entry]:
        """What the rows stand for whose key begins so, by key."""
        query = self._table.query().where(f"starts_with(key, {_quoted(beginning)})").select([WHOLE])
        found = (Entry(**json.loads(text)) for text in _wait(query.to_arrow())[WHOLE].to_pylist())
        return {entry.key: entry for entry in found}

    def add(self, entries: Sequence[Entry], vectors: NDArray[np.float32], *, replaces: bool = False) -> None:
        """Add a batch: whole on the disk when this returns, not at all if it does not.

        Args:
            entries: What the vectors stand for, no two with one key.
            vectors: Shape ``(entries, dim)``, float32, not zero; they are scaled to length 1.
            replaces: Whether rows with the same keys may be there, which these then replace.

        Raises:
            ShapeError: The vectors do not fit the entries or the index.
            DataError: A vector is zero or not finite, or two entries have one key.
        """
        if vectors.shape != (len(entries), self.info.dim):
            raise ShapeError(
                f"{self.folder}: {len(entries)} entries with vectors {vectors.shape}; expected one each of "
                f"{self.info.dim} values."
            )
        if len({entry.key for entry in entries}) < len(entries):
            raise DataError(f"{self.folder}: two of {len(entries)} entries to be added have one key.")
        norms = np.linalg.norm(vectors, axis=1)
        wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(wrong):
            raise DataError(f"{self.folder}: the vector of {entries[wrong[0]].key!r} is zero or not finite.")
        if not entries:
            return
        rows = _table(entries, (vectors / norms[:, None]).astype(np.float32))
        if replaces:
            _wait(self._table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows))
        else:
            _wait(self._table.add(rows))

    def describe(self, entries: Sequence[Entry]) -> None:
        """Put other facts beside vectors that are there and stay, such as a text that was corrected."""
        for start in range(0, len(entries), ASKED):
            part = {entry.key: entry for entry in entries[start : start + ASKED]}
            found = _wait(self._table.query().where(_among(list(part))).select(["key", "vector"]).to_arrow())
            vectors = np.array(found["vector"].to_pylist(), dtype=np.float32)
            rows = _table([part[key] for key in found["key"].to_pylist()], vectors)
            _wait(self._table.merge_insert("key").when_matched_update_all().execute(rows))

    def remove(self, keys: Sequence[str]) -> None:
        """Take rows out, by their keys."""
        for start in range(0, len(keys), ASKED):
            _wait(self._table.delete(_among(keys[start : start + ASKED])))

    def late_rows(self) -> int | None:
        """Rows outside the inverted file; None where there is none."""
        names = [one.name for one in _wait(self._table.list_indices()) if "vector" in one.columns]
        return int(_wait(self._table.index_stats(names[0])).num_unindexed_rows) if names else None

    def refresh(self, *, exact_rows: int = EXACT_ROWS, late_rows: int = LATE_ROWS) -> None:
        """Gather what many small batches left, and keep queries fast as the table grows.

        Args:
            exact_rows: Rows from which an inverted file is built, once; later rows join its cells.
            late_rows: As many as this may be outside of it.
        """
        late = self.late_rows()
        if late is None and len(self) > exact_rows:
            _wait(self._table.optimize())
            self.build()
        elif late is None or late > late_rows:
            _wait(self._table.optimize())

    def build(self, *, cell_rows: int = CELL_ROWS) -> None:
        """Build the inverted file anew. A process killed meanwhile leaves the index as it was."""
        from lancedb.index import IvfSq

        # Not the number of cells: with that, Lance forgets the size, and joins nearly all cells when rows are added.
        settings = IvfSq(distance_type="cosine", target_partition_size=cell_rows, max_iterations=15, sample_rate=64)
        _wait(self._table.create_index("vector", config=settings, replace=True))

    def search(
        self,
        vector: NDArray[np.float32],
        top: int = 10,
        *,
        language: str | None = None,
        speaker: str | None = None,
        source: str | None = None,
        probes: int = PROBES,
        exact: bool = False,
    ) -> list[Hit]:
        """The rows most alike a vector.

        Args:
            vector: Shape ``(dim,)``; its length does not matter.
            top: Most answers.
            language: Only this one; a tag without a script (``fra``) stands for all of its scripts.
            speaker: Only this one.
            source: Only this one.
            probes: Cells looked into.
            exact: Compare with every row, also where there is an inverted file.

        Returns:
            Best first.

        Raises:
            ShapeError: The vector does not fit the index.
            DataError: The language is unknown.
        """
        if vector.shape != (self.info.dim,):
            raise ShapeError(f"{self.folder}: the query has shape {vector.shape}; expected ({self.info.dim},).")
        query = self._table.vector_search(np.asarray(vector, dtype=np.float32)).distance_type("cosine").limit(top)
        query = query.bypass_vector_index() if exact else query.nprobes(probes).refine_factor(REFINE)
        wanted = _filter(language, {"speaker": speaker, "source": source})
        if wanted:
            query = query.where(wanted)
        found = _wait(query.select([WHOLE, "_distance"]).to_arrow()).to_pylist()
        return [Hit(entry=Entry(**json.loads(row[WHOLE])), score=1.0 - float(row["_distance"])) for row in found]


def _wait(waiting: Coroutine[Any, Any, T]) -> T:
    """What one call to the database returns. Its plain interface changes threads several times a query instead."""
    from lancedb.background_loop import LOOP

    found: T = LOOP.run(waiting)
    return found


def _connect(folder: Path) -> Any:
    try:
        from lancedb import connect_async
    except ImportError as error:
        raise ConfigError(
            "The vector index needs lancedb. Install it with `pip install 'allophone[search]'`."
        ) from error
    return _wait(connect_async(str(folder)))


def _schema(dim: int) -> pa.Schema:
    columns = [pa.field(name, pa.string()) for name in (*COLUMNS, WHOLE)]
    return pa.schema([*columns, pa.field("vector", pa.list_(pa.float32(), dim))])


def _table(entries: Sequence[Entry], vectors: NDArray[np.float32]) -> pa.Table:
    columns = [pa.array([getattr(entry, name) for entry in entries], pa.string()) for name in COLUMNS]
    whole = pa.array([json.dumps(asdict(entry), ensure_ascii=False) for entry in entries])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.Table.from_arrays([*columns, whole, flat], schema=_schema(vectors.shape[1]))


def _filter(language: str | None, columns: Mapping[str, str | None]) -> str:
    """A condition in SQL; values are quoted."""
    parts = [f"{name} = {_quoted(value)}" for name, value in columns.items() if value is not None]
    if language is not None:
        parsed = parse_language(language)
        names_script = any(len(part) == 4 for part in language.replace("_", "-").split("-")[1:])
        whole = f"language IN ({_quoted(parsed.tag)}, {_quoted(language)})"
        parts.append(whole if names_script else f"(starts_with(language, {_quoted(parsed.code + '_')}) OR {whole})")
    return " AND ".join(parts)


def _among(keys: Sequence[str]) -> str:
    return f"key IN ({', '.join(map(_quoted, keys))})"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
