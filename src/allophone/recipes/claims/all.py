"""Every claim there is, by name."""

from __future__ import annotations

from typing import Any

from allophone.errors import ConfigError, suggest
from allophone.recipes.claims import adapting, adding, aligning, few_labels, meaning, pretraining, resynthesis, tuning
from allophone.recipes.claims.trial import Claim
from allophone.recipes.claims.two_stage import TWO_STAGE

CLAIMS: tuple[Claim[Any], ...] = (
    *pretraining.CLAIMS,
    TWO_STAGE,
    *adding.CLAIMS,
    few_labels.FEW_LABELS,
    resynthesis.RESYNTHESIS,
    *aligning.CLAIMS,
    *tuning.CLAIMS,
    *meaning.CLAIMS,
    adapting.ADAPTERS,
)


def find_claim(name: str) -> Claim[Any]:
    """The claim of a name.

    Raises:
        ConfigError: There is none of this name.
    """
    known = {claim.name: claim for claim in CLAIMS}
    if name not in known:
        raise ConfigError(f"Unknown claim {name!r}. {suggest(name, known)}")
    return known[name]
