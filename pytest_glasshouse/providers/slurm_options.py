"""What is asked of a site's Slurm for each job: texts of the user, parsed into what is no other option of `sbatch`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.providers.place_settings import SlurmSite

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.,@+=:-]{0,127}"
_SHAPES = {
    "partition": _WORD, "account": _WORD, "qos": _WORD, "login": r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,252}", "stream": "srun|ssh",
    "container_image": r"[A-Za-z0-9_/.][A-Za-z0-9_/.:#@+~-]{0,511}",
}  # fmt: skip
#: `sbatch --time` takes minutes, `minutes:seconds`, `hours:minutes:seconds` and days before a dash.
_TIME = re.compile(r"(?:(?P<days>[0-9]{1,3})-)?(?P<parts>[0-9]{1,6}(?::[0-9]{1,2}){0,2})")
_LINE = re.compile(r"""\s*(?P<gpu>[a-z0-9]+)\s*=\s*["']?(?P<gres>gpu(?::[A-Za-z0-9_.-]{1,64}){0,2})["']?\s*""")
_PYTHON = re.compile(r"[A-Za-z0-9_/.+-][A-Za-z0-9_/. +-]{0,511}")
_A_DAY = 24 * 60
_SEPARATORS = re.compile(r"[\n;,]+")


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """See the module. `gres`: by a row's GPU, what to ask for."""

    login: str = ""
    gres: Mapping[str, str] = field(default_factory=dict)
    partition: str = ""
    account: str = ""
    qos: str = ""
    time_minutes: int | None = None
    container_image: str = ""
    stream: str = "srun"
    python: str = "python3"

    @classmethod
    def of(cls, site: SlurmSite, *, python: str = "") -> Self:
        """Raises `ConfigurationError` for a value that could be something else."""
        plain = {name: getattr(site, name).strip() for name in _SHAPES}
        for name, value in plain.items():
            if value and not re.fullmatch(_SHAPES[name], value):
                raise ConfigurationError(
                    f"--glasshouse-slurm-{name.replace('_', '-')}: {printable(value, limit=60)!r} cannot be one; expected "
                    f"letters, digits and - _ . : without spaces{', or srun or ssh' if name == 'stream' else ''}"
                )
        if python and not _PYTHON.fullmatch(python):
            raise ConfigurationError(f"--glasshouse-remote-python: {printable(python, limit=60)!r} is no path of a program")
        return cls(
            gres=gres_from(site.gres), time_minutes=minutes_from(site.time), python=python or "python3",
            **{**plain, "stream": plain["stream"] or "srun"},
        )  # fmt: skip

    def arguments(self, name: str, *, gres: str, minutes: int, nodes: int = 1) -> list[str]:
        """The options of `sbatch` for one job: never requeued, and without a file for its output. `gres` is of each node."""
        chosen = {
            "--job-name": name, "--gres": gres, "--time": str(minutes), "--partition": self.partition,
            "--account": self.account, "--qos": self.qos, "--container-image": self.container_image, "--nodes": str(nodes),
            "--ntasks": str(nodes), "--ntasks-per-node": "" if nodes == 1 else "1", "--output": "/dev/null",
            "--error": "/dev/null", "--chdir": "/",
        }  # fmt: skip
        return [f"{option}={value}" for option, value in chosen.items() if value] + ["--no-requeue"]


def gres_from(text: str) -> dict[str, str]:
    """The map from a row's GPU to a request, of lines such as `h100 = "gpu:h100:1"`. Raises `ConfigurationError`."""
    found: dict[str, str] = {}
    for line in filter(str.strip, _SEPARATORS.split(text)):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigurationError(
                f'glasshouse_slurm_gres: {printable(line.strip(), limit=60)!r}: expected a line such as h100 = "gpu:h100:1"'
            )
        found[match["gpu"]] = match["gres"]
    return found


def minutes_from(text: str) -> int | None:
    """Slurm's spelling of a time limit, in minutes; None for an empty one. Raises `ConfigurationError`."""
    if not text.strip():
        return None
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"--glasshouse-slurm-time: {printable(text, limit=40)!r}: expected minutes, hours:minutes:seconds or days-hours"
        )
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes = (*parts, 0)[0:2] if len(parts) > 1 else (parts[0], 0)
        total = int(found["days"]) * 24 * 60 + hours * 60 + minutes
    elif len(parts) == 3:  # noqa: PLR2004
        total = parts[0] * 60 + parts[1] + (1 if parts[2] else 0)
    else:
        total = parts[0] + (1 if len(parts) > 1 and parts[1] else 0)
    if total < 1:
        raise ConfigurationError("--glasshouse-slurm-time: expected at least one minute")
    return total


def longest_minutes(listed: str, partition: str) -> int:
    """The time limit of a partition, or of the default one where none is named, in `sinfo`'s lines `name*|limit`: a day at most.

    Of several partitions in one list the shortest limit counts.
    """
    wanted, found = partition.split(","), [_A_DAY]
    for line in listed.splitlines():
        name, _, limit = line.strip().partition("|")
        if name.rstrip("*") in wanted or (not partition and name.endswith("*")):
            with contextlib.suppress(ConfigurationError):
                found.append(minutes_from(limit) or _A_DAY)
    return min(found)
