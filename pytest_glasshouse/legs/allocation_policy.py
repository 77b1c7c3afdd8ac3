"""The policy for one allocation: what the host requires by itself, and what the owner's policy file requires beside it.

A file that requires components which no guest reports, or another guest archive than this installation's, is refused here:
the server would refuse every leg for it, after an allocation was paid for.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.policy import Component, Policy, Recorded, Required
from pytest_glasshouse.wire.bounded_file import read_named
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, parse_object, sha256_hex
from pytest_glasshouse.wire.evidence import NOTHING_FOREIGN

#: What the evidence must carry beside the archive; their values are recorded, not compared, unless a policy file says so.
_RECORDED = (
    "interpreter", "stdlib", "packages", "images", "system", "hooks", "bytecode", "python", "kernel", "torch",
    "transformers", "peft", "driver", "gpu-model", "gpu-uuid",
)  # fmt: skip


def base_policy(*, name: str, archive_sha256: str, container: str, completion_s: int, release_limit: int = 1) -> Policy:
    """What the host requires by itself: the archive is the one it built, nothing foreign is loaded, the rest is recorded."""
    components: dict[str, Component] = {each: Recorded() for each in _RECORDED}
    components["archive"] = Required(sha256=archive_sha256)
    # The one reference value that needs no guest to be known: nothing foreign may be loaded.
    components["foreign"] = Required(sha256=NOTHING_FOREIGN)
    return Policy(
        name=name, version=1, components=components, container=container, completion_s=completion_s, release_limit=release_limit
    )


#: The chips of the GPUs that rows name and that attest: a device's own certificate says which it has.
_CHIPS = {"h100": "GH100"}


def policy_for(
    *,
    archive_sha256: str,
    allocation: str,
    completion_s: int,
    gpu: str = "anygpu",
    owner_policy: Policy | None = None,
    nodes: int = 1,
) -> Policy:
    """The policy of one allocation: all that `owner_policy` requires, with the allocation's place and the row's deadline.

    A key may be released to each of its `nodes` as often as the policy says.
    Where it requires evidence of a GPU, that must be of the chip of the `gpu` that the row names.
    """
    place = f"{allocation}/{completion_s}" + (f"/{nodes}" if nodes > 1 else "")
    if owner_policy is None:
        return base_policy(
            name=place, archive_sha256=archive_sha256, container=allocation, completion_s=completion_s, release_limit=nodes
        )
    name = f"{owner_policy.name}/{place}"
    hardware = owner_policy.hardware
    if hardware is not None and hardware.gpu is not None and gpu in _CHIPS:
        hardware = dataclasses.replace(hardware, gpu=dataclasses.replace(hardware.gpu, models=(_CHIPS[gpu],)))
    return dataclasses.replace(
        owner_policy, name=name, container=allocation, completion_s=completion_s, hardware=hardware,
        release_limit=owner_policy.release_limit * nodes,
    )  # fmt: skip


@functools.cache
def read_policy_file(path: Path) -> Policy:
    """The policy file of a run, read once. Raises `ConfigurationError`."""
    what = f"--glasshouse-policy {path}"
    content = read_named(path, what=what, limit=MESSAGE_LIMIT)
    try:
        policy = Policy.from_json(parse_object(content))
    except IntegrityError as error:
        raise ConfigurationError(f"{what}: expected a policy, saw something else ({error.detail or error.reason})") from None
    known = {*_RECORDED, "archive", "foreign"}
    if odd := sorted(policy.components.keys() ^ known):
        raise ConfigurationError(f"{what}: expected exactly the components that evidence carries; {', '.join(odd)} differ")
    wanted, ours = policy.components["archive"], sha256_hex(guest_archive())
    if not isinstance(wanted, Required) or wanted.sha256 != ours:
        raise ConfigurationError(f"{what}: expected the guest archive {ours} of this installation; capture the policy anew")
    if policy.components["foreign"] != Required(sha256=NOTHING_FOREIGN):
        raise ConfigurationError(f"{what}: component foreign: nothing foreign may be loaded; capture the policy anew")
    return policy
