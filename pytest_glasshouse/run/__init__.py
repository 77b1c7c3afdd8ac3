"""One run in plain values: plan, engine, resume, ETA, exit codes. It knows no pytest."""
