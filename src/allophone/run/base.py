"""A trained encoder with what lies beside it, as a run begins with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from allophone.errors import ConfigError
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.build import Encoder
from allophone.nn.codebook import Codebook
from allophone.run.pack import Stack


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The model that is expanded, with what lies beside it."""

    encoder: Encoder
    """Frozen."""
    codebook: Codebook | None
    """Its own units, if it has any."""
    heads: dict[str, torch.Tensor] | None
    """Projection and label table for these units, if it has any."""
    stack: Stack | None = None
    """Packs that are merged into it; None = none that is known of."""

    def unit_layer(self) -> int:
        """Hidden state of its own units, or the middle one."""
        layer = None if self.codebook is None else self.codebook.info.layer
        return self.encoder.num_layers // 2 if layer is None else layer

    def num_units(self) -> int:
        """As many units as its own codebook has, or 500."""
        return 500 if self.codebook is None else self.codebook.info.num_units

    def method(self) -> MaskedPrediction | None:
        """The base's own masked prediction; None where codebook or heads are missing."""
        if self.codebook is None or self.heads is None:
            return None
        rows, width = self.heads["label_embeddings"].shape
        labels = len(self.heads["final_proj.weight"]) // width
        config = MaskedPredictionConfig(num_units=rows, projection_dim=width, labels_per_frame=labels)
        method = MaskedPrediction(self.encoder, config)
        method.load_state_dict({**method.state_dict(), **self.heads})
        return method

    def own_units(self) -> Codebook:
        """Its codebook, where a head for it lies beside the model.

        Raises:
            ConfigError: It came without units of a layer of its own, or without a head for them.
        """
        if self.codebook is None or self.codebook.info.front_end != "model" or self.heads is None:
            raise ConfigError(
                "The base's own units and their table are needed (codebook.json, heads.safetensors beside the model), "
                "and this base has none. Take targets 'base', which clusters a layer anew."
            )
        return self.codebook
