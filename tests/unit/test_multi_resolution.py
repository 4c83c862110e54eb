"""Encoders with several frame rates: fusions of HuBERTs, MR-HuBERT and its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hubert import TINY, batch
from torch import Tensor, nn
from torch.nn import functional

from allophone.batch import Packed, SpeechBatch
from allophone.errors import CheckpointError, ConfigError, ShapeError
from allophone.evaluate.sources import EncoderSource
from allophone.losses.masked_prediction import masked_prediction_loss
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.methods.two_rate_prediction import TwoRatePrediction, every, prediction
from allophone.models import mr_hubert
from allophone.models.build import build_encoder
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.hubert import Hubert, HubertConfig, published_config
from allophone.models.mr_hubert import MrHubert, MrHubertConfig
from allophone.models.multi_resolution import FusedEncoder, FusionConfig, fuse
from allophone.models.speech_encoder import SpeechEncoder

BRANCHES = tuple(
    replace(published_config(name), **TINY) for name in ("hubert-base", "hubert-base-40ms", "hubert-base-80ms")
)
TWO_RATES = MrHubertConfig(**TINY, block_layers=(1, 1, 1))
PRE_NORM = replace(TWO_RATES, do_stable_layer_norm=True, num_hidden_layers=6, block_layers=(2, 3, 1), rate_ratio=3)
FUSIONS = {
    f"{join}-{upsampling}": FusionConfig(branches=BRANCHES, join=join, upsampling=upsampling)
    for join in ("sum", "concat", "hierarchical")
    for upsampling in ("repeat", "linear")
}
CONFIGS = {**FUSIONS, "two rates": TWO_RATES, "pre-norm": PRE_NORM}


def built(config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_encoder(config)
    with torch.no_grad():  # larger than the initial weights, so that every part matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_presets_have_the_rates_that_they_are_named_for() -> None:
    for branch, hop, field in zip(BRANCHES, (320, 640, 1280), (400, 1270, 2510), strict=True):
        assert (branch.clock.hop, branch.clock.receptive_field) == (hop, field)


@pytest.mark.parametrize("config", BRANCHES, ids=["20 ms", "40 ms", "80 ms"])
def test_a_preset_has_the_frames_that_its_clock_says(config: HubertConfig) -> None:
    encoder = built(config)
    field = config.clock.receptive_field
    with torch.inference_mode():
        for samples in [*range(field, field + 12), *range(field + config.clock.hop - 2, field + config.clock.hop + 2)]:
            state = encoder(*batch(samples), num_layers=0).hidden_states[0]
            assert state.lengths == (config.clock.count(samples),)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_frames_of_many_lengths(config: Any) -> None:
    encoder = built(config)
    with torch.inference_mode():
        for samples in [*range(400, 3_000, 173), 8_000, 8_001, 9_999]:
            output = encoder(*batch(samples, 3_000))
            for state in output.hidden_states:
                assert state.lengths == (encoder.clock.count(samples), encoder.clock.count(3_000))
            if output.coarse is not None:
                assert output.coarse.lengths[0] == encoder.coarse_clock.count(samples)
    assert output.hidden_states[-1].values.shape[1] == encoder.dim == config.hidden_size


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_ragged_batch_gives_what_each_clip_gives_alone(config: Any) -> None:
    """In all outputs, whatever stands beyond a length, with masks; 500 samples are no frame at 40 and 80 ms."""
    encoder = built(config)
    samples = (9_000, 500, 6_100, 6_100, 2_600)
    waveform, lengths = batch(*samples)
    frames = [encoder.clock.count(length) for length in samples]
    masked = torch.rand(len(samples), max(frames)) < 0.4
    dirty = waveform.clone()
    for row, length in zip(dirty, samples, strict=True):
        row[length:] = float("nan")
    with torch.inference_mode():
        together = encoder(dirty, lengths, masked)
        assert torch.equal(
            together.hidden_states[-1].values, encoder(waveform, lengths, masked).hidden_states[-1].values
        )
        penalty = 0.0
        for row, length in enumerate(samples):
            alone = encoder(
                waveform[row : row + 1, :length], lengths[row : row + 1], masked[row : row + 1, : frames[row]]
            )
            states = [*together.hidden_states, *([together.coarse] if together.coarse is not None else [])]
            own = [*alone.hidden_states, *([alone.coarse] if alone.coarse is not None else [])]
            for whole, single in zip(states, own, strict=True):
                torch.testing.assert_close(whole.split()[row], single.values, atol=2e-5, rtol=1e-4)
            penalty += float(alone.features_penalty)
    assert float(together.features_penalty) == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_save_and_load(config: Any, tmp_path: Path) -> None:
    encoder = built(config)
    save_encoder(encoder, tmp_path, "# card")
    again = load_encoder(tmp_path)
    assert again.config == config
    states = [model(*batch(6_000)).hidden_states[-1].values for model in (encoder, again)]
    assert torch.equal(*states)
    named = {name: value.shape for name, value in encoder.state_dict().items()}
    assert named == {name: value.shape for name, value in again.state_dict().items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_reach_every_part(config: Any) -> None:
    encoder = built(config).train()
    waveform, lengths = batch(6_000, 4_000)
    masked = torch.zeros(2, encoder.clock.count(6_000), dtype=torch.bool)
    masked[:, 2:8] = True
    output = encoder(waveform, lengths, masked)
    weight = torch.randn_like(output.hidden_states[-1].values)
    (output.hidden_states[-1].values * weight).sum().backward()
    still = {name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.abs().max() > 0}
    assert not {name for name in still if not name.endswith("k_proj.bias")}  # a key bias changes no softmax


@pytest.mark.parametrize("config", [TWO_RATES, PRE_NORM])
def test_early_stop_gives_the_same_states(config: MrHubertConfig) -> None:
    encoder = built(config)
    full = encoder(*batch(6_000, 4_000))
    assert len(full.hidden_states) == encoder.num_layers + 1
    first, middle, _ = config.block_layers
    for stop in range(encoder.num_layers):
        early = encoder(*batch(6_000, 4_000), num_layers=stop)
        for one, other in zip(early.hidden_states, full.hidden_states, strict=False):
            assert torch.equal(one.values, other.values)
        assert len(early.hidden_states) == stop + 1
        assert (early.coarse is not None) == (stop >= first + middle)
    with pytest.raises(ConfigError, match=f"the encoder has {encoder.num_layers} layers; got 99"):
        encoder(*batch(6_000), num_layers=99)


def test_mr_hubert_is_the_published_computation() -> None:
    """Step by step as fairseq's ``multires_hubert`` runs one clip of an even number of frames."""
    encoder = built(TWO_RATES)
    waveform, lengths = batch(400 + 320 * 19)
    _, embedded = encoder.embed(waveform, lengths, None)
    encoded = encoder.encoder(embedded, 1)[-1]
    low = encoder.downsampling(encoded)
    middle = low.values + encoder.middle(low, 1)[-1].values
    raised = encoder.upsampling(low.with_values(middle))
    final = encoder.decoder(raised, 1)[-1].values + encoded.values
    output = encoder(waveform, lengths)
    torch.testing.assert_close(output.coarse.values, middle)
    torch.testing.assert_close(output.hidden_states[-1].values, final)
    torch.testing.assert_close(output.hidden_states[2].values, middle.repeat_interleave(2, dim=0))
    assert not hasattr(encoder.middle, "pos_conv_embed") and not hasattr(encoder.decoder, "pos_conv_embed")


def test_mr_hubert_base_has_the_published_size() -> None:
    """fairseq's README says about 97 M, with two heads."""
    with torch.device("meta"):
        method = prediction(
            MrHubert(mr_hubert.published_config("mr-hubert-base")), MaskedPredictionConfig(num_units=500)
        )
    assert sum(parameter.numel() for parameter in method.parameters()) == pytest.approx(97e6, rel=0.01)
    assert mr_hubert.published_config("mr-hubert-large").block_layers == (8, 8, 8)


def speech_batch(encoder: Any, *samples: int, units: int = 5) -> SpeechBatch:
    waveform, lengths = batch(*samples)
    frames = torch.tensor([encoder.clock.count(length) for length in samples])
    labels = torch.randint(units, (len(samples), int(frames.max()), 1))
    masked = torch.rand(labels.shape[:2]) < 0.5
    for row, length in enumerate(frames):
        labels[row, length:], masked[row, length:] = -1, False
    ids = tuple(f"clip-{row}" for row in range(len(samples)))
    return SpeechBatch(ids, waveform, lengths, frames, labels, masked)


def test_the_two_rate_loss_is_the_sum_of_two_losses_on_every_second_unit() -> None:
    encoder = built(TWO_RATES)
    method = prediction(encoder, MaskedPredictionConfig(num_units=5, projection_dim=8, penalty_weight=0.0)).eval()
    assert isinstance(method, TwoRatePrediction)
    one = speech_batch(encoder, 7_000, 4_321)
    output = encoder(one.waveform, one.waveform_lengths, one.masked)
    expected = 0.0
    for hidden, step, projection, table in (
        (output.hidden_states[-1], 1, method.final_proj, method.label_embeddings),
        (output.coarse, 2, method.coarse_proj, method.coarse_embeddings),
    ):
        for row, frames in enumerate(hidden.split()):
            labels = one.units[row, : int(one.frame_lengths[row]), 0][::step]
            masked = one.masked[row, : int(one.frame_lengths[row])][::step]
            expected += masked_prediction_loss(projection(frames[masked]), table, labels[masked])[0]
    result = method.step(one)
    torch.testing.assert_close(result.loss_sum, expected)
    assert int(method.count(one)) == int(one.masked.sum())  # fairseq divides by the fast predictions
    coarse = sum(int(one.masked[row, : int(n)][::2].sum()) for row, n in enumerate(one.frame_lengths))
    assert int(result.sums["loss_masked_coarse"][1]) == coarse
    result.loss_sum.backward()
    assert all(p.grad is not None for name, p in method.named_parameters() if name.startswith("coarse"))


def test_every_second_frame_of_a_batch() -> None:
    one = speech_batch(built(TWO_RATES), 400 + 320 * 6, 400 + 320 * 3, 400)
    halved = every(one, 2)
    assert halved.frame_lengths.tolist() == [4, 2, 1]
    assert torch.equal(halved.units, one.units[:, [0, 2, 4, 6]])
    assert torch.equal(halved.masked, one.masked[:, [0, 2, 4, 6]])
    halved.validate()


def test_two_rates_weigh_visible_frames_too() -> None:
    encoder = built(TWO_RATES)
    config = MaskedPredictionConfig(num_units=5, projection_dim=8, unmasked_weight=1.0)
    sums = prediction(encoder, config).step(speech_batch(encoder, 7_000)).sums
    assert {"accuracy_unmasked", "accuracy_unmasked_coarse", "accuracy_masked_coarse"} <= sums.keys()


def test_a_fused_sum_is_the_weighted_sum_of_all_layers() -> None:
    fused = built(FUSIONS["sum-repeat"])
    waveform, lengths = batch(9_000)
    states, weights = [], torch.cat(list(fused.layer_weights)).softmax(0)
    for branch, up in zip(fused.branches, [None, *fused.upsamplings], strict=True):
        for state in branch(waveform, lengths).hidden_states:
            normal = functional.layer_norm(state.values, state.values.shape[-1:])
            fast = normal if up is None else up(Packed(normal, state.lengths), [fused.clock.count(9_000)]).values
            states.append(fast)
    expected = sum(weight * state for weight, state in zip(weights, states, strict=True))
    torch.testing.assert_close(fused(waveform, lengths).hidden_states[0].values, expected)
    assert len(states) == len(weights) == 12


def test_hierarchical_fusion_climbs_from_the_slowest() -> None:
    fused = built(FUSIONS["hierarchical-linear"])
    assert [(up.slow.hop, up.fast.hop) for up in fused.upsamplings] == [(640, 320), (1280, 640)]
    waveform, lengths = batch(9_000)

    def normal(values: Tensor) -> Tensor:
        return functional.layer_norm(values, values.shape[-1:])

    mixed = []
    for branch, weights in zip(fused.branches, fused.layer_weights, strict=True):
        output = branch(waveform, lengths).hidden_states
        values = sum(w * normal(state.values) for w, state in zip(weights.softmax(0), output, strict=True))
        mixed.append(output[0].with_values(values))
    middle = normal(mixed[1].values + fused.upsamplings[1](mixed[2], mixed[1].lengths).values)
    raised = fused.upsamplings[0](mixed[1].with_values(middle), mixed[0].lengths).values
    torch.testing.assert_close(fused(waveform, lengths).hidden_states[0].values, normal(mixed[0].values + raised))


def test_slow_frames_are_hidden_where_a_fast_one_beside_them_is() -> None:
    fused = built(FUSIONS["concat-repeat"])
    masked = torch.zeros(1, 40, dtype=torch.bool)
    masked[0, 10] = True
    for branch in fused.branches[1:]:
        hidden = fused._slow_mask(branch.clock, [fused.clock.samples(40)], masked)
        assert hidden.sum() == 1
        slow = int(hidden[0].nonzero())
        assert abs(branch.clock.center(slow) - fused.clock.center(10)) <= branch.clock.hop / 2


def test_fusing_copies_trained_encoders_and_freezes_them() -> None:
    encoders = [built(config, seed) for seed, config in enumerate(BRANCHES)]
    fused = fuse(encoders, "concat")
    assert fused.dim == 3 * 24 and fused.num_layers == 0
    trainable = {name for name, value in fused.named_parameters() if value.requires_grad}
    assert trainable == {f"layer_weights.{index}" for index in range(3)}
    for branch, encoder in zip(fused.branches, encoders, strict=True):
        assert all(torch.equal(value, branch.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert all(p.requires_grad for p in fuse(encoders, frozen=False).parameters())
    method = MaskedPrediction(fused, MaskedPredictionConfig(num_units=5, projection_dim=8, penalty_weight=0.0))
    method.step(speech_batch(fused, 6_000)).loss_sum.backward()
    assert all(fused.layer_weights[index].grad.abs().max() > 0 for index in range(3))


def test_widths_may_differ_where_frames_are_not_added() -> None:
    wider = replace(BRANCHES[1], hidden_size=32)
    pair = (BRANCHES[0], wider)
    for config in (
        FusionConfig(branches=pair, join="concat"),
        FusionConfig(branches=pair, join="hierarchical", upsampling="linear"),
    ):
        assert built(config)(*batch(6_000)).hidden_states[0].values.shape[1] == config.hidden_size
    with pytest.raises(ConfigError, match=r"widths \[24, 32\] cannot be added. Join them by 'concat'"):
        FusionConfig(branches=pair)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"from the fastest to the slowest, no two alike; got hops of \[640, 320\]"):
        FusionConfig(branches=(BRANCHES[1], BRANCHES[0]))
    with pytest.raises(ConfigError, match=r"at least two branches.* \[320\]"):
        FusionConfig(branches=BRANCHES[:1])
    with pytest.raises(ConfigError, match="MrHubert cannot be a branch"):
        fuse([built(TWO_RATES)])
    with pytest.raises(ConfigError, match=r"\(1, 1, 1\) add up to 3, num_hidden_layers says 4"):
        replace(TWO_RATES, num_hidden_layers=4)
    with pytest.raises(ConfigError, match=r"rate_ratio >= 2; got block_layers \(1, 1, 1\) and rate_ratio 1"):
        replace(TWO_RATES, rate_ratio=1)
    with pytest.raises(ConfigError, match="transformers, which has no MR-HuBERT"):
        replace(TWO_RATES, published_padding=True)
    with pytest.raises(ConfigError, match=r"Unknown architecture 'mr-hubert'\. Known: mr-hubert-base"):
        mr_hubert.published_config("mr-hubert")
    with pytest.raises(ConfigError, match="needs an MR-HuBERT encoder; got a Hubert"):
        TwoRatePrediction(built(BRANCHES[0]), MaskedPredictionConfig(num_units=5))  # type: ignore[arg-type]
    fused = built(FUSIONS["sum-repeat"])
    with pytest.raises(ShapeError, match=r"\(1, 24\); got \(1, 23\)"):
        fused(*batch(8_000), torch.zeros(1, 23, dtype=torch.bool))
    save_encoder(fused, tmp_path, "# card")
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"join": "sum"', '"join": "product"'))
    with pytest.raises(CheckpointError, match="'product' is not one of"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_evaluation_and_users_get_frames_at_the_fast_rate(config: Any) -> None:
    encoder = built(config)
    source = EncoderSource("fused", encoder)
    frames = source.extract([torch.randn(8_000), torch.randn(3_000)])
    assert source.frame_rate == 50.0 and source.layers == encoder.num_layers + 1
    assert [tuple(one.shape) for one in frames] == [(source.layers, n, encoder.dim) for n in (24, 9)]
    assert SpeechEncoder(encoder).encode([torch.randn(8_000)]).shape == (1, encoder.dim)


def test_families_are_told_apart() -> None:
    assert isinstance(built(TWO_RATES), MrHubert)
    assert isinstance(built(FUSIONS["sum-repeat"]), FusedEncoder)
    assert all(isinstance(branch, Hubert) for branch in built(FUSIONS["sum-repeat"]).branches)
    assert isinstance(prediction(built(BRANCHES[0]), MaskedPredictionConfig(num_units=5)), nn.Module)
