"""One vector for a recording: encoder, mixture of its layers, pooling, projection.

Shape letters: B utterances, S samples, N frames of all, D dim of the encoder, E dim of the embedding. The vectors are
not normalized; whoever compares them scales them to length 1. Nothing here is trained or scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from allophone.batch import Packed
from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError
from allophone.frames import SAMPLE_RATE
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_folder, model_hash, replace_file, save_encoder, write_json
from allophone.nn.pooling import AttentionPooling, LayerWeights, MeanPooling
from allophone.nn.transformer import SelfAttention, TransformerLayer

WEIGHTS_FILE, INFO_FILE = "embedder.safetensors", "embedder.json"
FORMAT = "allophone-embedder-1"
ENCODER = "encoder."


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechEmbedderConfig:
    """What stands behind the encoder."""

    dim: int = 512
    """E, values of an embedding."""
    layers: Literal["last", "weighted"] = "weighted"
    """The last hidden state, or a learned mean of all."""
    normalize: bool = False
    """Scale every frame of a hidden state to mean 0 and variance 1 before the mean, as s3prl's featurizer can: layers
    differ in size by orders of magnitude, and some dims stand out."""
    context_layers: int = 0
    """Transformer layers of our own between the encoder and the pooling; for an encoder that is not trained."""
    pooling: Literal["mean", "attention", "statistics"] = "attention"
    """How frames become one vector; statistics: mean and standard deviation, both weighted by attention."""
    pooling_dim: int = 128
    """Hidden dim of attention pooling; 0 scores frames without a hidden layer (SAMU-XLS-R)."""
    pooling_heads: int = 1
    """Heads of attention pooling, each for its share of the dims."""
    projection: Literal["none", "linear", "mlp", "tanh", "corrected"] = "mlp"
    """None (``dim`` must be D), Linear, Linear - GELU - Linear through D values, Linear - tanh (SAMU-XLS-R), or
    :class:`CorrectedLinear`."""

    def __post_init__(self) -> None:
        if min(self.dim, self.pooling_heads) < 1 or min(self.pooling_dim, self.context_layers) < 0:
            raise ConfigError(f"A speech embedder needs dims and heads of at least 1; got {self}.")


def _context_layer(dim: int) -> TransformerLayer:
    """Heads of 64 dims, where these divide, an inner width of two, a dropout of a tenth."""
    attention = SelfAttention(dim, dim // 64 if dim % 64 == 0 else 1, dropout=0.1)
    return TransformerLayer(dim, attention, 2 * dim, norm_first=True, dropout=0.1, inner_dropout=0.1)


class CorrectedLinear(nn.Module):
    """A linear map of standardized values, and a network beside it that corrects it; the network starts at zero.

    So it can start as a linear map that was found in closed form (:meth:`begin_as`) and goes on from there.

    Args:
        dim_in: P, values that come in.
        dim: Width of the network.
        dim_out: E.

    Source:
        Linear probing, then fine-tuning: Kumar et al. 2022, arXiv:2202.10054. Deviation: what is found in closed form
        is a ridge regression; the network beside it is ours.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim_in: int, dim: int, dim_out: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("deviation", torch.ones(dim_in))
        self.linear = nn.Linear(dim_in, dim_out)
        self.correction = nn.Sequential(nn.Linear(dim_in, dim), nn.GELU(), nn.Linear(dim, dim_out))
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        """``(B, P)`` to ``(B, E)``."""
        standard = (values - self.mean) / self.deviation
        mapped: Tensor = self.linear(standard) + self.correction(standard)
        return mapped

    @torch.no_grad()
    def begin_as(self, mean: Tensor, deviation: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Become a linear map: shapes ``(P,)``, ``(P,)``, ``(E, P)`` of standardized values, and ``(E,)``."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


def build_projection(dim_in: int, dim_out: int, kind: Literal["none", "linear", "mlp", "tanh"]) -> nn.Sequential:
    """Nothing, Linear, Linear - GELU - Linear or Linear - tanh, from ``dim_in`` to ``dim_out``.

    Raises:
        ConfigError: Nothing cannot change the dim.
    """
    if kind == "none":
        if dim_in != dim_out:
            raise ConfigError(
                f"Without a projection an embedding has the {dim_in} dims that are pooled; got {dim_out}."
            )
        return nn.Sequential()
    if kind == "linear":
        return nn.Sequential(nn.Linear(dim_in, dim_out))
    if kind == "tanh":
        return nn.Sequential(nn.Linear(dim_in, dim_out), nn.Tanh())
    return nn.Sequential(nn.Linear(dim_in, dim_in), nn.GELU(), nn.Linear(dim_in, dim_out))


class SpeechEmbedder(nn.Module):
    """An encoder and what makes one vector of its frames.

    Args:
        encoder: The model; it becomes part of this one.
        config: What stands behind it.
    """

    def __init__(self, encoder: Encoder, config: SpeechEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dim = config.dim
        self.clock = encoder.clock
        self.layer_weights = LayerWeights(encoder.num_layers + 1) if config.layers == "weighted" else None
        self.context = nn.ModuleList(_context_layer(encoder.dim) for _ in range(config.context_layers))
        statistics = config.pooling == "statistics"
        self.pooling = (
            MeanPooling()
            if config.pooling == "mean"
            else AttentionPooling(encoder.dim, config.pooling_dim, config.pooling_heads, statistics=statistics)
        )
        pooled_dim = 2 * encoder.dim if statistics else encoder.dim
        self.projection: nn.Module = (
            CorrectedLinear(pooled_dim, encoder.dim, config.dim)
            if config.projection == "corrected"
            else build_projection(pooled_dim, config.dim, config.projection)
        )

    def forward(self, waveform: Tensor, waveform_lengths: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what stands beyond a length has no effect.
            waveform_lengths: Shape ``(B,)``, int64, samples.

        Returns:
            Shape ``(B, E)``, not normalized.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        return self.pool(self.encoder(waveform, waveform_lengths).hidden_states)

    def pool(self, states: Sequence[Packed]) -> Tensor:
        """What stands behind the encoder: hidden states of a batch, each ``(N, D)``, to ``(B, E)``."""
        embedding: Tensor = self.projection(self.pooled(states))
        return embedding

    def pooled(self, states: Sequence[Packed]) -> Tensor:
        """What the projection gets: hidden states of a batch, each ``(N, D)``, to ``(B, D)`` or ``(B, 2 D)``."""
        if self.config.normalize:
            states = [one.with_values(F.layer_norm(one.values, one.values.shape[-1:])) for one in states]
        mixed: Packed = states[-1] if self.layer_weights is None else self.layer_weights(states)
        for layer in self.context:
            mixed = layer(mixed)
        pooled: Tensor = self.pooling(mixed)
        return pooled

    def embed(self, waveforms: Sequence[Tensor], *, batch_seconds: float = 60.0) -> Tensor:
        """Embed waveforms of any length, in evaluation mode and without gradients, similar lengths together.

        Args:
            waveforms: 16 kHz mono in [-1, 1], shape ``(S,)`` each.
            batch_seconds: Padded audio in one batch; a longer waveform is a batch of its own.

        Returns:
            Shape ``(B, E)``, float32 on the CPU, in the order of ``waveforms``, not normalized.

        Raises:
            ShapeError: A waveform is shorter than one frame.
        """
        order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]), reverse=True)
        embedded = torch.empty(len(waveforms), self.dim)
        device = next(self.encoder.parameters()).device
        was_training = self.training
        self.eval()
        try:
            while order:
                size = max(1, int(batch_seconds * SAMPLE_RATE) // max(1, len(waveforms[order[0]])))
                members, order = order[:size], order[size:]
                lengths = torch.tensor([len(waveforms[index]) for index in members])
                padded = nn.utils.rnn.pad_sequence([waveforms[index].float() for index in members], batch_first=True)
                with torch.inference_mode():
                    embedded[members] = self(padded.to(device), lengths.to(device)).float().cpu()
        finally:
            self.train(was_training)
        return embedded

    def head_tensors(self) -> dict[str, Tensor]:
        """Everything but the encoder, by name, on the CPU in float32."""
        return {
            name: value.detach().float().cpu().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(ENCODER)
        }


def save_speech_embedder(
    embedder: SpeechEmbedder,
    folder: str | Path,
    card: str,
    *,
    parents: Sequence[str] = (),
    created_by: str = "allophone",
) -> Path:
    """Write an encoder's folder, which ``transformers`` reads, with ``embedder.safetensors`` and ``embedder.json``.

    Args:
        embedder: The model, without adapters (merge them first).
        folder: Where to.
        card: Text of ``README.md``, the model card.
        parents: Hashes of the models that it was made from.
        created_by: The command or program that made it.

    Returns:
        The folder.

    Raises:
        CheckpointError: A parameter is not finite, or the encoder's are not those of its config.
    """
    folder = Path(folder)
    tensors = embedder.head_tensors()
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{folder}: NaN or infinite values in {', '.join(broken)}. The training diverged.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    save_encoder(embedder.encoder, folder, card, parents=parents, created_by=created_by)
    replace_file(folder / WEIGHTS_FILE, save(tensors))
    info = {"format": FORMAT, "encoder": model_hash(embedder.encoder), "config": to_dict(embedder.config)}
    write_json(folder / INFO_FILE, info)
    return folder


def load_speech_embedder(folder_or_hub_id: str | Path) -> SpeechEmbedder:
    """Read what :func:`save_speech_embedder` wrote, in float32 and evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the files do not belong together.
    """
    folder = model_folder(folder_or_hub_id)
    info = _read_info(folder / INFO_FILE)
    encoder = load_encoder(folder)
    found = model_hash(encoder)
    if info["encoder"] != found:
        raise CheckpointError(
            f"{folder}: {INFO_FILE} was written for encoder {info['encoder']}, the weights beside it are {found}. One "
            "of them was replaced; copy the folder again."
        )
    try:
        config = from_dict(SpeechEmbedderConfig, info["config"], str(folder / INFO_FILE))
        embedder = SpeechEmbedder(encoder, config)
        tensors = load_file(folder / WEIGHTS_FILE)
        expected = embedder.head_tensors().keys()
        if tensors.keys() != expected:
            raise CheckpointError(f"holds {sorted(tensors)}, expected {sorted(expected)}.")
        embedder.load_state_dict(tensors, strict=False)
    except (ConfigError, SafetensorError, OSError, RuntimeError, CheckpointError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE}: {' '.join(str(error).split())} Copy the folder again."
        ) from error
    return embedder.eval()


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: missing, truncated or not JSON ({error}). A plain encoder has none: use load_encoder for it."
        ) from error
    if not isinstance(info, dict) or info.get("format") != FORMAT or not {"encoder", "config"} <= info.keys():
        got = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise CheckpointError(f"{path}: format is {got!r}; expected '{FORMAT}'. Update allophone.")
    return info
