"""Readers of what strangers send, fed with what strangers may send."""
