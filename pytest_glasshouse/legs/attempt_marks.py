"""The attestation server as a witness of one attempt at a row, from the host's side: its plan, its rounds, and marks at borders.

Every round is begun at the server before anything of it is started, null rows too; times are the server's. What comes back is
written into the round's notes, and judged by nobody here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import InfrastructureError, IntegrityError, RefusedError
from pytest_glasshouse.wire.marks import read_mark
from pytest_glasshouse.wire.tokens import public_text

if TYPE_CHECKING:
    from pytest_glasshouse.legs.attestation import HostAttestation


class AttemptMarks:
    """Marks of the rounds of one attempt. `row` is the row as it was selected, `plan` the digest of the attempt's plan."""

    def __init__(
        self, host_attestation: HostAttestation, *, run: str, row: str, attempt: str, plan: str, at_borders: bool = True
    ) -> None:
        """Without `at_borders` the server counts rounds and signs no times: for measuring what marks cost."""
        self._host_attestation = host_attestation
        self._about = {"run": run, "row": row, "attempt": attempt, "plan": plan}
        self.server_key = public_text(host_attestation.server_key) if at_borders else None

    def mark(self, *, round_nonce: str, nonce: str) -> tuple[str, int]:
        """The server's token for a nonce, and the time in it in microseconds.

        Raises `InfrastructureError` where the server gives none.
        """
        try:
            token = self._host_attestation.mark(**self._about, round_nonce=round_nonce, nonce=nonce)
            claims = read_mark(token, server=self._host_attestation.server_key, nonce=nonce)
        except RefusedError as error:
            raise InfrastructureError(f"the attestation server refused to mark a round of this row: {error.reason}") from None
        except IntegrityError as error:
            raise InfrastructureError(f"expected a mark of the attestation server, saw another token ({error.reason})") from None
        return token, int(str(claims["t_us"]))
