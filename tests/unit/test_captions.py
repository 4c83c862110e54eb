"""Captions: the table holds what it promises, and draws depend on their key alone."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from allophone.errors import DataError
from allophone.seeding import numpy_generator
from allophone.text.captions import (
    KINDS,
    Fact,
    _table,
    caption_languages,
    caption_texts,
    class_fact,
    draw_caption,
    language_fact,
)
from allophone.text.languages import parse_language

LANGUAGES = sorted({language for language, _ in _table()})
CLASSES = {
    "emotion": {"angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "calm", "bored"},
    "speaker": {"female", "male", "child", "old"},
    "sound": {"dog", "cat", "rain", "wind", "siren", "footsteps", "clapping", "laughing"},
}
SCRIPTS = {
    "Latn": "LATIN",
    "Cyrl": "CYRILLIC",
    "Grek": "GREEK",
    "Arab": "ARABIC",
    "Hebr": "HEBREW",
    "Deva": "DEVANAGARI",
}


def test_the_table_is_whole() -> None:
    assert len(LANGUAGES) >= 30
    for language in LANGUAGES:
        assert parse_language(language).tag == language
        for kind in KINDS:
            row = _table()[language, kind]
            assert len(row.templates) >= 2 and len(set(row.templates)) == len(row.templates)
            assert all(template.count("{}") == 1 and template == template.strip() for template in row.templates)
            assert row.names.keys() <= CLASSES.get(kind, row.names.keys()), (language, kind)
            assert all(name == name.strip() and name for name in row.names.values())
            missing = CLASSES.get(kind, set()) - row.names.keys()
            assert missing <= {"disgusted", "bored"}, (language, kind, missing)


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_are_written_in_the_script_of_their_language(language: str) -> None:
    script = language[4:]
    if script not in SCRIPTS:
        return
    facts = [Fact(kind, value) for kind, values in CLASSES.items() for value in values]  # type: ignore[arg-type]
    letters = {c for fact in facts for text in caption_texts(fact, language) for c in text if c.isalpha()}
    assert letters and all(unicodedata.name(c).startswith(SCRIPTS[script]) for c in letters)


def test_captions_of_two_classes_are_never_the_same() -> None:
    for language in LANGUAGES:
        seen: dict[str, str] = {}
        for kind in ("emotion", "speaker"):
            for value in sorted(CLASSES[kind]):
                for text in caption_texts(Fact(kind, value), language):  # type: ignore[arg-type]
                    assert seen.setdefault(text, value) == value, (language, text)


def test_texts_of_each_kind() -> None:
    assert caption_texts(class_fact("emotion", "Fear"), "rus_Cyrl")[0] == "испуганный голос"
    assert caption_texts(class_fact("speaker", "F"), "spa_Latn")[0] == "la voz de una mujer"
    assert caption_texts(class_fact("keyword", "Maison"), "fra_Latn")[0] == "le mot « Maison »"
    assert caption_texts(class_fact("sound", "dog_bark"), "eng_Latn")[0] == "the sound of dog bark"
    assert caption_texts(class_fact("sound", "dog_bark"), "fra_Latn") == ()  # no foreign words
    assert caption_texts(language_fact("por"), "eng_Latn")[1] == "speech in Portuguese"
    assert caption_languages(language_fact("por_Latn")) == ("eng_Latn", "por_Latn")
    assert caption_languages(language_fact("bel")) == ("eng_Latn",)


def test_content_is_told_in_the_languages_that_it_has() -> None:
    fact = Fact("content", "greeting", (("bel_Cyrl", "Прывітанне"), ("fra_Latn", "bonjour {}")))
    assert caption_languages(fact) == ("bel_Cyrl", "fra_Latn")
    assert caption_texts(fact, "bel_Cyrl") == ("Прывітанне",)  # a language without templates
    assert caption_texts(fact, "fra_Latn") == ("bonjour {}", "quelqu'un dit : « bonjour {} »")
    assert caption_texts(fact, "eng_Latn") == ()


def test_numbers_are_of_meanings_and_never_change() -> None:
    assert Fact("emotion", "happy").number == Fact("emotion", "happy", (("qaa_Zyyy", "x"),)).number
    assert len({Fact(kind, "x").number for kind in KINDS}) == len(KINDS)
    assert Fact("emotion", "happy").number == Fact("emotion", "happy").number >= 0


def test_draws_depend_on_their_key_and_reach_everything() -> None:
    facts = [class_fact("emotion", "sad"), class_fact("speaker", "male")]
    drawn = [draw_caption(facts, numpy_generator(0, "caption", key)) for key in range(2000)]
    assert drawn[:5] == [draw_caption(facts, numpy_generator(0, "caption", key)) for key in range(5)]
    found = {caption.text for caption in drawn if caption is not None}
    every = {text for fact in facts for language in LANGUAGES for text in caption_texts(fact, language)}
    assert found <= every and len(found) > 0.95 * len(every)
    share = np.mean([caption is not None and caption.fact.kind == "emotion" for caption in drawn])
    assert 0.45 < share < 0.55


def test_languages_can_be_chosen() -> None:
    facts = [class_fact("emotion", "sad"), class_fact("sound", "dog_bark")]
    drawn = [draw_caption(facts, numpy_generator(0, key), ("deu_Latn", "fra_Latn")) for key in range(40)]
    assert {caption.language for caption in drawn if caption is not None} == {"deu_Latn", "fra_Latn"}
    assert draw_caption(facts, numpy_generator(0), ("bel_Cyrl",)) is None


def test_unknown_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"No caption for emotion 'hapy'. Did you mean 'happy'\?"):
        class_fact("emotion", "hapy")
    with pytest.raises(DataError, match="No caption for keyword ' '"):
        class_fact("keyword", " ")
