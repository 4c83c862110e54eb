"""What a run begins with instead of random weights: a public checkpoint, an earlier iteration, or the stage before.

Weights go over; the optimizer never does. That is on purpose: Adam's moments belong to the old targets, data and
learning rate, public checkpoints come without them, and a new warm-up builds them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from allophone.errors import CheckpointError
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash
from allophone.nn.codebook import Codebook
from allophone.run.config import RunConfig, TargetsConfig

HEADS = "heads.safetensors"
PROJECTIONS = ("final_proj.weight", "final_proj.bias", "coarse_proj.weight", "coarse_proj.bias")
"""Maps of hidden states into the space of the units; ``coarse``: of the slow frames, where there are two rates."""
TABLES = ("label_embeddings", "coarse_embeddings")
"""A row a unit, likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An encoder to go on with, and what lies beside it."""

    name: str
    """What messages call it: hub id, folder or run."""
    encoder: Encoder
    heads: dict[str, Tensor] | None = None
    """Projection and label table for the units of ``codebook``."""
    codebook: Codebook | None = None
    targets: Path | None = None
    """Folder with the codebook and the units of a finished run; None for a model that only comes with weights."""

    def parent(self, targets: TargetsConfig) -> Codebook | None:
        """The codebook from whose centroids such targets can start, so that unit k stays unit k; None where none can.

        It must be one of this very encoder with the same layer, K and normalization.
        """
        if self.codebook is None:
            return None
        info = self.codebook.info
        same = (info.layer, info.num_units, info.normalization) == (
            targets.layer,
            targets.num_units,
            targets.normalization,
        )
        return self.codebook if same and info.model_hash == model_hash(self.encoder) else None


def load_heads(folder: Path) -> dict[str, Tensor] | None:
    """Projection and label table that lie beside a model; None where it came without."""
    path = folder / HEADS
    return {name: value.float() for name, value in load_file(path).items()} if path.exists() else None


def finished_run(run_dir: Path) -> Start:
    """A finished run, to go on with its weights, heads, codebook and units.

    Raises:
        CheckpointError: It is not finished, or a file is gone.
    """
    heads = load_heads(run_dir / "model")
    if heads is None:
        raise CheckpointError(
            f"{run_dir / 'model'}: no {HEADS} there, so there is no finished run to go on from. Finish {run_dir.name} "
            f"first, or delete its model folder so that it is written again."
        )
    targets = run_dir / "targets"
    return Start(
        name=run_dir.name,
        encoder=load_encoder(run_dir / "model"),
        heads=heads,
        codebook=Codebook.load(targets),
        targets=targets,
    )


def carry_over(method: MaskedPrediction, start: Start, codebook: Codebook, config: RunConfig) -> str:
    """Put the weights of ``start`` into a new method; the heads too, as far as they still mean the same.

    A label table stays only where unit k is still unit k: under the same codebook, or one refitted from its
    centroids. A projection stays where its shape fits. Both hold for each rate of an encoder with two.

    Args:
        method: Freshly made; changed in place.
        start: What the run goes on from.
        codebook: Of the run's targets.
        config: The run.

    Returns:
        A sentence that says what was kept, what is new, and that the optimizer is.
    """
    method.encoder.load_state_dict(start.encoder.state_dict())
    heads, old = start.heads or {}, start.codebook
    own, kept = method.state_dict(), {}
    same_units = old is not None and old.hash in (codebook.hash, codebook.info.parent)
    for name in (*PROJECTIONS, *TABLES):
        fits = name in heads and name in own and heads[name].shape == own[name].shape
        if fits and (name in PROJECTIONS or same_units):
            kept[name] = heads[name]
    method.load_state_dict({**own, **kept})
    of = "MFCCs" if codebook.info.layer is None else f"layer {codebook.info.layer}"
    units = f"{codebook.info.num_units} units of {of}"
    fitted = "the same" if old is not None and old.hash == codebook.hash else "refitted from this audio"
    train = config.train
    return (
        f"{config.name} goes on from {start.name} (model {model_hash(start.encoder)}). Codebook: {units}, {fitted}. "
        f"{_heads_in_words(kept, heads, method)} The optimizer starts anew, on purpose: no moments are taken over, and "
        f"the learning rate rises again in {train.warmup_steps} of {train.steps} steps to {train.learning_rate:g}."
    )


def _heads_in_words(kept: dict[str, Tensor], heads: dict[str, Tensor], method: MaskedPrediction) -> str:
    own = [name for name in (*PROJECTIONS, *TABLES) if name in method.state_dict()]
    if all(name in kept for name in own):
        return "Projection and label table are kept."
    if not heads:
        return "Projection and label table are made anew: it came without."
    if any(name not in heads for name in own):
        new = ", ".join(name for name in own if name not in kept)
        return f"Of projections and label tables, {', '.join(kept) or 'none'} are kept and {new} made anew."
    before, now = len(heads["label_embeddings"]), len(method.label_embeddings)
    why = f"K {before} to {now}" if before != now else f"K stays {now}, but its units are others"
    projection = "The projection is kept, the" if PROJECTIONS[0] in kept else "Projection and"
    return f"{projection} label table {'is' if PROJECTIONS[0] in kept else 'are'} made anew: {why}."
