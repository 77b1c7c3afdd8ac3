"""A report derived again from its own data: check, gate, compare, history, pool."""
