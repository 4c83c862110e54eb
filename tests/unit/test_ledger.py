"""Which recordings an encoder is judged on: with second voices, and with other speakers in every split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.recipes.ledger import LedgerConfig, labelled_rows, language_rows, main_voices, named_rows
from allophone.recipes.suite_scores import space_rows


def corpus_of(*told: tuple[str, str | None, str | None, list[str]], language: str = "fra_Latn") -> Corpus:
    """Utterances from (language, speaker, split, contents)."""
    rows = [
        Utterance(
            id=f"{language}-{speaker}-{split}-{content}",
            path="x.wav",
            duration_seconds=1.0,
            sample_rate=16_000,
            language=language,
            speaker=speaker,
            group=content,
            text=f"text {content}",
            split=split,  # type: ignore[arg-type]
        )
        for language, speaker, split, contents in told
        for content in contents
    ]
    return Corpus(Path("nowhere"), tuple(rows), name="made")


def contents(name: str, count: int) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


FRENCH = "fra_Latn"


def voices(corpus: Corpus) -> Counter[tuple[str | None, str | None]]:
    return Counter((row.speaker, row.split) for row in main_voices(corpus))


def test_held_out_speakers_that_training_has_not_are_kept() -> None:
    """The split that `corpus split` makes: no speaker and no content on two sides."""
    corpus = corpus_of(
        (FRENCH, "a", "train", contents("a", 30)),
        (FRENCH, "b", "dev", contents("b", 4)),
        (FRENCH, "c", "test", contents("c", 5)),
        (FRENCH, "d", "test", contents("d", 3)),
        (FRENCH, "e", None, contents("e", 2)),
    )
    assert voices(corpus) == {("a", "train"): 30, ("b", "dev"): 4, ("c", "test"): 5, ("d", "test"): 3}
    train, test = labelled_rows(corpus, LedgerConfig())
    assert (len(train), len(test)) == (30, 8)
    assert main_voices(main_voices(corpus)).utterances == main_voices(corpus).utterances


def test_a_second_voice_is_left_to_retrieval() -> None:
    """It says what a trained voice says, or is of another studio; a held-out speaker of other contents stays."""
    corpus = corpus_of(
        (FRENCH, "a", "train", contents("a", 30)),
        (FRENCH, "a", "test", contents("held out", 6)),
        (FRENCH, "second", "test", contents("a", 20) + contents("held out", 6) + contents("own", 3)),
        (FRENCH, "c", "test", contents("c", 5) + contents("a", 1)),
        (FRENCH, "elsewhere", "test", contents("e", 5)),
    )
    rows = [replace(row, source="radio" if row.speaker == "elsewhere" else "studio") for row in corpus]
    corpus = corpus.with_utterances(tuple(rows))
    assert voices(corpus) == {("a", "train"): 30, ("a", "test"): 6, ("c", "test"): 6}


def test_a_split_is_never_emptied() -> None:
    """Where all speakers read one list of sentences, all of them look like second voices."""
    corpus = corpus_of(
        (FRENCH, "a", "train", contents("list", 10)),
        (FRENCH, "b", "dev", contents("list", 10)),
        (FRENCH, "c", "test", contents("list", 10)),
    )
    assert voices(corpus) == {("a", "train"): 10, ("b", "dev"): 10, ("c", "test"): 10}


def test_speakers_that_are_not_told_are_one_voice() -> None:
    corpus = corpus_of((FRENCH, None, "train", contents("a", 10)), (FRENCH, None, "test", contents("b", 4)))
    assert voices(corpus) == {(None, "train"): 10, (None, "test"): 4}


class Told:
    """Frames that tell the language, whose number is the first sample."""

    name, layers, frame_rate = "before", 2, 25.0

    def extract(self, waveforms: list[Tensor]) -> list[Tensor]:
        return [torch.eye(8)[int(10 * wave[0])].expand(2, 3, 8) + 0.01 * torch.randn(2, 3, 8) for wave in waveforms]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> dict[str, Corpus]:
    """Five languages; Russian has nothing to train on, Bulgarian and Italian have nothing held out."""
    tags = ["fra_Latn", "spa_Latn", "rus_Cyrl", "bul_Cyrl", "ita_Latn"]
    told = [(tag, f"{tag} a", "train", contents("a", 6)) for tag in tags if tag != "rus_Cyrl"]
    told += [(tag, f"{tag} b", "test", contents("b", 4)) for tag in tags if tag not in ("bul_Cyrl", "ita_Latn")]
    corpus = corpus_of(*told)
    monkeypatch.setattr(
        Corpus, "audio", lambda self, row: torch.tensor([0.1 * tags.index(row.language) + 0.01, float(len(row.id))])
    )
    return {tag: corpus.where(language=tag) for tag in tags}


def test_chance_is_over_the_languages_that_can_be_answered(several: dict[str, Corpus]) -> None:
    train, test = named_rows(several, LedgerConfig())
    assert set(train) == {"fra_Latn", "spa_Latn", "bul_Cyrl", "ita_Latn"} and set(test) == {"fra_Latn", "spa_Latn"}
    systems = {"before": Told()}
    found = language_rows(systems, several, LedgerConfig(), 0)  # type: ignore[arg-type]
    space, _ = space_rows(systems, several, LedgerConfig(), 0, lambda name: lambda *told: None)  # type: ignore[arg-type]
    for measure in ("language_identification", "language_neighbors"):
        cells = {(one.language, one.system): one for one in [*found, *space] if one.measure == measure}
        assert set(cells) == {(tag, system) for tag in test for system in ("before", "chance")}
        for tag in test:
            assert np.allclose(cells[tag, "chance"].numerators / cells[tag, "chance"].denominators, 1 / len(train))
