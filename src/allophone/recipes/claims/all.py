"""Every claim there is, by name."""

from __future__ import annotations

from allophone.errors import ConfigError, suggest
from allophone.recipes.claims import adding, aligning, pretraining
from allophone.recipes.claims.trial import Claim

CLAIMS: tuple[Claim, ...] = (*pretraining.CLAIMS, *adding.CLAIMS, *aligning.CLAIMS)


def find_claim(name: str) -> Claim:
    """The claim of a name.

    Raises:
        ConfigError: There is none of this name.
    """
    known = {claim.name: claim for claim in CLAIMS}
    if name not in known:
        raise ConfigError(f"Unknown claim {name!r}. {suggest(name, known)}")
    return known[name]
