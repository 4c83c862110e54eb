"""Scores of encoders: retrieval, probes and language identification, each with an interval and a signature.

Everything works on a :class:`~allophone.evaluate.protocol.FrameSource`, so an encoder, the same encoder with random
weights and a filter bank are rows of one table, made by the same code.
"""
