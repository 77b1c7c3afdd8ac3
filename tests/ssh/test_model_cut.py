"""A base model arrives whole at a rented guest although the connection to its host is cut meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.guest_channel import RECONNECT_S, GuestChannel
from pytest_glasshouse.legs.base_model import bring
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.model_sources import ModelSources
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.providers.base import Grant
from pytest_glasshouse.rows.spec import ModelSource
from pytest_glasshouse.workloads.base import BaseModel, HubSource, Material
from pytest_glasshouse.workloads.model_files import listed_content
from tests.limits import HANG_S, until
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Drip, Tap
from tests.loopback.hub_repository import commit_id
from tests.numpy_guest.archive import numpy_archive
from tests.rounds.conftest import short_row
from tests.ssh.conftest import MakePod, MakeSession
from tests.ssh.proxy import Link

#: Thirty seconds in soak; in `make test` the same cut until something was lost by it.
CUT_S = 30.0 if os.environ.get("SOAK") else 0.0
COMMIT = commit_id("cut")
WEIGHTS = "model.safetensors"
#: Not a model: nothing loads it. Five pieces of a push.
FILES = {"config.json": b"{}", WEIGHTS: random.Random(5).randbytes(18 << 20)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({"Tests/Cut": {COMMIT: FILES}}) as hub:
        yield hub


@pytest.mark.parametrize("source", ["pushed", "hub"])
def test_a_link_that_is_cut_while_a_model_arrives_loses_nothing_of_it(
    make_pod: MakePod, make_session: MakeSession, hub: Hub, source: ModelSource
) -> None:
    pod = make_pod()
    session = make_session(pod, archive=numpy_archive())
    tap = Tap()
    if source == "hub":
        hub.arm(Drip(after_bytes=1 << 20, piece_bytes=1 << 20, tap=tap), on="large", file=WEIGHTS)
    with contextlib.closing(Link(pod.port)) as link:
        through = SshAccess(host="127.0.0.1", port=link.port, user=os.environ.get("USER", "root"))
        path = session.connect(through, timeout_s=HANG_S)
        cut: list[threading.Thread] = []

        def heal(lost: int, earliest: float) -> None:
            until(lambda: link.lost > lost and time.monotonic() >= earliest, "a connection or a piece that is lost")
            link.heal()
            tap.open()

        def cut_once(progress: Progress) -> None:
            if not cut and progress.phase in ("push", "download") and progress.fraction:
                cut.append(threading.Thread(target=heal, args=(link.lost, time.monotonic() + CUT_S)))
                link.cut(silent=False)
                cut[0].start()

        with contextlib.closing(GuestChannel(path, allocation_id=pod.name, reconnect_s=RECONNECT_S)) as channel:
            current = _round(path, channel, hub, cut_once)
            arrival, ended = bring(current, ModelSources(only=source))
        for healer in cut:
            healer.join()
    assert ended is None
    assert cut
    assert arrival is not None
    assert (arrival["source"], arrival["bytes"]) == (source, sum(map(len, FILES.values())))
    assert arrival["held"] == "memory", "verified, sealed, and no longer on the guest's disk"
    assert list((pod.root / "agent" / "models").iterdir()) == []


def _round(path: str, channel: GuestChannel, hub: Hub, emit: Callable[[Progress], None]) -> Round:
    where = HubSource(endpoint=hub.url, repo="Tests/Cut", commit=COMMIT)
    base = BaseModel(model_id="Tests/Cut", revision=COMMIT, stand_in=False, files=listed_content(FILES), content=FILES, hub=where)
    grant = Grant(
        grant_id="g", allocation_id="a", provider="runpod", instance_id="pod1", address=path, gpu_model="CPU", gpu_uuid=None,
        device="cpu", archive_sha256="", reference_source="checkout", dry_run=True, simulated=True, remote=True,
    )  # fmt: skip
    return Round(
        row=short_row(), grant=grant, channel=channel, material=Material(parts={}, initial_sha256="", base=base, facts={}), number=1,
        rounds=1, seed=1, run_id="cut", subject="", leg_timeout_s=None, listing=lambda: (), emit=emit, cursor=0, plan_sha256="",
        order=("raw", "protected"),
    )  # fmt: skip
