"""Encoders: waveforms and lengths in, packed hidden states out."""
