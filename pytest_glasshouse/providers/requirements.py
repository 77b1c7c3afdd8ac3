"""What a rented machine must have: a driver for the image's CUDA version, GPU memory, memory, disk, a volume's data center.

Providers filter by what their API has a filter for; `RequirementFilter` compares what they show, and counts what excluded which
offers. A driver is asked for by the CUDA version it supports (CUDA 13.0 is driver 580): both providers name it so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

_VERSION = re.compile(r"(?P<major>[0-9]{1,2})\.(?P<minor>[0-9]{1,2})", re.ASCII)
#: A tag that names its CUDA version: cuda13.0, cuda-12.8.1, cu130, cu1281. No minor version of CUDA had two digits.
_TAG = re.compile(r"(?:\b|_)(?:cuda-?(?P<dotted>[0-9]{2}\.[0-9])|cu(?P<digits>1[1-9][0-9]))", re.ASCII)


class CudaVersion(NamedTuple):
    """A version of CUDA, which a driver supports or an image needs. Compares as a pair of numbers: 12.11 is above 12.2."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> CudaVersion:
        """Raises `ValueError` for what is no `major.minor`."""
        found = _VERSION.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a version of CUDA such as 13.0, saw {text[:60]!r}")
        return cls(int(found["major"]), int(found["minor"]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def cuda_from(value: object) -> CudaVersion | None:
    """What a provider says of a machine's CUDA version, as text or as a number; None for anything else."""
    if isinstance(value, str):
        found = _VERSION.fullmatch(value)
        return CudaVersion(int(found["major"]), int(found["minor"])) if found else None
    from pytest_glasshouse.providers.offers import number  # imports providers, and this module is read at every start of pytest

    plain = number(value)
    return None if plain is None or not 1 <= plain < 100 else CudaVersion(int(plain), round(plain * 10) % 10)  # noqa: PLR2004


def cuda_of_image(image: str | None) -> CudaVersion | None:
    """The CUDA version that the tag of `NAME:TAG@sha256:DIGEST` names; None where it names none or there is no tag."""
    name = (image or "").split("@", 1)[0].rsplit("/", 1)[-1]
    found = _TAG.search(name.partition(":")[2])
    if found is None:
        return None
    digits = found["digits"]
    return CudaVersion.parse(found["dotted"]) if digits is None else CudaVersion(int(digits[:2]), int(digits[2]))


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The least that a machine must have; None where nothing is required. Sizes are in GB of 10^9 bytes."""

    #: The newest CUDA version that its driver supports must be at least this one.
    cuda: CudaVersion | None = None
    gpu_memory_gb: float | None = None
    memory_gb: float | None = None
    disk_gb: int | None = None

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Each as what an offer's figure is compared with."""
        found = [Demand(figure="cuda", least=self.cuda, what=f"CUDA {self.cuda} or newer", best="newest", option="min-cuda")]
        for figure, what in (("gpu_memory_gb", "GPU memory"), ("memory_gb", "memory"), ("disk_gb", "disk")):
            least = getattr(self, figure)
            option = f"min-{figure.removesuffix('_gb').replace('_', '-')}"
            found.append(Demand(figure=figure, least=least, what=f"{least or 0:g} GB of {what}", best="most", option=option))
        return tuple(demand for demand in found if demand.least is not None)

    def __str__(self) -> str:
        return ", ".join(demand.what for demand in self.demands)


ANY_MACHINE = Requirements()


@dataclass(frozen=True, kw_only=True)
class Demand:
    """One requirement: the name of an offer's figure, the least it must be, and how both are called.

    Where the figure is a set, such as data centers, it must contain `least`.
    """

    figure: str
    least: object
    what: str
    best: str = ""
    option: str = ""

    def met_by(self, value: object) -> bool:
        """Whether an offer with this figure meets it; one whose figure is not told (None) does not."""
        if isinstance(value, frozenset):
            return self.least in value
        return value is not None and value >= self.least  # type: ignore[operator]


class RequirementFilter:
    """Compares offers with demands, one by one, and remembers how many each demand excluded and the best that was seen."""

    def __init__(self, demands: tuple[Demand, ...]) -> None:
        self._demands = demands
        self._seen = 0
        self._excluded: dict[Demand, list[object]] = {}

    def passes(self, figures: Mapping[str, object]) -> bool:
        """Whether an offer with these figures meets every demand. A figure that is missing is one the provider never shows."""
        self._seen += 1
        unmet = [each for each in self._demands if each.figure in figures and not each.met_by(figures[each.figure])]
        for demand in unmet:
            self._excluded.setdefault(demand, []).append(figures[demand.figure])
        return not unmet

    def exclusions(self) -> str:
        """What excluded how many offers, as part of a sentence; empty where none was excluded."""
        told = []
        for demand, figures in self._excluded.items():
            known = [value for value in figures if value is not None and not isinstance(value, frozenset)]
            best = f" ({demand.best} seen: {max(known)!s})" if known else ""  # type: ignore[type-var]
            told.append(f"{demand.what} excludes {len(figures)} of {self._seen}{best}")
        return "; ".join(told)

    def advice(self) -> str:
        """Which options would let more offers pass."""
        return " or ".join(f"--glasshouse-{demand.option}" for demand in self._excluded if demand.option)
