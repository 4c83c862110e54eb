"""One file a method of a paper."""
