"""The sentences a report may say about a figure, and the ones it says about itself.

Every claim comes from a verdict. There is no sentence in which protection helps: a figure below zero is printed with
its interval, or as a single sample, and called what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.verdict import Verdict

if TYPE_CHECKING:
    from pytest_glasshouse.overhead.interval import Interval
    from pytest_glasshouse.overhead.verdict import Judgement

#: How a text begins that the redaction gate made somebody take out.
WITHHELD = "[withheld"

CLAIMS: tuple[str, ...] = (
    "The attestation server let the data key go only after all its checks had passed, for that manifest and that nonce.",
    "The key was sealed to a key pair of that one run: neither a listener nor another package can use it.",
    "Every byte of the package was authenticated before training read it, and neither leg wrote its plaintext to a disk.",
    "The protected adapter is the one whose digest stands in a journal that was signed in the run and countersigned once.",
    "No leg claims more time than passed on the host's clock around it and, once it had the key, on the server's.",
    "Every finding was computed from what the guest, the server or the provider said, and carries the digest of what was read.",
)

NOT_CLAIMED: tuple[str, ...] = (
    "No hardware root of trust: root, the hypervisor or the operator of the machine can forge all this or read a key in use.",
    "The anti-debug checks are refusals of an honest process. They do not stop root.",
    "GPU memory, bus traffic, side channels, physical access and whatever training derives from the package are not protected.",
    "Zeroized speaks of the memory and the workspace of one process, not of swap, drivers, caches or earlier copies.",
    "That claimed time passed says nothing of what was done in it. A raw leg's is held against the publisher's clock alone.",
    "The overhead is that of protection in software on the allocation named. Hardware confidential computing costs differently.",
    "A figure holds for its own allocation and is not a figure of a GPU model. A single round has no error bar.",
)


def interpretation(judged: Judgement, *, overhead_pct: float, ci95: Interval | None, order: str) -> str:
    """One sentence for one row. Never shows a figure without its interval or the words `single sample`."""
    shown = figure_with_interval(overhead_pct, None if ci95 is None else (ci95.low, ci95.high))
    sentence = f"{shown}, {order}: {judged.verdict.value} ({judged.reason})"
    if judged.more_rounds is not None:
        sentence += f"; about {judged.more_rounds} more rounds may decide"
    if overhead_pct < 0 and judged.verdict is not Verdict.IMPLAUSIBLE_NEGATIVE:
        sentence += "; a value below zero reflects order, warm state and noise"
    return sentence


def figure_with_interval(overhead_pct: float, ci95: tuple[float, float] | None) -> str:
    """The figure as it may be shown: with its 95 % interval, or as a single sample."""
    if ci95 is None:
        return f"{signed(overhead_pct)} % (single sample)"
    return f"{signed(overhead_pct)} % (95 % interval {signed(ci95[0])} to {signed(ci95[1])})"


def signed(value: float) -> str:
    """Two decimals with a sign, and no minus before a zero."""
    text = f"{value:+.2f}"
    return "0.00" if text in {"+0.00", "-0.00"} else text
