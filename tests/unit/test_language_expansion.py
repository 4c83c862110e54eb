"""LoRA for a new language: the published share, a live adapter, merging, and a pack that PEFT itself loads."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from tiny_model import batch, encoder, lasr, wavlm
from torch import nn
from transformers import AutoModel

from allophone.errors import ConfigError, NumericsError
from allophone.methods.language_expansion import (
    ExpansionConfig,
    LanguageExpansion,
    check_adaptation,
    initialize_table,
)
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.build import Encoder
from allophone.models.conversion import save_encoder
from allophone.models.hubert import Hubert, published_config
from allophone.run.expansion import adapted_layers
from allophone.run.pack import pack_card

FAMILIES = pytest.mark.parametrize("make", [encoder, lasr, wavlm])
LAYERS = pytest.mark.parametrize("adapt", ["attention", "linear"])


def expansion(
    rank: int = 4, make: Callable[[], Encoder] = encoder, adapt: str | None = "attention"
) -> LanguageExpansion:
    method = MaskedPrediction(make(), MaskedPredictionConfig(num_units=5, projection_dim=8))
    return LanguageExpansion(method, ExpansionConfig(rank=rank), adapted_layers(method.encoder, adapt))


def train(one: LanguageExpansion, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for group in one.parameter_groups() for p in group.parameters], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (one.step(batch()).loss_sum / one.count(batch())).backward()
        optimizer.step()


def test_share_of_hubert_base_is_the_published_one() -> None:
    with torch.device("meta"):
        method = MaskedPrediction(
            Hubert(published_config("hubert-base")),
            MaskedPredictionConfig(num_units=1_000, extra_rows=4, projection_dim=256),
        )
        one = LanguageExpansion(method, ExpansionConfig(rank=24), adapted_layers(method.encoder, None))
    trained, every = one.trainable_share()
    assert (trained, every) == (2_026_496, 96_595_072)
    assert round(100 * trained / every, 3) == 2.098


@LAYERS
@FAMILIES
def test_untrained_adapter_changes_nothing_and_only_lora_and_table_are_trained(
    make: Callable[[], Encoder], adapt: str
) -> None:
    base = make().eval()
    one = expansion(make=make, adapt=adapt)
    one.method.encoder.load_state_dict(base.state_dict(), strict=False)
    trained = {name for name, p in one.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name or name.endswith("label_embeddings") for name in trained)
    check_adaptation(one, batch())


@LAYERS
@FAMILIES
def test_training_moves_every_lora_tensor_and_nothing_frozen(make: Callable[[], Encoder], adapt: str) -> None:
    one = expansion(make=make, adapt=adapt)
    before = copy.deepcopy(one.state_dict())
    train(one)
    for name, value in one.state_dict().items():
        moves = "lora_" in name or name.endswith("label_embeddings")
        if not name.startswith("adapter."):
            assert torch.equal(value, before[name]) != moves, name


@LAYERS
@FAMILIES
def test_merged_equals_unmerged(make: Callable[[], Encoder], adapt: str) -> None:
    one = expansion(make=make, adapt=adapt)
    train(one)
    merged = one.artifact().eval()
    one.eval()
    waveform, lengths = 0.1 * torch.randn(2, 9_000), torch.tensor([9_000, 5_000])
    adapted = one.encoder(waveform, lengths).hidden_states[-1].values
    torch.testing.assert_close(merged(waveform, lengths).hidden_states[-1].values, adapted, atol=1e-5, rtol=0)
    assert not any("lora" in name for name in merged.state_dict())


@LAYERS
@pytest.mark.parametrize("make", [encoder, lasr])
def test_pack_loads_in_peft_on_the_transformers_model(tmp_path, make: Callable[[], Encoder], adapt: str) -> None:
    base = make().eval()
    save_encoder(base, tmp_path / "base", "card")
    one = expansion(make=make, adapt=adapt)
    train(one)
    one.save_pack(tmp_path / "pack")
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "pack").eval()
    waveform, lengths = 0.1 * torch.randn(1, 880 + 640 * 9), torch.tensor([880 + 640 * 9])
    one.eval()
    features = base.features(waveform, lengths)
    with torch.no_grad():
        expected = theirs(input_features=features.values[None]).last_hidden_state[0]
    mine = one.encoder(waveform, lengths).hidden_states[-1].values
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)
    untouched = base(waveform, lengths).hidden_states[-1].values
    assert float((mine - untouched).abs().max()) > 2e-4


def test_a_wavlm_pack_is_bypassed_by_transformers_and_the_merged_model_is_not(tmp_path) -> None:
    """Its attention reads raw weights. Should the first comparison ever fail, the note on the card can go."""
    base = wavlm().eval()
    save_encoder(base, tmp_path / "base", "card")
    one = expansion(make=wavlm)
    train(one)
    one.save_pack(tmp_path / "pack")
    save_encoder(one.artifact(), tmp_path / "merged", "card")  # type: ignore[arg-type]
    waveform, lengths = 0.1 * torch.randn(1, 9_000), torch.tensor([9_000])
    with torch.no_grad():
        adapted = one.eval().encoder(waveform, lengths).hidden_states[-1].values
        untouched = base(waveform, lengths).hidden_states[-1].values
        bypassed = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "pack").eval()
        torch.testing.assert_close(bypassed(waveform).last_hidden_state[0], untouched, atol=1e-5, rtol=0)
        merged = AutoModel.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(merged(waveform).last_hidden_state[0], adapted, atol=1e-5, rtol=0)
    assert float((adapted - untouched).abs().max()) > 2e-4
    assert "this pack changes nothing there" in pack_card("A card.", base)
    assert pack_card("A card.", lasr()) == "A card."


def test_a_conformer_has_its_feed_forward_adapted_unless_attention_is_asked_for() -> None:
    with torch.device("meta"):
        hubert = Hubert(published_config("hubert-base"))
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    assert adapted_layers(hubert, None) == adapted_layers(hubert, "attention") == attention
    assert adapted_layers(hubert, "linear") == (*attention, "intermediate_dense", "output_dense")
    assert adapted_layers(wavlm(), None) == attention
    assert adapted_layers(wavlm(), "linear") == adapted_layers(hubert, "linear")
    assert adapted_layers(lasr(), None) == adapted_layers(lasr(), "linear")
    conformer = {name.split(".")[-4] for name in expansion(make=lasr, adapt=None).lora_parameters()}
    assert conformer == {"q_proj", "k_proj", "v_proj", "o_proj", "linear1", "linear2"}


def test_a_layer_that_is_read_but_not_called_is_found_out() -> None:
    one = expansion()
    attention = one.method.encoder.encoder.layers[0].self_attn

    class Bypass(nn.Module):
        def __init__(self, wrapped: nn.Module) -> None:
            super().__init__()
            self.wrapped = wrapped

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(values, self.wrapped.base_layer.weight, self.wrapped.base_layer.bias)

    attention.linear_q = Bypass(attention.linear_q)
    with pytest.raises(NumericsError, match=r"LoRA tensors got no gradient and did not move.*linear_q"):
        check_adaptation(one, batch())


def test_table_starts_at_the_mean_direction_of_its_frames() -> None:
    method = MaskedPrediction(encoder(), MaskedPredictionConfig(num_units=6, projection_dim=8)).eval()
    row = method.label_embeddings[5].detach().clone()
    initialize_table(method, [batch()])
    one = batch()
    hidden = method.encoder(one.waveform, one.waveform_lengths).hidden_states[-1].split()
    directions = [
        nn.functional.normalize(method.final_proj(frames), dim=-1)[one.units[i, : len(frames), 0] == 2]
        for i, frames in enumerate(hidden)
    ]
    expected = nn.functional.normalize(torch.cat(directions).sum(0), dim=-1)
    torch.testing.assert_close(method.label_embeddings[2], expected, atol=1e-5, rtol=0)
    assert torch.equal(method.label_embeddings[5], row)


def test_control_trains_the_table_alone_and_has_no_pack(tmp_path) -> None:
    one = expansion(rank=0)
    assert {name for name, p in one.named_parameters() if p.requires_grad} == {"method.label_embeddings"}
    with pytest.raises(ConfigError, match="rank 0 has no adapter"):
        one.save_pack(tmp_path)
    check_adaptation(one, batch())


def test_refuses_layers_that_do_not_exist_and_bad_ranks() -> None:
    method = MaskedPrediction(encoder(), MaskedPredictionConfig(num_units=5))
    with pytest.raises(ConfigError, match=r"No layer named \['nothing'\] in Wav2Vec2Bert"):
        LanguageExpansion(method, ExpansionConfig(), ("nothing",))
    with pytest.raises(ConfigError, match="rank >= 0 and a positive alpha"):
        ExpansionConfig(rank=-1)
