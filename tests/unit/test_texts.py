"""Which text an utterance is turned into: its own or one of another language, drawn by key."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.texts import TextDraws
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.frames import FrameClock


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
    assert drawn.texts == drawn.contents == ("oui 0", "oui 1")
    assert drawn.languages == drawn.spoken == ("fra_Latn",) * 2


def test_what_says_the_same_has_one_content() -> None:
    rows = [replace(row, group="assent") for row in ROWS[:2]] + ROWS[2:3]
    drawn = TextDraws(rows, ["eng_Latn"]).draw(rows, [0] * 3, seed=1, epoch=0)
    assert drawn.contents == ("assent", "assent", "oui 2")
    assert drawn.spoken == ("fra_Latn",) * 3 and drawn.languages == ("eng_Latn",) * 3


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


class Tones:
    """Half a second of noise for every utterance."""

    def audio(self, utterance: Utterance) -> torch.Tensor:
        return 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(int(utterance.id)))


def stream() -> BatchStream[Utterance]:
    sampler = BatchSampler([0.5] * 20, ["x"] * 20, ["s"] * 20, batch_seconds=1.5, crop_seconds=1.0)
    clock, config = FrameClock(hop=320, receptive_field=400), CollateConfig(crop_seconds=1.0, mask_probability=0.0)
    draws = TextDraws(ROWS, ["eng_Latn", "deu_Latn"])
    return BatchStream(Tones(), ROWS, None, sampler, clock, config, texts=draws)


def test_batches_carry_their_texts_through_a_resume() -> None:
    with closing(stream()) as batches:
        seen = [next(batches) for _ in range(3)]
        place, after = batches.state(), next(batches)
    with closing(stream()) as batches:
        batches.seek(place)
        again = next(batches)
    assert again.ids == after.ids and again.texts == after.texts == after.to("cpu").texts
    for batch in seen:
        assert batch.texts is not None
        assert [text.split()[1] for text in batch.texts.texts] == list(batch.ids)
