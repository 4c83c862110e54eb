"""All recordings of all packages, and the split of every content group."""

from __future__ import annotations

from pathlib import Path

from records import Clip
from sources import amazon_queen, asterisk, festvox, games, ktuberling, pyannote, tuxpaint
from splits import split_by_group

GROUPED = (tuxpaint.read, asterisk.read, ktuberling.read, festvox.read)
UNGROUPED = (amazon_queen.read, games.read_hedgewars, games.read_kajongg, pyannote.read)


def read_grouped(packages: Path) -> list[Clip]:
    """Recordings whose content is known and shared across languages or voices."""
    return [clip for read in GROUPED for clip in read(packages)]


def read_ungrouped(packages: Path) -> list[Clip]:
    """Recordings used for pretraining only."""
    return [clip for read in UNGROUPED for clip in read(packages)]


def group_splits(clips: list[Clip]) -> dict[str, str]:
    """Group to split, from the texts of all grouped recordings of all packages."""
    texts: dict[str, set[tuple[str, str]]] = {}
    for clip in clips:
        if clip.group is not None:
            known = set(clip.translations.items()) | ({(clip.language, clip.text)} if clip.text else set())
            texts.setdefault(clip.group, set()).update(known)
    return split_by_group(texts)
