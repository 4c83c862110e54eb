"""Parts wired together into runs."""
