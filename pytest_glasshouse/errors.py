"""What can go wrong, drawn as one tree.

    GlasshouseError
    ├── ConfigurationError        the user can fix it; raised before anything is rented; exit 4
    │   ├── CredentialsError      no key, or one the provider does not accept
    │   ├── LaunchRefusedError    the provider calls the request itself wrong: never sent again
    │   └── FundsError            the account has no money left
    ├── BudgetError               the plan, or what was spent so far, is above the budget; exit 11
    ├── InfrastructureError       capacity, boot, channel, provider: nothing was judged, safe to retry
    │   ├── NoCapacityError
    │   ├── BootTimeoutError
    │   ├── WrongGpuError
    │   ├── AmbiguousCreateError  the create call's answer was lost: the allocation may exist
    │   ├── TerminateError        the allocation may still be billing
    │   ├── ProviderError         the provider's API answered with what nobody can use, or not at all
    │   │   └── RateLimitedError  and said when to ask again
    │   ├── GuestGoneError        the guest stopped answering
    │   └── EvidenceUnavailableError   a device has nothing to say about itself
    ├── ProtocolError             a message that does not follow the wire format
    │   ├── FrameCutError         the peer went away in the middle of one
    │   └── GuestRefusedError     the guest's agent says that it cannot do what it was asked
    ├── RefusedError              the attestation server said no; `reason` is its stable code
    ├── IntegrityError            a package, token or journal that fails its check; `reason` is a stable code
    ├── RedactionError            a forbidden value was about to be published
    └── ReportError               the report does not validate
    InvariantBroken(AssertionError)   a finding: the row ran, and something that must hold did not

A finding is an `AssertionError` and shows as a *failure*; a broken tool is a `GlasshouseError` and shows as an *error*.
"""

from __future__ import annotations


class GlasshouseError(Exception):
    """The tool or the world failed. `allocation_id` names what may still cost money, once it exists."""

    def __init__(self, message: str, *, allocation_id: str | None = None) -> None:
        super().__init__(message)
        self.allocation_id = allocation_id


class ConfigurationError(GlasshouseError):
    """The user can fix it. Raised before anything is rented."""


class NotSetUpError(ConfigurationError):
    """Nothing leads to a place that was asked for: no host is named, or the program that reaches it is not installed."""


class CredentialsError(ConfigurationError):
    """There is no key for the provider, or the provider does not accept it. The text never holds the key."""


class LaunchRefusedError(ConfigurationError):
    """The provider calls the request itself wrong. Sending it again would change nothing."""


class FundsError(ConfigurationError):
    """The account at the provider cannot pay for this."""


class BudgetError(GlasshouseError):
    """The estimate, or what was spent so far, is above the budget the user set."""


class InfrastructureError(GlasshouseError):
    """Capacity, boot, channel or provider failed. Nothing was judged; running again is safe."""


class NoCapacityError(InfrastructureError):
    """The provider has no such allocation to give now."""


class BootTimeoutError(InfrastructureError):
    """The allocation was created and its agent did not answer before the boot deadline."""


class WrongGpuError(InfrastructureError):
    """The allocation shows another GPU than the provider offered."""


class AmbiguousCreateError(InfrastructureError):
    """The answer to the create call was lost: the allocation may exist and may be billing.

    `instance_id` is set where the provider refused and still named something it had made.
    """

    def __init__(self, message: str, *, allocation_id: str | None = None, instance_id: str | None = None) -> None:
        super().__init__(message, allocation_id=allocation_id)
        self.instance_id = instance_id


class TerminateError(InfrastructureError):
    """The provider did not end the allocation: it may still be billing."""


class ProviderError(InfrastructureError):
    """The provider's API failed: no answer, a 5xx, or an answer that does not follow its own format."""


class RateLimitedError(ProviderError):
    """Too many requests. `retry_after_s` is how long the provider asked to be left alone, if it said."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, allocation_id: str | None = None) -> None:
        super().__init__(message, allocation_id=allocation_id)
        self.retry_after_s = retry_after_s


class GuestGoneError(InfrastructureError):
    """The guest's agent stopped answering."""


class EvidenceUnavailableError(InfrastructureError):
    """A device cannot be asked for evidence about itself: there is none, or it is not in the mode for it."""


class ProtocolError(GlasshouseError):
    """A message that does not follow the wire format."""


class FrameCutError(ProtocolError):
    """The peer closed the connection inside a message."""


class GuestRefusedError(ProtocolError):
    """A guest's agent answered that it cannot do what it was asked."""


class RankLostError(GlasshouseError):
    """Another rank of this leg is gone or stands still: which one, and why, its agent knows."""


class ReasonedError(GlasshouseError):
    """An error whose `reason` is a stable code that others may rely on."""

    def __init__(self, reason: str, detail: str = "", *, allocation_id: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason, allocation_id=allocation_id)
        self.reason = reason
        self.detail = detail


class RefusedError(ReasonedError):
    """The attestation server refused. No key was released by this answer."""


class IntegrityError(ReasonedError):
    """A package, token, journal or message failed its check."""


class RedactionError(GlasshouseError):
    """A forbidden value was about to be published. The text names place and rule, never the value."""


class ReportError(GlasshouseError):
    """The report does not validate. The text names the path inside it."""


class InvariantBroken(AssertionError):  # noqa: N818  (a finding, not an error of the tool)
    """A row ran and something that must hold did not."""
