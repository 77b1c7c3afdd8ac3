"""Publishing a report: what objects to it, redaction, withheld rows, and the files on disk."""
