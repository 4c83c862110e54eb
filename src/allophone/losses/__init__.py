"""Tensors to sums; nothing here divides."""
