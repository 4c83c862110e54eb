"""Which text an utterance is turned into: its own or one of another language, drawn by key."""

from __future__ import annotations

import pytest

from allophone.data.texts import TextDraws
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError


def utterance(name: str, text: str | None, **translations: str) -> Utterance:
    return Utterance(
        id=name,
        path=f"{name}.wav",
        duration_seconds=1.0,
        sample_rate=16_000,
        language="fra_Latn",
        text=text,
        translations=translations,
    )


ROWS = [utterance(str(n), f"oui {n}", eng_Latn=f"yes {n}", deu_Latn=f"ja {n}") for n in range(20)]


def test_own_words() -> None:
    drawn = TextDraws(ROWS).draw(ROWS[:2], [0, 0], seed=1, epoch=0)
    assert drawn.texts == ("oui 0", "oui 1") and drawn.languages == ("fra_Latn",) * 2


def test_drawn_by_key_alone_and_evenly() -> None:
    draws = TextDraws(ROWS, ["eng_Latn", "deu_Latn"])
    first = draws.draw(ROWS, [0] * 20, seed=1, epoch=0)
    assert draws.draw(ROWS, [0] * 20, seed=1, epoch=0) == first
    assert draws.draw(ROWS[5:6], [0], seed=1, epoch=0).texts == first.texts[5:6]
    assert draws.draw(ROWS, [0] * 20, seed=1, epoch=1) != first != draws.draw(ROWS, [1] * 20, seed=1, epoch=0)
    assert set(first.languages) == {"eng_Latn", "deu_Latn"}
    assert all(
        (text[:3] == "yes") == (language == "eng_Latn")
        for text, language in zip(first.texts, first.languages, strict=True)
    )


def test_who_has_no_text_is_named() -> None:
    with pytest.raises(DataError, match="1 of 21 utterances have no text in their own language, the first is 'x'"):
        TextDraws([*ROWS, utterance("x", None, eng_Latn="yes")])
    with pytest.raises(DataError, match="no text in swh_Latn"):
        TextDraws(ROWS, ["swh_Latn"])
    with pytest.raises(ConfigError, match="Texts in no language"):
        TextDraws(ROWS, [])
