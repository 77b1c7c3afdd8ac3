"""`make gpu`: what this project shows on a machine with an NVIDIA GPU, step by step, in at most eight minutes. See docs/gpu.md.

Standard library only in `__main__`, `steps`, `environment` and `wheels`: they run before anything is installed.
"""
