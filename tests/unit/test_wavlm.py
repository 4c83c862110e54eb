"""WavLM: distances in buckets, gates, one table for all layers, and LoRA that takes effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from allophone.config import from_dict, to_dict
from allophone.errors import ConfigError
from allophone.models import hubert
from allophone.models.build import attention_projections, build_encoder, feed_forward_projections
from allophone.models.wavlm import Wavlm, WavlmConfig, from_transformers, published_config, to_transformers
from allophone.nn.relative_position import GatedSelfAttention, distance_buckets
from allophone.run.config import RunConfig

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 16,
    "max_bucket_distance": 30,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
BASE, LARGE = (replace(published_config(name), **TINY) for name in ("wavlm-base", "wavlm-large"))
BOTH = pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])


def encoder(config: WavlmConfig = BASE) -> Wavlm:
    torch.manual_seed(0)
    model = Wavlm(config)
    with torch.no_grad():  # larger than the initial weights, so that every part matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    waveform = 0.1 * torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    return waveform, torch.tensor([20_000, 9_000, 13_000])


def attention(model: Wavlm, index: int) -> GatedSelfAttention:
    module = model.encoder.layers[index].attention
    assert isinstance(module, GatedSelfAttention)
    return module


def test_near_distances_have_buckets_of_their_own_and_far_ones_share() -> None:
    distances = torch.arange(-1000, 1001)
    buckets = distance_buckets(distances, 320, 800)
    by_distance = dict(zip(distances.tolist(), buckets.tolist(), strict=True))
    assert [by_distance[-n] for n in range(80)] == list(range(80))
    assert [by_distance[n] for n in range(1, 80)] == list(range(161, 240))
    assert {by_distance[n] for n in range(800, 1001)} == {319} and {by_distance[-n] for n in range(800, 1001)} == {159}
    assert all(by_distance[n] == by_distance[-n] + 160 for n in range(1, 1001))
    assert buckets[1000:].diff()[1:].min() == 0 and buckets.unique().numel() == 319  # 160, "0 to the right", is unused


@BOTH
def test_the_table_is_the_first_layers_and_all_layers_heed_it(config: WavlmConfig) -> None:
    model, (waveform, lengths) = encoder(config), batch()
    names = [name for name, _ in model.named_parameters() if "rel_attn_embed" in name]
    assert names == ["encoder.layers.0.attention.rel_attn_embed.weight"]
    table = attention(model, 0).by_distance(5)
    weight = attention(model, 0).rel_attn_embed.weight
    assert torch.equal(table, weight[distance_buckets(torch.arange(4, -5, -1), 16, 30)].T)
    assert attention(model, 1).by_distance(5) is None
    with torch.no_grad():  # a closed first gate still lets through 1 to 2 times the bias; without v nothing is heard
        for part in (attention(model, 0), attention(model, 1)):
            part.out_proj.weight.zero_()
    (gradient,) = torch.autograd.grad(model(waveform, lengths).hidden_states[-1].values.square().sum(), weight)
    assert gradient.abs().max() > 0  # through the third layer alone


def test_a_gate_is_what_the_formula_says() -> None:
    layer = attention(encoder(), 1)
    values = torch.randn(7, 24)
    for frame in range(7):
        for head in range(2):
            part = values[frame, head * 12 : (head + 1) * 12]
            eight = layer.gru_rel_pos_linear.weight @ part + layer.gru_rel_pos_linear.bias
            a, b = eight[:4].sum().sigmoid(), eight[4:].sum().sigmoid()
            expected = a * (b * layer.gru_rel_pos_const[0, head, 0, 0] - 1) + 2
            torch.testing.assert_close(layer.gate(values)[frame, head], expected)


@BOTH
def test_early_stop_gives_the_same_states(config: WavlmConfig) -> None:
    model, (waveform, lengths) = encoder(config), batch()
    full = model(waveform, lengths).hidden_states
    for stop in range(3):
        early = model(waveform, lengths, num_layers=stop).hidden_states
        assert len(early) == stop + 1
        assert all(torch.equal(one.values, other.values) for one, other in zip(early, full, strict=False))


@BOTH
def test_bfloat16_stays_close_and_trains(config: WavlmConfig) -> None:
    model, (waveform, lengths) = encoder(config), batch()
    full = model(waveform, lengths).hidden_states[-1].values
    with torch.autocast("cpu", torch.bfloat16):
        half = model(waveform, lengths).hidden_states[-1].values
    assert torch.cosine_similarity(half.float(), full, dim=-1).min() > 0.99
    half.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for name, value in model.named_parameters() if name != "masked_spec_embed")


def test_dropout_is_the_same_in_the_recomputed_backward_pass() -> None:
    """Were it drawn anew there, the gradient would be that of another function than the one that was computed."""
    model, (waveform, lengths) = encoder(replace(BASE, attention_dropout=0.5)).train().double(), batch()
    bias = attention(model, 2).v_proj.bias

    def loss() -> Tensor:
        torch.manual_seed(3)
        return model(waveform.double(), lengths).hidden_states[-1].values.square().sum()

    (gradient,) = torch.autograd.grad(loss(), bias)
    with torch.no_grad():
        step = 1e-6 * gradient / gradient.norm()
        bias.add_(step)
        above = loss()
        bias.sub_(2 * step)
        slope = (above - loss()) / 2e-6
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-4, atol=0)


@BOTH
def test_lora_reaches_every_layer_and_starts_as_the_base(config: WavlmConfig) -> None:
    model, (waveform, lengths) = encoder(config), batch()
    base = model(waveform, lengths).hidden_states[-1].values.detach()
    names = [*attention_projections(model), *feed_forward_projections(model), "gru_rel_pos_linear"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=names))
    output = adapted(waveform, lengths).hidden_states[-1].values
    assert torch.equal(output, base)
    output.square().sum().backward()
    lora = {name: value.grad for name, value in adapted.named_parameters() if "lora_B" in name}
    assert len(lora) == len(names) * config.num_hidden_layers
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in lora.values())


@pytest.mark.parametrize("size", ["base", "large"])
def test_true_sizes_are_huberts_and_the_biases(size: str) -> None:
    config = published_config(f"wavlm-{size}")
    with torch.device("meta"):
        ours, theirs = (
            build_encoder(config),
            build_encoder(replace(hubert.published_config(f"hubert-{size}"), conv_bias=False)),
        )
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    added = 320 * heads + layers * (8 * config.hidden_size // heads + 8 + heads)
    counts = [sum(value.numel() for value in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] + added


def test_configs_survive_json_and_contradictions_are_refused() -> None:
    assert from_dict(WavlmConfig, to_dict(LARGE)) == LARGE
    assert WavlmConfig in get_args(get_type_hints(RunConfig)["encoder"])
    told = {"do_normalize": True, "return_attention_mask": True, "sampling_rate": 16_000}
    assert from_transformers(to_transformers(LARGE), told) == LARGE
    for change in ({"num_buckets": 15}, {"num_buckets": 2}, {"max_bucket_distance": 4}):
        with pytest.raises(ConfigError, match="num_buckets must be even and at least 4, and max_bucket_distance more"):
            replace(BASE, **change)
    with pytest.raises(ConfigError, match="not a multiple of num_attention_heads 5"):
        replace(BASE, num_attention_heads=5)
    with pytest.raises(ConfigError, match="Did you mean 'wavlm-base'"):
        published_config("wavlm-bas")
    with pytest.raises(ConfigError, match="add_adapter is True; adapters are not supported"):
        from_transformers({**to_transformers(BASE), "add_adapter": True}, told)
