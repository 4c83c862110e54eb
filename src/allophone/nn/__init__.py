"""Building blocks that know tensors and nothing else."""
