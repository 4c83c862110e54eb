"""Kaldi data folders: ``wav.scp``, and ``segments``, ``text``, ``utt2spk``, ``utt2lang`` if there. No pipe is run."""

from __future__ import annotations

import re
from pathlib import Path

from allophone.data.importers.entry import Entry, tag_of
from allophone.data.lines import text_lines
from allophone.errors import DataError

_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")


def read_kaldi(folder: Path, *, language: str | None = None) -> list[Entry]:
    """Read a data folder.

    Relative paths start at the folder or, as Kaldi has it, at the nearest folder above from which they lead to a file.

    Raises:
        DataError: ``wav.scp`` holds a pipe or an archive, a line is incomplete, or a file names an utterance or
            recording that the others lack.
    """
    scp = folder / "wav.scp"
    recordings = {name: _path(value, scp, name) for name, value in _pairs(scp).items()}
    text, speakers, languages = (_pairs(folder / name) for name in ("text", "utt2spk", "utt2lang"))
    segments = _segments(folder / "segments", recordings)
    listing = "segments" if (folder / "segments").is_file() else "wav.scp"
    for name, mapping in (("text", text), ("utt2spk", speakers), ("utt2lang", languages)):
        unknown = sorted(set(mapping) - set(segments))
        if unknown:
            raise DataError(
                f"{folder / name}: {len(unknown)} utterances that {listing} does not have, first {unknown[0]!r}. "
                "Run Kaldi's utils/fix_data_dir.sh on this folder."
            )
    entries = []
    for utterance, (recording, offset, duration) in segments.items():
        tag = language or languages.get(utterance)
        entries.append(
            Entry(
                path=recordings[recording],
                id=utterance,
                where=f"{folder}, utterance {utterance}",
                offset_seconds=offset,
                duration_seconds=duration,
                language=tag_of(tag, f"{folder / 'utt2lang'}, {utterance}") if tag else None,
                speaker=speakers.get(utterance),
                text=text.get(utterance) or None,
            )
        )
    return entries


def _pairs(path: Path) -> dict[str, str]:
    """First word of each line to the rest; empty when there is no such file."""
    if not path.is_file():
        return {}
    pairs: dict[str, str] = {}
    for number, line in enumerate(text_lines(path), 1):
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if not key:
            continue
        if key in pairs:
            raise DataError(f"{path}, line {number}: {key!r} a second time; each may stand once.")
        pairs[key] = value.strip()
    return pairs


def _path(value: str, scp: Path, recording: str) -> Path:
    where = f"{scp}, recording {recording!r}"
    if value.endswith("|") or value.startswith("|"):
        raise DataError(
            f"{where}: a pipe ({value[:60]!r}). Commands in manifests are never run. Write the recordings once "
            "as files (your command with '> out.wav', or lhotse's `kaldi import` where you trust them) "
            "and list those in wav.scp."
        )
    if _ARCHIVE.search(value):
        raise DataError(
            f"{where}: part of an archive ({value!r}), which is not read. Write each recording to a WAV file "
            "(Kaldi: wav-copy) and list those."
        )
    if not value:
        raise DataError(f"{where}: no path; expected 'recording path'.")
    path = Path(value)
    if path.is_absolute():
        return path
    folders = (scp.parent, *scp.parent.resolve().parents)
    return next((found for folder in folders if (found := folder / path).exists()), scp.parent / path)


def _segments(path: Path, recordings: dict[str, Path]) -> dict[str, tuple[str, float, float | None]]:
    """Utterance to (recording, offset, duration); whole recordings when there is no ``segments``."""
    if not path.is_file():
        return {name: (name, 0.0, None) for name in recordings}
    segments: dict[str, tuple[str, float, float | None]] = {}
    for utterance, rest in _pairs(path).items():
        words = rest.split()
        try:
            recording, start, end = words[0], float(words[1]), float(words[2])
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{path}, utterance {utterance!r}: {rest!r}; expected 'recording start end' in seconds."
            ) from error
        if recording not in recordings:
            raise DataError(f"{path}, utterance {utterance!r}: recording {recording!r} is not in wav.scp.")
        segments[utterance] = (recording, start, None if end < 0 else end - start)
    return segments
