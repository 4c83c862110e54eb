"""Discrete units: fit a codebook on a stream of audio, encode with it, report what the units stand for."""
