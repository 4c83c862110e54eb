"""xsim and xsim++ by hand, chance for vectors that say nothing, and questions by language."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allophone.data.utterance import Utterance
from allophone.evaluate.result import Signature
from allophone.evaluate.semantic_search import (
    chance_results,
    language_questions,
    search_misses,
    search_results,
)
from allophone.evaluate.text_retrieval import Pool, answer, build_pool

NEAR = {"two": ("three",)}


def row(number: int, language: str, text: str, other: str) -> Utterance:
    translations = {"eng_Latn" if language == "fra_Latn" else "fra_Latn": other}
    return Utterance(
        id=f"{language}-{number}",
        path="x.wav",
        duration_seconds=1.0,
        sample_rate=16_000,
        language=language,
        text=text,
        group=f"content {number}",
        translations=translations,
    )


def pool() -> Pool:
    words = [("one", "un"), ("two", "deux"), ("four", "quatre")]
    rows = [row(n, "eng_Latn", e, f) for n, (e, f) in enumerate(words)]
    return build_pool([*rows, *(row(n, "fra_Latn", f, e) for n, (e, f) in enumerate(words))])


def vectors(texts: Sequence[str]) -> Tensor:
    """The same in both languages; "three" lies beside "two"."""
    axes = {"one": 0, "un": 0, "two": 1, "deux": 1, "four": 2, "quatre": 2}
    found = torch.zeros(len(texts), 3)
    for place, text in enumerate(texts):
        found[place] = torch.tensor([0.1, 0.99, 0.1]) if text == "three" else torch.eye(3)[axes[text]]
    return found / found.norm(dim=1, keepdim=True)


def test_what_is_right_makes_no_error_and_what_is_swapped_does() -> None:
    searched = pool()
    texts = vectors([text for _, text in searched.texts])
    right = vectors([one.text or "" for one in searched.utterances])
    found = search_misses(searched, right, texts, NEAR, vectors)
    assert {kind: float(one.values.mean()) for kind, one in found.items()} == {
        "xsim error, own language": 0.0,
        "xsim++ error, own language": 0.0,
        "xsim error, other languages": 0.0,
        "xsim++ error, other languages": 0.0,
    }
    assert len(found["xsim error, own language"].values) == 6
    assert len(found["xsim++ error, own language"].values) == 1  # "two" alone has a neighbor
    nearly = right.clone()
    place = [one.text for one in searched.utterances].index("two")
    nearly[place] = vectors(["three"])[0]
    found = search_misses(searched, nearly, texts, NEAR, vectors)
    assert float(found["xsim error, own language"].values.sum()) == 0
    assert float(found["xsim++ error, own language"].values.sum()) == 1


def test_vectors_that_say_nothing_always_err_and_chance_counts_candidates() -> None:
    searched = pool()
    texts = vectors([text for _, text in searched.texts])
    found = search_misses(searched, torch.zeros(6, 3), texts, NEAR, vectors)
    assert all(float(one.values.mean()) == 1.0 for one in found.values())
    chance = {one.name: one.value for one in chance_results(found, "data")}
    assert abs(chance["xsim error, own language"] - 200 / 3) < 1e-9
    assert abs(chance["xsim++ error, own language"] - 75.0) < 1e-9
    signature = Signature(data_hash="d", model_hash="m", normalizer="n", seed=0)
    results = search_results([found, found], signature, (0, 1))
    assert {one.name for one in results} == set(chance) and results[0].seeds == (0, 1)
    assert not results[0].higher_is_better


def test_questions_part_the_spoken_language_from_others() -> None:
    searched = pool()
    texts = vectors([text for _, text in searched.texts])
    speech = vectors([one.text or "" for one in searched.utterances])
    asked = {one.name: one for one in language_questions(searched, least=1)}
    assert "speech to text, all to own language" in asked
    one = asked["speech to text, fra_Latn to other languages"]
    assert len(one.queries) == 3
    languages = [language for language, _ in searched.texts]
    right = [[languages[place] for place in row.nonzero()[:, 0].tolist()] for row in one.right]
    assert right == [["eng_Latn"]] * 3
    assert not bool((one.allowed & ~one.right & searched.says[one.queries]).any())
    assert answer(one, speech, texts).recall[1].mean() == 1.0
