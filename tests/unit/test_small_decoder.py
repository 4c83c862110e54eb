"""Our small decoder in a translator: its tokenizer, its search, its folder, and what transformers reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_model
import torch
from tiny_text import TEXTS

from allophone.errors import CheckpointError, ConfigError
from allophone.models.small_decoder import SmallDecoder, load_small_decoder, train_tokenizer
from allophone.models.speech_translator import (
    SpeechTranslator,
    SpeechTranslatorConfig,
    load_speech_translator,
    save_speech_translator,
)
from allophone.models.text_decoder import load_text_decoder
from allophone.models.token_decoder import SearchConfig
from allophone.nn.decoder import Decoder, DecoderConfig

LANGUAGES = ("eng_Latn", "fra_Latn", "rus_Cyrl")
SEARCH = SearchConfig(beams=3, max_tokens=10)


def small() -> SmallDecoder:
    words = train_tokenizer(TEXTS, LANGUAGES, 60)
    torch.manual_seed(8)
    decoder = Decoder(DecoderConfig(vocabulary=len(words), dim=24, layers=2, heads=2, inner_dim=32, max_positions=20))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return SmallDecoder(decoder, words).eval()


def translator() -> SpeechTranslator:
    torch.manual_seed(5)
    return SpeechTranslator(tiny_model.lasr(), small(), SpeechTranslatorConfig(adapter_dim=4, length_layers=2)).eval()


def test_a_tokenizer_writes_what_it_read_and_knows_its_languages() -> None:
    decoder = small()
    assert decoder.languages == {language: language for language in LANGUAGES}
    targets = decoder.targets(TEXTS[:3], ["fr", "en", "ru"])
    for row, text in zip(targets.labels.tolist(), TEXTS[:3], strict=True):
        assert decoder.text([token for token in row if token >= 0]) == text
    assert targets.inputs[:, 0].tolist() == [2, 2, 2]
    with pytest.raises(ConfigError, match="give languages and more tokens"):
        train_tokenizer(TEXTS, [], 60)
    with pytest.raises(ConfigError, match="tokens in the tokenizer, 9 in the decoder"):
        SmallDecoder(Decoder(DecoderConfig(vocabulary=9, dim=8, layers=1, heads=2)), decoder.tokenizer)


def test_the_same_texts_make_the_same_tokenizer() -> None:
    """Also where there are more letters than tokens: a run that goes on, or another process, must get the same."""
    many = [*TEXTS, *("".join(chr(0x4E00 + 7 * place + step) for step in range(7)) for place in range(40))]
    found = [train_tokenizer(many, LANGUAGES, 60) for _ in range(3)]
    assert len({words.built.to_str() for words in found}) == 1 and len(found[0]) <= 60


def test_saved_is_loaded_and_is_an_mbart_for_transformers(tmp_path: Path) -> None:
    model, batch = translator(), tiny_model.batch()
    save_speech_translator(model, tmp_path, "# A card")
    again = load_speech_translator(tmp_path)
    arguments = (batch.waveform, batch.waveform_lengths, ["fr", "en", "ru"], SEARCH)
    expected = model.generate(*arguments)
    assert isinstance(again.decoder, SmallDecoder) and again.generate(*arguments) == expected
    assert [text.tokens[0] for text in expected] == [model.decoder.language_id(tag) for tag in LANGUAGES[1::-1]] + [
        model.decoder.language_id("rus_Cyrl")
    ]
    theirs = SpeechTranslator(tiny_model.lasr(), load_text_decoder(tmp_path / "decoder"), model.config).eval()
    theirs.length_adaptor.load_state_dict(model.length_adaptor.state_dict())
    theirs.encoder.load_state_dict(model.encoder.state_dict())
    assert [text.tokens for text in theirs.generate(*arguments)] == [text.tokens for text in expected]


def test_everything_is_reached_by_gradients() -> None:
    model, batch = translator().train(), tiny_model.batch()
    targets = model.decoder.targets(TEXTS[:3], ["fr", "en", "ru"])
    model(batch.waveform, batch.waveform_lengths, targets.inputs).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "decoder_layers": 3}))
    with pytest.raises(CheckpointError, match=r"Missing: layers.2"):
        load_small_decoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**values, "d_model": 25}))
    with pytest.raises(CheckpointError, match="not a small decoder"):
        load_small_decoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    words = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(words[: len(words) // 2])
    with pytest.raises(CheckpointError, match=r"not a small decoder \(tokenizer.json: "):
        load_small_decoder(tmp_path)
