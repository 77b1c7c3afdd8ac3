"""The two loopback accounts, ready to use.

    with runpod() as server:            # or vastai()
        server.url                      # RUNPOD_API_BASE_URL / VAST_URL
        server.cloud.account_key        # RUNPOD_API_KEY / VAST_API_KEY
        server.cloud.faults.add(Fault(kind="lost-answer"))
        ...
        server.cloud.assert_nothing_bills()

`pods="start"` runs the launch's start command as the pod's first process, `pods="none"` runs nothing, and a command runs
instead of it. A pod has a disk of its own (`pod_disk.py`), and finds the port of its 22/tcp, on 127.0.0.1, in GLASSHOUSE_POD_PORT.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from typing import Any

from tests.loopback.cloud import Cloud, Rented
from tests.loopback.http import LoopbackServer
from tests.loopback.runpod_graphql import RunPodGraphQL
from tests.loopback.runpod_rest import RunPodRest
from tests.loopback.vast import Vast


def runpod(**options: Any) -> LoopbackServer:
    """RunPod's account on loopback: GraphQL and REST v2 at one address. A pod whose first process ends is started again."""

    def injected(one: Rented) -> Mapping[str, str]:
        port = {} if one.port is None else {"RUNPOD_TCP_PORT_22": str(one.port)}
        return {"RUNPOD_POD_ID": one.instance_id, "RUNPOD_API_KEY": one.pod_key, "RUNPOD_PUBLIC_IP": "127.0.0.1", **port}

    cloud = Cloud(injected=injected, new_id=lambda: secrets.token_hex(7), restarts=True, **options)
    return LoopbackServer(cloud, {"/graphql": RunPodGraphQL(cloud), "/v2/": RunPodRest(cloud)})


def vastai(**options: Any) -> LoopbackServer:
    """Vast.ai's account on loopback. An instance whose first process ends is `exited`, and bills on."""
    numbers = itertools.count(7_000_001)

    def injected(one: Rented) -> Mapping[str, str]:
        port = {} if one.port is None else {"VAST_TCP_PORT_22": str(one.port)}
        return {"CONTAINER_ID": one.instance_id, "CONTAINER_API_KEY": one.pod_key, "PUBLIC_IPADDR": "127.0.0.1", **port}

    cloud = Cloud(injected=injected, new_id=lambda: str(next(numbers)), restarts=False, **options)
    return LoopbackServer(cloud, {"/api/": Vast(cloud)})
