"""The faults of the mock provider, and what plays each of them. Every start of pytest imports this module, and no provider."""

from typing import Literal

#: `provider` in the provider itself; `channel` on the connection or with the guest's processes, from outside; `guest` in a guest
#: module of its own, which only the mock's policy pins.
FAULTS: dict[str, Literal["provider", "channel", "guest"]] = {
    "boot-stall": "provider",
    "create-lost": "provider",
    "no-capacity": "provider",
    "wrong-gpu": "provider",
    "guest-exit-before-raw": "channel",
    "guest-exit-mid-protected": "channel",
    "raw-callback-lost": "channel",
    "zeroize-skipped": "guest",
    "attestation-reject": "provider",
    "key-unattested": "guest",
    "weights-foreign": "guest",
    "adapter-untrained": "guest",
    "adapter-copied": "guest",
    "nonfinite-loss": "channel",
    "work-differs": "channel",
    "deferred-cost": "guest",
    "clock-slowed": "guest",
    "units-inflated": "guest",
    "steps-skipped": "guest",
    "wash-out-stretched": "guest",
    "journal-truncated": "channel",
    "terminate-fails": "provider",
    "reboot-between-legs": "channel",
}
GUEST_FAULTS = tuple(fault for fault, played_by in FAULTS.items() if played_by == "guest")
