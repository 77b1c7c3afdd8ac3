"""What may leave: objections, redaction, withheld rows, and the report on disk."""
