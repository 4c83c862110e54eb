"""Finding recordings: a vector index on disk and the page that shows what it found."""
