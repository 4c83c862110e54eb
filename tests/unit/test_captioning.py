"""Captions for a corpus: facts of its utterances, contents that are one, batches with their texts."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from torch import Tensor

from allophone.batch import Captions, SpeechBatch
from allophone.data.captioning import CaptionConfig, Captioner, content_facts, tellable, trait_facts
from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.frames import FrameClock
from allophone.losses.contrastive import matches


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


def test_contents_are_the_wordings_of_the_whole_group_and_no_more() -> None:
    facts = {id: {fact.value for fact in found} for id, found in content_facts(ROWS).items()}
    greeting = {"fra_Latn/bonjour", "eng_Latn/good morning", "ita_Latn/buongiorno"}
    assert facts["a"] == facts["c"] == greeting
    assert facts["b"] == {"eng_Latn/good morning"}  # of no group, but in the same words
    assert facts["d"] == {"cat_Latn/bonjour"}
    assert content_facts(ROWS[::-1])["a"][0].number == content_facts(ROWS)["a"][0].number
    assert {fact.value for fact in content_facts(ROWS, ("eng_Latn",))["c"]} == {"eng_Latn/good morning"}


def test_a_share_of_captions_is_the_transcript() -> None:
    rows = ROWS[:3]

    def transcripts(share: float) -> float:
        captioner = Captioner(rows, CaptionConfig(own_language=share))
        drawn = [captioner.draw(rows, [0] * 3, 0, epoch).texts[0] for epoch in range(300)]
        return sum("Bonjour" in text for text in drawn) / 300

    assert transcripts(0.0) == pytest.approx(1 / 3, abs=0.1)  # three languages, each as likely
    assert transcripts(0.7) == pytest.approx(0.7 + 0.3 / 3, abs=0.1)
    assert transcripts(1.0) == 1.0
    others = Captioner(ROWS[:1] + ROWS[2:3], CaptionConfig(own_language=1.0, languages=("ita_Latn",)))
    assert "buongiorno" in others.draw(ROWS[:1], [0], 0, 0).texts[0]  # cannot be told in the language that is spoken
    with pytest.raises(ConfigError, match="from 0 to 1; got 2"):
        CaptionConfig(own_language=2.0)


def test_utterances_of_which_something_can_be_told() -> None:
    assert [one.id for one in tellable(ROWS, CaptionConfig(languages=("cat_Latn",)))] == ["d"]
    assert [one.id for one in tellable([row("n"), ROWS[1]], CaptionConfig())] == ["b"]


def test_facts_of_the_kinds_that_are_asked_for() -> None:
    config = CaptionConfig(kinds=("content", "language", "emotion", "speaker"), label_kind="emotion")
    facts = trait_facts(ROWS[4], config)
    expected = [("language", "fra"), ("emotion", "happy"), ("speaker", "female")]
    assert [(fact.kind, fact.value) for fact in facts] == expected
    assert trait_facts(ROWS[4], CaptionConfig()) == trait_facts(row("n", language="zxx_Zxxx"), config) == ()


def test_captions_are_true_of_their_utterances_and_of_those_that_say_the_same() -> None:
    captioner = Captioner(ROWS, CaptionConfig())
    seen = set()
    for epoch in range(60):
        captions = captioner.draw(ROWS, [0] * 5, 0, epoch)
        truth = matches(captions.known, captions.stated)
        assert truth.diagonal().all() and truth[[0, 2], :][:, [0, 2]].all()  # one group
        assert not truth[3:, :3].any() and not truth[:3, 3:].any() and not truth[3, 4]
        english = "Good morning" in captions.texts[0]
        assert bool(truth[1, 0]) == english
        seen.add(captions.texts[0])
    assert {"Bonjour !", "Good morning", "buongiorno", "someone says: “Good morning”"} <= seen
    assert captioner.draw(ROWS[3:], [0] * 2, 0, 59).texts == captions.texts[3:]


def test_known_facts_are_padded() -> None:
    config = CaptionConfig(kinds=("content", "emotion", "language"), label_kind="emotion", languages=("eng_Latn",))
    captions = Captioner(ROWS, config).draw(ROWS, [0] * 5, 0, 0)
    assert captions.known.shape == (5, 2)  # the wording in English, the language; for the last, language and emotion
    assert (captions.known[3, 1:] == -1).all() and (captions.known[[0, 4]] >= 0).all()


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


def test_paraphrase_can_be_switched_off() -> None:
    rows = ROWS[:3]

    def texts(paraphrase: bool) -> set[str]:
        captioner = Captioner(rows, CaptionConfig(paraphrase=paraphrase))
        return {text for epoch in range(60) for text in captioner.draw(rows, [0] * 3, 0, epoch).texts}

    assert texts(False) == {"Bonjour !", "Good morning", "good  morning.", "buongiorno"}
    assert texts(True) > texts(False)
