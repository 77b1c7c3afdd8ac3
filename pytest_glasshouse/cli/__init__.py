"""The `glasshouse` command, one module a command."""
