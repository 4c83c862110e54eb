"""Small layers put into a frozen model, and what makes few states of many before a decoder reads them.

Shape letters: B utterances, T frames of one, N frames of all, D dim of the encoder, E dim of the decoder.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.nn.attention import by_length


class Adapter(nn.Module):
    """A bottleneck behind a layer: ``x + up(gelu(down(x)))``. It changes nothing at the start, ``up`` being zero.

    Args:
        dim: Width of what it stands behind.
        bottleneck: Width between the two projections.

    Raises:
        ConfigError: A width is less than 1.

    Source:
        Houlsby et al. 2019, arXiv:1902.00751, section 2.1. Deviations: ``up`` is exactly zero at the start, where the
        paper has it near zero.
    """

    def __init__(self, dim: int, bottleneck: int = 512) -> None:
        super().__init__()
        if min(dim, bottleneck) < 1:
            raise ConfigError(f"An adapter needs widths of at least 1; got {dim} and {bottleneck}.")
        self.down = nn.Linear(dim, bottleneck)
        self.up = nn.Linear(bottleneck, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Shape ``(..., dim)`` to the same."""
        added: Tensor = self.up(F.gelu(self.down(values)))
        return values + added

    def stand_behind(self, layer: nn.Module) -> None:
        """From now on the layer gives what this adapter makes of its output; its own parameters keep their names."""
        layer.register_forward_hook(self._adapt)

    def _adapt(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        adapted: Tensor = self(output)
        return adapted


class LengthAdaptor(nn.Module):
    """Fewer and wider states: projection where the dims differ, then convolutions of stride 2 with gates.

    Parameters are named as in ``transformers``' ``Wav2Vec2Adapter``. An utterance of T frames becomes
    ``ceil(T / 2)`` states with each layer, so that none ever becomes empty.

    Args:
        dim: D, of what comes in.
        output_dim: E, of what goes out.
        layers: Convolutions.

    Raises:
        ConfigError: A dim is less than 1, or ``layers`` negative.

    Source:
        Li et al. 2021, arXiv:2010.12829, section 2.2 (fairseq's ``Conv1dAdaptor``): three layers of kernel 3 and stride
        2. Deviations: an utterance ends in zeros and not in the padding of a batch, so its states are the same alone
        and in company.
    """

    KERNEL = 3
    STRIDE = 2

    def __init__(self, dim: int, output_dim: int, layers: int = 3) -> None:
        super().__init__()
        if min(dim, output_dim) < 1 or layers < 0:
            raise ConfigError(f"A length adaptor needs dims >= 1 and layers >= 0; got {dim}, {output_dim}, {layers}.")
        self.proj = nn.Linear(dim, output_dim) if dim != output_dim else None
        self.proj_layer_norm = nn.LayerNorm(output_dim) if dim != output_dim else None
        self.layers = nn.ModuleList(_GatedConvolution(output_dim) for _ in range(layers))

    @property
    def factor(self) -> int:
        """Frames that become one state."""
        return int(self.STRIDE ** len(self.layers))

    def forward(self, hidden: Packed) -> Packed:
        """Packed ``(N, D)`` to packed ``(about N / factor, E)``."""
        if self.proj is not None and self.proj_layer_norm is not None:
            hidden = hidden.with_values(self.proj_layer_norm(self.proj(hidden.values)))
        return by_length(hidden, self._shorten)

    def _shorten(self, values: Tensor) -> Tensor:
        """``(B, T, E)`` to ``(B, fewer, E)``."""
        channels = values.transpose(1, 2)
        for layer in self.layers:
            channels = layer(channels)
        return channels.transpose(1, 2)


class _GatedConvolution(nn.Module):
    """``(B, E, T)`` to ``(B, E, ceil(T / 2))``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, 2 * dim, LengthAdaptor.KERNEL, stride=LengthAdaptor.STRIDE, padding=1)

    def forward(self, channels: Tensor) -> Tensor:
        """Convolution and gate."""
        return F.glu(self.conv(channels), dim=1)
