"""Complete runs: pretrain, expand, demo, evaluate, evidence."""
