"""Debian ``flight-of-the-amazon-queen``: acted English dialogue, MP3 members of ``queen.1c``.

The archive begins with ``QTBL``, a version, the compression, the number of members (big-endian, 15 bytes in all),
then 21 bytes a member: name (12), bundle (1), offset (4), size (4). Speech members end in ``.SB``. ``12003FP2.SB`` is
dialogue 12, node 003F, said by the other person (``J``: by Joe, the player), part 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from records import AudioRef, Clip

PACKAGE = "flight-of-the-amazon-queen"
SOURCE = "amazon-queen"
LICENCE = "LicenseRef-Flight-of-the-Amazon-Queen"
ARCHIVE = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"

_HEADER_BYTES, _MEMBER_BYTES = 15, 21
_DIALOGUE = re.compile(r"^(?P<talk>\d\d)[0-9A-FS]{4}(?P<who>[JP])")
_SCENE = re.compile(r"^(?:C\d+|[A-Z]+|\d\d)")


def speaker_of(member: str) -> str:
    """Voice of a member, as far as its name tells; a cutaway mixes a few voices."""
    match = _DIALOGUE.match(member)
    if member.startswith("JOE") or (match and match["who"] == "J"):
        return "queen-joe"
    if match:
        return f"queen-talk{match['talk']}"
    scene = _SCENE.match(member)
    return f"queen-{scene[0].lower()}" if scene else "queen-other"


def read(packages: Path) -> Iterator[Clip]:
    """Every speech member."""
    path = packages / PACKAGE / ARCHIVE
    with path.open("rb") as archive:
        header = archive.read(_HEADER_BYTES)
        if header[:4] != b"QTBL":
            raise ValueError(f"{path}: expected an archive that begins with QTBL, got {header[:4]!r}")
        table = archive.read(_MEMBER_BYTES * struct.unpack(">H", header[13:])[0])
    for name, _, offset, size in struct.iter_unpack(">12sBII", table):
        member = name.rstrip(b"\0").decode("ascii")
        if member.endswith(".SB"):
            yield Clip(
                name=member.removesuffix(".SB").lower(),
                source=SOURCE,
                language="eng_Latn",
                speaker=speaker_of(member),
                licence=LICENCE,
                audio=AudioRef(path, byte_offset=offset, byte_size=size),
            )
