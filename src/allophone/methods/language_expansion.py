"""Adding a language by LoRA: masked prediction goes on, with low-rank updates of attention and a new label table.

Source: Seamless Language Expansion, arXiv:2406.14092. The paper trains 2.098 percent of HuBERT Base with rank 24; the
only combination that gives this number is q, k, v and output projections of all layers plus a label table of
1,004 x 256 (1,000 units and fairseq's 4 spare rows), the projection in front of it frozen. LoRA: Hu et al. 2021,
arXiv:2106.09685. Shape letters: R labels of one frame, K units, E projected dim.

Deviations from the paper: alpha (not published) equals the rank, so the scale is 1. The label table may start from the
mean projection of each unit's frames instead of from noise, so that few steps suffice. An encoder that comes
without its projection (every Hugging Face HuBERT) gets a random one that is trained with the table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from allophone.batch import SpeechBatch, valid_positions
from allophone.errors import ConfigError, NumericsError
from allophone.methods.base import ParameterGroup, StepOutput
from allophone.methods.masked_prediction import MaskedPrediction

MERGE_TOLERANCE = 1e-4
"""Largest difference that merging the adapter into the weights may make to a hidden state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpansionConfig:
    """What is trained on top of a frozen encoder."""

    rank: int = 24
    """Rank of every update; 0 trains the label table alone, which is the control for LoRA's share."""
    alpha: float | None = None
    """Updates are scaled by alpha / rank; None = rank, a scale of 1."""
    dropout: float = 0.0
    """On the input of each update."""
    table_lr_scale: float = 1.0
    """Learning rate of the label table over that of LoRA."""
    train_projection: bool = False
    """Whether the projection in front of the table is trained as well (for encoders that come without one)."""

    def __post_init__(self) -> None:
        if self.rank < 0 or (self.alpha is not None and self.alpha <= 0):
            raise ConfigError(f"LoRA needs a rank >= 0 and a positive alpha; got rank {self.rank}, alpha {self.alpha}.")


class LanguageExpansion(nn.Module):
    """A masked-prediction method whose encoder is frozen but for LoRA. It wraps the method it is given, in place.

    Args:
        method: Encoder, projection and label table; its encoder is changed in place.
        config: What is trained.
        projections: Names of the attention's linear layers, such as ``q_proj``.

    Raises:
        ConfigError: No layer of that name exists, so nothing would be adapted.
    """

    def __init__(self, method: MaskedPrediction, config: ExpansionConfig, projections: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.method = method
        method.requires_grad_(False)
        self.adapter: PeftModel | None = None
        if config.rank > 0:
            settings = LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha or config.rank,  # type: ignore[arg-type]
                lora_dropout=config.dropout,
                target_modules=list(projections),
                bias="none",
            )
            try:
                self.adapter = get_peft_model(method.encoder, settings)
            except ValueError as error:
                raise ConfigError(
                    f"No layer named {list(projections)} in {type(method.encoder).__name__}: {error}"
                ) from error
        method.label_embeddings.requires_grad_(True)
        method.final_proj.requires_grad_(config.train_projection)

    @property
    def encoder(self) -> nn.Module:
        """The encoder with its adapter."""
        return self.method.encoder

    def count(self, batch: SpeechBatch) -> Tensor:
        """As the wrapped method."""
        return self.method.count(batch)

    def step(self, batch: SpeechBatch) -> StepOutput:
        """As the wrapped method."""
        return self.method.step(batch)

    def lora_parameters(self) -> dict[str, nn.Parameter]:
        """Every LoRA matrix by name."""
        return {name: p for name, p in self.method.encoder.named_parameters() if "lora_" in name}

    def parameter_groups(self) -> list[ParameterGroup]:
        """LoRA without weight decay, then label table and, where trained, projection."""
        table = [p for p in (self.method.label_embeddings, *self.method.final_proj.parameters()) if p.requires_grad]
        groups = [ParameterGroup(tuple(table), lr_scale=self.config.table_lr_scale, weight_decay=0.0)]
        lora = tuple(self.lora_parameters().values())
        return [ParameterGroup(lora, weight_decay=0.0), *groups] if lora else groups

    def trainable_share(self) -> tuple[int, int]:
        """Trained parameters and all parameters, heads included. HuBERT Base, rank 24, 1,004 rows: 2.098 percent."""
        every = list(self.method.parameters())
        return sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every)

    def artifact(self) -> nn.Module:
        """A copy of the encoder with the adapter merged into its weights.

        Raises:
            NumericsError: The merged copy computes something else than the adapted encoder.
        """
        if self.adapter is None:
            return copy.deepcopy(self.method.encoder)
        merged = copy.deepcopy(self.adapter).merge_and_unload()
        assert isinstance(merged, nn.Module)
        difference = _largest_difference(self.method.encoder, merged)
        if difference > MERGE_TOLERANCE:
            raise NumericsError(
                f"Merging LoRA changed a hidden state by {difference:.2e}, more than {MERGE_TOLERANCE:.0e}. "
                "Some layer reads its weight without calling the layer, so PEFT's wrapper is bypassed."
            )
        return merged

    def save_pack(self, folder: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which PEFT loads by itself.

        Raises:
            ConfigError: There is no adapter (rank 0).
        """
        if self.adapter is None:
            raise ConfigError("A run of rank 0 has no adapter to save; it is the control.")
        self.adapter.save_pretrained(str(folder), safe_serialization=True)


def check_adaptation(expansion: LanguageExpansion, batch: SpeechBatch) -> None:
    """Prove on the user's own model and data that the adapter is alive, before any time is spent.

    Untrained, the adapted encoder must equal the base bit for bit. Then two gradient steps are made on a copy: in the
    first every LoRA B, in the second every LoRA A must get a gradient and move (A cannot before B has left zero).

    Raises:
        NumericsError: An untrained adapter changes the output, or a tensor stays without gradient; it is named.
    """
    if expansion.adapter is None:
        return
    trial = copy.deepcopy(expansion).eval()  # without dropout, so that equal means equal
    assert trial.adapter is not None
    with torch.no_grad(), trial.adapter.disable_adapter():
        base = trial.method.encoder(batch.waveform, batch.waveform_lengths).hidden_states[-1].values
    with torch.no_grad():
        adapted = trial.method.encoder(batch.waveform, batch.waveform_lengths).hidden_states[-1].values
    if not torch.equal(base, adapted):
        raise NumericsError("The untrained adapter (B = 0) does not equal the base bit for bit.")
    optimizer = torch.optim.SGD(trial.lora_parameters().values(), lr=1.0)
    for kind in ("lora_B", "lora_A"):
        before = {name: p.detach().clone() for name, p in trial.lora_parameters().items()}
        optimizer.zero_grad(set_to_none=True)
        (trial.step(batch).loss_sum / trial.count(batch)).backward()
        optimizer.step()
        dead = [name for name, p in trial.lora_parameters().items() if kind in name and torch.equal(p, before[name])]
        if dead:
            raise NumericsError(
                f"{len(dead)} LoRA tensors got no gradient and did not move, the first is {dead[0]}. The model reads "
                "these weights without calling the layers; choose other target layers."
            )


@torch.no_grad()
def initialize_table(method: MaskedPrediction, batches: Iterable[SpeechBatch]) -> None:
    """Start each unit's embedding at the mean direction of the projected frames that carry it.

    Args:
        method: Encoder and heads; its table is changed in place. Units without a frame keep their row.
        batches: A few batches with units ``(B, T, R)``; masks are ignored.
    """
    config = method.config
    sums = torch.zeros(len(method.label_embeddings), config.projection_dim)
    was_training = method.training
    method.eval()
    for batch in batches:
        assert batch.units is not None
        hidden = method.encoder(batch.waveform, batch.waveform_lengths).hidden_states[-1].values
        projected = method.final_proj(hidden).reshape(-1, config.projection_dim)
        units = batch.units[valid_positions(batch.frame_lengths, batch.units.shape[1])].reshape(-1)
        sums.index_add_(0, units, F.normalize(projected.float(), dim=-1))
    known = sums.norm(dim=-1) > 0
    method.label_embeddings[known] = F.normalize(sums[known], dim=-1)
    method.train(was_training)


@torch.no_grad()
def _largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of any hidden state on one second of noise, both in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(1, 16_000, generator=generator)
    lengths = torch.tensor([16_000])
    modes = first.training, second.training
    outputs = [module.eval()(waveform, lengths).hidden_states for module in (first, second)]
    first.train(modes[0]), second.train(modes[1])
    return max(float((a.values - b.values).abs().max()) for a, b in zip(*outputs, strict=True))
