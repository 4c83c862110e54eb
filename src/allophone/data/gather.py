"""Read any source and decode it: the part that opening and importing share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allophone.data.decoding import MAX_SECONDS, decode_entries
from allophone.data.importers.detect import Format, read_entries
from allophone.data.importers.entry import require_languages, require_unique_entries
from allophone.data.quarantine import Quarantined
from allophone.data.utterance import Utterance
from allophone.engine import Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What was found in a source."""

    format: Format
    utterances: tuple[Utterance, ...]
    """With absolute paths."""
    quarantined: tuple[Quarantined, ...]
    texts_lost: int
    """Texts left out because their recording had to be cut."""


def gather(
    source: Any,
    *,
    media: Path,
    language: str | None = None,
    sounds: bool = False,
    max_seconds: float = MAX_SECONDS,
    workers: int | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Gathered:
    """Read a source's entries and decode each file once; arguments as :func:`~allophone.data.importing.import_corpus`.

    Raises:
        DataError: The source cannot be read, a language is not known, or two utterances have one id.
    """
    kind, entries = read_entries(source, media=media, language=language, sounds=sounds)
    require_languages(entries)
    require_unique_entries(entries)
    decoded = decode_entries(entries, max_seconds=max_seconds, workers=workers, engine=engine, progress=progress)
    return Gathered(
        format=kind,
        utterances=decoded.utterances,
        quarantined=decoded.quarantined,
        texts_lost=decoded.texts_lost,
    )


def source_name(source: Any) -> str:
    """A name for what is made of a source."""
    if isinstance(source, str | Path):
        path = Path(source).resolve()
        return path.name if path.is_dir() else path.name.split(".")[0]
    return type(source).__name__.lower()
