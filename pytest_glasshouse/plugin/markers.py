"""The markers of rows, and what each means."""

from __future__ import annotations

MARKERS = {
    "h100": "rows published on an NVIDIA H100",
    "pro6000": "rows published on an NVIDIA RTX PRO 6000",
    "a4000": "rows published on an NVIDIA RTX A4000",
    "rtx4090": "rows published on an NVIDIA GeForce RTX 4090",
    "rtx3090": "rows published on an NVIDIA GeForce RTX 3090",
    "anygpu": "rows for any GPU",
    "mlp": "rows that train the MLP",
    "qwen": "rows that train a LoRA adapter on a causal LM",
    "sealed": "rows whose base model is in the sealed package: one leg, no overhead",
    "multigpu": "rows whose legs train on several GPUs, whatever else they are",
    "smoke": "the rows that show in about a minute whether everything works",
    "sustained": "rows whose legs train 15 minutes or longer",
    "null": "rows of raw against raw",
    "tamper": "attacks on the lifecycle that must be refused",
    "cheat": "legs that lie about their work and time, each of which must be found",
}
