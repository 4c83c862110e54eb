"""Audio in, waveforms and filter-bank features out."""
