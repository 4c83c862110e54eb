"""Recordings that cannot be used: kept on a list with the reason, counted per language, never dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from allophone.data.utterance import Utterance
from allophone.errors import DataError

_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One recording, or a part of one, that is left out."""

    path: str
    language: str
    reason: str
    """What is wrong, with figures."""
    id: str
    offset_seconds: float = 0.0


def save_quarantine(quarantined: Sequence[Quarantined], folder: Path) -> None:
    """Write ``quarantine.parquet`` and ``quarantine.tsv`` (also when empty, so that an old list does not stay)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Quarantined)]
    kinds = [pa.float64() if name == "offset_seconds" else pa.string() for name in names]
    columns = [
        pa.array([getattr(item, name) for item in quarantined], kind) for name, kind in zip(names, kinds, strict=True)
    ]
    pq.write_table(pa.table(columns, names=names), folder / "quarantine.parquet")
    lines = ["\t".join(names), *("\t".join(_cell(value) for value in astuple(item)) for item in quarantined)]
    (folder / "quarantine.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def require_small_loss(
    utterances: Iterable[Utterance], quarantined: Sequence[Quarantined], max_loss: float, listed_in: str = ""
) -> None:
    """Stop when a language loses too much.

    Raises:
        DataError: More than ``max_loss`` of the utterances of a language are quarantined; the message lists them.
    """
    lost = Counter(item.language for item in quarantined)
    kept = Counter(row.language for row in utterances)
    over = {
        language: (count, count + kept[language])
        for language, count in sorted(lost.items())
        if count > max_loss * (count + kept[language])
    }
    if not over:
        return
    shares = ", ".join(f"{language} {bad} of {total} ({bad / total:.1%})" for language, (bad, total) in over.items())
    concerned = [item for item in quarantined if item.language in over]
    listing = "\n".join(f"  {item.path}: {item.reason}" for item in concerned[:_SHOWN])
    more = f"\n  ... and {len(concerned) - _SHOWN} more" if len(concerned) > _SHOWN else ""
    raise DataError(
        f"Too many recordings cannot be used: {shares}; at most {max_loss:.0%} of a language may be lost.\n"
        f"{listing}{more}\n{listed_in}Mend or remove the files, or allow the loss (max_loss=1.0, --max-loss 1)."
    )


def _cell(value: object) -> str:
    return " ".join(str(value).split())
