"""From recordings on disk to rows that say what they are: corpora, importers, splits, audits."""
