"""One file a place where a GPU can be had."""
