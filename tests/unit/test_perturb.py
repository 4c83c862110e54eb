"""Texts that are nearly right: what is changed, and that it depends on nothing else."""

from __future__ import annotations

import re

import pytest

from allophone.errors import DataError
from allophone.text.languages import parse_language
from allophone.text.perturb import NEGATIONS, hard_negatives


def of(text: str, language: str, *others: str) -> tuple[str, ...]:
    return hard_negatives([text, *others], [language] * (1 + len(others))).get(text, ())


@pytest.mark.parametrize("text", ["At 7 they left", "In 1999 they left", "২০২৩ সালে", "at 5", "10"])
def test_a_number_becomes_another_of_its_length_and_script(text: str) -> None:
    for seed in range(30):
        (wrong,) = hard_negatives([text], ["und_Zyyy"], seed=seed)[text]
        old, new = re.findall(r"\d+", text), re.findall(r"\d+", wrong)
        assert [len(n) for n in new] == [len(n) for n in old] and int(new[0]) != int(old[0])
        assert len(old[0]) == 1 or int(new[0][0]) != 0
        assert re.sub(r"\d", "", wrong) == re.sub(r"\d", "", text)
        assert new[0].isascii() == old[0].isascii()


@pytest.mark.parametrize(
    ("text", "language", "wrong"),
    [
        ("He will come.", "eng_Latn", "He will not come."),
        ("He did not come.", "eng_Latn", "He did come."),
        ("Не надо!", "rus_Cyrl", "Надо!"),
        ("Das ist nicht gut.", "deu_Latn", "Das ist gut."),
        ("Je ne sais pas.", "fra_Latn", "Je sais."),
        ("यह नहीं है", "hin_Deva", "यह है"),
    ],
)
def test_the_opposite(text: str, language: str, wrong: str) -> None:
    assert of(text, language) == (wrong,)


def test_names_are_exchanged_within_a_language() -> None:
    texts = ["We saw Anna there.", "Then Boris came.", "but Clara left, and Boris too", "The boris is small"]
    found = hard_negatives(texts, ["eng_Latn"] * 4)
    assert found[texts[0]] == ("We saw Clara there.",)  # Boris is written small elsewhere, so it is no name
    assert texts[1] not in found
    assert hard_negatives(texts[:1], ["eng_Latn"]) == {}  # there is no other name
    mixed = hard_negatives([texts[0], texts[2]], ["eng_Latn", "deu_Latn"])
    assert texts[0] not in mixed


def test_what_is_made_does_not_depend_on_order() -> None:
    texts = ["We saw Anna at 7.", "and Clara came at 12", "It is 5."]
    first = hard_negatives(texts, ["eng_Latn"] * 3)
    assert hard_negatives(texts[::-1], ["eng_Latn"] * 3) == first
    assert hard_negatives(texts, ["eng_Latn"] * 3, seed=4) != first
    assert len(first["It is 5."]) == 2 and len(hard_negatives(texts, ["eng_Latn"] * 3, most=1)["It is 5."]) == 1
    with pytest.raises(DataError, match="3 texts in 1 languages"):
        hard_negatives(texts, ["eng_Latn"])


def test_the_table_names_languages() -> None:
    assert all(parse_language(code).code == code for code in NEGATIONS)
