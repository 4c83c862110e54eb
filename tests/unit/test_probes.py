"""Linear CTC probe and language identification."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.language_identification import identify_languages, leave_one_source_out
from allophone.evaluate.probes import CTCProbeConfig, chance_text_errors, linear_ctc_probe

ALPHABET = "abcdef "
QUICK = CTCProbeConfig(steps=150, learning_rates=(3e-2,), input_dropouts=(0.4,), seed=0)


def spell(text: str, frames_each: int, generator: torch.Generator) -> Tensor:
    """Frames of a text, shape ``(2, T, D)``: layer 0 is noise, layer 1 holds the characters."""
    spoken = [ALPHABET.index(character) for character in text for _ in range(frames_each)]
    clean = torch.nn.functional.one_hot(torch.tensor(spoken), len(ALPHABET)).float()
    frames = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return torch.stack([torch.randn(frames.shape, generator=generator), frames]) * 7 + 3


def spelled(count: int, seed: int, frames_each: int = 2) -> tuple[list[Tensor], list[str]]:
    """Clips and their texts; no letter twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    while len(texts) < count:
        drawn = torch.randint(len(ALPHABET), (int(torch.randint(4, 9, (), generator=generator)),), generator=generator)
        text = "".join(ALPHABET[index] for index in torch.unique_consecutive(drawn).tolist()).strip()
        if text:
            texts.append(text)
    return [spell(text, frames_each, generator) for text in texts], texts


@pytest.fixture(scope="module")
def easy() -> tuple[list[Tensor], list[str], list[Tensor], list[str]]:
    """Training and test clips of the spelled language."""
    return (*spelled(120, 0), *spelled(30, 1))


def test_probe_learns_an_easy_language_and_which_layer_holds_it(
    easy: tuple[list[Tensor], list[str], list[Tensor], list[str]],
) -> None:
    result = linear_ctc_probe(*easy, language="eng", config=QUICK)
    assert result.character_error < 10.0
    assert result.layer_weights[1] > 0.6 and sum(result.layer_weights) == pytest.approx(1.0)
    assert result.counts.lengths.tolist() == [len(text) for text in result.references]
    chance = chance_text_errors(easy[1], easy[3], language="eng")
    assert 100 * chance.rate > 60 and chance.lengths.tolist() == result.counts.lengths.tolist()


def test_probe_of_noise_reads_nothing(easy: tuple[list[Tensor], list[str], list[Tensor], list[str]]) -> None:
    train, test = ([item[:1] for item in frames] for frames in (easy[0], easy[2]))
    assert linear_ctc_probe(train, easy[1], test, easy[3], language="eng", config=QUICK).character_error > 70.0


def test_two_outputs_a_frame_read_what_one_cannot() -> None:
    def two_characters_a_frame(frames: Tensor) -> Tensor:
        even = torch.nn.functional.pad(frames, (0, 0, 0, frames.shape[1] % 2))
        return even.unflatten(1, (-1, 2)).flatten(2)

    (train, train_texts), (test, test_texts) = spelled(120, 0, frames_each=1), spelled(30, 1, frames_each=1)
    clips = [two_characters_a_frame(frames) for frames in train], train_texts
    unseen = [two_characters_a_frame(frames) for frames in test], test_texts
    with pytest.raises(DataError, match=r"'too_short': 1[12][0-9]"):
        linear_ctc_probe(*clips, *unseen, language="eng", config=QUICK)
    two = linear_ctc_probe(*clips, *unseen, language="eng", config=replace(QUICK, outputs_per_frame=2))
    assert two.left_out["too_short"] == 0 and two.character_error < 15.0


def test_same_seed_same_errors_and_randomness_outside_is_untouched(
    easy: tuple[list[Tensor], list[str], list[Tensor], list[str]],
) -> None:
    config = replace(QUICK, steps=20, few=30)
    before = torch.get_rng_state()
    first, second = (linear_ctc_probe(*easy, language="eng", config=config) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.hypotheses == second.hypotheses and first.train_clips == 30
    other = linear_ctc_probe(*easy, language="eng", config=replace(config, seed=1))
    assert other.hypotheses != first.hypotheses


def test_learning_rate_and_dropout_are_chosen_on_training_texts(
    easy: tuple[list[Tensor], list[str], list[Tensor], list[str]],
) -> None:
    calls: list[tuple[int, int]] = []
    config = replace(QUICK, steps=60, learning_rates=(1e-6, 3e-2), input_dropouts=(0.2, 0.9))
    result = linear_ctc_probe(
        *easy, language="eng", config=config, progress=lambda done, total: calls.append((done, total))
    )
    assert (result.learning_rate, result.input_dropout) == min(result.dev_error, key=result.dev_error.__getitem__)
    assert result.learning_rate == 3e-2 and result.dev_error[3e-2, 0.2] < result.dev_error[1e-6, 0.2]
    assert calls == [(done, 5) for done in range(1, 6)]
    unread = (easy[0], easy[1], easy[2][:1], easy[3][:1])
    assert linear_ctc_probe(*unread, language="eng", config=config).dev_error == result.dev_error


def test_texts_with_digits_and_texts_of_the_test_are_not_trained_on() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = ["abc", "Fade.", "bead 12", "...", "face", "cab"]
    frames = [spell("abcdef", 2, generator) for _ in texts]
    result = linear_ctc_probe(
        frames, texts, frames[:3], ["fade!", "7", "bed"], language="eng", config=replace(QUICK, steps=1)
    )
    assert result.left_out == {"digits": 2, "in_test": 1, "too_short": 0} and result.train_clips == 3
    assert result.utterances == (0, 2) and result.references == ("fade", "bed")


def test_probe_refuses_what_it_cannot_train_on() -> None:
    frames = [torch.ones(1, 9, 3)] * 3
    with pytest.raises(DataError, match="3 training clips with 2 texts"):
        linear_ctc_probe(frames, ["a", "b"], frames, ["c"] * 3, language="eng")
    with pytest.raises(DataError, match="At least two different training texts"):
        linear_ctc_probe(frames, ["a", "a", "1"], frames, ["c"] * 3, language="eng")
    with pytest.raises(NumericsError, match="look for NaN in the frames"):
        linear_ctc_probe([item * float("nan") for item in frames], list("abd"), frames, ["c"] * 3, language="eng")


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"learning_rates": ()}, {"input_dropouts": (0.2, 1.0)}, {"input_dropouts": ()}, {"few": 1}]
)
def test_config_refuses_values_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="CTCProbeConfig"):
        replace(QUICK, **change)  # type: ignore[arg-type]


def embeddings(languages: list[str], voices: list[str], seed: int, language_scale: float) -> np.ndarray:
    """A direction of the language and a louder one of the voice, in noise."""
    centers = {
        name: np.random.default_rng(number).standard_normal(24)
        for number, name in enumerate(sorted({"x", "y", "z", *voices}))
    }
    noise = np.random.default_rng(seed + 100).standard_normal((len(languages), 24))
    rows = [language_scale * centers[one] + 3 * centers[voice] for one, voice in zip(languages, voices, strict=True)]
    return np.array(rows) + 0.3 * noise


def test_separable_languages_are_named() -> None:
    languages, voices = ["x", "y", "z"] * 20, ["v"] * 60
    result = identify_languages(
        embeddings(languages, voices, 0, 2.0), languages, embeddings(languages, voices, 1, 2.0), languages
    )
    assert result.accuracy == 100.0 and result.recall == {"x": 100.0, "y": 100.0, "z": 100.0} and result.converged
    assert result.interval().n == 60


def test_random_embeddings_score_chance_within_the_interval() -> None:
    generator = np.random.default_rng(0)
    languages = ["x", "y", "z"] * 60
    result = identify_languages(
        generator.standard_normal((180, 10)), languages, generator.standard_normal((180, 10)), languages
    )
    interval = result.interval()
    assert interval.low <= 100 / 3 <= interval.high
    assert result.macro_recall == pytest.approx(result.accuracy)


def test_leaving_a_source_out_shows_that_a_voice_was_recognized() -> None:
    languages = [language for language in "xy" for _ in range(40)]
    voices = [f"{language}-{index % 2}" for index, language in enumerate(languages)]
    vectors = embeddings(languages, voices, 0, 0.0)
    order = np.random.default_rng(0).permutation(80)
    train, test = order[:40], order[40:]
    named = [[languages[index] for index in part] for part in (train, test)]
    assert identify_languages(vectors[train], named[0], vectors[test], named[1]).accuracy == 100.0
    honest = leave_one_source_out(vectors, languages, voices)
    assert honest.accuracy < 80.0 and sorted(honest.utterances) == list(range(80))
    real = leave_one_source_out(embeddings(languages, voices, 0, 30.0), languages, voices)
    assert real.accuracy == 100.0


def test_a_language_with_one_source_is_not_tested_but_trained_on() -> None:
    languages, sources = ["x", "x", "y", "y", "z", "z"] * 5, ["a", "b", "a", "b", "c", "c"] * 5
    result = leave_one_source_out(embeddings(languages, sources, 0, 30.0), languages, sources)
    assert set(result.truth) == {"x", "y"} and len(result.hits) == 20


def test_language_identification_refuses_bad_input() -> None:
    rows = np.zeros((2, 3))
    with pytest.raises(DataError, match="every test language among them"):
        identify_languages(rows, ["x", "y"], rows, ["x", "w"])
    with pytest.raises(DataError, match="one language each"):
        identify_languages(rows, ["x"], rows, ["x", "y"])
    with pytest.raises(NumericsError, match="train embedding 1 is not finite"):
        identify_languages(np.array([[0.0], [np.inf]]), ["x", "y"], rows, ["x", "y"])
    with pytest.raises(DataError, match="2 utterances but 1 sources"):
        leave_one_source_out(rows, ["x", "y"], ["a"])
    with pytest.raises(DataError, match="voice and language are confounded"):
        leave_one_source_out(rows, ["x", "y"], ["a", "b"])
