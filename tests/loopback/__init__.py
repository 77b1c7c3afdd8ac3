"""Loopback providers the tests own: RunPod (GraphQL and REST v2) and Vast.ai on 127.0.0.1, with pods that are real processes."""
