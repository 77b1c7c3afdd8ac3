"""What was seen of a row, and how it is read."""
