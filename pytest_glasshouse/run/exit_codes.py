"""Every exit code of a pytest run with rows, in one place. 10 to 14 are this project's own; design and README name them."""

from __future__ import annotations

#: pytest's own (`pytest.ExitCode`), which a run without pytest cannot import.
EXIT_OK, EXIT_TESTS_FAILED, EXIT_INTERNAL_ERROR, EXIT_USAGE = 0, 1, 3, 4
EXIT_CLEANUP, EXIT_BUDGET, EXIT_REDACTION, EXIT_REPORT, EXIT_INFRASTRUCTURE = 10, 11, 12, 13, 14
