"""Debian ``festvox-ru``: one Russian reader, sentences with phone labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from records import AudioRef, Clip

PACKAGE = "festvox-ru"
SOURCE = "festvox-ru"
LICENCE = "LicenseRef-Festvox-BSD-like"
VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"

_SENTENCE = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)$')


def read_phones(path: Path) -> tuple[tuple[str, float, float], ...]:
    """Phone, start and end in seconds, from a label file that gives ends."""
    phones, start = [], 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) == 3:
            phones.append((fields[2], start, float(fields[0])))
            start = float(fields[0])
    return tuple(phones)


def read(packages: Path) -> Iterator[Clip]:
    """Every sentence; ``+`` before a stressed vowel is removed from its text."""
    root = packages / PACKAGE / VOICE
    for line in (root / "etc/txt.done.data").read_text(encoding="utf-8").splitlines():
        match = _SENTENCE.match(line.strip())
        if match is None:
            continue
        name, text = match[1], match[2].replace("+", "")
        if not (root / "wav" / f"{name}.wav").exists():
            continue
        yield Clip(
            name=name,
            source=SOURCE,
            language="rus_Cyrl",
            speaker="festvox-rus-nsh",
            licence=LICENCE,
            audio=AudioRef(root / "wav" / f"{name}.wav"),
            text=text,
            group=f"{SOURCE}/{name}",
            translations={"rus_Cyrl": text},
            phones=read_phones(root / "lab" / f"{name}.lab"),
            second_voice=True,
        )
