"""Whether a sound file stops before its own header says, found from its bytes (WAV, AIFF, AU, Ogg).

libsndfile shortens such files to what is there without a word; FLAC and MP3 fail when they are decoded.
"""

from __future__ import annotations

import struct
from pathlib import Path

_SLACK_SECONDS = 0.01
_SLACK_BYTES = 64


def missing_end(path: Path, container: str) -> str | None:
    """Say what a file lacks at its end.

    Args:
        path: A file that libsndfile opens.
        container: What libsndfile calls its format: ``WAV``, ``OGG``, ...

    Returns:
        A phrase such as ``its header says 3.00 s``; None when nothing is missing or it cannot be told.
    """
    if container in ("WAV", "WAVEX"):
        missing_seconds, declared = _missing_from_wav(path)
        return f"its header says {declared:.2f} s" if missing_seconds > _SLACK_SECONDS else None
    if container in ("AIFF", "AU"):
        missing_bytes = _missing_from_aiff_or_au(path)
        return f"{missing_bytes} bytes fewer than its header says" if missing_bytes > _SLACK_BYTES else None
    if container == "OGG" and _ogg_ends_within_page(path):
        return "its last Ogg page is incomplete"
    return None


def _missing_from_aiff_or_au(path: Path) -> int:
    """Bytes that the header promises and the file lacks."""
    with path.open("rb") as file:
        magic, first, second = struct.unpack(">4sII", file.read(12))
    if magic == b"FORM":
        return int(first + 8 - path.stat().st_size)
    streamed = magic != b".snd" or second >= 0x7FFFF000
    return 0 if streamed else int(first + second - path.stat().st_size)


def _missing_from_wav(path: Path) -> tuple[float, float]:
    """Seconds that the data chunk promises and the file lacks, and seconds promised; zeros where it cannot be told."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        bytes_per_second = 0
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"fmt " and length >= 16:
                bytes_per_second = struct.unpack("<I", file.read(16)[8:12])[0]
                file.seek(length - 16 + length % 2, 1)
            elif name == b"data":
                streamed = length == 0 or length >= 0x7FFFF000  # written to a pipe: the length was never filled in
                if streamed or not bytes_per_second:
                    return 0.0, 0.0
                return max(0, file.tell() + length - size) / bytes_per_second, length / bytes_per_second
            else:
                file.seek(length + length % 2, 1)
    return 0.0, 0.0


def _ogg_ends_within_page(path: Path) -> bool:
    """Whether the file stops before the end of its last Ogg page (a page is at most 65,307 bytes)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_536))
        tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return True
    num_segments = tail[page + 26] if len(tail) > page + 26 else None
    if num_segments is None or len(tail) < page + 27 + num_segments:
        return True
    return len(tail) < page + 27 + num_segments + sum(tail[page + 27 : page + 27 + num_segments])
