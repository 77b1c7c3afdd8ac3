"""The `hardware` section of a policy: required devices, trusted roots and allowed measurements.

Knows reference values and nothing else. Refuses an empty list: a comparison with nothing never passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.hardware import NVIDIA_GPU

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA384 = re.compile(r"[0-9a-f]{96}")
_INDEX = re.compile(r"[1-9][0-9]{0,2}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class GpuReferences:
    """What an NVIDIA GPU's evidence must show.

    `roots` are SHA-256 digests of root certificates; `measurements` maps a measurement's index to its allowed SHA-384 values.
    Other measurements may have any value.
    """

    roots: tuple[str, ...]
    drivers: tuple[str, ...]
    vbios: tuple[str, ...]
    measurements: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Json]:
        measurements: dict[str, Json] = {index: list(values) for index, values in self.measurements.items()}
        return {
            "roots": list(self.roots),
            "drivers": list(self.drivers),
            "vbios": list(self.vbios),
            "measurements": measurements,
        }

    @classmethod
    def from_json(cls, value: Json) -> GpuReferences:
        """The references `to_json` wrote. Raises `IntegrityError("policy")`."""
        if not isinstance(value, dict) or value.keys() != {"roots", "drivers", "vbios", "measurements"}:
            raise IntegrityError("policy", f"hardware {NVIDIA_GPU}")
        measured = value["measurements"]
        if not isinstance(measured, dict) or not measured or not all(map(_INDEX.fullmatch, measured)):
            raise IntegrityError("policy", "hardware measurements")
        return cls(
            roots=_texts(value["roots"], _SHA256, "roots"),
            drivers=_texts(value["drivers"], _VERSION, "drivers"),
            vbios=_texts(value["vbios"], _VERSION, "vbios"),
            measurements={index: _texts(values, _SHA384, f"measurement {index}") for index, values in measured.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The kinds of device whose evidence is required, and the references for an NVIDIA GPU's."""

    required: tuple[str, ...] = ()
    gpu: GpuReferences | None = None

    def to_json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"required": list(self.required)}
        return found if self.gpu is None else {**found, NVIDIA_GPU: self.gpu.to_json()}

    @classmethod
    def from_json(cls, value: Json) -> Hardware:
        """The section `to_json` wrote. Raises `IntegrityError("policy")`."""
        if not isinstance(value, dict) or not {"required"} <= value.keys() <= {"required", NVIDIA_GPU}:
            raise IntegrityError("policy", "hardware")
        gpu = GpuReferences.from_json(value[NVIDIA_GPU]) if NVIDIA_GPU in value else None
        required = _texts(value["required"], _VERSION, "required") if value["required"] or gpu is None else ()
        return cls(required=required, gpu=gpu)


def _texts(value: Json, form: re.Pattern[str], name: str) -> tuple[str, ...]:
    found = tuple(text for text in value if isinstance(text, str) and form.fullmatch(text)) if isinstance(value, list) else ()
    if not isinstance(value, list) or not found or len(set(found)) != len(value):
        raise IntegrityError("policy", f"hardware {name}")
    return found
