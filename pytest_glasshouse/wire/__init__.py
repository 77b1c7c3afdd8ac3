"""The formats everything else is built on: canonical JSON, tokens, frames, journal, package, bounded readers."""
