"""Debian ``tuxpaint-stamps-default``: volunteers describe stamps; every description is written in many languages.

``cat.txt`` holds the English text and lines ``<locale>.utf8=text``; ``cat_desc_<locale>.ogg`` speaks it (no locale:
English). For numbers and letters ``3_<locale>.ogg`` speaks the name itself, which no text file spells out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from languages import LOCALES
from records import AudioRef, Clip

PACKAGE = "tuxpaint-stamps-default"
SOURCE = "tuxpaint"
LICENCE = "GPL-2.0-or-later"
STAMPS = "usr/share/tuxpaint/stamps"

_TRANSLATION = re.compile(r"^([A-Za-z_]+)\.utf8\s*=(.*)$")
_SPOKEN = re.compile(
    r"^(?P<stem>.+?)(?P<desc>_desc)?(?:_(?P<locale>[a-z]{2,3}(?:_[A-Za-z]{2})?))?(?:\.ogg)?\.(?:ogg|wav)$"
)
_BARE_ENGLISH = ("symbols/math/",)


def read_texts(path: Path) -> dict[str, str]:
    """Language tag to description; the first locale of a language wins."""
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = {"eng_Latn": lines[0].strip()}
    for line in lines[1:]:
        match = _TRANSLATION.match(line)
        if match and match[1] in LOCALES and match[2].strip():
            texts.setdefault(LOCALES[match[1]], match[2].strip())
    return texts


def read(packages: Path) -> Iterator[Clip]:
    """Every spoken stamp, sorted by file."""
    root = packages / PACKAGE / STAMPS
    texts = {path.with_suffix(""): read_texts(path) for path in sorted(root.rglob("*.txt"))}
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".ogg", ".wav")):
        match = _SPOKEN.match(path.name)
        stem = path.parent / match["stem"] if match else path
        if match is None or stem not in texts:
            continue
        key = stem.relative_to(root).as_posix()
        if match["locale"] is None and match["desc"] is None and not key.startswith(_BARE_ENGLISH):
            continue  # A sound effect, not speech.
        locale = match["locale"] or "en"
        language = LOCALES[locale]
        name = key.replace("/", "-") + ("" if match["desc"] else "-name") + ("-gb" if locale == "en_GB" else "")
        digit = re.fullmatch(r"symbols/math/(\d)", key)
        yield Clip(
            name=name,
            source=SOURCE,
            language=language,
            speaker=f"tuxpaint-{language[:3]}-{'gb' if locale == 'en_GB' else 'name' if not match['desc'] else '1'}",
            licence=LICENCE,
            audio=AudioRef(path),
            text=texts[stem].get(language) if match["desc"] else None,
            label=f"digit-{digit[1]}" if digit else key.split("/")[0],
            group=f"{SOURCE}/{key}",
            translations=texts[stem],
        )
