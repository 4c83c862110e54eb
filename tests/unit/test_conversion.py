"""Model folders: written whole, read only when everything fits, never running code."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import LASR
from torch import Tensor

from allophone.errors import CheckpointError
from allophone.models import conversion, wavlm
from allophone.models.build import Encoder, EncoderConfig, build_encoder
from allophone.models.conversion import load_encoder, model_hash, read_lineage, save_encoder
from allophone.models.hubert import published_config
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONV: dict[str, Any] = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
HUBERT = replace(published_config("hubert-base"), **SIZES, **CONV)
CONFIGS: dict[str, EncoderConfig] = {
    "hubert": HUBERT,
    "wav2vec2": replace(published_config("xls-r-300m"), **SIZES, **CONV),
    "padded": replace(HUBERT, published_padding=True, feature_grad_mult=0.1, conv_pos_batch_norm=True),
    "wav2vec2-bert": Wav2Vec2BertConfig(**SIZES, feature_stride=4),
    "wavlm": replace(wavlm.published_config("wavlm-large"), **SIZES, **CONV, max_bucket_distance=100),
    "lasr": replace(LASR, attention_bias=False, conv_residual_weights=(1.0, 1.0)),
}


def built(config: EncoderConfig = HUBERT, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(config).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_encoder(built(), tmp_path / "model", "# A card", parents=["abc"], created_by="a test")


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**values, **changes}.items() if value is not None}))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the weights as another program would, without allophone's lineage."""
    (folder / "allophone.json").unlink()
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_is_what_is_loaded(name: str, tmp_path: Path, speech: Callable[..., Tensor]) -> None:
    encoder = built(CONFIGS[name])
    save_encoder(encoder, tmp_path, "card")
    before = torch.get_rng_state()
    loaded = load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == encoder.config and not loaded.training
    assert model_hash(loaded) == model_hash(encoder)
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in loaded.parameters())
    waveform = speech(1.0)[None]
    for one, other in zip(
        loaded(waveform, torch.tensor([16_000])).hidden_states,
        encoder(waveform, torch.tensor([16_000])).hidden_states,
        strict=True,
    ):
        assert torch.equal(one.values, other.values)


def test_lineage_names_the_model_and_its_parents(folder: Path) -> None:
    assert read_lineage(folder) == {
        "format": "allophone-model-1",
        "model_hash": model_hash(built()),
        "parents": ["abc"],
        "created_by": "a test",
    }
    assert (folder / "README.md").read_text() == "# A card"
    assert not list(folder.glob("*.partial"))


def test_the_hash_sees_every_weight_and_nothing_else() -> None:
    encoder = built()
    original = model_hash(encoder)
    assert model_hash(built()) == original and model_hash(built(seed=1)) != original
    with torch.no_grad():
        encoder.encoder.layers[1].attention.v_proj.bias[3] += 1e-6
    assert model_hash(encoder) != original


def test_half_precision_is_half_the_size_and_keeps_its_own_hash(tmp_path: Path) -> None:
    encoder = built()
    full, half = (
        save_encoder(encoder, tmp_path / name, "card", dtype=dtype)
        for name, dtype in (("full", torch.float32), ("half", torch.float16))
    )
    ratio = (half / "model.safetensors").stat().st_size / (full / "model.safetensors").stat().st_size
    assert ratio < 0.7
    loaded = load_encoder(half)
    assert next(loaded.parameters()).dtype == torch.float32
    assert model_hash(loaded) == read_lineage(half)["model_hash"] != model_hash(encoder)


def test_old_names_heads_and_a_missing_mask_vector_are_understood(folder: Path) -> None:
    def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["masked_spec_embed"]
        names = {
            "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv_embed.conv.weight_g",
            "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv_embed.conv.weight_v",
        }
        renamed = {f"hubert.{names.get(name, name)}": value for name, value in tensors.items()}
        return {**renamed, "lm_head.weight": torch.randn(4, 16)}

    rewrite(folder, older)
    loaded, original = load_encoder(folder).state_dict(), built().state_dict()
    assert loaded.pop("masked_spec_embed").abs().max() == 0
    assert all(torch.equal(value, original[name]) for name, value in loaded.items())


def test_pickled_weights_are_read_as_weights_only(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert model_hash(load_encoder(folder)) == model_hash(built())

    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "hacked"),)

    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Attack()}, file)
    with pytest.raises(CheckpointError, match="not weights only"):
        load_encoder(folder)
    assert not (tmp_path / "hacked").exists()


def test_sharded_weights_are_joined(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{part + 1}-of-00002.safetensors": list(weights)[part::2] for part in (0, 1)}
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert model_hash(load_encoder(folder)) == model_hash(built())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*missing"):
        load_encoder(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated, damaged"):
        load_encoder(folder)


def test_missing_unknown_and_misshapen_weights_are_listed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, lambda tensors: {**{k: v for k, v in tensors.items() if "q_proj" not in k}, "extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"Missing: encoder\.layers\.0\.attention.q_proj\.bias, .*Unknown: extra"):
        load_encoder(folder)
    save_file({**weights, "encoder.layer_norm.bias": torch.zeros(9)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer_norm\.bias is \(9,\), expected \(16,\)"):
        load_encoder(folder)
    save_file({**weights, "encoder.layer_norm.bias": torch.full((16,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in encoder\.layer_norm\.bias"):
        load_encoder(folder)


def test_swapped_weights_are_noticed_by_the_lineage(folder: Path, tmp_path: Path) -> None:
    other = save_encoder(built(seed=1), tmp_path / "other", "card")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"allophone\.json was written for model"):
        load_encoder(folder)
    edit_json(other / "allophone.json", format="allophone-model-9")
    with pytest.raises(CheckpointError, match="format is 'allophone-model-9'"):
        load_encoder(other)


def test_other_kinds_of_folder_are_named(folder: Path, tmp_path: Path) -> None:
    edit_json(folder / "config.json", model_type="hubet")
    with pytest.raises(CheckpointError, match=r"model_type 'hubet'.*Did you mean 'hubert'"):
        load_encoder(folder)
    edit_json(folder / "config.json", model_type="moonshine")
    with pytest.raises(CheckpointError, match="expected one of hubert, lasr_encoder, wav2vec2, wav2vec2-bert, wavlm"):
        load_encoder(folder)
    edit_json(folder / "config.json", model_type="hubert", add_adapter=True)
    with pytest.raises(CheckpointError, match="adapters are not supported"):
        load_encoder(folder)
    (folder / "config.json").write_text('{"model_type": "hub')
    with pytest.raises(CheckpointError, match=r"config\.json: missing, truncated or not JSON"):
        load_encoder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object; got list"):
        load_encoder(folder)
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="language pack"):
        load_encoder(pack)


def test_waveform_settings_come_from_a_file_or_not_at_all(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", do_normalize=True)
    assert load_encoder(folder).config == replace(HUBERT, do_normalize=True)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing.*never guessed"):
        load_encoder(folder)
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    assert load_encoder(folder).config == replace(HUBERT, do_normalize=True)


def test_a_log_mel_model_with_another_stride_is_refused(tmp_path: Path) -> None:
    save_encoder(built(CONFIGS["wav2vec2-bert"]), tmp_path, "card")
    edit_json(tmp_path / "preprocessor_config.json", stride=2)
    with pytest.raises(CheckpointError, match="stride 2"):
        load_encoder(tmp_path)


def test_no_weights_no_folder_no_network(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors here\. Found: README\.md, allophone\.json"):
        load_encoder(folder)
    with pytest.raises(CheckpointError, match="no folder of this name exists"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no folder of this name exists"):
        load_encoder("./runs/nowhere/model")
    with pytest.raises(CheckpointError, match=r"hf download nobody/nothing --local-dir FOLDER"):
        load_encoder("nobody/nothing")


def test_a_hub_model_is_a_downloaded_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(conversion, "snapshot_download", download)
    assert model_hash(load_encoder("someone/model", revision="v2")) == model_hash(built())
    assert [(name, revision) for name, revision, _ in asked] == [("someone/model", "v2")]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert model_hash(load_encoder("someone/model")) == model_hash(built())
    assert "pytorch_model*.bin" in asked[-1][2] and not any("bin" in pattern for pattern in asked[-2][2])


def test_a_model_with_adapters_or_nan_is_not_saved(tmp_path: Path) -> None:
    encoder = built()
    encoder.encoder.layers[0].attention.lora = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"Unknown: encoder\.layers\.0\.attention\.lora\.bias.*merged first"):
        save_encoder(encoder, tmp_path / "one", "card")
    broken = built()
    with torch.no_grad():
        broken.masked_spec_embed[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN or infinite values in masked_spec_embed"):
        save_encoder(broken, tmp_path / "two", "card")
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_loading_does_not_import_the_compiler_of_torch() -> None:
    """It takes longer to import than the starter encoder to load, for every command."""
    code = (
        "import sys\n"
        "import allophone_starter\n"
        "from allophone.models.conversion import load_encoder\n"
        "load_encoder(allophone_starter.encoder_path())\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
