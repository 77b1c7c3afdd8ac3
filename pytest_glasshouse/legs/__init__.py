"""One row carried out: its rounds, its legs, and what is written down of them."""
