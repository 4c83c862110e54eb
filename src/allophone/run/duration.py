"""Durations for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds with a unit that fits.

    Example:
        >>> duration(45), duration(150), duration(5400)
        ('45 s', '2.5 min', '1.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
