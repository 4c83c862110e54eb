"""The method of translation: what it counts, trains and refuses, and that a few steps teach it three texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from tiny_translator import decoder_folder

from allophone.batch import SpeechBatch, Texts
from allophone.data.sampler import SamplerState
from allophone.errors import ConfigError, DataError
from allophone.losses.sequence import IGNORED
from allophone.methods.speech_translation import SpeechTranslation, SpeechTranslationConfig, three_phases
from allophone.models import token_decoder
from allophone.models.frozen import FrozenStates
from allophone.models.speech_translator import SpeechTranslator, SpeechTranslatorConfig
from allophone.models.text_decoder import load_text_decoder
from allophone.models.token_decoder import SearchConfig
from allophone.train.config import TrainConfig
from allophone.train.loop import train
from allophone.train.optimizer import build_optimizer
from allophone.train.schedule import learning_rate

TARGETS = Texts(("une voix", "a happy voice", "bonjour"), ("fra_Latn", "eng_Latn", "fra_Latn"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_folder(tmp_path_factory.mktemp("decoder"))


def batch() -> SpeechBatch:
    return replace(tiny_model.batch(), texts=TARGETS).validate()


def method(folder: Path, dim: int = 8) -> SpeechTranslation:
    torch.manual_seed(5)
    config = SpeechTranslatorConfig(adapter_dim=dim, length_layers=2)
    model = SpeechTranslator(tiny_model.lasr(), load_text_decoder(folder), config)
    return SpeechTranslation(model, SpeechTranslationConfig())


def test_counts_tokens_and_trains_everything_it_should(folder: Path) -> None:
    assert IGNORED == token_decoder.IGNORED
    trained = method(folder).train()
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    output = trained.step(batch())
    output.loss_sum.backward()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert int(trained.count(batch())) == int(output.sums["nll"][1]) == int(output.sums["token_accuracy"][1]) > 6
    scales = {group.lr_scale for group in trained.parameter_groups()}
    assert scales == {1.0, 0.1} and trained.artifact() is trained.model


def test_three_phases_are_those_of_the_schedule() -> None:
    phases = three_phases(100)
    config = TrainConfig(
        steps=100,
        learning_rate=1.0,
        schedule="tri_stage",
        warmup_steps=phases.warmup_steps,
        hold_steps=phases.hold_steps,
        final_lr_scale=phases.final_lr_scale,
    )
    rates = [learning_rate(step, config) for step in (5, 10, 50, 75, 100)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.05**0.5, 0.05])
    with pytest.raises(ConfigError, match="leave something to decay"):
        three_phases(100, (0.5, 0.5))


class Same(Iterator[SpeechBatch]):
    """The same batch again and again."""

    def __next__(self) -> SpeechBatch:
        return batch()

    def state(self) -> SamplerState:
        return SamplerState(seed=0, epoch=0, position=0)

    def seek(self, state: SamplerState) -> None:
        pass


def run(trained: SpeechTranslation, steps: int, run_dir: Path) -> float:
    """Share of tokens that were right in the last steps."""
    config = TrainConfig(
        steps=steps,
        learning_rate=0.02,
        log_every=10,
        save_every=steps,
        tensorboard=False,
        schedule="constant",
    )
    result = train(trained, Same(), config, run_dir)
    total, tokens = result.sums["token_accuracy"]
    return total / tokens


def test_the_loop_teaches_it_three_texts(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = SpeechTranslatorConfig(adapter_dim=0, length_layers=2, training="full")
    model = SpeechTranslator(tiny_model.lasr(), load_text_decoder(folder), config)
    trained = SpeechTranslation(model, SpeechTranslationConfig(pretrained_lr_scale=1.0))
    assert run(trained, 40, tmp_path) > 0.9
    said = model.generate(
        batch().waveform, batch().waveform_lengths, TARGETS.languages, SearchConfig(beams=2, max_tokens=14)
    )
    assert [found.text for found in said] == list(TARGETS.texts)


def test_adapters_learn_while_the_rest_stays(folder: Path, tmp_path: Path) -> None:
    trained = method(folder, 24)
    frozen = {name: p.clone() for name, p in trained.named_parameters() if not p.requires_grad}
    before = trained.eval().step(batch())
    run(trained, 20, tmp_path)
    after = trained.eval().step(batch())
    assert float(after.sums["nll"][0]) < 0.8 * float(before.sums["nll"][0])
    assert all(torch.equal(p, frozen[name]) for name, p in trained.named_parameters() if name in frozen)


def test_what_cannot_work_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="needs texts"):
        method(folder).step(tiny_model.batch())
    with pytest.raises(DataError, match="no token for swh_Latn"):
        method(folder).count(replace(tiny_model.batch(), texts=Texts(("a",) * 3, ("swh_Latn",) * 3)))
    with pytest.raises(ConfigError, match="smoothing < 1"):
        SpeechTranslationConfig(smoothing=1.0)


def test_a_new_decoder_learns_at_the_full_rate_from_kept_states(folder: Path) -> None:
    torch.manual_seed(3)
    config = SpeechTranslatorConfig(adapter_dim=0, training="decoder", train_layer_norms=False, length_layers=1)
    model = SpeechTranslator(tiny_model.lasr(), load_text_decoder(folder), config)
    frozen = FrozenStates(model.encoder, [model.encoder.num_layers], dtype=torch.float16)
    plain, kept = (SpeechTranslation(model, SpeechTranslationConfig(), frozen=one) for one in (None, frozen))
    assert all(group.lr_scale == 1.0 for group in plain.parameter_groups())
    first = plain.eval().step(batch()).loss_sum
    for _ in range(2):  # computed, then kept
        torch.testing.assert_close(kept.eval().step(batch()).loss_sum, first, atol=1e-2, rtol=1e-3)
    tuned = SpeechTranslator(tiny_model.lasr(), load_text_decoder(folder), SpeechTranslatorConfig(adapter_dim=4))
    with pytest.raises(ConfigError, match="frozen must be None"):
        SpeechTranslation(tuned, SpeechTranslationConfig(), frozen=frozen)


@pytest.mark.parametrize("training", ["decoder", "full"])
def test_a_decoder_from_nothing_learns_at_the_runs_rate(folder: Path, training) -> None:
    model = SpeechTranslator(
        tiny_model.lasr(), load_text_decoder(folder), SpeechTranslatorConfig(adapter_dim=0, training=training)
    )
    new, pretrained = (
        SpeechTranslation(model, SpeechTranslationConfig(), new_decoder=value) for value in (True, False)
    )
    inside = {id(parameter) for parameter in model.decoder.parameters()}

    def scales(method: SpeechTranslation) -> set[float]:
        return {g.lr_scale for g in method.parameter_groups() if any(id(p) in inside for p in g.parameters)}

    assert scales(new) == {1.0} and scales(pretrained) == ({1.0} if training == "decoder" else {0.1})
