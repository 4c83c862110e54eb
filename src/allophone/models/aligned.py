"""A speech embedder and a text embedder of one space, as one folder.

The folder is the speech embedder's (an encoder that ``transformers`` reads, with ``embedder.*`` beside it), with the
text encoder in ``text/`` and ``aligned.json``, which names the corpora that were heard. Nothing here is trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import model_folder, tensors_hash, write_json
from allophone.models.speech_embedder import SpeechEmbedder, load_speech_embedder, save_speech_embedder
from allophone.models.text_embedder import TextEmbedder, load_text_embedder, save_text_embedder

INFO_FILE, TEXT_FOLDER = "aligned.json", "text"
FORMAT = "allophone-aligned-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardCorpus:
    """A corpus that a model was trained on."""

    name: str
    """As the corpus calls itself."""
    hash: str
    """Of the rows that were heard."""
    whole_hash: str
    """Of the corpus that they are part of."""
    utterances: int
    """Rows that were heard."""
    hours: float
    """Audio in them."""
    languages: tuple[str, ...]
    """Spoken in them."""
    used_for: str
    """What the model learned from it, such as ``"contrast with text"``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedInfo:
    """What ``aligned.json`` says beside its format."""

    hash: str
    """Of all parameters of both towers."""
    temperature: float
    """That the cosines were divided by at the end of training."""
    seed: int
    """Of the training."""
    heard: tuple[HeardCorpus, ...]
    """Everything that is known to have been trained on; an encoder that came from elsewhere may have heard more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aligned:
    """Two towers that embed into one space; cosines compare."""

    speech: SpeechEmbedder
    text: TextEmbedder
    info: AlignedInfo

    def embed_speech(self, waveforms: Sequence[Tensor], *, batch_seconds: float = 60.0) -> Tensor:
        """Vectors of length 1 of waveforms ``(S,)`` at 16 kHz. Shape ``(B, E)``, float32, on the CPU."""
        return F.normalize(self.speech.embed(waveforms, batch_seconds=batch_seconds), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1 of texts. Shape ``(B, E)``, float32, on the CPU."""
        return F.normalize(self.text.embed(texts).float().cpu(), dim=-1)


def aligned_hash(speech: SpeechEmbedder, text: TextEmbedder) -> str:
    """First 16 hex digits of the SHA-256 over the parameters of both towers, adapters merged."""
    tensors = {f"speech.{name}": value for name, value in speech.state_dict().items()}
    tensors |= {f"text.encoder.{name}": value for name, value in text.merged_encoder().state_dict().items()}
    tensors |= {f"text.projection.{name}": value for name, value in text.projection.state_dict().items()}
    return tensors_hash(tensors)


def save_aligned(model: Aligned, folder: str | Path, card: str, *, parents: Sequence[str], created_by: str) -> Path:
    """Write both towers.

    Args:
        model: Towers, the speech encoder without adapters.
        folder: Where to.
        card: Text of ``README.md``, the model card.
        parents: Hashes of the models that it was made from.
        created_by: The command or program that made it.

    Returns:
        The folder.

    Raises:
        CheckpointError: A parameter is not finite.
    """
    folder = Path(folder)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    save_speech_embedder(model.speech, folder, card, parents=parents, created_by=created_by)
    save_text_embedder(model.text, folder / TEXT_FOLDER, card)
    write_json(folder / INFO_FILE, {"format": FORMAT, **to_dict(model.info)})
    return folder


def load_aligned(folder_or_hub_id: str | Path) -> Aligned:
    """Read what :func:`save_aligned` wrote, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the towers are not those that were saved together.
    """
    folder = model_folder(folder_or_hub_id)
    info = load_aligned_info(folder)
    model = Aligned(speech=load_speech_embedder(folder), text=load_text_embedder(folder / TEXT_FOLDER), info=info)
    found = aligned_hash(model.speech, model.text)
    if found != info.hash:
        raise CheckpointError(
            f"{folder}: {INFO_FILE} was written for model {info.hash}, the towers beside it are {found}. One of them "
            "was replaced; copy the folder again."
        )
    return model


def load_aligned_info(folder: Path) -> AlignedInfo:
    """``aligned.json`` of a folder.

    Raises:
        CheckpointError: It is missing, damaged or of another format.
    """
    path = folder / INFO_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("format", None)
        if found != FORMAT:
            raise CheckpointError(f"format is {found!r}; expected '{FORMAT}'.")
        return from_dict(AlignedInfo, values, str(path))
    except (OSError, ValueError, AttributeError, ConfigError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: {' '.join(str(error).split())} A model of audio and text has this file; make one with "
            "`allophone align`."
        ) from error
