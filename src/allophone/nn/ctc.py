"""The most probable text of a CTC output, without a language model.

Source: Graves et al. 2006, Connectionist temporal classification, section 3.2 (prefix search), in the time-synchronous
form of Hannun et al. 2014, arXiv:1408.2873, algorithm 1, without its language model.
"""

from __future__ import annotations

import math

from torch import Tensor

from allophone.errors import ConfigError, ShapeError

BLANK = 0
"""The symbol of CTC that stands for none."""
UNLIKELY = -7.0
"""Natural logarithm of the probability below which a symbol is not tried in a frame; one in 1,100."""


def prefix_search(log_probabilities: Tensor, width: int = 16) -> list[int]:
    """Sum the probabilities of all paths that spell the same text, and take the best text.

    The single most probable path (best-path decoding) drops whatever is likely in several frames but in none of them
    more likely than the blank; a weak model, such as a linear probe, loses most that way.

    Args:
        log_probabilities: Natural logarithms, shape ``(T, V)``; symbol 0 is the blank.
        width: Texts that are kept from frame to frame.

    Returns:
        Symbols of the text, none of them the blank.

    Raises:
        ShapeError: The input is not a matrix.
        ConfigError: ``width`` is less than 1.

    Example:
        >>> import torch
        >>> prefix_search(torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log())  # best path: blank, blank; [1] has 0.64
        [1]
    """
    return best_texts(log_probabilities, width)[0][0]


def best_texts(log_probabilities: Tensor, width: int = 16) -> list[tuple[list[int], float]]:
    """What :func:`prefix_search` keeps at the end.

    Args:
        log_probabilities: Natural logarithms, shape ``(T, V)``; symbol 0 is the blank.
        width: Texts that are kept from frame to frame.

    Returns:
        At most ``width`` texts, best first, each with the logarithm of the probabilities that were summed for it.

    Raises:
        ShapeError: The input is not a matrix.
        ConfigError: ``width`` is less than 1.
    """
    if log_probabilities.dim() != 2:
        raise ShapeError(f"prefix_search: got shape {tuple(log_probabilities.shape)}; expected (frames, symbols).")
    if width < 1:
        raise ConfigError(f"prefix_search: width is {width}; expected at least 1.")
    never = -math.inf
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}  # paths that end in a blank, and others
    for row in log_probabilities.tolist():
        likely = [(symbol, value) for symbol, value in enumerate(row) if symbol != BLANK and value > UNLIKELY]
        grown: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, other) in beams.items():
            both = _sum(blank, other)
            before = grown.get(prefix, (never, never))
            repeated = other + row[prefix[-1]] if prefix else never
            grown[prefix] = _sum(before[0], both + row[BLANK]), _sum(before[1], repeated)
            for symbol, value in likely:
                longer = (*prefix, symbol)
                before = grown.get(longer, (never, never))
                paths = blank if prefix and prefix[-1] == symbol else both  # a repeat needs a blank between
                grown[longer] = before[0], _sum(before[1], paths + value)
        beams = dict(sorted(grown.items(), key=lambda item: -_sum(*item[1]))[:width])
    return [(list(prefix), _sum(*paths)) for prefix, paths in beams.items()]


def _sum(first: float, second: float) -> float:
    """Logarithm of the sum of two numbers given by their logarithms."""
    low, high = sorted((first, second))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
