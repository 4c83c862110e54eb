"""Leak-safe splits: a deterministic function of the content group.

Groups of one source that share a text in any language are one component, and a component has one split in all
languages and sources. So neither a sentence nor its translation is on both sides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping

TRAIN_SHARE, DEV_SHARE = 0.70, 0.10


def normalized(text: str) -> str:
    """Letters, marks and digits in lower case with single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join(kept.split())


def split_of_key(key: str) -> str:
    """``train``, ``dev`` or ``test`` by the hash of ``key``."""
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < TRAIN_SHARE else "dev" if share < TRAIN_SHARE + DEV_SHARE else "test"


def components(texts: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, str]:
    """Join groups of one source that share a normalized text in a language.

    Args:
        texts: Group to its ``(language, text)`` pairs; a group is ``source/key``.

    Returns:
        Group to the smallest group name of its component.
    """
    parent = {group: group for group in texts}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    owner: dict[tuple[str, str, str], str] = {}
    for group in sorted(texts):
        source = group.split("/", 1)[0]
        for language, text in texts[group]:
            if not (plain := normalized(text)):
                continue
            first, second = root(owner.setdefault((source, language, plain), group)), root(group)
            parent[max(first, second)] = min(first, second)
    return {group: root(group) for group in texts}


def split_by_group(texts: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, str]:
    """Group to split; see ``components`` for the argument."""
    return {group: split_of_key(component) for group, component in components(texts).items()}
