"""Every exit code: of a pytest run with rows, and of the `glasshouse` command. 10 to 14 mean the same in both.

Which one a run ends with is decided in `run.Run.finish`; cleanup that is not proven (10) overrides all others. Each command in
`cli/` decides its own.
"""

from __future__ import annotations

#: pytest's own (`pytest.ExitCode`), which a run without pytest cannot import.
EXIT_OK, EXIT_TESTS_FAILED, EXIT_INTERNAL_ERROR, EXIT_USAGE = 0, 1, 3, 4
EXIT_CLEANUP, EXIT_BUDGET, EXIT_REDACTION, EXIT_REPORT, EXIT_INFRASTRUCTURE = 10, 11, 12, 13, 14
#: The command's: a question answered with no, and nothing that could be judged.
EXIT_NO, EXIT_NOTHING = 1, 5
