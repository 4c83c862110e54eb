"""The vocoder's method: two players in one backward pass, losses as published, nothing depends on the batch."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_vocoder import CLOCK, JUDGES, VOICES, batch, config, method

from allophone.audio.mel import log_mel
from allophone.batch import SpeechBatch
from allophone.data.sampler import SamplerState
from allophone.errors import ConfigError, DataError
from allophone.frames import FrameClock
from allophone.losses.vocoder import deceived_loss, duration_loss, feature_loss, mel_loss, told_apart_loss
from allophone.methods.unit_vocoding import UnitVocoding, UnitVocodingConfig
from allophone.models.unit_vocoder import UnitVocoder, pack_units, without_repeats
from allophone.models.vocoder_discriminators import Discriminators, DiscriminatorsConfig
from allophone.train import TrainConfig, train


def published_losses(recorded, made) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Discriminator, generator and feature loss of judgements, as the published code writes them (batch means)."""
    told_apart = sum(((1 - r.scores) ** 2).mean() + (f.scores**2).mean() for r, f in zip(recorded, made, strict=True))
    deceived = sum(((1 - f.scores) ** 2).mean() for f in made)
    features = sum(
        (a - b).abs().mean()
        for r, f in zip(recorded, made, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    )
    return told_apart, deceived, features


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    """One backward pass of the sum equals two, each for the parameters of one player alone."""
    whole, one = method(), batch()
    (whole.step(one).loss_sum / whole.count(one)).backward()
    apart = method()
    apart.load_state_dict(whole.state_dict())
    units, recorded = apart._clips(one)
    rows = torch.tensor([VOICES[name] for name in one.ids])
    made = apart.vocoder(units, rows[:, 0], rows[:, 1]).values.reshape(recorded.shape)
    judges = apart.discriminators
    told_apart, _, _ = published_losses(judges(recorded), judges(made.detach()))
    _, deceived, features = published_losses(judges(recorded), judges(made))
    runs, lasts = without_repeats(units)
    clips = list(zip(apart.vocoder.log_durations(runs).split(runs.lengths), lasts.split(runs.lengths), strict=True))
    duration = sum(((p[1:-1] - (n[1:-1] + 1).float().log()) ** 2).mean() for p, n in clips) / len(clips)
    generator = deceived + 2 * features + 45 * (log_mel(recorded) - log_mel(made)).abs().mean() + duration
    for player, loss in ((judges, told_apart), (apart.vocoder, generator)):
        mine = whole.discriminators if player is judges else whole.vocoder
        named = {name: p for name, p in player.named_parameters() if p.requires_grad}
        expected = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
        for (name, _), gradient in zip(named.items(), expected, strict=True):
            found = dict(mine.named_parameters())[name].grad
            assert found is not None and float(gradient.abs().max()) > 0, name
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert all(p.requires_grad for p in whole.discriminators.parameters())


def test_sum_over_a_batch_is_the_sum_over_its_clips() -> None:
    one, every = method(), batch()
    parts = [one.step(batch(name)).loss_sum for name in "abcd"]
    torch.testing.assert_close(one.step(every).loss_sum, torch.stack(parts).sum(), rtol=1e-5, atol=1e-4)
    assert int(one.count(every)) == 4


def test_every_parameter_is_trained_and_the_artifact_is_plain() -> None:
    one = method()
    groups = one.parameter_groups()
    assert len(groups) == 2
    one.step(batch()).loss_sum.backward()
    assert all(p.grad is not None for group in groups for p in group.parameters)
    plain = one.artifact()
    assert not any("parametrizations" in name for name in plain.state_dict())
    units, voices = pack_units([torch.tensor([1, 2, 3])]), torch.tensor([1])
    with torch.no_grad():
        mine = plain(units, voices, voices).values
        torch.testing.assert_close(one.vocoder.eval()(units, voices, voices).values, mine, atol=1e-6, rtol=1e-5)


def test_without_discriminators_only_the_vocoder_is_trained() -> None:
    one = method(UnitVocodingConfig(adversarial_weight=0.0))
    assert one.discriminators is None and len(one.parameter_groups()) == 1
    assert set(one.step(batch()).sums) == {"loss_mel", "loss_duration"}


def test_pitch_is_heard() -> None:
    one = method(pitch=True)
    one.step(batch()).loss_sum.backward()
    weight = one.vocoder.hifi_gan.conv_pre.parametrizations.weight.original1
    assert weight.shape[1] == config(pitch=True).input_dim == 2 + 8 + 4 + 2
    assert float(weight.grad[:, -2:].abs().max()) >= 0


def test_units_and_samples_are_aligned_at_the_centers_of_frames() -> None:
    one, given = method(), batch("a", frames=5)
    units, recorded = one._clips(given)
    assert torch.equal(units.values, given.units[0, :, 0])
    assert recorded.shape == (1, 5 * 640)
    assert torch.equal(
        recorded[0], given.waveform[0, 120:3320]
    )  # frame t is centered at 640 t + 440 = 120 + 320 + 640 t


def test_durations_of_inner_runs() -> None:
    runs, lasts = without_repeats(pack_units([torch.tensor([5, 5, 2, 2, 2, 4]), torch.tensor([1, 1])]))
    assert runs.values.tolist() == [5, 2, 4, 1] and runs.lengths == (3, 1) and lasts.tolist() == [2, 3, 1, 2]
    predicted = torch.tensor([9.0, 1.0, 9.0, 9.0])
    torch.testing.assert_close(
        duration_loss(predicted, lasts, runs.lengths), (torch.tensor(1.0) - torch.tensor(4.0).log()).square()
    )
    assert float(duration_loss(predicted[:2], lasts[:2], [1, 1])) == 0


def test_losses_equal_the_published_batch_means() -> None:
    torch.manual_seed(0)
    judges = Discriminators(DiscriminatorsConfig(narrower=8))
    recorded, made = (0.1 * torch.randn(3, 4_000) for _ in range(2))
    with torch.no_grad():
        real, fake = judges(recorded), judges(made)
    assert len(real) == 8
    told_apart, deceived, features = published_losses(real, fake)
    scores, layers = ([[j.scores for j in x] for x in (real, fake)], [[j.features for j in x] for x in (real, fake)])
    torch.testing.assert_close(told_apart_loss(*scores) / 3, told_apart)
    torch.testing.assert_close(deceived_loss(scores[1]) / 3, deceived)
    torch.testing.assert_close(feature_loss(*layers) / 3, features)
    torch.testing.assert_close(mel_loss(recorded, made) / 3, (log_mel(recorded) - log_mel(made)).abs().mean())


def test_published_discriminators_have_the_published_size() -> None:
    with torch.device("meta"):
        judges = Discriminators(DiscriminatorsConfig())
    periods = sum(p.numel() for name, p in judges.named_parameters() if "of_periods" in name)
    scales = sum(p.numel() for name, p in judges.named_parameters() if "of_scales" in name)
    # 41.1 and 29.6 million: the published checkpoints with lengths of weight norm, one a channel, also at scale 1
    assert (round(periods / 1e6, 1), round(scales / 1e6, 1)) == (41.1, 29.6)


def test_refusals() -> None:
    one, given = method(), batch()
    with pytest.raises(DataError, match="collated without them"):
        one.step(replace(given, units=None))
    with pytest.raises(DataError, match=r"clips of one length .* got \[12, 12, 12, 9\] frames"):
        one.step(replace(given, frame_lengths=torch.tensor([12, 12, 12, 9])))
    with pytest.raises(DataError, match="whose voice utterance 'x' is"):
        one.step(replace(given, ids=("a", "b", "c", "x")))
    with pytest.raises(ConfigError, match=r"320 samples apart .* the vocoder makes 640"):
        UnitVocoding(UnitVocoder(config()), UnitVocodingConfig(), FrameClock(hop=320, receptive_field=400), VOICES)
    with pytest.raises(ConfigError, match="at least 0"):
        UnitVocodingConfig(mel_weight=-1.0)
    with pytest.raises(ConfigError, match="divided by 1, 2, 4 or 8"):
        replace(JUDGES, narrower=3)
    assert CLOCK.hop == 640


class Drawn:
    """Batches keyed by their place; sends SIGTERM to this process when asked for batch ``stop``."""

    def __init__(self, stop: int | None = None) -> None:
        self.position, self.stop = 0, stop

    def __next__(self) -> SpeechBatch:
        self.position += 1
        if self.position == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch("abcd"[self.position % 4] + "abcd"[self.position % 3], frames=8)

    def state(self) -> SamplerState:
        return SamplerState(epoch=0, position=self.position, seed=0)

    def seek(self, state: SamplerState) -> None:
        self.position = state.position


def trained(folder: Path, stop: int | None = None, microbatches: int = 1) -> UnitVocoding:
    one = method()
    one.vocoder.dur_predictor.dropout.p = 0.5
    settings = TrainConfig(
        steps=5,
        microbatches=microbatches,
        learning_rate=1e-3,
        max_grad_norm=0.0,
        log_every=1,
        tensorboard=False,
        bf16="off",
    )
    train(one, Drawn(stop), settings, folder)
    return one


def test_both_players_learn_and_a_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight")
    start = method().state_dict()
    moved = {name for name, value in straight.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == set(start)
    trained(tmp_path / "stopped", stop=3)
    resumed = trained(tmp_path / "stopped")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_microbatches_change_no_gradient() -> None:
    """The loop's division by all clips makes one batch of four what two of two are."""
    whole, apart = method(), method()
    (whole.step(batch()).loss_sum / 4).backward()
    for names in ("ab", "cd"):
        (apart.step(batch(names)).loss_sum / 4).backward()
    for (name, one), other in zip(whole.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)
