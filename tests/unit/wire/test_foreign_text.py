"""A library's error text says what happened and nothing of the machine: it is published as it stands."""

from __future__ import annotations

import time

import pytest

from pytest_glasshouse.report.redaction import hits
from pytest_glasshouse.wire.foreign_text import foreign_text
from pytest_glasshouse.wire.guest_messages import failure

TEXTS = {
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n": "CUDA error: device-side assert triggered",
    "Loss.cu:250: nll_loss_forward: block: [0,0,0]": "Loss.cu line 250: nll_loss_forward: block: [0,0,0]",
    "/opt/pytorch/aten/src/ATen/native/cuda/Loss.cu:250: block": "<path>:250: block",
    "../aten/src/ATen/native/cuda/Loss.cu:250: block": "<path>:250: block",
    "/usr/local/nvidia/lib64/libcuda.so.1: version `X' not found (required by /opt/conda/lib/libtorch_cuda.so)":
        "<path>: version `X' not found (required by <path>)",
    "No such file: '/root/.cache/huggingface/model.bin'": "No such file: '<path>'",
    "at worker.py:1234 and gpu7.example.com:2222": "at <place> and <place>",
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79.11 GiB": "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79.11 GiB",
    "expected 3/4 of the losses and/or steps": "expected 3/4 of the losses and/or steps",
    "see ~/x, C:\\Users\\me\\y and file:///etc/passwd": "see <path>, <path> and <path>",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_what_happened_is_kept_and_what_names_the_machine_is_masked(text: str) -> None:
    shown = foreign_text(text, limit=300)
    assert shown == TEXTS[text]
    assert hits({"detail": shown}) == []


def test_why_a_leg_failed_is_masked_before_it_leaves_the_leg() -> None:
    body = failure(RuntimeError("CUDA error at /usr/src/x.cu:7\nCompile with `TORCH_USE_CUDA_DSA`"), "step:42: see /tmp/gh-1/x")
    assert body == {"reason": "RuntimeError", "detail": "step:42: see <path>"}


def test_text_is_one_line_and_cut() -> None:
    assert foreign_text("a\nb\x1b[31m" + "c" * 500, limit=20) == "a b\\x1b[31m" + "c" * 9 + "…"


@pytest.mark.parametrize("text", ["/" * 200_000, "a/" * 100_000, "a.b:" * 50_000, "~/" * 100_000, "x." * 100_000 + ":1"])
def test_time_is_linear_in_a_text_that_a_stranger_chose(text: str) -> None:
    began = time.process_time()
    foreign_text(text, limit=300)
    assert time.process_time() - began < 5
