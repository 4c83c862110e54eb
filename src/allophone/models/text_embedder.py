"""One vector for a text: any Hugging Face text encoder, pooling, projection.

Shape letters: B texts, T tokens of the longest, E dim of the embedding. The vectors are not normalized; whoever
compares them scales them to length 1. LoRA: Hu et al. 2021, arXiv:2106.09685, through PEFT.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import model_hash, replace_file, write_json
from allophone.models.speech_embedder import build_projection
from allophone.models.text_encoder import open_text_encoder

WEIGHTS_FILE, INFO_FILE = "text_embedder.safetensors", "text_embedder.json"
FORMAT = "allophone-text-embedder-1"
MOST_REMEMBERED = 200_000
"""Texts whose vectors a frozen encoder keeps (384 values each: 300 MB)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEmbedderConfig:
    """What stands behind a text encoder, and what of it is trained."""

    dim: int = 512
    """E, values of an embedding."""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """Mean of the real tokens (E5, MiniLM), the first token (BGE-M3), or the encoder's pooler (LaBSE): what the encoder
    was trained for, which ``models.text_pooling.stated_pooling`` reads."""
    training: Literal["frozen", "lora", "full"] = "frozen"
    """What of the encoder is trained; the projection always is."""
    lora_rank: int = 16
    """Rank of LoRA's updates; they are scaled by 1."""
    lora_layers: tuple[str, ...] = ("query", "key", "value")
    """Names of the linear layers that get LoRA; these are BERT's, XLM-R's and their descendants'."""
    prefix: str = ""
    """Stands before every text (``query: `` for E5)."""
    max_tokens: int = 128
    """Longer texts are cut, special tokens included."""
    projection: Literal["linear", "mlp"] = "mlp"
    """Linear, or Linear - GELU - Linear."""

    def __post_init__(self) -> None:
        if min(self.dim, self.lora_rank) < 1 or self.max_tokens < 3 or not self.lora_layers:
            raise ConfigError(
                f"A text embedder needs dim and lora_rank >= 1, max_tokens >= 3 and a lora_layer; got {self}."
            )


class TextEmbedder(nn.Module):
    """A text encoder with its tokenizer, and what makes one vector of its tokens.

    A frozen encoder stays in evaluation mode and keeps no activations.

    Args:
        model: An encoder of ``transformers``; it becomes part of this one and is changed in place.
        tokenizer: Its tokenizer.
        config: What stands behind it.

    Raises:
        ConfigError: The model is not an encoder, the tokenizer cannot pad, or no layer has a name of ``lora_layers``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, config: TextEmbedderConfig) -> None:
        super().__init__()
        settings: Any = model.config
        if settings.is_encoder_decoder or getattr(settings, "is_decoder", False):
            raise ConfigError(f"{settings.model_type} is not a text encoder. Take one such as LaBSE, BGE-M3 or E5.")
        if tokenizer.pad_token_id is None:
            raise ConfigError("The tokenizer has no padding token, so texts of a batch cannot differ in length.")
        self.config = config
        self.dim = config.dim
        self.tokenizer = tokenizer
        self.encoder_hash = model_hash(model)
        self.encoder = self._prepare(model)
        self.projection = build_projection(settings.hidden_size, config.dim, config.projection)
        self._known: dict[str, Tensor] = {}
        room = getattr(settings, "max_position_embeddings", config.max_tokens) - _first_position(model)
        self._most_tokens = min(config.max_tokens, room)

    def _prepare(self, model: nn.Module) -> nn.Module:
        """The encoder with what is to be trained set so."""
        if self.config.training == "lora":
            layers = {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
            missing = [name for name in self.config.lora_layers if name not in layers]
            if missing:
                raise ConfigError(
                    f"No linear layer named {', '.join(missing)} in {type(model).__name__}; it has "
                    f"{', '.join(sorted(layers))}. Set lora_layers."
                )
            rank = self.config.lora_rank
            settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(self.config.lora_layers), bias="none")
            return get_peft_model(model, settings)
        model.requires_grad_(self.config.training == "full")
        for name, part in model.named_parameters():
            if "pooler." in name and self.config.pooling != "pooler":  # for BERT's first task; nothing here reads it
                part.requires_grad_(False)
        return model

    def train(self, mode: bool = True) -> TextEmbedder:
        """As any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.training == "frozen":
            self.encoder.eval()
        return self

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids of texts, on the device of the weights.

        Returns:
            Ids, shape ``(B, T)``, int64, and which of them are real, shape ``(B, T)``, int64, 1 = real.
        """
        tokens = self.tokenizer(
            [self.config.prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self._most_tokens,
            return_tensors="pt",
        )
        device = next(self.projection.parameters()).device
        return tokens["input_ids"].to(device), tokens["attention_mask"].to(device)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Embed tokenized texts.

        Args:
            ids: Tokens. Shape ``(B, T)``, int64.
            real: 1 = real token, 0 = padding. Shape ``(B, T)``, int64.

        Returns:
            Shape ``(B, E)``, not normalized.
        """
        embedding: Tensor = self.projection(self._pool(ids, real))
        return embedding

    def _pool(self, ids: Tensor, real: Tensor) -> Tensor:
        """What stands before the projection. Shape ``(B, hidden)``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.training != "frozen"):
            output = self.encoder(input_ids=ids, attention_mask=real)
        hidden: Tensor = output.last_hidden_state
        if self.config.pooling == "pooler":
            made: Tensor = output.pooler_output
            return made
        if self.config.pooling == "cls":
            return hidden[:, 0]
        weights = real[..., None].to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled

    def embed_again(self, texts: Sequence[str]) -> Tensor:
        """Embed texts that a training meets over and over: a frozen encoder hears each once, the projection always.

        Returns:
            Shape ``(B, E)``, with gradients to the projection, not normalized.

        Raises:
            ConfigError: The encoder is trained.
        """
        if self.config.training != "frozen":
            raise ConfigError(f"Only a frozen text encoder gives the same again; this one is {self.config.training}.")
        found = {text: self._known[text] for text in texts if text in self._known}
        fresh = sorted(set(texts) - found.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(fresh), 32):
            part = fresh[start : start + 32]
            with torch.no_grad():
                found.update(zip(part, self._pool(*self.tokenize(part)), strict=True))
        for text in fresh[: max(0, MOST_REMEMBERED - len(self._known))]:
            self._known[text] = found[text]
        embedding: Tensor = self.projection(torch.stack([found[text] for text in texts]))
        return embedding

    def embed(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Embed texts, without gradients, ``batch_size`` at once. Shape ``(B, E)``, not normalized."""
        parts = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        training = self.training
        self.eval()
        with torch.inference_mode():
            embedded = torch.cat([self(*self.tokenize(part)) for part in parts])
        self.train(training)
        return embedded

    def merged_encoder(self) -> Any:
        """The encoder as ``transformers`` knows it; with LoRA, a copy that has it merged into its weights."""
        if self.config.training != "lora":
            return self.encoder
        return copy.deepcopy(self.encoder).merge_and_unload()  # type: ignore[operator]


def _first_position(model: nn.Module) -> int:
    """Place of the first token in the table of positions: RoBERTa's family counts from behind the padding's own."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.padding_idx + 1
    return 0


def build_text_embedder(folder_or_hub_id: str | Path, config: TextEmbedderConfig) -> TextEmbedder:
    """A text encoder from the hub or a folder with a fresh projection behind it.

    Raises:
        CheckpointError: There is no such model, or it is damaged.
        ConfigError: It is not an encoder, has no pooler where one is read, or LoRA finds no layer.
    """
    tokenizer, model = open_text_encoder(folder_or_hub_id, pooler=config.pooling == "pooler")
    return TextEmbedder(model, tokenizer, config)


def save_text_embedder(embedder: TextEmbedder, folder: str | Path, card: str) -> Path:
    """Write encoder and tokenizer as ``transformers`` reads them, ``text_embedder.safetensors`` and ``.json``.

    Args:
        embedder: The model; LoRA is merged into the weights that are written.
        folder: Where to.
        card: Text of ``README.md``, the model card.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    encoder = embedder.merged_encoder()
    encoder.save_pretrained(str(folder))
    embedder.tokenizer.save_pretrained(str(folder))
    projection = {
        name: value.detach().float().cpu().contiguous() for name, value in embedder.projection.state_dict().items()
    }
    replace_file(folder / WEIGHTS_FILE, save(projection))
    replace_file(folder / "README.md", card.encode())
    info = {"format": FORMAT, "encoder": model_hash(encoder), "config": to_dict(embedder.config)}
    write_json(folder / INFO_FILE, info)
    return folder


def load_text_embedder(folder: str | Path) -> TextEmbedder:
    """Read what :func:`save_text_embedder` wrote, in evaluation mode, on the CPU. LoRA, if any, begins anew.

    Raises:
        CheckpointError: A file is missing or damaged, or the files do not belong together.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if info.get("format") != FORMAT:
            raise CheckpointError(f"format is {info.get('format')!r}; expected '{FORMAT}'.")
        config = from_dict(TextEmbedderConfig, info["config"], str(folder / INFO_FILE))
        embedder = build_text_embedder(folder, config)
        if embedder.encoder_hash != info["encoder"]:
            raise CheckpointError(f"was written for encoder {info['encoder']}; got {embedder.encoder_hash} beside it.")
        embedder.projection.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, RuntimeError, ConfigError, CheckpointError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / INFO_FILE}: {reason} Copy the folder again, or save it again.") from error
    return embedder.eval()
