"""allophone: add a language to an open speech model, and see what was gained and what was kept.

The names below are loaded when they are first used, so that ``import allophone`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allophone.data.corpus import Corpus
    from allophone.models.speech_encoder import SpeechEncoder
    from allophone.recipes.expand import expand

__version__ = "0.1.0"
__all__ = ["Corpus", "SpeechEncoder", "expand", "__version__"]

_HOMES = {
    "Corpus": "allophone.data.corpus",
    "SpeechEncoder": "allophone.models.speech_encoder",
    "expand": "allophone.recipes.expand",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'allophone' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
