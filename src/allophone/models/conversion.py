"""Encoders to Hugging Face folders and back; everything that is read is checked, and nothing that is read runs code.

A folder holds ``config.json``, ``model.safetensors``, ``preprocessor_config.json``, ``README.md`` and, when allophone
wrote it, ``allophone.json`` with the model's hash and what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError, suggest
from allophone.frames import SAMPLE_RATE
from allophone.models import hubert, lasr, mr_hubert, wav2vec2_bert, waveform_encoder, wavlm, whisper
from allophone.models.build import Encoder, EncoderConfig, build_encoder
from allophone.models.multi_resolution import FusionConfig
from allophone.models.shapes import shapes_only

LINEAGE_FORMAT = "allophone-model-1"
FUSION = "allophone-fusion"
OWN_TYPES = (FUSION, "mr-hubert")
"""Of folders that ``transformers`` has no class for."""
MODEL_TYPES = ("hubert", "lasr_encoder", "wav2vec2", "wav2vec2-bert", "wavlm", "whisper", *OWN_TYPES)
PREFIXES = ("hubert.", "wav2vec2.", "wav2vec2_bert.", "wavlm.")
"""What stands before an encoder's parameter names in a file that also holds a head."""
WEIGHT_NORM = {
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
"""Old and new names of the weight-normalized positional convolution."""


def load_encoder(folder_or_hub_id: str | Path, *, revision: str | None = None) -> Encoder:
    """Read an encoder, in float32 and evaluation mode, on the CPU.

    Heads (CTC, classification, quantizer) in the file are left aside. A file without a mask vector, as fine-tuned
    models have it, gets zeros.

    Args:
        folder_or_hub_id: A folder, or the name of a Hugging Face hub model such as ``utter-project/mHuBERT-147``.
        revision: Branch, tag or commit of a hub model.

    Returns:
        The encoder that the ``model_type`` in its ``config.json`` names, one of :data:`MODEL_TYPES`.

    Raises:
        CheckpointError: There is no such model, a file is missing or damaged, or it is a model of another kind.
    """
    folder = model_folder(folder_or_hub_id, revision)
    config = _read_config(folder)
    with shapes_only():
        encoder = build_encoder(config)
    prefixes = whisper.PREFIXES if isinstance(config, whisper.WhisperConfig) else PREFIXES
    tensors = _encoder_tensors(read_tensors(folder), prefixes)
    expected = encoder.state_dict()
    if "masked_spec_embed" in expected.keys() - tensors.keys():
        tensors["masked_spec_embed"] = torch.zeros(expected["masked_spec_embed"].shape)
    check_tensors(folder, tensors, expected)
    floats = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    encoder.load_state_dict(floats, assign=True)
    encoder.eval()
    lineage = read_lineage(folder)
    if lineage is not None and lineage["model_hash"] != (found := model_hash(encoder)):
        raise CheckpointError(
            f"{folder}: allophone.json was written for model {lineage['model_hash']}, the weights are {found}. "
            "One of them was replaced; copy the folder again, or delete allophone.json if you changed the weights."
        )
    return encoder


def save_encoder(
    encoder: Encoder,
    folder: str | Path,
    card: str,
    *,
    parents: Sequence[str] = (),
    created_by: str = "allophone",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write an encoder as a folder that ``transformers`` and :func:`load_encoder` read.

    What ``transformers`` has no class for (MR-HuBERT and fusions) is read by :func:`load_encoder` alone.

    Args:
        encoder: The model, without adapters (merge them first).
        folder: Where to; files of these names are replaced, each whole or not at all.
        card: Text of ``README.md``, the model card.
        parents: Hashes of the models and codebooks that it was made from.
        created_by: The command or program that made it.
        dtype: Of the floating-point weights in the file; float16 halves it.

    Returns:
        The folder.

    Raises:
        CheckpointError: The module's parameters are not exactly those of its config, or one is not finite.
    """
    folder = Path(folder)
    with shapes_only():
        expected = build_encoder(encoder.config).state_dict()
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in encoder.state_dict().items()
    }
    check_tensors(folder, tensors, expected)
    lineage = {
        "format": LINEAGE_FORMAT,
        "model_hash": tensors_hash(tensors),
        "parents": list(parents),
        "created_by": created_by,
    }
    model, preprocessor = _to_transformers(encoder.config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "allophone.json").unlink(missing_ok=True)
    replace_file(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(folder / "config.json", {**model, "dtype": str(dtype).removeprefix("torch.")})
    write_json(folder / "preprocessor_config.json", preprocessor)
    replace_file(folder / "README.md", card.encode())
    write_json(folder / "allophone.json", lineage)
    return folder


def model_hash(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over a model's parameters and buffers, sorted by name, as float32."""
    return tensors_hash(model.state_dict())


def read_lineage(folder: str | Path) -> dict[str, Any] | None:
    """``allophone.json`` of a model folder, or None where allophone did not write the folder.

    Raises:
        CheckpointError: The file is damaged or of another format.
    """
    path = Path(folder) / "allophone.json"
    if not path.exists():
        return None
    lineage = read_json(path)
    if lineage.get("format") != LINEAGE_FORMAT or not isinstance(lineage.get("model_hash"), str):
        got = lineage.get("format")
        raise CheckpointError(f"{path}: format is {got!r}; expected '{LINEAGE_FORMAT}'. Update allophone.")
    return lineage


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over tensors by name, sorted by it, floating ones as float32."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def model_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder itself, or a download of the hub model of that name (weights, settings and an allophone codebook).

    Raises:
        CheckpointError: There is no such folder, and no such model that the hub gives us.
    """
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or Path(name).exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise CheckpointError(f"{name}: expected a model folder; no folder of this name exists. Check the path.")
    described = ["*.json", "*.md", "codebook.safetensors"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*described, "model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            pickled = [*described, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=pickled))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: neither a folder here nor a model that the Hugging Face hub gives us "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}). Check the name; "
            f"without a network, run `hf download {name} --local-dir FOLDER` where there is one and pass FOLDER."
        ) from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: The file is missing, damaged or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: missing, truncated or not JSON ({error}). Copy the folder again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object; got {type(values).__name__}.")
    return values


def _read_config(folder: Path) -> EncoderConfig:
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: a language pack (PEFT adapter), not a model. Load the base that it names, "
            "or merge both with `allophone pack apply`."
        )
    values = read_json(folder / "config.json")
    model_type = str(values.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: config.json says model_type '{model_type}'; expected one of {', '.join(MODEL_TYPES)}. "
            f"{suggest(model_type, MODEL_TYPES)}"
        )
    preprocessor = _read_preprocessor(folder)
    try:
        if model_type == "lasr_encoder":
            return lasr.from_transformers(values, preprocessor)
        if model_type == "wav2vec2-bert":
            return wav2vec2_bert.from_transformers(values, preprocessor)
        if model_type == "wavlm":
            return wavlm.from_transformers(values, preprocessor)
        if model_type == "whisper":
            return whisper.from_transformers(values, preprocessor)
        if model_type == "mr-hubert":
            return mr_hubert.from_config(values, preprocessor)
        if model_type == FUSION:
            return from_dict(FusionConfig, values.get("fusion", {}), "config.json: fusion")
        return hubert.from_transformers(values, preprocessor)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _read_preprocessor(folder: Path) -> dict[str, Any]:
    """``preprocessor_config.json``, or its part of the ``processor_config.json`` of newer folders."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        return read_json(path)
    nested = folder / "processor_config.json"
    values = read_json(nested).get("feature_extractor") if nested.exists() else None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{folder}: preprocessor_config.json is missing. It says whether waveforms are normalized, which is never "
            "guessed: copy it from the model's original folder."
        )
    return values


def _to_transformers(config: EncoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of ``config.json`` and ``preprocessor_config.json``."""
    match config:
        case hubert.HubertConfig():
            return hubert.to_transformers(config), waveform_encoder.preprocessor_to_transformers(config)
        case wavlm.WavlmConfig():
            return wavlm.to_transformers(config), waveform_encoder.preprocessor_to_transformers(config)
        case lasr.LasrConfig():
            return lasr.to_transformers(config), lasr.preprocessor_to_transformers(config)
        case wav2vec2_bert.Wav2Vec2BertConfig():
            return wav2vec2_bert.to_transformers(config), wav2vec2_bert.preprocessor_to_transformers(config)
        case whisper.WhisperConfig():
            return whisper.to_transformers(config), whisper.preprocessor_to_transformers(config)
        case mr_hubert.MrHubertConfig():
            return mr_hubert.to_config(config), waveform_encoder.preprocessor_to_transformers(config)
        case FusionConfig():
            own = {"architectures": ["FusedEncoder"], "model_type": FUSION, "fusion": to_dict(config)}
            return own, {"sampling_rate": SAMPLE_RATE}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's weight files; safetensors before pickles, which are read as weights only.

    Raises:
        CheckpointError: There is no such file, or one is damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return _read_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            files = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {key: value for file in files for key, value in _read_file(folder / Path(file).name).items()}
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise CheckpointError(f"{folder}: no model.safetensors here. Found: {', '.join(found) or 'nothing'}.")


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        size = f"{path.stat().st_size} bytes" if path.exists() else "missing"
        raise CheckpointError(
            f"{path}: truncated, damaged or not weights only ({size}; {error}). Copy it again."
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors. Convert it to safetensors.")
    return tensors


def _encoder_tensors(tensors: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The encoder's part of a file, under today's names."""
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    renamed = {}
    for name, value in tensors.items():
        for old, new in WEIGHT_NORM.items():
            name = name.replace(old, new) if name.endswith(old) else name
        renamed[name] = value
    return renamed


def check_tensors(folder: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly those expected, by name, shape and finiteness.

    Raises:
        CheckpointError: They are not; the message names them.
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json. Missing: {_listed(missing)}. Unknown: {_listed(unknown)}. "
            "Weights with adapters must be merged first; otherwise the files belong to different models."
        )
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if tensors[name].shape != value.shape
    ]
    if shapes:
        raise CheckpointError(f"{folder}: the weights do not fit config.json: {_listed(shapes)}.")
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{folder}: NaN or infinite values in {_listed(broken)}. The training diverged.")


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file so that it is never half written."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    replace_file(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
