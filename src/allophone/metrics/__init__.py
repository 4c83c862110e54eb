"""Scores of predictions against truth: classification, retrieval, error rates, units, and their intervals.

Everything here is per item first (hits, errors), so that a mean, an interval and a paired comparison all come
from the same numbers. Nothing here knows a model or a corpus.
"""
