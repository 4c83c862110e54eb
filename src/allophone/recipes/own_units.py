"""Units that an adapted encoder is handed over with: fitted anew, the old ids with new ones after them, or frozen."""

from __future__ import annotations

from allophone.data.corpus import Corpus, merge
from allophone.errors import ConfigError
from allophone.models.build import Encoder
from allophone.nn.codebook import Codebook
from allophone.run.base import Base
from allophone.run.expansion import Expanded
from allophone.run.expansion_config import ExpandConfig
from allophone.run.progress import Report, counted, silent
from allophone.run.targets import subset, usable, waveforms
from allophone.units.extract import FrameCache
from allophone.units.fit import fit_codebook
from allophone.units.recluster import frozen, recluster


def require_old_units(base: Base, config: ExpandConfig) -> None:
    """Refuse, before hours of training, to keep ids that the base does not have.

    Raises:
        ConfigError: It has no codebook of its own, and ``config`` keeps its ids.
    """
    if config.units != "refit" and (base.codebook is None or base.codebook.info.front_end != "model"):
        raise ConfigError(
            f"units '{config.units}' keep the ids of the base's codebook, but none of its own lies beside the base. "
            "Fit one with `allophone units fit` into the model's folder, or let units be fitted anew ('refit')."
        )


def own_codebook(
    base: Base,
    adapted: Encoder,
    expanded: Expanded,
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    report: Report = silent,
) -> Codebook:
    """Units of the adapted encoder.

    Fitted anew, they come from new and kept languages together (preservation by re-clustering) unless ``config`` says
    otherwise. Anchored, old units move as the kept languages' frames do, or all frames where nothing is kept.
    """
    require_old_units(base, config)
    if config.units == "frozen":
        assert base.codebook is not None
        return frozen(base.codebook, adapted)
    anchored = config.units == "anchored"
    pooled = kept is not None and (config.recluster or anchored)
    pool, _ = usable(merge(new, kept) if pooled and kept is not None else new, expanded.config.data)
    rows = subset(pool.utterances, config.fit_hours, config.seed)
    told = counted(report("Units of the adapted encoder"))
    speakers = {row.id: row.speaker for row in rows}
    if anchored:
        assert base.codebook is not None
        own = set(new.languages)
        old_rows = {row.id for row in rows if row.language not in own}
        size = base.codebook.info.num_units
        return recluster(
            waveforms(pool, rows),
            base.codebook,
            encoder=adapted,
            parent_encoder=base.encoder,
            new_units=size // 10 if config.new_units is None else config.new_units,
            move=config.move,
            anchored_on=old_rows or None,
            seed=config.seed,
            speakers=speakers if base.codebook.info.normalization == "voice" else None,
            init_frames=max(2**18, 2 * size),
            cache=FrameCache(),
            parent_cache=FrameCache(),
            progress=told,
        )
    targets = expanded.config.targets
    return fit_codebook(
        waveforms(pool, rows),
        "model",
        expanded.codebook.info.num_units,
        seed=config.seed,
        encoder=adapted,
        layer=targets.layer if targets.layer is not None else adapted.num_layers // 2,
        normalization=targets.normalization,
        speakers=speakers if targets.normalization == "voice" else None,
        init_frames=2**18,
        cache=FrameCache(),
        parent=expanded.codebook.hash,
        progress=told,
    )
