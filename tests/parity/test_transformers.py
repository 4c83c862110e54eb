"""Against ``transformers``: every hidden state of every variant, and folders that both read.

Checkpoints are written by ``transformers`` itself with random weights. In pre-norm models its 5.x ``hidden_states``
end before the final layer norm (4.x: after it); ours end after it, so the last one is compared with
``last_hidden_state``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMForCTC,
    WavLMForXVector,
    WavLMModel,
)

from allophone.models import hubert, wavlm
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.models.waveform_encoder import WaveformEncoder

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
}
BASE: dict[str, Any] = {}
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SLOW: dict[int, dict[str, Any]] = {
    40: {"conv_kernel": [10, 5, 3, 3, 3, 3, 3], "conv_stride": [5, 4, 2, 2, 2, 2, 2]},
    80: {"conv_kernel": [10, 5, 5, 3, 3, 3, 3], "conv_stride": [5, 4, 4, 2, 2, 2, 2]},
}
VARIANTS: dict[str, tuple[type[PreTrainedModel], type[Any], dict[str, Any], dict[str, Any], bool, bool]] = {
    # class, config class, architecture, true sizes, do_normalize, return_attention_mask
    "hubert-base": (HubertModel, HubertConfig, {}, BASE, False, False),
    "hubert-base-40ms": (HubertModel, HubertConfig, SLOW[40], BASE, False, False),
    "hubert-base-80ms": (HubertModel, HubertConfig, SLOW[80], BASE, False, False),
    "hubert-large": (HubertModel, HubertConfig, LAYER_NORM, LARGE, True, True),
    "wav2vec2-base": (Wav2Vec2Model, Wav2Vec2Config, {}, BASE, True, False),
    "xls-r-300m": (Wav2Vec2Model, Wav2Vec2Config, LAYER_NORM, LARGE, True, True),
    "wavlm-base": (WavLMModel, WavLMConfig, {}, BASE, False, False),
    "wavlm-large": (WavLMModel, WavLMConfig, {**LAYER_NORM, "conv_bias": False}, LARGE, True, True),
}
Written = tuple[Path, PreTrainedModel, Wav2Vec2FeatureExtractor]


def write(name: str, folder: Path, sizes: dict[str, Any]) -> Written:
    """A checkpoint as ``transformers`` writes it."""
    model_class, config_class, architecture, _, normalize, mask = VARIANTS[name]
    torch.manual_seed(0)
    model = model_class(config_class(**architecture, **sizes)).eval()
    with torch.no_grad():  # norms and biases away from one and zero
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for key, parameter in model.named_parameters():  # WavLM's initial biases by distance are next to nothing
            if "rel_" in key:
                parameter.add_(torch.randn_like(parameter))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=mask)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder, model, extractor


@pytest.fixture(scope="module", params=VARIANTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(request.param, tmp_path_factory.mktemp(request.param), SMALL)


def theirs(model: PreTrainedModel, extractor: Any, waveform: Tensor) -> list[Tensor]:
    """Hidden states of one clip, the last one after the final layer norm."""
    inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=False)
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    return [*(state[0] for state in output.hidden_states[:-1]), output.last_hidden_state[0]]


def ours(encoder: Encoder, waveform: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        output = encoder(waveform[None], torch.tensor([len(waveform)]))
    return [state.values for state in output.hidden_states]


def largest_difference(one: list[Tensor], other: list[Tensor]) -> float:
    assert len(one) == len(other)
    assert all(a.shape == b.shape for a, b in zip(one, other, strict=True))
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def test_every_hidden_state(written: Written, speech: Callable[..., Tensor]) -> None:
    folder, model, extractor = written
    encoder = load_encoder(folder)
    assert {name for name, _ in encoder.named_parameters()} == {name for name, _ in model.named_parameters()}
    beyond = 17.0 if model.config.model_type == "wavlm" else 6.3  # more frames than WavLM tells distances apart
    shortest = encoder.clock.receptive_field / 16_000
    for seconds in (shortest, 0.5, beyond):
        clip = speech(seconds) + 0.02
        assert largest_difference(ours(encoder, clip), theirs(model, extractor, clip)) <= TOLERANCE


def test_the_last_state_is_theirs_through_the_final_norm(written: Written, speech: Callable[..., Tensor]) -> None:
    folder, model, extractor = written
    inputs = extractor(speech(1.0).numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=False)
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
        last = output.hidden_states[-1][0]
        if not torch.equal(last, output.last_hidden_state[0]):  # 5.x, pre-norm
            assert model.config.do_stable_layer_norm
            last = model.encoder.layer_norm(last)
    assert largest_difference([ours(load_encoder(folder), speech(1.0))[-1]], [last]) <= TOLERANCE


def test_what_we_save_they_load(written: Written, tmp_path: Path, speech: Callable[..., Tensor]) -> None:
    folder, model, extractor = written
    encoder = load_encoder(folder)
    save_encoder(encoder, tmp_path, "# card")
    again, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    extractor_again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor_again.to_dict() == extractor.to_dict()
    clip = speech(1.5)
    assert largest_difference(theirs(again.eval(), extractor_again, clip), theirs(model, extractor, clip)) == 0
    assert largest_difference(ours(load_encoder(tmp_path), clip), ours(encoder, clip)) == 0


def test_a_fresh_encoder_of_ours_opens_there(tmp_path: Path, speech: Callable[..., Tensor]) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    for config in (
        hubert.HubertConfig(**sizes, conv_dim=(16,) * 7, feature_grad_mult=0.1, do_normalize=True),
        hubert.HubertConfig(**sizes, conv_dim=(16,) * 7, **hubert.RESOLUTIONS[40]),
        hubert.HubertConfig(**sizes, conv_dim=(16,) * 7, **hubert.RESOLUTIONS[80]),
        wavlm.WavlmConfig(**sizes, conv_dim=(16,) * 7, num_buckets=16, max_bucket_distance=30),
        Wav2Vec2BertConfig(**sizes, feature_stride=4),
    ):
        torch.manual_seed(0)
        encoder = build_encoder(config).eval()
        folder = save_encoder(encoder, tmp_path / type(config).__name__, "# card")
        model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
        clip = speech(2.0)[: 400 + 160 * 195]  # 196 log-mel frames: no stack is left over for either to drop or fill
        inputs = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            expected = [state[0] for state in model(**inputs, output_hidden_states=True).hidden_states]
        assert largest_difference(ours(encoder, clip), expected) <= TOLERANCE


@pytest.mark.parametrize("head", [HubertForCTC, Wav2Vec2ForCTC, WavLMForCTC, WavLMForXVector])
def test_heads_and_old_pickles_are_read(
    head: type[PreTrainedModel], tmp_path: Path, speech: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    model = head(head.config_class(**SMALL)).eval()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    body, clip = model.base_model, speech(1.0)
    expected = theirs(body, extractor, clip)
    assert largest_difference(ours(load_encoder(tmp_path), clip), expected) <= TOLERANCE
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    older = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        older[name] = value
    (tmp_path / "model.safetensors").unlink()
    torch.save(older, tmp_path / "pytorch_model.bin")
    assert largest_difference(ours(load_encoder(tmp_path), clip), expected) <= TOLERANCE


def test_published_padding_reproduces_a_padded_batch(written: Written, speech: Callable[..., Tensor]) -> None:
    """With the option, a batch gives what ``transformers`` gives for the same batch, padding effects included."""
    folder, model, extractor = written
    loaded = load_encoder(folder)
    assert isinstance(loaded, WaveformEncoder)
    encoder = build_encoder(replace(loaded.config, published_padding=True)).eval()
    encoder.load_state_dict(loaded.state_dict())
    clips = [speech(seconds, seed=i) for i, seconds in enumerate((2.0, 0.7, 1.1))]
    arrays = [clip.numpy() for clip in clips]
    inputs = extractor(arrays, sampling_rate=16_000, padding=True, return_tensors="pt")
    assert ("attention_mask" in inputs) == extractor.return_attention_mask
    lengths = torch.tensor([len(clip) for clip in clips])
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state
        states = encoder(nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths).hidden_states[-1].split()
    for row, state in zip(expected, states, strict=True):
        assert float((row[: len(state)] - state).abs().max()) <= TOLERANCE


def test_a_ragged_batch_is_theirs_one_at_a_time(written: Written, speech: Callable[..., Tensor]) -> None:
    folder, model, extractor = written
    clips = [speech(seconds, seed=i) for i, seconds in enumerate((2.0, 0.7, 1.1, 0.7))]
    with torch.inference_mode():
        waveform = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        states = load_encoder(folder)(waveform, torch.tensor([len(clip) for clip in clips])).hidden_states
    for row, clip in enumerate(clips):
        one = [state.split()[row] for state in states]
        assert largest_difference(one, theirs(model, extractor, clip)) <= TOLERANCE


def test_gradients_agree(written: Written, speech: Callable[..., Tensor]) -> None:
    folder, model, extractor = written
    encoder, clip = load_encoder(folder), speech(0.8)
    inputs = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=False)
    expected = model(**inputs).last_hidden_state[0]
    actual = encoder(clip[None], torch.tensor([len(clip)])).hidden_states[-1].values
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(actual.shape))).float()
    names = [name for name, _ in model.named_parameters() if name != "masked_spec_embed"]
    both = [dict(module.named_parameters()) for module in (encoder, model)]
    one = torch.autograd.grad((actual * weight).sum(), [both[0][name] for name in names])
    other = torch.autograd.grad((expected * weight).sum(), [both[1][name] for name in names])
    for name, a, b in zip(names, one, other, strict=True):
        assert (a - b).abs().max() <= 2e-3 * max(float(b.abs().max()), 1e-2), name


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_true_sizes(
    name: str, tmp_path: Path, speech: Callable[..., Tensor], record_property: Callable[[str, object], None]
) -> None:
    folder, model, extractor = write(name, tmp_path / "theirs", VARIANTS[name][3])
    encoder = load_encoder(folder)
    assert isinstance(encoder, WaveformEncoder)
    default = (wavlm if name.startswith("wavlm") else hubert).published_config(name)
    assert (encoder.config.hidden_size, encoder.config.num_hidden_layers, encoder.config.conv_dim) == (
        default.hidden_size,
        default.num_hidden_layers,
        default.conv_dim,
    )
    clip = speech(7.0)
    expected = theirs(model, extractor, clip)
    difference = largest_difference(ours(encoder, clip), expected)
    record_property("largest_difference", difference)
    assert difference <= TOLERANCE
    save_encoder(encoder, tmp_path / "ours", "# card")
    del encoder, model
    again = VARIANTS[name][0].from_pretrained(tmp_path / "ours").eval()
    assert largest_difference(theirs(again, extractor, clip), expected) == 0
