"""The HuBERT and wav2vec 2.0 encoder: front end, masking, gradients, early stop, LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from allophone.errors import ConfigError, ShapeError
from allophone.models.build import attention_projections, build_encoder
from allophone.models.hubert import Hubert, HubertConfig, from_transformers, published_config, to_transformers
from allophone.models.lasr import LasrConfig
from allophone.models.mr_hubert import MrHubertConfig
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig
from allophone.nn import convolution
from allophone.nn.convolution import ConvolutionalFrontEnd, PositionalConvolution

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
GROUP, LAYER = (replace(published_config(name), **TINY) for name in ("hubert-base", "xls-r-300m"))


def encoder(config: HubertConfig = GROUP, seed: int = 0) -> Hubert:
    torch.manual_seed(seed)
    model = Hubert(config)
    with torch.no_grad():  # larger than the initial weights, so that every part matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch(*samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.zeros(len(samples), max(samples))
    for row, length in zip(waveform, samples, strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return waveform, torch.tensor(samples)


def front_end(norm: str, bias: bool = False) -> ConvolutionalFrontEnd:
    config = GROUP
    return ConvolutionalFrontEnd(config.conv_dim, config.conv_kernel, config.conv_stride, bias, norm, "gelu")


def plain_front_end(module: ConvolutionalFrontEnd, waveform: Tensor) -> Tensor:
    """The textbook computation: every layer over the whole waveform, norms as modules."""
    frames = waveform[None, None]
    for layer in module.conv_layers:
        frames = layer.conv(frames)
        if layer.norm == "group":
            frames = layer.layer_norm(frames)
        elif layer.norm == "layer":
            frames = layer.layer_norm(frames.transpose(1, 2)).transpose(1, 2)
        frames = nn.functional.gelu(frames)
    return frames[0].T


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_every_length_has_the_frames_that_the_clock_says(norm: str) -> None:
    module = front_end(norm)
    with torch.inference_mode():
        for samples in [*range(400, 420), *range(715, 725), 1039, 1040, 16_000, 20_000]:
            packed = module([torch.randn(samples)])
            assert packed.lengths == (module.clock.count(samples),) == (len(packed.values),)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_pieces_and_folded_norm_equal_the_textbook_with_gradients(
    norm: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "PIECE_FRAMES", 7)
    module = front_end(norm, bias)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    waveform = 0.1 * torch.randn(9_000) + 0.03  # an offset, as cheap sound cards have it
    ours, theirs = module([waveform]).values, plain_front_end(module, waveform)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    parameters = list(module.parameters())
    weight = torch.randn_like(ours)
    pairs = zip(
        parameters,
        torch.autograd.grad((ours * weight).sum(), parameters),
        torch.autograd.grad((theirs * weight).sum(), parameters),
        strict=True,
    )
    for parameter, one, other in pairs:
        scale = max(float(other.abs().max()), 0.1)  # a bias before a group norm has none but rounding
        assert (one - other).abs().max() < 2e-3 * scale, tuple(parameter.shape)


def test_a_silent_recording_gives_finite_frames() -> None:
    for config in (GROUP, LAYER):
        states = encoder(config)(torch.zeros(1, 4000), torch.tensor([4000])).hidden_states
        assert all(state.values.isfinite().all() for state in states)


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    model = Hubert(HubertConfig(num_hidden_layers=1))
    layer = model.encoder.layers[0]
    for linear in (layer.attention.q_proj, layer.feed_forward.output_dense, model.feature_projection.projection):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.bias.abs().max() == 0
    kernel = model.encoder.pos_conv_embed.conv.weight
    assert kernel.std().item() == pytest.approx((4 / (128 * 768)) ** 0.5, rel=0.05)
    conv = model.feature_extractor.conv_layers[1].conv.weight
    assert conv.std().item() == pytest.approx((2 / (512 * 3)) ** 0.5, rel=0.05)
    assert model.masked_spec_embed.min() >= 0 and model.masked_spec_embed.max() <= 1


def test_masked_frames_are_hidden_and_others_are_not() -> None:
    model = encoder(replace(GROUP, num_conv_pos_embeddings=2))
    waveform, lengths = batch(4000, 2500)
    masked = torch.zeros(2, 12, dtype=torch.bool)
    masked[0, 6:9] = True
    masked[1, 8:] = True  # beyond the end of the second utterance: means nothing
    plain, hidden = model(waveform, lengths), model(waveform, lengths, masked)
    changed = (plain.hidden_states[0].values - hidden.hidden_states[0].values).abs().amax(dim=1) > 1e-6
    assert changed[6:9].all()
    assert not changed[:6].any() and not changed[10:].any()  # frame 9 sees frame 8 through the kernel of 2
    other = waveform.clone()
    other[0, 6 * 320 + 400 : 8 * 320] += 1.0  # samples of masked frames only
    layer_model = encoder(replace(LAYER, do_normalize=False))
    one, two = (layer_model(audio, lengths, masked).hidden_states[-1].values for audio in (waveform, other))
    torch.testing.assert_close(one, two)
    assert not torch.allclose(layer_model(other, lengths).hidden_states[-1].values, one)


def test_early_stop_gives_the_same_states() -> None:
    for config in (GROUP, LAYER):
        model = encoder(config)
        waveform, lengths = batch(4000, 2500)
        full = model(waveform, lengths).hidden_states
        assert len(full) == 4
        for stop in range(3):
            early = model(waveform, lengths, num_layers=stop).hidden_states
            assert len(early) == stop + 1
            assert all(torch.equal(one.values, other.values) for one, other in zip(early, full, strict=False))
    with pytest.raises(ConfigError, match="has 3 layers; got 4"):
        model(waveform, lengths, num_layers=4)


def test_dropout_acts_in_training_mode_only() -> None:
    waveform, lengths = batch(4000, 2500)
    reference = encoder()(waveform, lengths).hidden_states[-1].values
    for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"):
        model = encoder(replace(GROUP, **{name: 0.5}))
        assert torch.equal(model(waveform, lengths).hidden_states[-1].values, reference), name
        model.train()
        one, two = (model(waveform, lengths).hidden_states[-1].values for _ in range(2))
        assert not torch.equal(one, two), name
    assert torch.equal(encoder().train()(waveform, lengths).hidden_states[-1].values, reference)


@pytest.mark.parametrize("config", [GROUP, LAYER])
def test_bfloat16_stays_close_and_trains(config: HubertConfig) -> None:
    model = encoder(config)
    waveform, lengths = batch(40_000, 2500)
    full = model(waveform, lengths).hidden_states[-1].values
    with torch.autocast("cpu", torch.bfloat16):
        output = model(waveform, lengths)
    half = output.hidden_states[-1].values
    assert torch.cosine_similarity(half.float(), full, dim=-1).min() > 0.99
    assert output.features_penalty.dtype == torch.float32
    (half.float().square().sum() + output.features_penalty).backward()
    assert all(value.grad.isfinite().all() for name, value in model.named_parameters() if name != "masked_spec_embed")


def test_penalty_is_the_sum_of_squared_features_of_real_frames() -> None:
    model = encoder()
    waveform, lengths = batch(4000, 2500)
    output = model(waveform, lengths)
    features = [plain_front_end(model.feature_extractor, row[:n]) for row, n in zip(waveform, lengths, strict=True)]
    assert output.feature_count == sum(part.numel() for part in features) == (12 + 7) * 16
    torch.testing.assert_close(output.features_penalty, sum(part.square().sum() for part in features))


def test_feature_grad_mult_scales_the_front_end_only() -> None:
    waveform, lengths = batch(4000, 2500)
    gradients = {}
    for factor in (1.0, 0.1, 0.0):
        model = encoder(replace(GROUP, feature_grad_mult=factor))
        output = model(waveform, lengths)
        (output.hidden_states[-1].values.square().sum() + output.features_penalty).backward()
        gradients[factor] = {name: value.grad for name, value in model.named_parameters()}
    for name, full in gradients[1.0].items():
        if name != "masked_spec_embed":
            inside = name.startswith("feature_extractor")
            for factor in (0.1, 0.0):
                torch.testing.assert_close(gradients[factor][name], full * (factor if inside else 1.0))


def test_lora_reaches_every_projection_and_starts_as_the_base() -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    lasr = LasrConfig(**sizes, subsampling_conv_channels=16, attention_bias=True)
    two_rates = MrHubertConfig(**TINY, block_layers=(1, 1, 1))
    for config in (GROUP, LAYER, two_rates, Wav2Vec2BertConfig(**sizes, conformer_conv_dropout=0.0), lasr):
        torch.manual_seed(0)
        model = build_encoder(config).eval()
        waveform, lengths = batch(8000, 5000)
        base = model(waveform, lengths).hidden_states[-1].values.detach()
        names = attention_projections(model)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=list(names)))
        output = adapted(waveform, lengths).hidden_states[-1].values
        assert torch.equal(output, base)
        output.square().sum().backward()
        lora = {name: value.grad for name, value in adapted.named_parameters() if "lora_B" in name}
        assert len(lora) == 4 * config.num_hidden_layers
        assert {name.split(".")[-4] for name in lora} == set(names)
        # The last attention may reach the output only through the layers above, but nothing may be cut off.
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in lora.values())


def test_build_makes_each_family() -> None:
    assert isinstance(build_encoder(GROUP), Hubert)
    assert isinstance(build_encoder(Wav2Vec2BertConfig(hidden_size=16, num_hidden_layers=1)), Wav2Vec2Bert)


def test_batch_norm_position_uses_running_statistics_in_training_too() -> None:
    module = PositionalConvolution(8, 4, 2, True, "gelu").train()
    assert module.batch_norm is not None
    module.batch_norm.running_mean.fill_(0.5)
    packed = encoder(replace(GROUP, conv_pos_batch_norm=True))(*batch(4000, 2500)).hidden_states[0]
    assert packed.values.isfinite().all()
    hidden = packed.with_values(torch.randn(sum(packed.lengths), 8))
    in_training = module(hidden)
    assert torch.equal(module.eval()(hidden), in_training)
    assert module.batch_norm.running_mean.eq(0.5).all()


def test_wrong_shapes_are_named() -> None:
    model = encoder()
    waveform, lengths = batch(4000, 2500)
    with pytest.raises(ShapeError, match=r"utterance 1 of the batch has 399 samples; expected 400"):
        model(waveform, torch.tensor([4000, 399]))
    with pytest.raises(ShapeError, match=r"utterance 0 of the batch has 4001 samples"):
        model(waveform, torch.tensor([4001, 2500]))
    with pytest.raises(ShapeError, match=r"expected waveform \(batch, samples\)"):
        model(waveform[0], lengths)
    with pytest.raises(ShapeError, match=r"masked: expected .*\(2, 12\); got \(2, 13\)"):
        model(waveform, lengths, torch.zeros(2, 13, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads 5"),
        ({"num_conv_pos_embedding_groups": 7}, "not a multiple of num_conv_pos_embedding_groups 7"),
        ({"conv_kernel": (10, 3)}, "must be equally long; got 7, 2, 7"),
        ({"feat_extract_norm": "batch"}, "must be 'group' or 'layer'; got 'batch'"),
    ],
)
def test_contradictory_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(GROUP, **change)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hubert-base'"):
        published_config("hubert-bse")
    with pytest.raises(ConfigError, match=r"Unknown activation 'geluu'\. Did you mean 'gelu'"):
        Hubert(replace(GROUP, hidden_act="geluu"))


def test_waveform_settings_are_never_guessed() -> None:
    values = to_transformers(GROUP)
    told = {"do_normalize": True, "return_attention_mask": False, "sampling_rate": 16_000}
    assert from_transformers(values, told) == replace(GROUP, do_normalize=True)
    for key in ("do_normalize", "return_attention_mask"):
        with pytest.raises(ConfigError, match=f"{key} is None; expected true or false"):
            from_transformers(values, {other: value for other, value in told.items() if other != key})
    with pytest.raises(ConfigError, match="sampling_rate 8000; expected 16000"):
        from_transformers(values, {**told, "sampling_rate": 8000})
    with pytest.raises(ConfigError, match="adapter_attn_dim is 16; adapters are not supported"):
        from_transformers({**values, "adapter_attn_dim": 16}, told)
