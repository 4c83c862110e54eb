from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from tiny_model import LASR
from torch import Tensor
from torch.nn import functional as F

from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.text_retrieval import (
    LIKE_LENGTH,
    Pool,
    Relation,
    answer,
    build_pool,
    chance,
    held_out,
    questions,
    score,
    score_chance,
)
from allophone.metrics.ranking import ROWS
from allophone.models.lasr import Lasr
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig

LANGUAGES = ("fra_Latn", "eng_Latn", "spa_Latn")


def rows(contents: int, first: int = 0) -> list[Utterance]:
    """Every content spoken in French and English, with a Spanish text that nobody speaks."""
    return [
        Utterance(
            id=f"{language}-{number}",
            path="x.wav",
            duration_seconds=1.0,
            sample_rate=16_000,
            language=language,
            text=f"{language} text {number}",
            group=f"content {number}",
            translations={"spa_Latn": f"texto {number}"},
        )
        for number in range(first, first + contents)
        for language in LANGUAGES[:2]
    ]


def perfect(pool: Pool) -> tuple[Tensor, Tensor]:
    contents = sorted({str(row.group) for row in pool.utterances})
    table = torch.eye(len(contents))
    speech = torch.stack([table[contents.index(str(row.group))] for row in pool.utterances])
    first = pool.says.int().argmax(dim=0)
    return speech, speech[first]


def test_a_perfect_space_answers_everything() -> None:
    pool = build_pool(rows(30))
    assert pool.says.shape == (60, 90) and int(pool.says.sum()) == 180
    asked = questions(pool, pairs=True)
    names = {question.name for question in asked}
    assert {"speech to text", "speech to text, fra_Latn to spa_Latn", "text to speech, spa_Latn to eng_Latn"} <= names
    assert "speech to speech, fra_Latn to eng_Latn" in names and "speech to speech, fra_Latn to fra_Latn" not in names
    for question in asked:
        found = answer(question, *perfect(pool))
        assert found.recall[1].tolist() == [1.0] * len(question.queries), question.name
        assert found.average_precision.tolist() == pytest.approx([1.0] * len(question.queries)), question.name


def test_in_a_pair_the_third_language_is_left_out_and_all_else_stays_in() -> None:
    pool = build_pool(rows(30))
    question = next(one for one in questions(pool, pairs=True) if one.name == "speech to text, fra_Latn to spa_Latn")
    assert question.allowed.sum(dim=1).unique().tolist() == [88]  # 90 texts without the two others of its content
    assert question.right.sum(dim=1).unique().tolist() == [1]
    assert chance(question).recall[1].tolist() == pytest.approx([1 / 88] * 30)
    speech = next(one for one in questions(pool, pairs=False) if one.direction == "speech to speech")
    assert speech.allowed.sum(dim=1).unique().tolist() == [59]  # not itself
    assert questions(pool, pairs=True, least=31) != [] and len(questions(pool, pairs=True, least=31)) == 3


def test_what_is_right_and_what_takes_part_is_as_defined() -> None:
    some = [replace(row, duration_seconds=1.0 + 0.15 * number) for number, row in enumerate(rows(4))]
    some[3] = replace(some[3], translations={"spa_Latn": "otro texto"})  # a second wording of its content
    pool = build_pool(some)
    seconds = [row.duration_seconds for row in pool.utterances]
    languages = {"speech": [row.language for row in pool.utterances], "text": [tag for tag, _ in pool.texts]}
    alike = [[bool((one & other).any()) for other in pool.says] for one in pool.says]
    says = {"speech to text": pool.says.tolist(), "text to speech": pool.says.T.tolist(), "speech to speech": alike}
    for one in questions(pool, pairs=True, least=1):
        asking, _, answering = one.direction.partition(" to ")
        right, allowed = one.right.tolist(), one.allowed.tolist()
        for place, query in enumerate(one.queries.tolist()):
            for other, language in enumerate(languages[answering]):
                far = own = False
                if one.direction == "speech to speech":
                    far = not 1 / LIKE_LENGTH <= seconds[query] / seconds[other] <= LIKE_LENGTH
                    own = language == languages[asking][query]
                true = says[one.direction][query][other]
                expected = true and not far and not own and (one.pair is None or language == one.pair[1])
                assert right[place][other] == expected, (one.name, query, other)
                assert allowed[place][other] == (expected or not (true or far)), (one.name, query, other)


def test_the_memory_of_questions_does_not_grow_with_pairs_of_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, sizes = build_pool(rows(ROWS)), []
    masks = Relation.masks
    monkeypatch.setattr(
        Relation, "masks", lambda self, queries, wanted: (sizes.append(len(queries)), masks(self, queries, wanted))[1]
    )
    asked = questions(pool, pairs=True)
    assert len({id(one.relation) for one in asked}) == 3  # what is large is shared
    held = [getattr(one, field.name) for one in asked for field in fields(one)]
    assert all(part.ndim == 1 for part in held if isinstance(part, Tensor))
    one = next(one for one in asked if one.name == "speech to text")
    assert answer(one, *perfect(pool)).recall[1].shape == chance(one).recall[1].shape == (2 * ROWS,)
    assert max(sizes) == ROWS


def test_random_encoder_at_chance(speech: Callable[..., Tensor]) -> None:
    """Random weights on waveforms, random vectors for texts: no score lies above or below chance.

    What is long in one language is long in the other, which a random encoder hears.
    """
    lasting = {f"content {number}": 0.3 + 0.03 * number for number in range(40)}
    pool = build_pool([replace(row, duration_seconds=lasting[str(row.group)]) for row in rows(40)])
    waves = [
        speech(row.duration_seconds + 0.01 * (number % 3), seed=number) for number, row in enumerate(pool.utterances)
    ]
    vectors = {}
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        embedder = SpeechEmbedder(Lasr(LASR), SpeechEmbedderConfig(dim=16, pooling_dim=8))
        texts = F.normalize(torch.randn(len(pool.texts), 16), dim=-1)
        vectors[seed] = (F.normalize(embedder.embed(waves), dim=-1), texts)
    asked = questions(pool, pairs=True)
    found = score(asked, vectors, model_hash="random", data_hash="x", seeds=(0, 1, 2))
    expected = {one.name: one.value for one in score_chance(asked, data_hash="x")}
    outside = [one.name for one in found if not one.low <= expected[one.name] <= one.high]
    assert len(found) == len(expected) == 5 * len(asked)
    assert len(outside) <= 0.1 * len(found), outside  # 95 % intervals


def test_recordings_of_other_lengths_are_left_out() -> None:
    """Of four contents in two languages, those of 1.0 and 1.2 s are of like length, those of 3.0 and 4.0 s are not."""
    seconds = {"content 0": 1.0, "content 1": 1.2, "content 2": 3.0, "content 3": 4.0}
    pool = build_pool([replace(row, duration_seconds=seconds[str(row.group)]) for row in rows(4)])
    by_length = next(one for one in questions(pool, pairs=False) if one.direction == "speech to speech")
    assert by_length.right.sum(dim=1).tolist() == [1] * 8
    assert by_length.allowed.sum(dim=1).tolist() == [3] * 4 + [1] * 4  # the right one, and two of the other content
    lengthened = replace(pool.utterances[1], duration_seconds=2.0)
    odd = build_pool([pool.utterances[0], lengthened, *pool.utterances[2:]])
    (found,) = [one for one in questions(odd, pairs=False) if one.direction == "speech to speech"]
    assert len(found.queries) == 6  # the first content has no other recording of like length now


def test_held_out_shares_neither_group_nor_text() -> None:
    known = rows(3)
    same_text = Utterance(
        id="s", path="x", duration_seconds=1, sample_rate=1, language="spa_Latn", text="TEXTO 1!", group="other"
    )
    assert [row.id for row in held_out([*rows(5), same_text], known)] == [row.id for row in rows(2, first=3)]


def test_a_pool_needs_texts() -> None:
    with pytest.raises(DataError, match=r"None of 2 utterances has a text in \['deu_Latn'\]"):
        build_pool(rows(1), ["deu_Latn"])
