"""The whole story on the starter corpus: one new language, one seed, the same code as for a user's own folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from allophone.recipes.expand import FAST, KEEP, ExpandResult, expand
from allophone.recipes.ledger import LedgerConfig
from allophone.run.expansion_config import ExpandConfig
from allophone.run.progress import Report, silent
from allophone.run.starter import STARTER, starter_corpus

DEMO = LedgerConfig(most_test_clips=120, most_train_clips=500, kept_text=False, drift=False, choosing_prompts=40)


def demo_config(*, fast: bool, seed: int) -> ExpandConfig:
    """How the demo adapts the model, with fewer updates than ``expand`` takes; ``fast`` takes fewer steps and clips."""
    config = ExpandConfig(seed=seed, steps=240, head_steps=0)
    return replace(config, steps=20, fit_hours=0.1, kept_hours=0.05) if fast else config


def demo(
    out: Path, *, language: str = "bul", fast: bool = False, seed: int = 0, report: Report = silent
) -> ExpandResult | None:
    """Add a language that the starter encoder never heard, and write the report.

    Args:
        out: Run folder; the same call again goes on where it stopped.
        language: ``bul``, ``ell``, ``ita`` or ``dan``.
        fast: Fewer steps, clips and probes.
        seed: Of everything that is drawn.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it.
    """
    keep = KEEP[:1] if fast else KEEP
    return expand(
        STARTER,
        starter_corpus(),
        language=language,
        keep=keep,
        out=out,
        config=demo_config(fast=fast, seed=seed),
        ledger=FAST if fast else DEMO,
        report=report,
    )
