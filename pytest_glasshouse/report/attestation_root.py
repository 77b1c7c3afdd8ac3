"""What vouches for the machines of a report: software on them, or their makers' hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds, parts_of_round, protected_of
from pytest_glasshouse.wire.hardware import CPU_TEES, NVIDIA_GPU, RUNTIME
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import MeasuredRow, SealedRow
    from pytest_glasshouse.observation.document import RoundNotes
    from pytest_glasshouse.report.fields import RowLists
    from pytest_glasshouse.wire.canonical import Json

AttestationRoot: TypeAlias = Literal["software", "hardware"]
_AFFIRMING = "affirming"


def attestation_root(lists: RowLists) -> AttestationRoot:
    """`hardware` where every round of every measured row with a protected leg was bound to hardware, and there is one.

    The results are read unverified: the findings verify them, and `glasshouse check` appraises the evidence in them again.
    """
    rows: list[MeasuredRow | SealedRow] = [*lists["rows"], *lists.get("sealedRows", ())]
    return "hardware" if rows and all(_bound(each) for each in rows) else "software"


def _bound(row: MeasuredRow | SealedRow) -> bool:
    rounds = observed_rounds(row["observation"])
    parts = [part for each in rounds for _, part in parts_of_round(each)]
    return bool(parts) and all(bound_to_hardware(part, gpu=bool(row["gpuModel"])) for part in parts)


def bound_to_hardware(observed: RoundNotes, *, gpu: bool) -> bool:
    """Whether the server affirmed a processor's TEE in this round, every device beside it, and with `gpu` a GPU among them."""
    protected = protected_of(observed)
    try:
        submods = peek(protected["result"])["submods"] if "result" in protected else None
    except (IntegrityError, KeyError):
        return False
    devices = {name: each for name, each in submods.items() if name != RUNTIME} if isinstance(submods, dict) else {}
    kinds = [_affirmed_kind(each) for each in devices.values()]
    return bool(CPU_TEES.intersection(kinds)) and "" not in kinds and (NVIDIA_GPU in kinds or not gpu)


def _affirmed_kind(submod: Json) -> str:
    """The kind of a device that was affirmed, "" for one that was not."""
    affirmed = isinstance(submod, dict) and submod.get("ear_status") == _AFFIRMING
    return str(submod.get("type", "")) if isinstance(submod, dict) and affirmed else ""
