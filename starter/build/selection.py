"""Which recordings the starter corpus holds, so that it stays below 40 MB."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from records import Clip
from sources import asterisk, festvox, ktuberling, tuxpaint

WHOLE = {
    tuxpaint.SOURCE: {"bul_Cyrl", "ell_Grek", "dan_Latn", "ita_Latn", "fra_Latn", "spa_Latn", "rus_Cyrl", "eng_Latn"},
    ktuberling.SOURCE: {"ell_Grek", "dan_Latn", "ita_Latn"},
}
"""Source to the languages of which it gives everything."""

SHARED = {
    tuxpaint.SOURCE: (
        {"ron_Latn", "cat_Latn", "bel_Cyrl"},
        {"bul_Cyrl", "ell_Grek", "dan_Latn", "ron_Latn", "cat_Latn", "bel_Cyrl"},
    ),
    ktuberling.SOURCE: ({"eng_Latn", "fra_Latn", "rus_Cyrl", "cat_Latn"}, {"dan_Latn", "ell_Grek"}),
}
"""Source to languages of which it gives only content that is spoken in all of the second languages too.

Of that: all of dev and test, and half of train.
"""

LABELLED_SECONDS, LABELLED_MAX_SECONDS = 1200.0, 14.0
_ASTERISK = {voice.package.removesuffix("-g722").removesuffix("-wav") for voice in asterisk.VOICES}


def labelled_sentences(clips: Iterable[Clip]) -> set[str]:
    """Ids of about 20 minutes of festvox-ru, drawn by hash from the sentences under 14 s."""
    chosen: set[str] = set()
    seconds = 0.0
    for clip in sorted(clips, key=lambda clip: hashlib.sha256(clip.id.encode()).hexdigest()):
        length = clip.phones[-1][2]
        if length < LABELLED_MAX_SECONDS and seconds < LABELLED_SECONDS:
            chosen.add(clip.id)
            seconds += length
    return chosen


def is_even(group: str) -> bool:
    """A coin thrown by the hash of a group."""
    return hashlib.sha256(group.encode()).digest()[0] % 2 == 0


def select(clips: list[Clip], splits: Mapping[str, str]) -> list[Clip]:
    """The recordings of the starter corpus, in the order given.

    Args:
        clips: All recordings with a group.
        splits: Group to split.

    Returns:
        The chosen ones.
    """
    spoken: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        spoken[str(clip.group)].add(clip.language)
    labelled = labelled_sentences([clip for clip in clips if clip.source == festvox.SOURCE])

    def wanted(clip: Clip) -> bool:
        if clip.source in _ASTERISK or clip.id in labelled:
            return True
        if clip.source == tuxpaint.SOURCE and (clip.label or "").startswith("digit-"):
            return True
        if clip.language in WHOLE.get(clip.source, ()):
            return True
        partial, needed = SHARED.get(clip.source, (set(), set()))
        group = str(clip.group)
        kept = splits[group] != "train" or is_even(group)
        return kept and clip.language in partial and needed <= spoken[group]

    return [clip for clip in clips if wanted(clip)]
