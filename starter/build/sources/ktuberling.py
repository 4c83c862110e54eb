"""Debian ``ktuberling-data``: names of pictured objects in 26 locales.

``sounds/<locale>.soundtheme`` maps an English key to a file. What is said is known in English only: the words of
the key. Locales that share a recording byte for byte (four Serbian ones) give it once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from languages import LOCALES
from records import AudioRef, Clip

PACKAGE = "ktuberling-data"
SOURCE = "ktuberling"
LICENCE = "GPL-2.0-or-later"

_SOUND = re.compile(r'<sound\s+name="([^"]+)"\s+file="([^"]+)"')
_SCENE = re.compile(r"^(?:butterflies|christmas|egypt|moon|pizzeria|robot|train_valley|train|tv|tux)_")


def words_of(key: str) -> str:
    """English words of a key: ``egypt_palmtree`` is ``palmtree``."""
    return _SCENE.sub("", key).replace("_", " ").strip()


def read(packages: Path) -> Iterator[Clip]:
    """Every name that a locale records itself, once."""
    root = packages / PACKAGE / "usr/share/ktuberling/sounds"
    seen: set[str] = set()
    for theme in sorted(root.glob("*.soundtheme")):
        locale = theme.stem
        language = LOCALES[locale.split("@")[0]]
        for key, file in sorted(_SOUND.findall(theme.read_text(encoding="utf-8"))):
            path = root / file
            if not path.exists() or not file.startswith(f"{locale}/"):
                continue
            digest = language + hashlib.sha256(path.read_bytes()).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            english = words_of(key)
            yield Clip(
                name=key if "@" not in locale else f"{key}-{locale.split('@')[1]}",
                source=SOURCE,
                language=language,
                speaker=f"ktuberling-{language[:3]}-1",
                licence=LICENCE,
                audio=AudioRef(path),
                text=english if language == "eng_Latn" else None,
                group=f"{SOURCE}/{key}",
                translations={"eng_Latn": english},
            )
