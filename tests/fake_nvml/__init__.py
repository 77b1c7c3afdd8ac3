"""A stand-in for NVIDIA's management library, for the real pynvml: a GPU's driver as it answers, and as it fails to."""
