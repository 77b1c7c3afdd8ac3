"""Rows with each of the stand-in driver's settings, on `local` and on `mock`: all invariants hold, or one line names the cause.

The real pynvml asks the stand-in, in the host and in the guest, which find it where LD_LIBRARY_PATH leads.
"""
