"""Distillation: its losses by hand, the balance of languages, the teacher's table, and the method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_text import TEXTS, text_encoder
from torch import Tensor

from allophone.batch import SpeechBatch, Texts
from allophone.errors import CheckpointError, ConfigError, DataError, ShapeError
from allophone.losses.distillation import balance_weights, contrast_with_negatives, cosine_distance, squared_error
from allophone.methods.semantic_distillation import SemanticDistillation, SemanticDistillationConfig
from allophone.models import text_teacher
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_teacher import (
    INFO_FILE,
    TextTeacher,
    cached_vectors,
    load_teacher_table,
    save_teacher_table,
    text_key,
)
from allophone.train.config import TrainConfig
from allophone.train.optimizer import build_optimizer

DIM = 6
SAMU = SpeechEmbedderConfig(dim=DIM, layers="last", pooling_dim=0, projection="tanh")


class Fake:
    """A vector for every text, and how many were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.stack(
            [torch.randn(DIM, generator=torch.Generator().manual_seed(text_key(t) % 997)) for t in texts]
        )


def batch(texts: Sequence[str] = TEXTS[:3]) -> SpeechBatch:
    spoken = Texts(tuple(texts), ("fra_Latn", "eng_Latn", "rus_Cyrl"))
    return replace(tiny_model.batch(), texts=spoken).validate()


def method(
    tmp_path: Path,
    config: SemanticDistillationConfig | None = None,
    negatives: dict[str, tuple[str, ...]] | None = None,
) -> SemanticDistillation:
    table = cached_vectors([*TEXTS, "another voice", "a sad voice"], Fake(), "fake", tmp_path, dtype=torch.float32)
    torch.manual_seed(4)
    speech = SpeechEmbedder(tiny_model.lasr(), SAMU)
    return SemanticDistillation(speech, table, config or SemanticDistillationConfig(), negatives=negatives)


def test_losses_are_what_they_say() -> None:
    student, teacher = torch.randn(4, DIM, requires_grad=True), torch.randn(4, DIM, requires_grad=True)
    distance = cosine_distance(student, teacher)
    cosines = [float(s @ t / (s.norm() * t.norm())) for s, t in zip(student.detach(), teacher.detach(), strict=True)]
    assert distance.tolist() == pytest.approx([1 - cosine for cosine in cosines], abs=1e-6)
    torch.testing.assert_close(squared_error(student, teacher), ((student - teacher) ** 2).sum(1))
    (distance.sum() + squared_error(student, teacher).sum()).backward()
    assert teacher.grad is None and student.grad is not None
    with pytest.raises(ShapeError, match="Give the embedder the teacher's dims"):
        cosine_distance(student, teacher[:, :3])


def test_contrast_with_negatives_by_hand() -> None:
    student, teacher, wrong = torch.randn(3, DIM), torch.randn(3, DIM), torch.randn(3, 2, DIM)
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    keys = torch.tensor([[5, 1], [8, 2], [5, 3]])  # the first and the last say the same
    loss, hits = contrast_with_negatives(student, teacher, keys, 0.5, wrong, valid)
    for row in range(3):
        candidates = [teacher[row]]
        candidates += [teacher[other] for other in range(3) if keys[other, 0] != keys[row, 0]]
        candidates += [wrong[row, k] for k in range(2) if valid[row, k]]
        logits = torch.stack([F.cosine_similarity(student[row], text, dim=0) for text in candidates]) / 0.5
        torch.testing.assert_close(loss[row], -logits.log_softmax(dim=0)[0])
        assert bool(hits[row]) == (int(logits.argmax()) == 0)
    one_column = torch.tensor([[1], [2], [3]])
    plain, _ = contrast_with_negatives(student, teacher, one_column, 0.5)
    unit = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / 0.5
    torch.testing.assert_close(plain, F.cross_entropy(unit, torch.arange(3), reduction="none"))
    for bad in (keys[:2], keys[:, 0]):
        with pytest.raises(ShapeError, match=r"for 3 rows; expected \(rows, columns\)"):
            contrast_with_negatives(student, teacher, bad, 0.5)
    with pytest.raises(ShapeError, match="negatives"):
        contrast_with_negatives(student, teacher, keys, 0.5, wrong[:2])


def test_languages_count_as_their_share_to_a_power() -> None:
    amounts = {"a": 700.0, "b": 200.0, "c": 100.0}
    weights = balance_weights(amounts, 0.05)
    mass = {language: amounts[language] / 1000 * weights[language] for language in amounts}
    assert sum(mass.values()) == pytest.approx(1.0)  # the mean weight is 1
    assert mass["a"] / mass["c"] == pytest.approx(7**0.05)
    assert balance_weights(amounts, 1.0) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})
    with pytest.raises(DataError, match="an amount above 0"):
        balance_weights({"a": 0})


def test_a_table_asks_the_teacher_once_a_text(tmp_path: Path) -> None:
    teacher = Fake()
    first = cached_vectors([*TEXTS, TEXTS[0]], teacher, "fake", tmp_path, batch_size=2, dtype=torch.float32)
    assert sorted(teacher.asked) == sorted(TEXTS)
    again = cached_vectors(TEXTS, teacher, "fake", tmp_path)
    assert len(teacher.asked) == len(TEXTS)
    more = cached_vectors([*TEXTS, "neu"], teacher, "fake", tmp_path)
    assert teacher.asked[len(TEXTS) :] == ["neu"]
    expected = Fake()(TEXTS)
    for table in (first, again, more, load_teacher_table(tmp_path)):
        assert torch.equal(table(TEXTS), expected)
    with pytest.raises(DataError, match=r"no vector for 1 of 2 texts, the first is 'nie'"):
        more(["neu", "nie"])
    with pytest.raises(CheckpointError, match="vectors of fake; expected those of other"):
        cached_vectors(TEXTS, teacher, "other", tmp_path)
    info = (tmp_path / INFO_FILE).read_text()
    (tmp_path / INFO_FILE).write_text(info.replace('"texts": 6', '"texts": 7'))
    with pytest.raises(CheckpointError, match="says 7 texts of 6 dims"):
        load_teacher_table(tmp_path)
    with pytest.raises(DataError, match=r"gave \(2, 3, 1\) for 2 texts"):
        cached_vectors(["a", "b"], lambda texts: torch.zeros(len(texts), 3, 1), "bad", tmp_path / "bad")


def test_what_a_teacher_said_before_it_was_interrupted_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_teacher, "PIECE", 2)
    teacher, said = Fake(), [0]

    def interrupted(texts: Sequence[str]) -> Tensor:
        said[0] += len(texts)
        if said[0] > 3:
            raise KeyboardInterrupt
        return teacher(texts)

    with pytest.raises(KeyboardInterrupt):
        cached_vectors(TEXTS, interrupted, "fake", tmp_path, batch_size=1)
    assert len(load_teacher_table(tmp_path).keys) == 2  # the third was no whole piece
    before = list(teacher.asked)
    table = cached_vectors(TEXTS, teacher, "fake", tmp_path, dtype=torch.float32)
    assert sorted(teacher.asked[len(before) :]) == sorted(set(TEXTS) - set(before[:2]))
    torch.testing.assert_close(table(TEXTS), Fake()(TEXTS), atol=2e-3, rtol=2e-3)
    with pytest.raises(DataError, match="no text that the teacher could make a vector of"):
        cached_vectors([], teacher, "fake", tmp_path / "none")


def test_a_text_encoder_is_a_teacher(tmp_path: Path) -> None:
    folder = text_encoder(tmp_path / "text")
    for pooling in ("mean", "cls", "pooler"):
        teacher = TextTeacher(folder, pooling=pooling)  # type: ignore[arg-type]
        together = teacher(TEXTS)
        assert together.shape == (len(TEXTS), 32) and pooling in teacher.name
        torch.testing.assert_close(teacher(TEXTS[:1])[0], together[0], atol=1e-5, rtol=1e-4)  # padding changes nothing
    table = cached_vectors(TEXTS, teacher, teacher.name, tmp_path / "table")
    torch.testing.assert_close(table(TEXTS), together, atol=2e-3, rtol=2e-3)
    with pytest.raises(CheckpointError, match="not a text encoder"):
        TextTeacher(tmp_path)


def test_the_published_objective_is_beta_times_the_distance(tmp_path: Path) -> None:
    trained = method(tmp_path, SemanticDistillationConfig(beta=50.0)).eval()
    output = trained.step(batch())
    student = trained.speech(batch().waveform, batch().waveform_lengths)
    teacher = Fake()(TEXTS[:3])
    expected = 50 * (1 - F.cosine_similarity(student, teacher)).sum()
    torch.testing.assert_close(output.loss_sum, expected)
    assert float(output.sums["cosine"][0]) == pytest.approx(3 - float(expected.detach()) / 50, rel=1e-3)
    assert bool((student.abs() <= 1).all())  # a tanh, as the teacher's pooler has one


def test_everything_that_is_trained_gets_a_gradient(tmp_path: Path) -> None:
    config = SemanticDistillationConfig(squared_error_weight=0.1, contrast_weight=0.5)
    negatives = {TEXTS[1]: ("a sad voice", "another voice")}
    trained = method(tmp_path, config, negatives).train()
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    output = trained.step(batch())
    output.loss_sum.backward()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert set(output.sums) == {"cosine", "squared_error", "accuracy"} and int(trained.count(batch())) == 3
    assert {group.lr_scale for group in trained.parameter_groups()} == {1.0, 0.01}
    assert trained.artifact() is trained.speech
    without = method(tmp_path, config).train()
    with torch.no_grad():
        harder, easier = trained.eval().step(batch()).loss_sum, without.eval().step(batch()).loss_sum
    assert float(harder) > float(easier)


def test_a_translation_of_what_is_said_is_no_wrong_answer(tmp_path: Path) -> None:
    trained = method(tmp_path, SemanticDistillationConfig(beta=0.0, contrast_weight=1.0, temperature=0.5)).eval()
    told = replace(batch(), texts=replace(batch().texts, contents=("voice", "joy", "voice")))
    student = F.normalize(trained.speech(told.waveform, told.waveform_lengths), dim=-1)
    logits = student @ F.normalize(Fake()(TEXTS[:3]), dim=-1).T / 0.5
    logits[0, 2] = logits[2, 0] = -torch.inf
    expected = F.cross_entropy(logits, torch.arange(3), reduction="sum")
    torch.testing.assert_close(trained.step(told).loss_sum, expected)


def test_languages_weigh_and_a_few_steps_teach(tmp_path: Path) -> None:
    trained = method(tmp_path).eval()
    plain = trained.step(batch())
    trained._weights = {"fra_Latn": 2.0, "eng_Latn": 1.0, "rus_Cyrl": 0.0}
    losses = cosine_distance(trained.speech(batch().waveform, batch().waveform_lengths), Fake()(TEXTS[:3]))
    torch.testing.assert_close(trained.step(batch()).loss_sum, 2 * losses[0] + losses[1])
    said = replace(batch(), texts=replace(batch().texts, spoken=("rus_Cyrl", "fra_Latn", "eng_Latn")))
    torch.testing.assert_close(trained.step(said).loss_sum, 2 * losses[1] + losses[2])  # of the speech, not of its text
    trained._weights = {"fra_Latn": 1.0}
    with pytest.raises(DataError, match="No weight for eng_Latn, rus_Cyrl"):
        trained.step(batch())
    trained._weights = None
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        trained.step(batch()).loss_sum.backward()
        optimizer.step()
    assert float(trained.step(batch()).loss_sum.detach()) < 0.5 * float(plain.loss_sum.detach())


def test_a_frozen_encoder_stays(tmp_path: Path) -> None:
    trained = method(tmp_path, SemanticDistillationConfig(train_encoder=False)).train()
    assert not trained.speech.encoder.training and trained.speech.pooling.training
    trained.step(batch()).loss_sum.backward()
    assert {name.split(".")[1] for name, p in trained.named_parameters() if p.grad is not None} == {
        "pooling",
        "projection",
    }


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs texts"):
        method(tmp_path).step(tiny_model.batch())
    with pytest.raises(DataError, match="the first is 'unheard'"):
        method(tmp_path).step(batch(["unheard", *TEXTS[1:3]]))
    speech = SpeechEmbedder(tiny_model.lasr(), replace(SAMU, dim=9))
    with pytest.raises(ConfigError, match="9 dims, the teacher 6"):
        SemanticDistillation(speech, method(tmp_path)._teacher, SemanticDistillationConfig())
    with pytest.raises(ConfigError, match="weights >= 0"):
        SemanticDistillationConfig(beta=0.0)
    with pytest.raises(ShapeError, match="3 utterances, but 2 texts"):
        replace(tiny_model.batch(), texts=Texts(("a", "b"), ("eng_Latn",) * 2)).validate()
    with pytest.raises(ShapeError, match="2 texts in 1 languages"):
        Texts(("a", "b"), ("eng_Latn",)).validate()
    with pytest.raises(ShapeError, match="2 texts; expected a language spoken and a content for each"):
        Texts(("a", "b"), ("eng_Latn",) * 2, contents=("a",)).validate()
    assert math.isfinite(float(method(tmp_path).step(batch()).loss_sum))


def test_a_table_of_eight_bits_is_half_as_large_and_nearly_the_same(tmp_path: Path) -> None:
    table = cached_vectors([f"text {number}" for number in range(50)], Fake(), "fake", tmp_path / "whole")
    save_teacher_table(table, tmp_path / "small", eight_bits=True)
    found = load_teacher_table(tmp_path / "small")
    assert torch.equal(found.keys, table.keys) and found.vectors.dtype == torch.float16
    assert float(F.cosine_similarity(found.vectors.float(), table.vectors.float()).min()) > 0.999


def test_a_teacher_without_a_pooler_has_the_same_name_each_time(tmp_path: Path) -> None:
    folder = text_encoder(tmp_path / "text")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert TextTeacher(folder).name == TextTeacher(folder).name
    with pytest.raises(ConfigError, match="has no pooler"):  # it would be a random one
        TextTeacher(folder, pooling="pooler")


def test_vectors_made_with_another_prefix_or_cut_are_not_taken(tmp_path: Path) -> None:
    folder, cache = text_encoder(tmp_path / "text"), tmp_path / "cache"
    plain = TextTeacher(folder)
    cached_vectors(TEXTS, plain, plain.name, cache)
    for other in (TextTeacher(folder, prefix="query: "), TextTeacher(folder, max_tokens=3)):
        with pytest.raises(CheckpointError, match=r"expected those of text .* mean, prefix"):
            cached_vectors(TEXTS, other, other.name, cache)


def test_a_teacher_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = text_encoder(tmp_path / "text")
    weights = load_file(folder / "model.safetensors")
    lacking = sorted(name for name in weights if "layer.0" in name)[0]
    save_file(
        {k: v for k, v in weights.items() if k != lacking}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=rf"weights are missing: {lacking}"):
        TextTeacher(folder)


def test_frozen_states_change_no_step(tmp_path: Path) -> None:
    first = method(tmp_path, SemanticDistillationConfig(train_encoder=False))
    frozen = FrozenStates(first.speech.encoder, range(first.speech.encoder.num_layers + 1), dtype=torch.float16)
    second = SemanticDistillation(first.speech, first._teacher, first.config, frozen=frozen)
    one, two = first.train().step(batch()).loss_sum, second.train().step(batch()).loss_sum
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
    assert torch.equal(second.step(batch()).loss_sum, two)  # from memory
    with pytest.raises(ConfigError, match="frozen must be None"):
        SemanticDistillation(first.speech, first._teacher, SemanticDistillationConfig(), frozen=frozen)
