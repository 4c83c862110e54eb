"""Speech is judged clip by clip: texts by language, pitch in semitones, voices by cosine; recordings by the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.errors import DataError
from allophone.evaluate.result import Signature
from allophone.evaluate.spoken import Clip, Judges, score_spoken, spoken_results

SIGNATURE = Signature(data_hash="d", model_hash="m", normalizer="n", seed=0, settings="transcriber x")


def tone(hertz: float, seconds: float = 0.5) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)


def clip(name: str, text: str, language: str = "fra_Latn", hertz: float = 200.0, seconds: float = 0.5) -> Clip:
    return Clip(name=name, waveform=tone(hertz, seconds), text=text, language=language, speaker="s")


CLIPS = [clip("a", "L'été!"), clip("b", "uno dos", "spa_Latn", seconds=0.7), clip("c", "Un deux", seconds=0.4)]


def told(answers: dict[int, str]) -> Judges:
    """Writes what is known of a waveform's length, after the language that it was told."""

    def transcribe(language: str):
        def listen(waveforms: Sequence[Tensor]) -> list[str]:
            assert len({language}) == 1 and len(waveforms) <= 2
            return [answers[len(waveform)] for waveform in waveforms]

        return listen

    return Judges(
        transcribe=transcribe,
        predict_mos=lambda waveform: 1 + len(waveform) / 16_000,
        embed=lambda waves: torch.stack([torch.tensor([1.0, float(wave.abs().max() > 0.2)]) for wave in waves]),
    )


def test_texts_are_compared_normalized_and_as_they_are_in_the_order_of_the_clips() -> None:
    judges = told({8_000: "l'été", 11_200: "uno tres", 6_400: "un deux"})
    scores = score_spoken(CLIPS, [one.waveform for one in CLIPS], judges)
    assert scores.transcripts == ("l'été", "uno tres", "un deux")
    assert scores.characters.errors.tolist() == [0, 3, 0]
    assert scores.characters.lengths.tolist() == [5, 7, 7]
    assert scores.words.errors.tolist() == [0, 1, 0] and scores.words.lengths.tolist() == [1, 2, 2]
    assert scores.raw_characters.errors.tolist() == [2, 3, 1]
    assert scores.mos is not None and scores.mos.tolist() == [1.5, 1.7, 1.4]
    assert scores.pitch[0].tolist() == [0, 0, 0] and scores.voicing[0].tolist() == [0, 0, 0]
    assert scores.similarity is not None and np.allclose(scores.similarity, 1)


def test_pitch_is_compared_in_semitones_and_silence_in_voicing() -> None:
    judges = told({8_000: "l'été", 11_200: "uno dos", 6_400: "un deux"})
    made = [tone(400.0), torch.zeros(11_200), tone(200.0, 0.4)]
    scores = score_spoken(CLIPS, made, judges)
    squares, both = scores.pitch
    assert (squares[0] / both[0]) ** 0.5 == pytest.approx(12.0, abs=0.2)
    assert both[1] == 0 and scores.voicing[0][1] > 0.8 * scores.voicing[1][1]
    assert scores.similarity is not None and scores.similarity[1] == pytest.approx(2**-0.5, abs=1e-6)
    results = {one.name: one for one in spoken_results(scores, SIGNATURE)}
    expected = (squares.sum() / both.sum()) ** 0.5
    assert results["pitch error"].value == pytest.approx(expected) and results["pitch error"].unit == "semitones"
    assert {one.signature for one in results.values()} == {SIGNATURE}
    assert results["character error"].value == 0 and results["character error, texts as they are"].value > 0
    assert results["predicted MOS"].n == 3


def test_columns_without_a_judge_are_left_out() -> None:
    judges = Judges(transcribe=told({8_000: "x", 11_200: "y", 6_400: "z"}).transcribe)
    names = {one.name for one in spoken_results(score_spoken(CLIPS, [c.waveform for c in CLIPS], judges), SIGNATURE)}
    assert not {"predicted MOS", "voice similarity"} & names and "voicing error" in names


def test_what_was_made_must_lie_under_the_recordings() -> None:
    with pytest.raises(DataError, match="2 waveforms were made of 3 clips"):
        score_spoken(CLIPS, [one.waveform for one in CLIPS[:2]], told({}))
    with pytest.raises(DataError, match="as long or shorter"):
        score_spoken(CLIPS[:1], [tone(100.0, 2.0)], told({}))
