"""Encoders of several frame rates joined into one, side by side (parallel) or from slow to fast (hierarchical).

The fused encoder has the clock of its fastest branch and one hidden state, the fused one. Each branch's layers are
weighted by a softmax that is learned; with branches that are frozen, as the paper has them, that and the upsampling are
all there is to learn. MR-HuBERT, which is one network with two rates, is in :mod:`allophone.models.mr_hubert`.
``transformers`` has no such class: a saved folder (``model_type`` ``allophone-fusion``) opens with
:func:`allophone.models.conversion.load_encoder` only.

Source: Shi et al. 2023, arXiv:2306.01084 (HuBERT-MR); CV-HuBERT of arXiv:2309.15317 uses it, and reports that joining
resolutions made its scores worse. Not found, so our choice: how slow frames come to the fast rate and stand in time
(:mod:`allophone.nn.resampling`), a layer norm without weights before the sum, one softmax over all layers of all
branches (``sum``) or one for each branch (``concat``, ``hierarchical``), and a layer norm behind each hierarchical sum.
Shape letters: B batch, S samples, T frames, N real frames of a batch end to end, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.frames import FrameClock
from allophone.models.hubert import Hubert, HubertConfig
from allophone.models.output import EncoderOutput, checked_depth, checked_lengths, flat_mask
from allophone.nn.resampling import Kind, Upsampling, rate_ratio, sub_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """Which encoders are joined and how."""

    branches: tuple[HubertConfig, ...]
    """At least two, from the fastest to the slowest; each hop a multiple of the one before it."""
    join: Literal["sum", "concat", "hierarchical"] = "sum"
    """``sum``: all layers of all branches, weighted; ``concat``: the branches' weighted layers side by side;
    ``hierarchical``: the slowest branch, brought to the next rate and added there, and so on to the fastest."""
    upsampling: Kind = "repeat"
    """How slow frames become fast ones; ``linear`` is learned."""

    def __post_init__(self) -> None:
        hops = [branch.clock.hop for branch in self.branches]
        if len(hops) < 2 or any(slow <= fast for fast, slow in pairwise(hops)):
            raise ConfigError(
                f"A fusion needs at least two branches from the fastest to the slowest, no two alike; got hops of "
                f"{hops} samples. Sort them, or leave one out."
            )
        for fast, slow in pairwise(self.branches):
            rate_ratio(slow.clock, fast.clock)
        widths = [branch.hidden_size for branch in self.branches]
        if len(set(widths)) > 1 and (self.join == "sum" or (self.join, self.upsampling) == ("hierarchical", "repeat")):
            raise ConfigError(
                f"Branches of widths {widths} cannot be added. Join them by 'concat', or hierarchically with "
                "upsampling 'linear'."
            )

    @property
    def clock(self) -> FrameClock:
        """Of the fastest branch."""
        return self.branches[0].clock

    @property
    def hidden_size(self) -> int:
        """Width D of the fused frames."""
        return sum(b.hidden_size for b in self.branches) if self.join == "concat" else self.branches[0].hidden_size


class FusedEncoder(nn.Module):
    """Several encoders heard as one; made from trained ones by :func:`fuse`."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.hidden_size
        self.num_layers = 0
        """A fusion has no layers of its own: hidden state 0, the fused one, is all that it gives."""
        self.branches = nn.ModuleList(Hubert(branch) for branch in config.branches)
        self.layer_weights = nn.ParameterList(torch.zeros(b.num_hidden_layers + 1) for b in config.branches)
        pairs = list(pairwise(config.branches))
        if config.join != "hierarchical":
            pairs = [(config.branches[0], slow) for slow in config.branches[1:]]
        same_width = config.join == "concat"
        self.upsamplings = nn.ModuleList(
            Upsampling(
                slow.clock,
                fast.clock,
                slow.hidden_size,
                slow.hidden_size if same_width else fast.hidden_size,
                config.upsampling,
            )
            for fast, slow in pairs
        )

    def forward(
        self,
        waveform: Tensor,
        waveform_lengths: Tensor,
        masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what lies beyond a length is never read.
            waveform_lengths: Shape ``(B,)``, int64, samples, each at least one receptive field of the fastest branch. A
                clip that is shorter than a frame of a slower one is heard by that with zeros behind it.
            masked: Shape ``(B, T)``, bool, True = hidden from all branches; T fast frames of the longest utterance. A
                slow frame is hidden where a fast frame that it is laid beside is.
            num_layers: 0 or None.

        Returns:
            One hidden state, the fused one, packed; penalty and count are those of all branches together.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than a frame.
            ConfigError: ``num_layers`` is above 0.
        """
        checked_depth(num_layers, self.num_layers)
        lengths = checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        frames = tuple(self.clock.count(length) for length in lengths)
        if masked is not None:
            flat_mask(masked, frames)
        outputs = [self._branch(cast(Hubert, branch), waveform, lengths, masked) for branch in self.branches]
        fused = self._join([output.hidden_states for output in outputs], frames)
        penalties = [output.features_penalty for output in outputs if output.features_penalty is not None]
        return EncoderOutput(
            hidden_states=(fused,),
            features_penalty=torch.stack(penalties).sum(),
            feature_count=sum(output.feature_count for output in outputs),
        )

    def branch_layers(self, waveform: Tensor, waveform_lengths: Tensor) -> tuple[Packed, ...]:
        """Every layer of every branch, normalized and at the fast rate, for a probe that learns their weights.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.

        Returns:
            From the fastest branch to the slowest, hidden state 0 first, packed ``(N, D)`` each.

        Raises:
            ConfigError: Layers are not joined by ``sum``.
        """
        if self.config.join != "sum":
            raise ConfigError(f"Layers side by side are those of join 'sum'; this one joins by {self.config.join!r}.")
        lengths = checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        frames = tuple(self.clock.count(length) for length in lengths)
        found: list[Packed] = []
        for number, branch in enumerate(self.branches):
            for state in self._branch(cast(Hubert, branch), waveform, lengths, None).hidden_states:
                normal = state.with_values(functional.layer_norm(state.values, state.values.shape[-1:]))
                found.append(normal if number == 0 else self.upsamplings[number - 1](normal, frames))
        return tuple(found)

    def _branch(self, branch: Hubert, waveform: Tensor, lengths: Sequence[int], masked: Tensor | None) -> EncoderOutput:
        """Hidden states of one branch, whose clock may need longer clips and has fewer frames to hide."""
        field = branch.clock.receptive_field
        if masked is not None and branch.clock != self.clock:
            masked = self._slow_mask(branch.clock, lengths, masked)
        if min(lengths) < field:
            heard = [row[:length] for row, length in zip(waveform, lengths, strict=True)]
            longer = [functional.pad(samples, (0, max(0, field - len(samples)))) for samples in heard]
            waveform = nn.utils.rnn.pad_sequence(longer, batch_first=True)
            lengths = [len(samples) for samples in longer]
        output: EncoderOutput = branch(waveform, torch.tensor(lengths), masked)
        return output

    def _slow_mask(self, slow: FrameClock, lengths: Sequence[int], masked: Tensor) -> Tensor:
        """Slow frames with a hidden fast one beside them. Shape ``(B, slow frames)``, bool."""
        ratio, counts = rate_ratio(slow, self.clock), [max(1, slow.count(length)) for length in lengths]
        hidden = torch.zeros(len(counts), max(counts), dtype=torch.bool, device=masked.device)
        for row, (own, length) in enumerate(zip(counts, lengths, strict=True)):
            fast = self.clock.count(length)
            beside = sub_frames(slow, self.clock, own, fast).to(masked.device) // ratio
            hidden[row, beside[masked[row, :fast]]] = True
        return hidden

    def _join(self, states: list[tuple[Packed, ...]], frames: tuple[int, ...]) -> Packed:
        """Hidden states of all branches to the fused one, packed ``(N, D)``."""
        if self.config.join == "hierarchical":
            return self._climb([_mixed(own, w.softmax(0)) for own, w in zip(states, self.layer_weights, strict=True)])
        if self.config.join == "sum":
            together, sizes = torch.cat(list(self.layer_weights)).softmax(0), [len(own) for own in states]
            weights = [together[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
        else:
            weights = [weight.softmax(0) for weight in self.layer_weights]
        mixed = [_mixed(own, weight) for own, weight in zip(states, weights, strict=True)]
        fast = [mixed[0]] + [up(slow, frames) for up, slow in zip(self.upsamplings, mixed[1:], strict=True)]
        values = [one.values for one in fast]
        joined = torch.cat(values, dim=-1) if self.config.join == "concat" else torch.stack(values).sum(dim=0)
        return mixed[0].with_values(joined)

    def _climb(self, mixed: list[Packed]) -> Packed:
        """From the slowest branch to the fastest."""
        fused = mixed[-1]
        for up, faster in zip(reversed(list(self.upsamplings)), reversed(mixed[:-1]), strict=True):
            total = faster.values + up(fused, faster.lengths).values
            fused = faster.with_values(functional.layer_norm(total, total.shape[-1:]))
        return fused


def _mixed(states: tuple[Packed, ...], weights: Tensor) -> Packed:
    """Weighted sum of normalized hidden states, packed ``(N, D)`` each; ``weights``: one a state."""
    normalized = [functional.layer_norm(state.values, state.values.shape[-1:]) for state in states]
    total = sum(weight * values for weight, values in zip(weights, normalized, strict=True))
    return states[0].with_values(cast(Tensor, total))


def fuse(
    encoders: Sequence[Hubert],
    join: Literal["sum", "concat", "hierarchical"] = "sum",
    upsampling: Kind = "repeat",
    *,
    frozen: bool = True,
) -> FusedEncoder:
    """Join trained encoders.

    Args:
        encoders: From the fastest to the slowest; their weights are copied.
        join: See :class:`FusionConfig`.
        upsampling: See :class:`FusionConfig`.
        frozen: Only layer weights and upsamplings are trained, as in the paper.

    Raises:
        ConfigError: They are no HuBERT or wav2vec 2.0 encoders, or do not fit together.
    """
    kinds = sorted({type(encoder).__name__ for encoder in encoders if not isinstance(encoder, Hubert)})
    if kinds:
        raise ConfigError(f"fuse: {', '.join(kinds)} cannot be a branch; expected HuBERT or wav2vec 2.0 encoders.")
    configs = tuple(encoder.config for encoder in encoders)
    fused = FusedEncoder(FusionConfig(branches=configs, join=join, upsampling=upsampling))
    for branch, encoder in zip(fused.branches, encoders, strict=True):
        branch.load_state_dict(encoder.state_dict())
        branch.requires_grad_(not frozen)
    return fused
