"""Source archive of PyPI ``pyannote-audio``: 30-second meeting clips with speaker turns in RTTM."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from records import AudioRef, Clip

PACKAGE = "pyannote-audio"
MIN_TURN_SECONDS = 0.8


def single_turns(turns: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The parts of turns in which nobody else speaks, at least 0.8 s long.

    Args:
        turns: Start and end in seconds, and the speaker.

    Returns:
        Start and end in seconds, and the speaker, in order of time.
    """
    edges = sorted({edge for start, end, _ in turns for edge in (start, end)})
    alone: list[tuple[float, float, str]] = []
    for start, end in itertools.pairwise(edges):
        active = {who for begin, stop, who in turns if begin < end and stop > start}
        if len(active) != 1:
            continue
        who = active.pop()
        if alone and alone[-1][1] == start and alone[-1][2] == who:
            start = alone.pop()[0]
        alone.append((start, end, who))
    return [turn for turn in alone if turn[1] - turn[0] >= MIN_TURN_SECONDS]


def read(packages: Path) -> Iterator[Clip]:
    """Turns of one speaker alone."""
    for rttm in sorted((packages / PACKAGE).glob("*/tests/data/*.rttm")):
        recordings = {unicodedata.normalize("NFC", p.stem): p for p in rttm.parent.glob("*.wav")}
        turns: dict[str, list[tuple[float, float, str]]] = {}
        for line in rttm.read_text(encoding="utf-8").splitlines():
            _, uri, _, start, length, _, _, who, *_ = line.split()
            uri = "trñ00" if uri == "trn00" and "trn00" not in recordings else uri
            turns.setdefault(uri, []).append((float(start), float(start) + float(length), who))
        for uri, spoken in sorted(turns.items()):
            path = recordings[unicodedata.normalize("NFC", uri)]
            for start, end, who in single_turns(spoken):
                voice = unicodedata.normalize("NFD", who).encode("ascii", "ignore").decode().lower()
                yield Clip(
                    name=f"{path.stem.replace('ñ', 'n')}-{round(start * 1000):05d}",
                    source="pyannote",
                    language="eng_Latn",
                    speaker=f"pyannote-{voice}",
                    licence="MIT",
                    audio=AudioRef(path, start_seconds=start, end_seconds=end),
                )
