"""What stands on the page of an expansion: facts, curves, recordings and warnings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from allophone.config import config_hash
from allophone.data.corpus import Corpus
from allophone.evaluate.measurements import Measurement
from allophone.evaluate.report_content import Clip, Curve, ReportContent
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.nn.codebook import Codebook
from allophone.recipes.ledger import draw_rows, main_voices
from allophone.run.base import Base
from allophone.run.expansion import Expanded, adapted_layers
from allophone.run.expansion_config import ExpandConfig
from allophone.text.languages import parse_language
from allophone.units.encode import encode_units
from allophone.units.extract import Waveforms


def report_content(
    where: Path | str,
    base: Base,
    expanded: Expanded,
    adapted: Encoder,
    codebook: Codebook,
    new: Corpus,
    kept: dict[str, Corpus],
    found: Sequence[Measurement],
    out: Path,
    pack: Path | None,
    config: ExpandConfig,
) -> ReportContent:
    """Gather what stands on the page."""
    tag = new.languages[0]
    name = parse_language(tag).name
    trained = [row for row in main_voices(new) if row.split == "train"]
    speakers = {row.speaker for row in trained if row.speaker}
    share = 100 * expanded.trainable / expanded.parameters
    facts = (
        ("Audio added", f"{sum(row.duration_seconds for row in trained) / 3600:.2f} h, {len(trained)} recordings"),
        ("Voices", str(len(speakers)) if speakers else "not stated"),
        ("Trained parameters", f"{expanded.trainable:,} of {expanded.parameters:,} ({share:.3f} %)"),
        ("Method", f"LoRA rank {config.rank}, {config.steps} updates, {config.iterations} iteration(s)"),
        ("Adapted layers", ", ".join(adapted_layers(base.encoder, config.adapt))),
        ("Preservation", preservation(config)),
        ("Units", units_in_words(codebook, config)),
        ("Seed", str(config.seed)),
        ("Base model hash", model_hash(base.encoder)),
        ("Corpus hash", new.hash),
        ("Codebook hash", codebook.hash),
        ("Settings hash", config_hash(config)),
    )
    return ReportContent(
        title=f"{name} added to {where.name if isinstance(where, Path) else where}",
        new_language=tag,
        new_language_name=name,
        kept_languages=tuple(kept),
        base_model=str(where.name if isinstance(where, Path) else where),
        facts=facts,
        measurements=tuple(found),
        curves=curves(out / expanded.config.name),
        clips=clips(base, adapted, codebook, new),
        warnings=warnings(new, speakers),
        commands=(f"allophone expand --base {where} --corpus FOLDER --language {tag}",),
        pack_path=None if pack is None else str(pack),
    )


def preservation(config: ExpandConfig) -> str:
    """The two measures against forgetting, in words."""
    used = [name for name, on in (("data combination", config.combine), ("re-clustering", config.recluster)) if on]
    return " and ".join(used) or "none"


def units_in_words(codebook: Codebook, config: ExpandConfig) -> str:
    """Where the units of the adapted encoder come from, and what became of old ones."""
    ids = codebook.info.id_map
    if ids is None:
        return f"{codebook.info.num_units}, {'fitted anew' if config.units == 'refit' else 'the old centroids'}"
    return (
        f"{ids.kept} old ids kept and {len(ids.grown_from)} new; {len(ids.split)} split, {len(ids.merged)} merged, "
        f"{len(ids.died)} died; {100 * ids.agreement:.1f} % of frames have the id they had"
    )


def curves(folder: Path) -> tuple[Curve, ...]:
    """Training loss of LoRA and of the control, from their journals."""
    found = []
    for name, title in (("lora", "LoRA"), ("control", "head only")):
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        points = [(line["step"], line["loss_masked"]) for line in lines if "loss_masked" in line]
        found.append(Curve(name=title, steps=[p[0] for p in points], values=[p[1] for p in points]))
    return tuple(found)


def clips(base: Base, adapted: Encoder, codebook: Codebook, new: Corpus, count: int = 3) -> tuple[Clip, ...]:
    """Held-out recordings with the units that were heard before and after."""
    rows = draw_rows([row for row in main_voices(new) if row.split == "test" and row.duration_seconds < 8], count)
    found = []
    for row in rows:
        waveform = new.audio(row)
        heard = []
        for encoder, book in ((base.encoder, base.codebook), (adapted, codebook)):
            if book is None:
                heard.append("")
                continue
            units = encode_units(_only(row.id, waveform), book, encoder=encoder)[row.id].tolist()
            heard.append(" ".join(str(u) for u, last in zip(units, [None, *units], strict=False) if u != last))
        found.append(
            Clip(
                audio=waveform,
                caption=f"{row.language}, never trained on",
                text=row.text or "",
                units_before=heard[0],
                units_after=heard[1],
            )
        )
    return tuple(found)


def warnings(new: Corpus, speakers: set[str]) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    found = []
    if len(speakers) == 1:
        found.append("All training audio of the new language is one voice: what was learned may be this voice.")
    if not speakers:
        found.append("The recordings name no speakers, so test and training may share voices.")
    if not any(row.text for row in new):
        found.append("The recordings have no texts: reading (character error) could not be measured.")
    held_out = sum(row.split == "test" for row in new)
    if held_out < 20:
        found.append(f"Only {held_out} recordings are held out; the intervals are wide.")
    if new.quarantined:
        reasons = sorted({one.reason for one in new.quarantined})
        found.append(f"{len(new.quarantined)} recordings were left out: {'; '.join(reasons[:5])}.")
    return tuple(found)


def _only(name: str, waveform: Tensor) -> Waveforms:
    """A stream of one utterance."""
    return lambda: [(name, waveform)]
