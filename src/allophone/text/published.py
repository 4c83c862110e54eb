"""Texts as published benchmarks compare them, so that their scores can be made again; ours is ``normalize``.

Both functions here keep combining marks. Normalizers that delete every mark (category M), as Whisper's basic one does,
delete the vowel signs of Brahmic scripts: कि, की and के become one word, and a reader that confuses them scores 0 %.
"""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Literal, get_args

from allophone.errors import ConfigError, suggest
from allophone.text.languages import parse_language
from allophone.text.normalize import normalize

Normalizer = Literal["none", "ml-superb-1", "ml-superb-2", "allophone"]
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BRACKETED = re.compile(r"\[[^()]*\]")
_SPACES_DROPPED = frozenset(("cmn", "jpn", "tha", "yue"))


def normalize_as(normalizer: Normalizer, text: str, language: str) -> str:
    """Prepare a text for a character error rate.

    Args:
        normalizer: ``none`` leaves it as it is but for spaces at its ends, ``ml-superb-1`` is the benchmark of 2023,
            ``ml-superb-2`` the challenge of 2025, ``allophone`` is :func:`~allophone.text.normalize.normalize`.
        text: Without a language token.
        language: Any tag; of use to the last two.

    Raises:
        ConfigError: There is no such normalizer.
        DataError: ``allophone`` does not know the language.
    """
    if normalizer == "none":
        return text.strip()
    if normalizer == "ml-superb-1":
        return ml_superb_1(text)
    if normalizer == "ml-superb-2":
        return ml_superb_2(text, language)
    if normalizer == "allophone":
        return normalize(text, language)
    raise ConfigError(f"Unknown normalizer {normalizer!r}. {suggest(normalizer, NORMALIZERS)}")


def ml_superb_1(text: str) -> str:
    """Upper case without ASCII punctuation and without what stands in square brackets.

    Source: ESPnet ``egs2/ml_superb/asr1/local/data_prep.py``. Punctuation beyond ASCII (« », ।, 。) stays.

    Example:
        >>> ml_superb_1("[noise] C'est l'été.")
        'CEST LÉTÉ'
    """
    return _BRACKETED.sub("", text).translate(_ASCII_PUNCTUATION).upper().strip()


def ml_superb_2(text: str, language: str) -> str:
    """Upper case without Unicode punctuation (P*), and without spaces in Mandarin, Japanese, Thai and Cantonese.

    Source: ESPnet ``egs2/ml_superb2/asr1/local/score.py``. Symbols (S*) stay; spaces are not collapsed.

    Example:
        >>> ml_superb_2("我想去餐厅， 我非常饿。", "cmn")
        '我想去餐厅我非常饿'
    """
    code = language.split("_")[0].lower()
    if len(code) != 3:
        code = parse_language(language).code
    if code in _SPACES_DROPPED:
        text = re.sub(r"\s", "", text)
    return "".join(c for c in text if not unicodedata.category(c).startswith("P")).upper().strip()
