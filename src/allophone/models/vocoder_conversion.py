"""Unit vocoders to Hugging Face folders and back, in the format of ``transformers``' ``SeamlessM4Tv2CodeHifiGan``.

A folder that allophone wrote also holds ``voices.json`` (whose units it speaks, names of speakers and languages) and
``allophone.json`` (lineage). Weights are always written without weight norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from allophone.config import from_json, to_json
from allophone.errors import CheckpointError, ConfigError, DataError, suggest
from allophone.models.conversion import (
    LINEAGE_FORMAT,
    check_tensors,
    model_folder,
    read_json,
    read_lineage,
    read_tensors,
    replace_file,
    tensors_hash,
    write_json,
)
from allophone.models.shapes import shapes_only
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig, folded

MODEL_TYPES = ("seamless_m4t", "seamless_m4t_v2")
PREFIX = "vocoder."
"""What stands before the vocoder's parameter names in the file of a whole Seamless model."""
VOICES = "voices.json"
PITCH_KEY = "allophone_pitch"
FIELDS = {
    "unit_hifi_gan_vocab_size": "num_units",
    "unit_embed_dim": "unit_dim",
    "vocoder_num_spkrs": "num_speakers",
    "spkr_embed_dim": "speaker_dim",
    "vocoder_num_langs": "num_languages",
    "lang_embed_dim": "language_dim",
    "upsample_initial_channel": "channels",
    "upsample_rates": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernels",
    "resblock_kernel_sizes": "resblock_kernels",
    "resblock_dilation_sizes": "resblock_dilations",
    "leaky_relu_slope": "leaky_slope",
    "variance_predictor_kernel_size": "duration_kernel",
    "var_pred_dropout": "duration_dropout",
    PITCH_KEY: "pitch",
}
"""Names in ``config.json`` to ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voices:
    """What the numbers that a vocoder takes stand for."""

    codebook_hash: str
    """Of the codebook whose units it speaks."""
    speakers: tuple[str, ...]
    """Names of the rows of the speaker table, the one heard most first."""
    languages: tuple[str, ...]
    """Names of the rows of the language table."""

    def speaker(self, name: str | None) -> int:
        """Row of a speaker; None = the one that was heard most.

        Raises:
            DataError: No such speaker was in the training data.
        """
        return _row(name, self.speakers, "speaker")

    def language(self, name: str | None) -> int:
        """Row of a language; None = the one that was heard most.

        Raises:
            DataError: No such language was in the training data.
        """
        return _row(name, self.languages, "language")


def _row(name: str | None, names: Sequence[str], what: str) -> int:
    if name is None:
        return 0
    if name not in names:
        raise DataError(f"The vocoder never heard {what} {name!r}. {suggest(name, names)}")
    return names.index(name)


def load_vocoder(folder_or_hub_id: str | Path, *, revision: str | None = None) -> UnitVocoder:
    """Read a unit vocoder, in float32, without weight norm and in evaluation mode, on the CPU.

    Args:
        folder_or_hub_id: A folder or hub model that holds a code HiFi-GAN, alone or inside a Seamless model.
        revision: Branch, tag or commit of a hub model.

    Raises:
        CheckpointError: There is no such vocoder, a file is missing or damaged, or it is a model of another kind.
    """
    folder = model_folder(folder_or_hub_id, revision)
    config = _read_config(folder)
    with shapes_only():
        vocoder = UnitVocoder(config)
    tensors = folded(_vocoder_tensors(read_tensors(folder)))
    check_tensors(folder, tensors, vocoder.state_dict())
    vocoder.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    lineage = read_lineage(folder)
    if lineage is not None and lineage["model_hash"] != (found := vocoder_hash(vocoder)):
        raise CheckpointError(
            f"{folder}: allophone.json was written for model {lineage['model_hash']}, the weights are {found}. "
            "One of them was replaced; copy the folder again, or delete allophone.json if you changed the weights."
        )
    for table in (vocoder.speaker_embedding, vocoder.language_embedding):
        table.requires_grad_(table.embedding_dim > 0)
    return vocoder.eval()


def load_voices(folder: str | Path) -> Voices:
    """Whose units a vocoder speaks, and the names of its voices.

    Raises:
        CheckpointError: The folder does not say; it was not written by allophone.
        ConfigError: The file does not hold what it should.
    """
    path = Path(folder) / VOICES
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {VOICES}, so nothing says whose units this vocoder speaks. Train one with "
            "`allophone vocoder train`, or write the file (codebook_hash, speakers, languages)."
        )
    return from_json(Voices, path.read_text(encoding="utf-8"), str(path))


def save_vocoder(
    vocoder: UnitVocoder,
    folder: str | Path,
    card: str,
    *,
    voices: Voices | None = None,
    parents: Sequence[str] = (),
    created_by: str = "allophone",
) -> Path:
    """Write a vocoder as a folder that ``transformers`` and :func:`load_vocoder` read.

    Args:
        vocoder: The model, with or without weight norm.
        folder: Where to; files of these names are replaced, each whole or not at all.
        card: Text of ``README.md``.
        voices: Whose units it speaks, and names; None writes no ``voices.json``.
        parents: Hashes of the models and codebooks that it was made from.
        created_by: The command or program that made it.

    Returns:
        The folder.

    Raises:
        CheckpointError: A parameter is not finite.
    """
    folder = Path(folder)
    tensors = _own_tensors(vocoder)
    with shapes_only():
        check_tensors(folder, tensors, UnitVocoder(vocoder.config).state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "allophone.json").unlink(missing_ok=True)
    replace_file(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(folder / "config.json", to_transformers(vocoder.config))
    replace_file(folder / "README.md", card.encode())
    if voices is not None:
        replace_file(folder / VOICES, to_json(voices).encode())
    lineage = {
        "format": LINEAGE_FORMAT,
        "model_hash": tensors_hash(tensors),
        "parents": list(parents),
        "created_by": created_by,
    }
    write_json(folder / "allophone.json", lineage)
    return folder


def vocoder_hash(vocoder: UnitVocoder) -> str:
    """First 16 hex digits of the SHA-256 over the parameters without weight norm."""
    return tensors_hash(_own_tensors(vocoder))


def from_transformers(values: Mapping[str, Any]) -> UnitVocoderConfig:
    """Our config from the values of a ``config.json`` of ``transformers``.

    Raises:
        ConfigError: A value is missing, or the sizes make no vocoder.
    """
    missing = [name for name in FIELDS if name not in values and name != PITCH_KEY]
    if missing:
        raise ConfigError(f"config.json lacks {', '.join(missing)}; it does not describe a code HiFi-GAN.")
    found = {ours: _frozen(values.get(name, False)) for name, ours in FIELDS.items()}
    return UnitVocoderConfig(**found)


def to_transformers(config: UnitVocoderConfig) -> dict[str, Any]:
    """Contents of ``config.json``.

    ``transformers`` takes the unit ``t2u_pad_token_id`` for padding when it counts the samples of its output; ours may
    all be spoken, so it is -1.
    """
    return {
        "architectures": ["SeamlessM4Tv2CodeHifiGan"],
        "model_type": "seamless_m4t_v2",
        "dtype": "float32",
        "sampling_rate": 16_000,
        "t2u_pad_token_id": -1,
        "vocoder_offset": 0,
        **{name: getattr(config, ours) for name, ours in FIELDS.items() if name != PITCH_KEY or config.pitch},
    }


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _read_config(folder: Path) -> UnitVocoderConfig:
    values = read_json(folder / "config.json")
    model_type = str(values.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: config.json says model_type '{model_type}'; expected one of {', '.join(MODEL_TYPES)}, which "
            "have a unit vocoder."
        )
    try:
        return from_transformers(values)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _own_tensors(vocoder: UnitVocoder) -> dict[str, Tensor]:
    tensors = folded(vocoder.state_dict())
    return {name: value.detach().cpu().float().contiguous() for name, value in tensors.items()}


def _vocoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vocoder's part of a file."""
    if any(name.startswith(PREFIX) for name in tensors):
        return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return dict(tensors)
