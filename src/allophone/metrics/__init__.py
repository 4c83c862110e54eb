"""Measures of predictions, rankings, texts, units and embeddings, and their intervals.

Rates are per item first (hits, errors), so that a mean, an interval and a paired comparison all come from the same
numbers; geometry, BLEU and agreement of units are of a set as a whole. Nothing here knows a model or a corpus.
"""
