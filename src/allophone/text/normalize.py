"""Text as it is compared in a character error rate: the same for every transcript of the same words.

Source: the steps are those common to published multilingual evaluations (lower case, no punctuation); combining
marks are kept, because in Brahmic, Arabic and Hebrew scripts they carry vowels and consonants.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from allophone.text.languages import parse_language

_WITHOUT_SPACES = frozenset(("Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"))
_COMPATIBLE_FORMS = frozenset(("Hans", "Hant", "Hani", "Jpan"))
_DOTTED_I = frozenset(("tur", "aze", "azj", "azb", "crh", "kaz", "tat", "gag"))
_APOSTROPHES = frozenset("'\u2019\u02bc\u2018\uff07\u0060\u00b4")
_TATWEEL = "\u0640"


def normalize(text: str, language: str) -> str:
    """Normalize a transcript for scoring.

    Unicode NFC; lower case (with dotted and dotless i where the language has both); punctuation, symbols and control
    characters become spaces, except an apostrophe between two letters, which is a letter in many orthographies;
    combining marks and digits stay; spaces are collapsed, or dropped in scripts that do not separate words.

    Args:
        text: As written.
        language: Any tag that :func:`~allophone.text.languages.parse_language` reads.

    Returns:
        The normalized text; ``normalize(normalize(text, l), l) == normalize(text, l)``.

    Raises:
        DataError: The language is unknown.

    Example:
        >>> normalize("«C’est l’été », dit-elle.", "fra")
        "c'est l'été dit elle"
    """
    spoken = parse_language(language)
    form: Literal["NFC", "NFKC"] = "NFKC" if spoken.script in _COMPATIBLE_FORMS else "NFC"
    text = unicodedata.normalize(form, text)
    if spoken.code in _DOTTED_I and spoken.script == "Latn":
        text = text.replace("I\u0307", "i").replace("\u0130", "i").replace("I", "\u0131")
    text = unicodedata.normalize(form, text.lower())
    kept = "".join(_kept(text, position) for position in range(len(text)))
    words = unicodedata.normalize(form, kept).split()
    joined = ("" if spoken.script in _WITHOUT_SPACES else " ").join(words)
    return unicodedata.normalize(form, joined)  # without spaces, a mark may have met its letter


def _kept(text: str, position: int) -> str:
    """What stands for one character: itself, nothing, a plain apostrophe, or a space."""
    character = text[position]
    if character in _APOSTROPHES:
        inside = 0 < position < len(text) - 1 and _is_word(text[position - 1]) and _is_word(text[position + 1])
        return "'" if inside else " "
    if _is_word(character):
        return "" if character == _TATWEEL else character
    return "" if unicodedata.category(character) == "Cf" else " "


def _is_word(character: str) -> bool:
    """Letters, combining marks, digits and other numbers."""
    return unicodedata.category(character)[0] in "LMN"
