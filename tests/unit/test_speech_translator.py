"""A translator: adapters that start as nothing, what is trained, the paper's sizes, and the same from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import load_file, save_file
from tiny_translator import decoder_folder
from torch import nn
from transformers import AutoModelForSeq2SeqLM, M2M100Config, MBartConfig

from allophone.errors import CheckpointError, ConfigError, ShapeError
from allophone.models.conversion import load_encoder, read_lineage
from allophone.models.hubert import published_config
from allophone.models.speech_translator import (
    INFO_FILE,
    WEIGHTS_FILE,
    SpeechTranslator,
    SpeechTranslatorConfig,
    encoder_sites,
    load_speech_translator,
    save_speech_translator,
)
from allophone.models.text_decoder import load_text_decoder
from allophone.models.token_decoder import SearchConfig
from allophone.models.translator_size import count_parameters, parameter_counts

CONFIG = SpeechTranslatorConfig(adapter_dim=4, length_layers=2)
SEARCH = SearchConfig(beams=2, max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_folder(tmp_path_factory.mktemp("decoder"))


def translator(folder: Path, config: SpeechTranslatorConfig = CONFIG, family: str = "lasr") -> SpeechTranslator:
    torch.manual_seed(5)
    encoder = getattr(tiny_model, family)()
    return SpeechTranslator(encoder, load_text_decoder(folder), config).eval()


def logits(model: SpeechTranslator) -> torch.Tensor:
    batch = tiny_model.batch()
    targets = model.decoder.targets(["une voix", "a happy voice", "bonjour"], ["fr", "en", "fr"])
    with torch.no_grad():
        return model(batch.waveform, batch.waveform_lengths, targets.inputs)


def shake(model: SpeechTranslator) -> SpeechTranslator:
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", ["lasr", "wavlm", "encoder"])
def test_adapters_start_as_nothing_and_reach_every_layer(folder: Path, family: str) -> None:
    plain = translator(folder, SpeechTranslatorConfig(adapter_dim=0, length_layers=2), family)
    model = translator(folder, CONFIG, family)
    model.length_adaptor.load_state_dict(plain.length_adaptor.state_dict())
    before = logits(plain)
    assert torch.equal(logits(model), before)
    for adapter in [
        part for layer in (*model.adapters["encoder"], *model.adapters["decoder"]) for part in layer.values()
    ]:
        with torch.no_grad():
            adapter.up.bias.add_(1.0 + torch.arange(len(adapter.up.bias)) % 3)
        assert not torch.allclose(logits(model), before, atol=1e-4)
        nn.init.zeros_(adapter.up.bias)


def test_two_adapters_a_layer(folder: Path) -> None:
    model = translator(folder)
    assert [[site.part for site in layer] for layer in encoder_sites(model.encoder)] == [["attention", "feed_forward"]]
    names = {name.split(".", 4)[3] for name in model.new_tensors() if name.startswith("adapters.decoder")}
    assert names == {"attention", "feed_forward"} and len(model.adapters["decoder"]) == 2


@pytest.mark.parametrize("decoder", ["mbart-50", "nllb"])
def test_seventy_five_millions_at_the_sizes_of_the_paper(decoder: str) -> None:
    sizes = {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "decoder_ffn_dim": 4096}
    config = (
        MBartConfig(vocab_size=250_054, decoder_start_token_id=2, **sizes)
        if decoder == "mbart-50"
        else M2M100Config(vocab_size=256_206, **sizes)
    )
    counts = parameter_counts(published_config("xls-r-300m"), config, SpeechTranslatorConfig())
    assert counts.adapters == (24 + 12) * 2 * (2 * 1024 * 512 + 1024 + 512)
    assert abs(counts.adapters / 75e6 - 1) < 0.01
    assert counts.trained == counts.adapters + counts.length_adaptor + counts.layer_norms
    assert counts.length_adaptor == 3 * (1024 * 2048 * 3 + 2048)
    assert config.encoder_layers == 12  # the caller's config is left alone


def test_what_is_trained(folder: Path) -> None:
    model = translator(folder).train()
    assert not model.encoder.training and model.decoder.training
    batch, targets = tiny_model.batch(), model.decoder.targets(["a"] * 3, ["fr"] * 3)
    model(batch.waveform, batch.waveform_lengths, targets.inputs).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    own = {name for name in trained if name.startswith(("adapters.", "length_adaptor."))}
    assert own == set(model.new_tensors()) and all("norm" in name for name in trained - own)
    counts = count_parameters(model)
    assert counts.trained == counts.adapters + counts.length_adaptor + counts.layer_norms
    without = translator(folder, SpeechTranslatorConfig(adapter_dim=4, train_layer_norms=False))
    assert count_parameters(without).layer_norms == 0
    full = translator(folder, SpeechTranslatorConfig(adapter_dim=0, training="full")).train()
    assert full.encoder.training and count_parameters(full).adapters == 0
    assert count_parameters(full).trained > 0.9 * (count_parameters(full).encoder + count_parameters(full).decoder)


def test_alone_is_in_company_whatever_the_padding(folder: Path) -> None:
    model, batch = shake(translator(folder)), tiny_model.batch()
    louder = batch.waveform.clone()
    for row, length in zip(louder, batch.waveform_lengths.tolist(), strict=True):
        row[length:] = 9.0
    languages = ["fr", "en_XX", "rus"]
    together = model.generate(louder, batch.waveform_lengths, languages, SEARCH)
    assert [t.tokens[0] for t in together] == [model.decoder.language_id(language) for language in languages]
    with pytest.raises(ShapeError, match="2 languages for 3 utterances"):
        model.generate(batch.waveform, batch.waveform_lengths, languages[:2], SEARCH)
    for row, length in enumerate(batch.waveform_lengths.tolist()):
        alone = model.generate(batch.waveform[row : row + 1, :length], torch.tensor([length]), [languages[row]], SEARCH)
        assert alone[0].tokens == together[row].tokens
        assert alone[0].confidence == pytest.approx(together[row].confidence, rel=1e-3) and 0 < alone[0].confidence <= 1


def test_saved_is_loaded(folder: Path, tmp_path: Path) -> None:
    model, batch = shake(translator(folder)), tiny_model.batch()
    save_speech_translator(model, tmp_path, "# A card", parents=("base",))
    assert read_lineage(tmp_path / "encoder")["parents"] == ["base"]
    again = load_speech_translator(tmp_path)
    assert again.config == CONFIG and not again.training
    assert torch.equal(logits(again), logits(model))
    arguments = (batch.waveform, batch.waveform_lengths, ["fr", "en", "ru"], SEARCH)
    assert again.generate(*arguments) == model.generate(*arguments)
    # Both parts are folders of their own, and the decoder's is read by transformers with nothing missing.
    load_encoder(tmp_path / "encoder")
    _, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "decoder", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert load_text_decoder(tmp_path / "decoder").languages == model.decoder.languages


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    model = translator(folder)
    save_speech_translator(model, tmp_path, "# A card")
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    save_file({name: value for name, value in tensors.items() if "down" not in name}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"expected .*attention.down.bias"):
        load_speech_translator(tmp_path)
    info = (tmp_path / INFO_FILE).read_text()
    (tmp_path / INFO_FILE).write_text(info.replace('"decoder": "', '"decoder": "0'))
    with pytest.raises(CheckpointError, match="was written for decoder 0"):
        load_speech_translator(tmp_path)
    (tmp_path / INFO_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="format is not 'allophone-translator-1'"):
        load_speech_translator(tmp_path)
    nn.init.constant_(model.length_adaptor.layers[0].conv.bias, float("nan"))
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in length_adaptor.layers.0.conv.bias"):
        save_speech_translator(model, tmp_path, "# A card")
    with pytest.raises(ConfigError, match="length_layers and adapter_dim of at least 0"):
        SpeechTranslatorConfig(adapter_dim=-1)


def test_a_new_decoder_is_trained_whole_and_alone(folder: Path) -> None:
    config = SpeechTranslatorConfig(adapter_dim=0, training="decoder", train_layer_norms=False, length_layers=1)
    model = translator(folder, config).train()
    assert model.config.leaves_encoder_alone and not model.encoder.training and "decoder" not in model.adapters
    counts = count_parameters(model)
    assert 0.9 * (counts.decoder + counts.length_adaptor) < counts.trained <= counts.decoder + counts.length_adaptor
    assert counts.layer_norms == counts.adapters == 0
    with_adapters = translator(folder, replace(config, adapter_dim=4, train_layer_norms=True))
    assert not with_adapters.config.leaves_encoder_alone and set(with_adapters.adapters) == {"encoder"}
    assert count_parameters(with_adapters).layer_norms > 0
