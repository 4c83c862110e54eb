"""Debian ``hedgewars-data`` and ``kajongg``: short calls; the file name is the phrase."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from languages import LOCALES
from records import AudioRef, Clip

HEDGEWARS = "usr/share/games/hedgewars/Data/Sounds/voices"
KAJONGG = "usr/share/kajongg/voices"


def read_hedgewars(packages: Path) -> Iterator[Clip]:
    """Voice packs; ``Default_es`` is Spanish, a pack without a locale is English (with its accent)."""
    root = packages / "hedgewars-data" / HEDGEWARS
    for path in sorted(root.glob("*/*.ogg")):
        pack = path.parent.name
        language = LOCALES[pack.split("_")[1]] if "_" in pack else "eng_Latn"
        yield Clip(
            name=f"{pack}-{path.stem}".lower(),
            source="hedgewars",
            language=language,
            speaker=f"hedgewars-{pack.lower()}",
            licence="GFDL-1.3",
            audio=AudioRef(path),
            label=path.stem.lower(),
        )


def read_kajongg(packages: Path) -> Iterator[Clip]:
    """Mah-jongg calls of four English and four German voices."""
    root = packages / "kajongg" / KAJONGG
    for path in sorted(root.rglob("*.ogg")):
        voice = path.parent.name
        language = "deu_Latn" if path.parent.parent.name == "de" else "eng_Latn"
        yield Clip(
            name=f"{voice}-{path.stem}",
            source="kajongg",
            language=language,
            speaker=f"kajongg-{language[:3]}-{voice}",
            licence="GPL-2.0-or-later",
            audio=AudioRef(path),
            label=path.stem,
        )
