"""Write a corpus folder: ``corpus.parquet``, one row an utterance, and ``corpus.json``."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = "allophone-corpus-1"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset_seconds", pa.float64(), nullable=False),
        pa.field("duration_seconds", pa.float64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),
        pa.field("translations", pa.map_(pa.string(), pa.string())),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("synthetic", pa.bool_(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("original_sample_rate", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Row:
    """One utterance of a corpus; fields as in ``SCHEMA``, times in seconds, rates in Hz."""

    id: str
    path: str
    duration_seconds: float
    language: str
    speaker: str
    split: str
    source: str
    licence: str
    sha256: str
    original_sample_rate: int
    text: str | None = None
    label: str | None = None
    group: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    offset_seconds: float = 0.0
    sample_rate: int = 16_000
    synthetic: bool = False


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def corpus_hash(rows: Iterable[Row]) -> str:
    """Digest over the sorted ``id, sha256, text, split`` lines."""
    lines = sorted(f"{row.id}\t{row.sha256}\t{row.text or ''}\t{row.split}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Write the table and the summary of a corpus whose audio lies in ``folder`` already."""
    rows = sorted(rows, key=lambda row: row.id)
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in SCHEMA}
    columns["translations"] = [sorted(row.translations.items()) for row in rows]
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        folder / "corpus.parquet",
        compression="zstd",
        compression_level=19,
        dictionary_pagesize_limit=2**25,
        data_page_size=2**25,
    )
    hours: dict[str, float] = defaultdict(float)
    for row in rows:
        hours[row.language] += row.duration_seconds / 3600
    summary = {
        "format": FORMAT,
        "name": name,
        "hash": corpus_hash(rows),
        "licences": sorted({row.licence for row in rows}),
        "hours": {language: round(hours[language], 4) for language in sorted(hours)},
        "utterances": len(rows),
    }
    (folder / "corpus.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summary_table(rows: Iterable[Row]) -> str:
    """Utterances and hours per language and speaker, as aligned text."""
    totals: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in rows:
        for key in (
            (row.language, row.source, row.speaker),
            (row.language, "*", "*"),
            ("*", row.source, "*"),
            ("~all", "*", "*"),
        ):
            totals[key][0] += 1
            totals[key][1] += row.duration_seconds / 3600
    lines = [f"{'language':10} {'source':28} {'speaker':28} {'clips':>6} {'hours':>7}"]
    lines += [f"{a:10} {b:28} {c:28} {n:6.0f} {h:7.3f}" for (a, b, c), (n, h) in sorted(totals.items())]
    return "\n".join(lines) + "\n"
