"""Against ``transformers``: its own speech encoder, adaptor and decoder, the same weights, the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_translator import LANGUAGES, decoder_folder
from transformers import (
    AutoModelForSeq2SeqLM,
    MBartConfig,
    MBartForCausalLM,
    MBartForConditionalGeneration,
    SpeechEncoderDecoderConfig,
    SpeechEncoderDecoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)
from transformers.modeling_outputs import BaseModelOutput

from allophone.models.conversion import load_encoder
from allophone.models.speech_translator import SpeechTranslator, SpeechTranslatorConfig
from allophone.models.text_decoder import load_text_decoder
from allophone.models.token_decoder import IGNORED, SearchConfig

pytestmark = pytest.mark.parity
MAX_TOKENS = 14


def speech_parts(folder: Path) -> Wav2Vec2Model:
    """Encoder and length adaptor of ``transformers``, also written without the adaptor, as we read it."""
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        initializer_range=0.3,
        add_adapter=True,
        num_adapter_layers=3,
        layerdrop=0.0,
    )
    model = Wav2Vec2Model(config).eval()
    with torch.no_grad():  # with the weights of a beginning, everything heard is nearly the same
        for layer in model.adapter.layers:
            layer.conv.weight.mul_(4)
    plain = Wav2Vec2Model(Wav2Vec2Config.from_dict({**config.to_dict(), "add_adapter": False}))
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "adapter" not in name})
    plain.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return model


def ours(folder: Path, reference: Wav2Vec2Model, decoder: Path) -> SpeechTranslator:
    config = SpeechTranslatorConfig(length_layers=3, adapter_dim=6)
    model = SpeechTranslator(load_encoder(folder), load_text_decoder(decoder), config)
    model.length_adaptor.load_state_dict(reference.adapter.state_dict())
    return model.eval()


def expected_tokens(
    family: str, decoder: Path, speech: Wav2Vec2Model, waveform: torch.Tensor, settings: Any
) -> list[int]:
    """What ``transformers`` says: its SpeechEncoderDecoderModel for mBART; M2M-100 has no decoder of its own there."""
    whole = AutoModelForSeq2SeqLM.from_pretrained(decoder).eval()
    if family == "mbart":
        assert isinstance(whole, MBartForConditionalGeneration)
        sizes = MBartConfig.from_pretrained(decoder)
        sizes.encoder_layers = sizes.decoder_layers  # of which it makes as many caches as it has decoder layers
        causal = MBartForCausalLM(sizes)
        causal.model.decoder.load_state_dict(whole.model.decoder.state_dict())  # from_pretrained loses the embeddings
        causal.lm_head.weight = whole.lm_head.weight
        config = SpeechEncoderDecoderConfig.from_encoder_decoder_configs(speech.config, causal.config)
        model = SpeechEncoderDecoderModel(config=config, encoder=speech, decoder=causal).eval()
        return model.generate(waveform, **settings)[0].tolist()
    states = BaseModelOutput(last_hidden_state=speech(waveform).last_hidden_state)
    return whole.generate(encoder_outputs=states, **settings)[0].tolist()


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("family", LANGUAGES)
def test_the_same_tokens_as_transformers(family: str, beams: int, tmp_path: Path) -> None:
    speech = speech_parts(tmp_path / "speech")
    decoder = decoder_folder(tmp_path / "decoder", family)
    model = ours(tmp_path / "speech", speech, decoder)
    said = set()
    for seed, (language, seconds) in enumerate(
        [("fra_Latn", 1.0), ("eng_Latn", 0.7), ("rus_Cyrl", 1.3), ("fra_Latn", 2.0)]
    ):
        waveform = 0.3 * torch.randn(1, int(16_000 * seconds), generator=torch.Generator().manual_seed(seed))
        settings = {
            "num_beams": beams,
            "max_new_tokens": MAX_TOKENS,
            "forced_bos_token_id": model.decoder.language_id(language),
            "decoder_start_token_id": 2,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "forced_eos_token_id": None,
        }
        with torch.no_grad():
            expected = expected_tokens(family, decoder, speech, waveform, settings)
        found = model.generate(
            waveform, torch.tensor([waveform.shape[1]]), [language], SearchConfig(beams=beams, max_tokens=MAX_TOKENS)
        )[0]
        assert [2, *found.tokens] == expected
        said.add(found.tokens)
    assert len(said) > 1


@pytest.mark.parametrize("family", LANGUAGES)
def test_the_same_loss_as_transformers(family: str, tmp_path: Path) -> None:
    speech = speech_parts(tmp_path / "speech")
    decoder = decoder_folder(tmp_path / "decoder", family)
    model = ours(tmp_path / "speech", speech, decoder)
    whole = AutoModelForSeq2SeqLM.from_pretrained(decoder).eval()
    waveform = 0.3 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(9))
    targets = model.decoder.targets(["une voix joyeuse", "a happy"], ["fr", "en"])
    with torch.no_grad():
        states = BaseModelOutput(last_hidden_state=speech(waveform).last_hidden_state)
        expected = whole(encoder_outputs=states, labels=targets.labels)
        found = model(waveform, torch.tensor([16_000, 16_000]), targets.inputs)
    real = targets.labels != IGNORED
    torch.testing.assert_close(found[real], expected.logits[real], atol=1e-3, rtol=1e-3)  # it shifts labels by itself
    loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), targets.labels.flatten())
    torch.testing.assert_close(loss, expected.loss, atol=1e-4, rtol=1e-4)
