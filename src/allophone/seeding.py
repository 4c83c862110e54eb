"""Random numbers that depend on what they are for, never on when they are drawn.

A generator is keyed by (seed, purpose, epoch, utterance id, ...), so a sample is the same on one worker or
eight, before and after a resume.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *keys: object) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``keys``.

    Example:
        >>> derive(0, "mask", 1, "utt-7") == derive(0, "mask", 1, "utt-7")
        True
    """
    text = "\x1f".join([str(seed), *(str(key) for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *keys: object) -> torch.Generator:
    """A CPU ``torch.Generator`` keyed by ``seed`` and ``keys``."""
    return torch.Generator().manual_seed(derive(seed, *keys))


def numpy_generator(seed: int, *keys: object) -> np.random.Generator:
    """A ``numpy`` generator keyed by ``seed`` and ``keys``."""
    return np.random.default_rng(derive(seed, *keys))
