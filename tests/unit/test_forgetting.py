"""Same words are one prompt, and a random ranking finds them as often as they are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from allophone.data.corpus import Corpus
from allophone.evaluate.forgetting import Spoken, chance_retrieval, measure_retrieval, measure_text
from allophone.recipes.ledger import LedgerConfig
from allophone.recipes.voices import spoken_pair, voice_pair
from allophone.seeding import derive


class Waveforms:
    """Frames that are the samples themselves, eight to a frame."""

    name, layers, frame_rate = "samples", 1, 2_000.0

    def extract(self, waveforms):  # type: ignore[no-untyped-def]
        return [waveform.reshape(1, -1, 8) for waveform in waveforms]


def spoken(name: str, seeds: list[int], groups: list[str]) -> Spoken:
    waveforms = tuple(torch.randn(80, generator=torch.Generator().manual_seed(seed)) for seed in seeds)
    ids = tuple(f"{name}{index}" for index in range(len(seeds)))
    return Spoken(ids, waveforms, (None,) * len(seeds), tuple(groups), (name,) * len(seeds))


def test_either_of_two_prompts_with_the_same_words_is_right() -> None:
    first = spoken("a", [1, 2, 3], ["x", "y", "x"])
    second = spoken("b", [3, 2, 1], ["x", "y", "x"])
    (found, _) = measure_retrieval("before", Waveforms(), 0, first, second, language="ita_Latn", seed=0)
    assert found.items == ("a0", "a1", "a2", "b0", "b1", "b2")
    np.testing.assert_array_equal(found.numerators, np.ones(6))
    apart = replace(first, groups=("x", "y", "z")), replace(second, groups=("x", "y", "z"))
    (found, _) = measure_retrieval("before", Waveforms(), 0, *apart, language="ita_Latn", seed=0)
    np.testing.assert_array_equal(found.numerators, [0, 1, 0, 0, 1, 0])


def test_chance_counts_how_many_candidates_are_right() -> None:
    first, second = spoken("a", [1, 2, 3], ["x", "y", "x"]), spoken("b", [3, 2, 1], ["x", "y", "x"])
    (like, _) = measure_retrieval("before", Waveforms(), 0, first, second, language="ita_Latn", seed=0)
    np.testing.assert_allclose(chance_retrieval(like, first, second).numerators, np.array([2, 1, 2, 2, 1, 2]) / 3)


def test_errors_of_a_repeated_probe_are_those_of_single_ones_added_up() -> None:
    train, test = spoken("a", list(range(12)), ["x"] * 12), spoken("b", list(range(20, 26)), ["x"] * 6)
    train = replace(train, texts=tuple("ab ba aa bb".split() * 3))
    test = replace(test, texts=tuple("abb baa bab".split() * 2))

    def errors(seed: int, repeats: int = 1) -> np.ndarray:
        (found,) = measure_text(
            "before", Waveforms(), train, test, language="ita_Latn", seed=seed, few=(6,), steps=20, repeats=repeats
        )
        return np.stack([found.numerators, found.denominators])

    seeds = [5, *(derive(5, "probe repeat", repeat) for repeat in (1, 2))]
    np.testing.assert_array_equal(errors(5, repeats=3), sum(errors(seed) for seed in seeds))


@pytest.fixture
def two_voices(tmp_path: Path) -> Corpus:
    rows = ["path,language,speaker,group,text,split"]
    texts = {"one": "Sì.", "two": "sì", "three": "No."}
    for speaker, split in (("a", "train"), ("b", "test")):
        for number, (group, text) in enumerate(texts.items()):
            name = f"{speaker}-{group}.wav"
            soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(number).standard_normal(16_000), 16_000)
            rows.append(f"{name},ita,{speaker},{group},{text},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return Corpus.open(tmp_path / "manifest.csv")


def test_prompts_with_the_same_words_become_one_group(two_voices: Corpus) -> None:
    pair = voice_pair(two_voices, LedgerConfig(min_pair_prompts=2), everything=True)
    assert pair is not None
    first, second = spoken_pair(two_voices, pair)
    groups = dict(zip((one.id for one in pair[0]), first.groups, strict=True))
    assert first.groups == second.groups
    assert len(groups) == 3
    assert len(set(groups.values())) == 2
