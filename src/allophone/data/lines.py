"""Lines of text files, the same ones that other programs count."""

from __future__ import annotations

import os
from pathlib import Path

from allophone.errors import DataError


def text_lines(path: Path) -> list[str]:
    r"""Lines of a UTF-8 file without their ends, ``\n`` or ``\r\n``; none after the last end.

    ``str.splitlines`` splits at U+2028, U+0085, vertical tabs and form feeds too. Those stand inside of texts, and then
    line 7 of a text no longer belongs to line 7 of the file beside it.

    Raises:
        DataError: The file is not UTF-8.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it again as UTF-8.") from error
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def grown_lines(path: Path) -> list[str]:
    """Lines of a file that grows line by line, none where there is no file.

    A last line without its end, which a kill tore, is cut off the file.

    Raises:
        DataError: The file is not UTF-8.
    """
    if not path.exists():
        return []
    kept = path.read_bytes()
    whole = kept.rfind(b"\n") + 1
    if whole < len(kept):
        os.truncate(path, whole)
    return text_lines(path)
