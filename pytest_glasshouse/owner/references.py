"""The `hardware` section of a policy: required devices, trusted roots and allowed measurements.

Knows reference values and nothing else. Refuses an empty list: a comparison with nothing never passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.hardware import ITEMS_LIMIT, NVIDIA_GPU

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA384 = re.compile(r"[0-9a-f]{96}")
_INDEX = re.compile(r"[1-9][0-9]{0,2}")
_CHIP = re.compile(r"[A-Z0-9]{1,16}")
_MODE = re.compile(r"single|multi|protected-pcie")
_IF_REPORTED = "if-reported"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class GpuReferences:
    """What an NVIDIA GPU's evidence must show.

    `roots` are SHA-256 digests of root certificates; `measurements` maps a measurement's index to its allowed SHA-384 values.
    Other measurements may have any value. `vbios` is compared without regard to case. `models` are chips (GH100), none of them
    for any; `modes` are `single`, `multi` and `protected-pcie`; `count` is the number of GPUs, None for any. A driver that
    reports no firmware id is accepted where `firmware_id_required` is false.
    """

    roots: tuple[str, ...]
    drivers: tuple[str, ...]
    vbios: tuple[str, ...]
    measurements: Mapping[str, tuple[str, ...]]
    models: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("single",)
    count: int | None = None
    firmware_id_required: bool = True

    def to_json(self) -> dict[str, Json]:
        measurements: dict[str, Json] = {index: list(values) for index, values in self.measurements.items()}
        # What requires nothing has no member, so that a policy's digest stays the same.
        optional: dict[str, Json] = {
            "models": list(self.models) or None,
            "modes": list(self.modes) if self.modes != ("single",) else None,
            "count": self.count,
            "firmware_id": None if self.firmware_id_required else _IF_REPORTED,
        }
        return {
            "roots": list(self.roots),
            "drivers": list(self.drivers),
            "vbios": list(self.vbios),
            "measurements": measurements,
            **{name: value for name, value in optional.items() if value is not None},
        }

    @classmethod
    def from_json(cls, value: Json) -> GpuReferences:
        """The references `to_json` wrote. Raises `IntegrityError("policy")`."""
        needed = {"roots", "drivers", "vbios", "measurements"}
        if not isinstance(value, dict) or not needed <= value.keys() <= {*needed, "models", "modes", "count", "firmware_id"}:
            raise IntegrityError("policy", f"hardware {NVIDIA_GPU}")
        measured, count = value["measurements"], value.get("count")
        if "count" in value and (type(count) is not int or not 0 < count <= ITEMS_LIMIT):
            raise IntegrityError("policy", f"hardware count: 1 to {ITEMS_LIMIT}")
        if value.get("firmware_id", _IF_REPORTED) != _IF_REPORTED:
            raise IntegrityError("policy", f"hardware firmware_id: expected {_IF_REPORTED}, or no such member")
        if not isinstance(measured, dict) or not measured or not all(map(_INDEX.fullmatch, measured)):
            raise IntegrityError("policy", "hardware measurements")
        return cls(
            roots=_texts(value["roots"], _SHA256, "roots"),
            drivers=_texts(value["drivers"], _VERSION, "drivers"),
            vbios=_texts(value["vbios"], _VERSION, "vbios"),
            measurements={index: _texts(values, _SHA384, f"measurement {index}") for index, values in measured.items()},
            models=_texts(value["models"], _CHIP, "models") if "models" in value else (),
            modes=_texts(value["modes"], _MODE, "modes") if "modes" in value else ("single",),
            count=count if isinstance(count, int) else None,
            firmware_id_required="firmware_id" not in value,
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
