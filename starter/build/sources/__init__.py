"""Readers of the packages; ``read_all`` lists every recording with its texts, and decodes nothing."""
