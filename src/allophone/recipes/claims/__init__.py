"""Papers' claims as experiments: each trains what it compares, scores it on held-out content, and tells the outcome."""
