"""How one vector is made of a text encoder's tokens, as the folder of a sentence-transformers model says.

``modules.json`` lists the parts of such a model: the encoder, ``1_Pooling``, and for LaBSE a dense layer with a tanh
behind the first token, which is what BERT calls a pooler, and is read as one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import read_json, read_tensors

Pooling = Literal["mean", "cls", "pooler"]
"""Mean of the real tokens, the first token, or what the encoder's pooler makes of that."""
MODULES = "modules.json"
KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
READ: dict[tuple[tuple[str, ...], bool], Pooling] = {
    (("mean",), False): "mean",
    (("cls",), False): "cls",
    (("cls",), True): "pooler",
}
"""What is pooled, and whether a dense layer stands behind it."""


class DensePooler(nn.Module):
    """A dense layer and a tanh behind the first token; parameters have the names of BERT's pooler.

    Args:
        weight: Shape ``(D, D)``.
        bias: Shape ``(D,)``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(*weight.shape)
        self.dense.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens ``(B, T, D)`` to ``(B, D)``."""
        pooled: Tensor = torch.tanh(self.dense(hidden[:, 0]))
        return pooled


def stated_pooling(folder_or_hub_id: str | Path) -> Pooling:
    """What the model was trained for, by its ``1_Pooling``; ``mean`` where it has none.

    Raises:
        CheckpointError: A file is damaged, or cannot be fetched.
        ConfigError: The model makes its vectors in a way that is not known here.
    """
    parts = _parts(folder_or_hub_id)
    if "Pooling" not in parts:
        return "mean"
    settings = read_json(_needed(folder_or_hub_id, f"{parts['Pooling']}/config.json"))
    modes = tuple(MODES.get(key, key) for key, on in settings.items() if key.startswith("pooling_mode_") and on)
    modes = (str(settings["pooling_mode"]),) if "pooling_mode" in settings else modes
    dense = "Dense" in parts
    if (modes, dense) not in READ:
        raise ConfigError(
            f"{folder_or_hub_id}: its vectors are made by {', '.join(modes) or 'nothing'} and {'a' if dense else 'no'} "
            "dense layer; known are mean, cls (the first token), and cls with a dense layer behind it. Take another "
            "model, or name a --pooling all the same."
        )
    return READ[modes, dense]


def stated_pooler(folder_or_hub_id: str | Path) -> DensePooler | None:
    """The dense layer behind the first token that the model's folder has; None = it has none.

    Raises:
        CheckpointError: A file is damaged, or cannot be fetched.
        ConfigError: It is not a layer as BERT's pooler is one.
    """
    where = _parts(folder_or_hub_id).get("Dense")
    if where is None:
        return None
    settings = read_json(_needed(folder_or_hub_id, f"{where}/config.json"))
    file = _file(folder_or_hub_id, f"{where}/model.safetensors")
    tensors = read_tensors((file or _needed(folder_or_hub_id, f"{where}/pytorch_model.bin")).parent)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    activation = str(settings.get("activation_function")).rsplit(".", 1)[-1]
    if weight is None or bias is None or len(set(weight.shape)) != 1 or activation != "Tanh":
        raise ConfigError(
            f"{folder_or_hub_id}: {where} is no square layer with a bias and a tanh, as a pooler is. Take another "
            "model, or name --pooling mean or cls to leave the layer out."
        )
    return DensePooler(weight.float(), bias.float())


def _parts(folder_or_hub_id: str | Path) -> dict[str, str]:
    """Kind of each part of the model to its folder; nothing where the model does not say."""
    file = _file(folder_or_hub_id, MODULES)
    try:
        parts = [] if file is None else json.loads(file.read_text(encoding="utf-8"))
        kinds = {str(part["type"]).rsplit(".", 1)[-1]: str(part["path"]) for part in parts}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: expected a JSON list of parts with type and path. Copy it again.") from error
    if len(kinds) != len(parts) or not kinds.keys() <= set(KNOWN):
        raise ConfigError(
            f"{folder_or_hub_id}: its vectors are made by {', '.join(kinds)}; known are {', '.join(KNOWN)}, each once. "
            "Take another model, or name a --pooling all the same."
        )
    return kinds


def _needed(folder_or_hub_id: str | Path, name: str) -> Path:
    file = _file(folder_or_hub_id, name)
    if file is None:
        raise CheckpointError(f"{folder_or_hub_id}: {MODULES} names {name}, which is not there. Copy the model again.")
    return file


def _file(folder_or_hub_id: str | Path, name: str) -> Path | None:
    """A file of a model, fetched where it is a hub model; None = the model has no such file."""
    if Path(folder_or_hub_id).is_dir():
        file = Path(folder_or_hub_id) / name
        return file if file.exists() else None
    try:
        return Path(hf_hub_download(str(folder_or_hub_id), name))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise CheckpointError(
            f"{folder_or_hub_id}: neither a folder nor a model whose {name} the hub gives us ({type(error).__name__}). "
            "Check the name. Without a network, download the whole model where there is one and name the folder, or "
            "name --pooling mean or cls, for which no such file is read."
        ) from error
