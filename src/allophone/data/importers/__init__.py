"""One file a format: each turns what lies on disk into a list of :class:`~allophone.data.importers.entry.Entry`."""
