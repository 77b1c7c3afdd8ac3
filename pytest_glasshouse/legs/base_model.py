"""Brings a row's base model to the guest, once per allocation and before the first leg.

The model comes from a directory that the guest has (`there`), from the hub (`hub`), or from the host (`pushed`), in this order
unless the user chose one. The guest verifies every file against the list that the host resolved before anything was rented.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypedDict

from pytest_glasshouse.channel.guest_channel import put_model_piece
from pytest_glasshouse.errors import GlasshouseError, GuestGoneError, GuestRefusedError, ProtocolError
from pytest_glasshouse.legs.leg_watch import MODEL, Progress
from pytest_glasshouse.legs.model_sources import Arriving, ModelSources
from pytest_glasshouse.legs.round import EXCLUDED, Round
from pytest_glasshouse.observation.document import ModelArrival
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.documentation import page
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.hub_client import in_clear

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.wire.host_messages import ModelRequest
    from pytest_glasshouse.workloads.base import BaseModel

#: A transfer without a new byte for this long fails, and so does one slower than this on the whole.
_IDLE_S = 180
_SLOWEST_BYTES_PER_S = 2 << 20
_AT_LEAST_S = 900
_ASK_S = 0.25
#: What a hub answers, by its guest's word, to whom it would let in with a token.
_ASKS_WHO = ("gated", "hidden")
#: A guest that got a file with another digest wants it once more.
_MOST_PUSHES = 2


class _ChangedError(GlasshouseError):
    """A file of this machine's is no longer the one that was listed."""


class ArrivalState(TypedDict):
    """How far a model is, by its guest's word. `wants` is the piece to be pushed next."""

    phase: Literal["push", "download", "make", "verify", "ready", "failed"]
    source: Arriving
    done: int
    total: int
    wants: WantedPiece | None
    reason: str | None
    detail: str | None
    ms: int
    held: Literal["memory", "files"] | None


class WantedPiece(TypedDict):
    """A place in a file."""

    name: str
    offset: int


def bring(current: Round, sources: ModelSources) -> tuple[ModelArrival | None, Ended | None]:
    """Bring the base model of `current`'s row to its guest: how it arrived, or how the row ends."""
    base = current.material.base
    if base is None:
        return None, None
    failures: list[str] = []
    try:
        same_disk = not current.grant.remote
        for source in sources.of(base, same_disk=same_disk):
            request = _request(base, source, directory=_directory(base) if same_disk else sources.directory, keep=same_disk)
            state = _arrived(current, base, request)
            asks = state["phase"] == "failed" and state["reason"] in _ASKS_WHO and source == "hub"
            if asks and (token := _token(base)):
                # Handed over only to a guest whose hub asked for one.
                state = _arrived(current, base, {**request, "token": token})
            if state["phase"] == "ready":
                if state["held"] is None:
                    raise current.broke_protocol("arrival: expected to hear where a model that is ready is held")
                arrival: ModelArrival = {
                    "source": state["source"],
                    "held": state["held"],
                    "files": len(base.files),
                    "bytes": base.size,
                    "ms": state["ms"],
                }
                return arrival, None
            failures.append(f"{source}: {printable(state['detail'] or state['reason'] or 'failed', limit=300)}")
    except (GuestRefusedError, _ChangedError) as error:
        failures.append(str(error))
    except OSError as error:
        failures.append(f"pushed: this machine cannot read the model ({error.strerror or type(error).__name__})")
    except ProtocolError as error:
        return None, current.ended_by_protocol(error)
    except GuestGoneError as error:
        return None, Ended(outcome="excluded", reason=f"base model: {error}", decision=EXCLUDED)
    why = f"model {base.model_id} did not reach the guest ({'; '.join(failures)}). {_advice(failures)}"
    return None, Ended(outcome="infrastructure", reason=why, decision="nothing was trained; run the row again")


def _advice(failures: Sequence[str]) -> str:
    if any("token" in each for each in failures):
        return "Accept the model's terms on the hub and set HF_TOKEN, or push the model with --glasshouse-model-source pushed"
    if any("device has" in each for each in failures):
        return "Use an offer with more memory, or a smaller --glasshouse-stand-in"
    if any("disk" in each or "No space" in each for each in failures):
        return "Use an image or an offer with more disk"
    return f"See {page('models')}"


def _request(base: BaseModel, source: Arriving, *, directory: str | None, keep: bool) -> ModelRequest:
    request: ModelRequest = {
        "model": base.sha256,
        "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in base.files],
        "source": source,
        "idle_s": _IDLE_S,
        "within_s": _AT_LEAST_S + base.size // _SLOWEST_BYTES_PER_S,
    }
    if source in ("there", "hub") and directory is not None:
        request["directory"] = directory
    if source == "made" and base.shape is not None:
        request["shape"] = base.shape.name
    if base.hub is not None:
        request |= {"repo": base.hub.repo, "commit": base.hub.commit}
        if source == "hub":
            request["endpoint"] = base.hub.endpoint
            if keep:  # a guest on this machine downloads for its later runs, too
                request["keep"] = True
    return request


def _directory(base: BaseModel) -> str:
    """Where a guest on this machine finds the model, or what the cache of the hub's client has of it."""
    if base.directory is not None:
        return str(base.directory)
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _token(base: BaseModel) -> str | None:
    from huggingface_hub import get_token

    return None if base.hub is None or in_clear(base.hub.endpoint) else get_token()


def _arrived(current: Round, base: BaseModel, request: ModelRequest) -> ArrivalState:
    """Ask for the model, and follow it until it is ready or failed; push what is wanted."""
    channel, began = current.channel, time.monotonic()
    channel.request("model", request)
    latest, left = began + request["within_s"] + 2 * request["idle_s"], _MOST_PUSHES * base.size
    while True:
        stop = time.monotonic() > latest
        state = check_typed(channel.request("arrival", {"model": base.sha256, "stop": stop}), ArrivalState, "arrival")
        if state["phase"] in ("ready", "failed"):
            return state
        if stop:
            return {**state, "phase": "failed", "detail": f"it did not arrive within {request['within_s']} s"}
        _emit(current, state, elapsed_s=time.monotonic() - began)
        wants = state["wants"]
        if wants is None:
            time.sleep(_ASK_S)
        elif request["source"] in ("pushed", "made"):
            for offset, piece in _pieces(current, base, wants["name"], wants["offset"]):
                if (left := left - len(piece)) < 0:
                    raise current.broke_protocol(f"arrival: expected to be asked for each file {_MOST_PUSHES} times at most")
                put_model_piece(channel, base.sha256, wants["name"], offset, piece)
                state = {**state, "done": state["done"] + len(piece)}
                _emit(current, state, elapsed_s=time.monotonic() - began)
        else:
            raise current.broke_protocol("arrival: expected a guest that wants nothing pushed")


def _pieces(current: Round, base: BaseModel, name: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """The rest of one of the model's files, piece by piece."""
    file = next((each for each in base.files if each.name == name), None)
    here = base.directory is not None or name in base.content
    if file is None or not here or not 0 <= offset < file.size:
        raise current.broke_protocol(f"arrival: expected a file of the model; saw {printable(name, limit=80)} at {offset}")
    if base.directory is None:
        content = base.content[name]
        yield from ((at, content[at : at + frames.CHUNK]) for at in range(offset, len(content), frames.CHUNK))
        return
    with (base.directory / name).open("rb") as source:
        source.seek(offset)
        while offset < file.size:
            if not (piece := source.read(min(frames.CHUNK, file.size - offset))):
                raise _ChangedError(f"pushed: {name} was changed on this machine")
            yield offset, piece
            offset += len(piece)


def _emit(current: Round, state: ArrivalState, *, elapsed_s: float) -> None:
    fraction = state["done"] / state["total"] if state["total"] else None
    current.emit(
        Progress(
            row_id=current.row.row_id, leg=MODEL, phase=state["phase"], round=current.number, rounds=current.rounds,
            elapsed_s=elapsed_s, fraction=None if fraction is None else min(fraction, 1.0),
        )
    )  # fmt: skip
