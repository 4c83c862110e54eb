"""The last step of a pretraining: units of the encoder's own, a head for them, and the folder that is handed over."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.distributed import gather, on_rank_zero
from allophone.methods.language_expansion import initialize_table
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.conversion import load_encoder, model_hash, save_encoder
from allophone.models.mr_hubert import MrHubert
from allophone.nn.codebook import Codebook
from allophone.recipes.denoise import disturbed
from allophone.run.config import RunConfig
from allophone.run.execute import fit_threads, is_finished, save_heads
from allophone.run.origin import ORIGIN, origin_differences, write_origin
from allophone.run.progress import Report, silent
from allophone.run.start import HEADS
from allophone.run.targets import build_stream, prepare_targets, usable
from allophone.run.used import record_use
from allophone.seeding import derive
from allophone.train.loop import train

HEAD_STEPS = 600
"""Updates of the head for the final encoder's own units; the encoder is frozen."""

CARD = """# Encoder pretrained by allophone

Masked prediction of discrete units, last iteration {steps} updates. `codebook.safetensors` holds {num_units} units of
layer {layer}; `heads.safetensors` the projection and label table that predict them. {opens}

Audio heard, hours: {hours}.
"""
OPENS = "`transformers` has no class for this architecture: open it with `allophone.SpeechEncoder.load`."


def hand_over(
    trained: Path, folder: Path, corpus: Corpus, config: RunConfig, *, layer: int | None, report: Report = silent
) -> bool:
    """Give a trained encoder its own units, a head for them, and write the folder that is handed over.

    The targets of the last iteration are units of an encoder that is not handed over. So the final encoder's own
    layer is clustered, and projection and label table are trained for these units on the frozen encoder.

    Nothing is done where the folder holds exactly that already. False: a signal stopped it; the same call goes on.

    Args:
        trained: Model folder of the last iteration.
        folder: Where to; weights in half precision.
        corpus: What codebook and head are fitted on; all of it, also where a second stage heard a subset.
        config: The last iteration or stage.
        layer: Hidden state that is clustered; None = the middle one.
        report: Told how far each stage is.
    """
    source = load_encoder(trained)
    layer = source.num_layers // 2 if layer is None else layer
    config = disturbed(replace(config, data=replace(config.data, subset=None)), None, None)
    training, _ = usable(corpus, config.data)
    head = replace(
        config,
        targets=replace(config.targets, front_end="model", layer=layer, labels_per_frame=1),
        train=replace(config.train, steps=HEAD_STEPS, warmup_steps=HEAD_STEPS // 10, learning_rate=3e-3),
    )
    head_dir = trained.parent / f"head-{layer}"
    origin = {"config": to_dict(head), "corpus": training.hash, "encoder": model_hash(source)}
    if gather(_is_made(folder, head_dir, origin))[0]:
        return True
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(training.hours().items()))
    opens = OPENS if isinstance(source, MrHubert) else "Opens in `transformers`."
    steps, num_units = config.train.steps, config.targets.num_units
    card = CARD.format(hours=hours, steps=steps, layer=layer, num_units=num_units, opens=opens)

    def begin() -> None:
        for name in ("codebook.json", HEADS):
            (folder / name).unlink(missing_ok=True)
        record_use(head_dir, {"trained": training})
        parents = (model_hash(source),)  # in half precision it is another model by its hash
        save_encoder(source, folder, card, parents=parents, created_by="allophone pretrain", dtype=torch.float16)

    on_rank_zero(begin)
    encoder = load_encoder(folder)
    fit_threads(encoder)  # as in the iterations, also where a restart found all of them finished
    codebook, units = prepare_targets(
        training, head.targets, head_dir / "targets", seed=config.seed, teacher=encoder, report=report
    )
    torch.manual_seed(derive(config.seed, "own head"))
    method = MaskedPrediction(encoder, head.method())
    encoder.requires_grad_(False)
    stream = build_stream(training, units, encoder, head)
    initialize_table(method, [stream.batch(stream.state())])
    with closing(stream):
        identity = {"codebook": codebook.hash}
        result = train(method, stream, head.train, head_dir, identity=identity, progress=report("Head"))
    if result.stopped == "signal":
        return False

    def write() -> None:
        save_heads(method.half(), folder)
        codebook.save(folder)
        write_origin(head_dir, origin)

    on_rank_zero(write)
    return True


def _is_made(folder: Path, head_dir: Path, origin: dict[str, Any]) -> bool:
    """Whether a model folder holds the encoder, head and codebook that were made in ``head_dir`` from ``origin``."""
    files = (folder / "codebook.json", folder / HEADS, head_dir / ORIGIN)
    if not is_finished(folder) or not all(path.exists() for path in files) or origin_differences(head_dir, origin):
        return False
    return Codebook.load(folder).hash == Codebook.load(head_dir / "targets").hash
