"""What the user says of places, as one value: each place reads of it what concerns it.

A part of it describes machines of the user's own. That part also reaches the reaper and the commands, through the environment:
a process list shows none of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from pytest_glasshouse.providers.requirements import ANY_MACHINE, Requirements


@dataclass(frozen=True, kw_only=True)
class SlurmSite:
    """What a site's Slurm is asked for. Empty: nothing is said of it, and the site's own default counts."""

    #: A login node that `ssh` accepts; empty: Slurm's clients are on this machine.
    login: str = ""
    #: By a row's GPU, what to ask for: lines of `h100 = "gpu:h100:1"`.
    gres: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    #: A job's time limit in minutes; empty: from the plan.
    time: str = ""
    #: The image for the site's `--container-image`.
    container_image: str = ""
    #: `srun`, or `ssh` where users may log in to their jobs' nodes.
    stream: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnMachines:
    """Where the user's own machines are, and which part of them to use. Texts as the user wrote them; their place parses them."""

    #: What `ssh NAME` accepts.
    hosts: tuple[str, ...] = ()
    #: The Python of these hosts, in which torch is installed; empty: `python3` of their PATH.
    remote_python: str = ""
    #: A GPU by UUID or index; empty: any that the row names.
    gpu: str = ""
    #: How long to wait for a GPU that others use; None: the place's own.
    queue_timeout_s: float | None = None
    #: The site's Slurm.
    slurm: SlurmSite = field(default_factory=SlurmSite)

    def to_environment(self) -> dict[str, str]:
        """As variables of a process that is started; the names are those of the plugin's options."""
        queue = "" if self.queue_timeout_s is None else f"{self.queue_timeout_s:g}"
        written = {
            "GLASSHOUSE_HOST": " ".join(self.hosts),
            "GLASSHOUSE_REMOTE_PYTHON": self.remote_python,
            "GLASSHOUSE_GPU": self.gpu,
            "GLASSHOUSE_QUEUE_TIMEOUT": queue,
            **{f"GLASSHOUSE_SLURM_{name.upper()}": value for name, value in vars(self.slurm).items()},
        }
        return {name: value for name, value in written.items() if value}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """What `to_environment` wrote, or the user."""
        queue = environ.get("GLASSHOUSE_QUEUE_TIMEOUT", "")
        return cls(
            hosts=tuple(environ.get("GLASSHOUSE_HOST", "").replace(",", " ").split()),
            remote_python=environ.get("GLASSHOUSE_REMOTE_PYTHON", ""),
            gpu=environ.get("GLASSHOUSE_GPU", ""),
            queue_timeout_s=float(queue) if queue.replace(".", "", 1).isdigit() else None,
            slurm=SlurmSite(
                **{each.name: environ.get(f"GLASSHOUSE_SLURM_{each.name.upper()}", "") for each in fields(SlurmSite)}
            ),
        )


#: The names of a site's settings.
SLURM = tuple(each.name for each in fields(SlurmSite))


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """See the module."""

    faults: tuple[str, ...] = ()
    #: Accept a place that is not what it stands for: a base URL that is not the provider's own, a host without a GPU.
    allow_simulated: bool = False
    max_price_usd_per_hour: float | None = None
    #: What a rented machine must have.
    requirements: Requirements = ANY_MACHINE
    machines: OwnMachines = field(default_factory=OwnMachines)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
