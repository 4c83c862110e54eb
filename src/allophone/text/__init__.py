"""Languages and written text."""
