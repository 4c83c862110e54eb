"""Timings beside named peers, and proofs by repetition."""
