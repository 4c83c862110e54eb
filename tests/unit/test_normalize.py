"""text/normalize: transcripts of the same words become one string, and nothing that tells words apart is lost."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.errors import DataError
from allophone.text.normalize import normalize

CASES = [
    ("fra", "«C’est l’été », dit-elle.", "c'est l'été dit elle"),
    ("fra", "C'EST L'E\u0301TE\u0301 -- DIT ELLE!", "c'est l'été dit elle"),
    ("eng", "  It costs $5.20,\tno?  ", "it costs 5 20 no"),
    ("tur", "İSTANBUL, IŞIK", "istanbul ışık"),
    ("deu", "STRASSE 'quoted'", "strasse quoted"),
    ("hin", "नमस्ते।  दुनिया", "नमस्ते दुनिया"),
    ("heb", "שָׁלוֹם!", "שָׁלוֹם"),
    ("arb", "كتـــاب، نَعَم؟", "كتاب نَعَم"),
    ("jpn", "ＡＢＣ、今日 は。", "abc今日は"),
    ("tha", "สวัสดี ครับ", "สวัสดีครับ"),
    ("ell", "ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
    ("khm", "សេក\u200bអូស្ដ្រាលី", "សេកអូស្ដ្រាលី"),
    ("eng", "", ""),
    ("eng", "...", ""),
]


@pytest.mark.parametrize(("language", "text", "expected"), CASES)
def test_known_cases(language: str, text: str, expected: str) -> None:
    assert normalize(text, language) == unicodedata.normalize("NFC", expected)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["eng", "tur", "jpn", "hin", "ell", "arb"]))
def test_normalizing_twice_changes_nothing(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_only_letters_marks_numbers_apostrophes_and_single_spaces_remain(text: str) -> None:
    result = normalize(text, "eng")
    assert all(unicodedata.category(character)[0] in "LMN" or character in " '" for character in result)
    assert result == result.strip() and "  " not in result


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(categories=("Mn", "Mc", "Lo", "Nd")), max_size=20))
def test_letters_marks_and_digits_of_caseless_scripts_are_all_kept(text: str) -> None:
    expected = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    assert normalize(text, "hin").replace(" ", "") == expected.replace(" ", "")


def test_unknown_language_is_an_error() -> None:
    with pytest.raises(DataError, match="Unknown language 'klingonish'"):
        normalize("a", "klingonish")
