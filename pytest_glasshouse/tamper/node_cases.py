"""Legs over two nodes: finished rounds in which one node's part is another's, or of another training, validly signed.

What one node shows counts for no other: each case changes one thing of node 1.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.rank_cases import on, own_gpus
from pytest_glasshouse.tamper.signed_round import RoundEdit, SignedRound, untouched
from pytest_glasshouse.wire.canonical import sha256_hex

if TYPE_CHECKING:
    from pytest_glasshouse.observation.document import GuestSeen, Observation
    from pytest_glasshouse.rows.leg_order import LegName
    from pytest_glasshouse.tamper.testbed import TamperTestbed

_OTHER = sha256_hex(b"another")
_ATTESTED, _PLACE, _TRAINED, _WITNESSED = (
    "attestation verified", "same allocation", "both adapters trained", "work witnessed",
)  # fmt: skip
#: The edit of each case.
EDITS: dict[str, RoundEdit] = {}


class _OtherNode(SignedRound):
    """The same round on another node: of the same owner, server and package, with an agent of its own."""

    def __init__(self, testbed: TamperTestbed, edit: RoundEdit, first: SignedRound) -> None:
        self._first = first
        super().__init__(testbed, lambda about, content: edit(f"node {about}", content))

    def _own_keys(self) -> dict[str, Ed25519PrivateKey]:
        shared = {party: self._first.keys[party] for party in ("owner", "server")}
        return {**shared, "agent": Ed25519PrivateKey.generate()}

    def _met(self, leg: LegName) -> GuestSeen:
        return {**super()._met(leg), "agentNonce": "agent of node 1"}


def round_over_nodes(testbed: TamperTestbed, edit: RoundEdit = untouched) -> Observation:
    """A round over two nodes. An edit gets what node 1 signed under the names `node ...`, and in the end all of it as `nodes`."""
    first = SignedRound(testbed, edit)
    other = _OtherNode(testbed, edit, first)
    observation: Any = first.observation
    observation["plan"] = {"gpus": 2, "nodes": 2}
    observation["rounds"][0]["nodes"] = other.observation["rounds"]
    edit("nodes", observation)
    found: Observation = observation
    return found


def judge_changed_node(testbed: TamperTestbed, edit: RoundEdit) -> None:
    """Judge an edited round over two nodes; raise `RefusedError` with the finding that does not hold of node 1."""
    changed = judge(round_over_nodes(testbed, edit))
    for state, reason in (("broken", "{}"), ("unseen", "unseen: {}")):
        for each in changed:
            if each.finding == state:
                raise RefusedError(reason.format(each.invariant), each.reason)


def _case(name: str, reason: str, edit: RoundEdit) -> Case:
    EDITS[f"audit-node-{name}"] = edit
    return Case(
        name=f"audit-node-{name}",
        play=lambda testbed: judge_changed_node(testbed, edit),
        expected_reason=reason,
        caught_by=reason.removeprefix("unseen: "),
        asset="journal",
    )


def _first_stands_for_both(seen: Any) -> None:
    first = seen["rounds"][0]
    first["nodes"] = [{name: copy.deepcopy(value) for name, value in first.items() if name != "nodes"}]


def _the_first_guest(seen: Any) -> None:
    for met in seen["rounds"][0]["nodes"][0]["guest"]:
        met["agentNonce"] = "agent"


def _another_adapter(about: str, content: Any) -> None:
    if about == "node callback":
        content["adapter"] = _OTHER
    elif about == "nodes":
        content["rounds"][0]["nodes"][0]["raw"]["adapterSha256"] = _OTHER


def _one_gpu(about: str, content: Any) -> None:
    own_gpus("GPU-0")(about.removeprefix("node "), content)


CASES: tuple[Case, ...] = (
    _case("stands-for-both", _ATTESTED, on("nodes", _first_stands_for_both)),
    _case("left-nothing", f"unseen: {_ATTESTED}", on("nodes", lambda seen: seen["rounds"][0].pop("nodes"))),
    _case("sent-another-package", _ATTESTED, on("node manifest", lambda claims: claims.update(round_nonce=_OTHER))),
    _case("the-first-guest", _PLACE, on("nodes", _the_first_guest)),
    _case("on-the-first-nodes-gpu", _PLACE, _one_gpu),
    _case("another-adapter", _TRAINED, _another_adapter),
    _case("other-units", _WITNESSED, on("node callback", lambda content: content.update(units=2))),
)
