"""Every error a user can cause, and how a message is built: what, where, got, expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AllophoneError(Exception):
    """Base of all errors that are the input's fault, not a defect of the program."""


class ConfigError(AllophoneError):
    """A setting is unknown, contradictory or out of range."""


class DataError(AllophoneError):
    """A corpus, manifest, unit file or label does not say what it should."""


class AudioError(DataError):
    """One recording cannot be read or is not usable as speech."""


class ShapeError(AllophoneError):
    """A tensor does not have the shape its docstring promises."""


class NumericsError(AllophoneError):
    """A number that must be finite is not."""


class CheckpointError(AllophoneError):
    """A saved model or training state is incomplete, damaged or of another kind."""


class GateError(AllophoneError):
    """What was made breaks a limit that the user set, so it is not handed over."""


class DistributedError(AllophoneError):
    """The processes of one job have lost each other."""


class ClusterError(AllophoneError):
    """A cluster cannot be reached, or cannot do its work."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Returns:
        A sentence such as ``Did you mean 'train'?`` or, when nothing is close, the list of what is known.

    Example:
        >>> suggest("trian", ["train", "dev"])
        "Did you mean 'train'?"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(options)}."
