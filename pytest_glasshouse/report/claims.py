"""The claims of every report, what it does not claim, and the text that replaces a withheld value."""

from __future__ import annotations

#: How the replacement of a withheld text begins.
WITHHELD = "[withheld"


CLAIMS: tuple[str, ...] = (
    "The attestation server let the data key go only after all its checks had passed, for that manifest and that nonce.",
    "The key was sealed to a key pair of that one run: neither a listener nor another package can use it.",
    "Every byte of the package was authenticated before training read it, and neither leg wrote its plaintext to a disk.",
    "The protected adapter is the one whose digest stands in a journal that was signed in the run and countersigned once.",
    "No leg claims more time than passed on the host's clock around it and, once it had the key, on the server's.",
    "Every finding was computed from what the guest, the server or the provider said, and carries the digest of what was read.",
)


#: In place of the first of `NOT_CLAIMED`, where every measured round was bound to hardware.
_HARDWARE_LIMIT = (
    "The hardware root is its makers': who holds their keys, breaks their chips, or runs a paravisor in between is not excluded."
)
_HARDWARE_CLAIM = (
    "In every measured round the processor's TEE, and each GPU beside it, signed for the server's nonce and the leg's keys."
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


def claimed(root: str) -> tuple[str, ...]:
    """What a report with this attestation root claims."""
    return (*CLAIMS, _HARDWARE_CLAIM) if root == "hardware" else CLAIMS


def not_claimed(root: str) -> tuple[str, ...]:
    """What a report with this attestation root does not claim."""
    return (_HARDWARE_LIMIT, *NOT_CLAIMED[1:]) if root == "hardware" else NOT_CLAIMED
