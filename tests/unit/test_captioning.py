"""Captions for a corpus: facts of its utterances, contents that are one, batches with their texts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allophone.batch import Captions, SpeechBatch
from allophone.data.captioning import CaptionConfig, Captioner, content_names, facts_of
from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.frames import FrameClock


def row(id: str, **fields: object) -> Utterance:
    base = {"path": f"{id}.wav", "duration_seconds": 1.0, "sample_rate": 16_000, "language": "fra_Latn", "source": "s"}
    return Utterance(id=id, **{**base, **fields})  # type: ignore[arg-type]


ROWS = (
    row("a", text="Bonjour !", group="g1", translations={"eng_Latn": "Good morning"}),
    row("b", text="good  morning.", language="eng_Latn"),
    row("c", text="buongiorno", language="ita_Latn", group="g1"),
    row("d", text="bonjour", language="cat_Latn"),  # another language's word that is spelled the same
    row("e", text="merci", label="happy", extra={"gender": "female"}),
)


def test_what_is_shared_is_one_content_also_by_way_of_others() -> None:
    names = content_names(ROWS)
    assert names["a"] == names["b"] == names["c"]
    assert len(set(names.values())) == 3
    assert content_names(ROWS[::-1]) == names


def test_facts_of_the_kinds_that_are_asked_for() -> None:
    config = CaptionConfig(kinds=("content", "language", "emotion", "speaker"), label_kind="emotion")
    facts = facts_of(ROWS[4], config, "thanks")
    assert [(fact.kind, fact.value) for fact in facts] == [
        ("content", "thanks"),
        ("language", "fra"),
        ("emotion", "happy"),
        ("speaker", "female"),
    ]
    assert [fact.kind for fact in facts_of(ROWS[4], CaptionConfig(), "thanks")] == ["content"]
    assert facts_of(row("n", language="zxx_Zxxx"), replace(config), "x") == ()


def test_captions_are_true_of_their_utterances_and_of_those_that_say_the_same() -> None:
    captions = Captioner(ROWS, CaptionConfig()).draw(ROWS, [0] * 5, 0, 3)
    assert isinstance(captions, Captions) and len(captions.texts) == 5
    assert captions.stated[0] == captions.stated[1] == captions.stated[2] != captions.stated[4]
    again = Captioner(ROWS, CaptionConfig()).draw(ROWS[3:], [0] * 2, 0, 3)
    assert again.texts == captions.texts[3:]
    texts = {Captioner(ROWS, CaptionConfig()).draw(ROWS[:1], [0], 0, epoch).texts[0] for epoch in range(30)}
    assert {"Bonjour !", "Good morning", "someone says: “Good morning”"} <= texts


def test_known_facts_are_padded() -> None:
    config = CaptionConfig(kinds=("content", "emotion", "language"), label_kind="emotion", languages=("eng_Latn",))
    captions = Captioner(ROWS, config).draw(ROWS, [0] * 5, 0, 0)
    assert captions.known.shape == (5, 3)
    assert (captions.known[:4, 2] == -1).all() and captions.known[4, 2] >= 0


def test_an_utterance_without_a_caption_is_an_error() -> None:
    with pytest.raises(DataError, match=r"1 of 6 utterances have nothing .* 'mute'"):
        Captioner((*ROWS, row("mute")), CaptionConfig())
    with pytest.raises(DataError, match="Utterance 'x': No caption for emotion 'odd'"):
        Captioner((row("x", label="odd"),), CaptionConfig(kinds=("emotion",), label_kind="emotion"))
    with pytest.raises(ConfigError, match="at least one kind"):
        CaptionConfig(kinds=())
    with pytest.raises(ConfigError, match="column of its own"):
        CaptionConfig(label_kind="language")


class Tones:
    """Half a second of noise for every utterance."""

    def audio(self, utterance: Utterance, /) -> Tensor:
        return 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(ord(utterance.id)))


def stream() -> BatchStream[Utterance]:
    sampler = BatchSampler([0.5] * 5, ["x"] * 5, ["s"] * 5, batch_seconds=1.5, crop_seconds=1.0)
    clock = FrameClock(hop=320, receptive_field=400)
    config = CollateConfig(crop_seconds=1.0, mask_probability=0.0)
    return BatchStream(Tones(), ROWS, None, sampler, clock, config, captions=Captioner(ROWS, CaptionConfig()))


def test_batches_carry_their_captions_through_a_resume() -> None:
    with closing(stream()) as batches:
        seen = [next(batches) for _ in range(4)]
        place = batches.state()
        after = next(batches)
    with closing(stream()) as batches:
        batches.seek(place)
        again = next(batches)
    assert after.captions is not None and again.captions is not None
    assert again.ids == after.ids and again.captions.texts == after.captions.texts
    assert all(batch.captions is not None and len(batch.captions.texts) == len(batch.ids) for batch in seen)
    moved = after.to("cpu")
    assert moved.captions is not None and torch.equal(moved.captions.known, after.captions.known)


def test_captions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(2,\) and \(2, facts\)"):
        Captions(("a", "b"), torch.tensor([1]), torch.tensor([[1], [2]])).validate()
    with pytest.raises(ShapeError, match="row 1 states fact 3"):
        Captions(("a", "b"), torch.tensor([1, 3]), torch.tensor([[1], [2]])).validate()
    one = Captions(("a",), torch.tensor([1]), torch.tensor([[1]]))
    batch = SpeechBatch(("x", "y"), torch.zeros(2, 400), *[torch.tensor([n, n]) for n in (400, 1)], captions=one)
    with pytest.raises(ShapeError, match="2 utterances, but 1 captions"):
        batch.validate()
