"""Reads NVIDIA's reference manifests (RIM): what the measurements of a driver or a VBIOS are, as NVIDIA signed it.

Knows SWID tags (ISO/IEC 19770-2, TCG RIM) and turns them into references of a policy. A manifest counts measurements from 0, a
device from 1. Fetches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.attestation.signed_xml import read_signed
from pytest_glasshouse.owner.references import GpuReferences

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_VBIOS = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_DRIVER = re.compile(r"[0-9]{3}\.[0-9]{1,4}(\.[0-9]{1,4})?")
_CHIP = re.compile(r"[A-Z0-9]{1,16}")
_HASH = re.compile(r"[0-9a-fA-F]{96}")
#: As many measurements as the protocol can number, and the alternatives of one.
_BLOCKS, _ALTERNATIVES = 255, 64


@dataclass(frozen=True, kw_only=True)
class Rim:
    """One manifest. `measurements` are those that count, by the number that a device gives them."""

    kind: str
    version: str
    chip: str
    measurements: Mapping[int, tuple[str, ...]]


def read_rim(data: bytes, *, roots: Collection[str], now: int) -> Rim:
    """A manifest whose signature leads to a pinned root; certificates are judged at `now` (wall seconds).

    Raises `RefusedError`: `rim-*` or `chain-*`.
    """
    root = read_signed(data, roots=roots, now=now)
    require(root.name == f"{{{_SWID}}}SoftwareIdentity", "rim-format", "not a SWID tag")
    meta = root.one(f"{{{_SWID}}}Meta")
    version, chip = meta.get("colloquialVersion").upper(), meta.get("product")
    kind = "vbios" if _VBIOS.fullmatch(version) else "driver" if _DRIVER.fullmatch(version) else ""
    require(bool(kind) and _CHIP.fullmatch(chip) is not None, "rim-format", "neither a driver's nor a VBIOS's")
    found: dict[int, tuple[str, ...]] = {}
    for each in root.below(f"{{{_SWID}}}Payload", f"{{{_SWID}}}Resource"):
        index, count = _whole(each.get("index"), _BLOCKS - 1), _whole(each.get("alternatives"), _ALTERNATIVES)
        hashes = [each.get(f"Hash{place}").lower() for place in range(count)]
        fits = each.get("type") == "Measurement" and each.get("size") == "48" and each.get("active") in {"True", "False"}
        require(fits and bool(hashes) and all(map(_HASH.fullmatch, hashes)), "rim-format", f"measurement {index}")
        require(index + 1 not in found, "rim-format", f"measurement {index} twice")
        found[index + 1] = tuple(dict.fromkeys(hashes)) if each.get("active") == "True" else ()
    measured = {index: hashes for index, hashes in found.items() if hashes}
    require(bool(measured), "rim-format", "no measurement")
    return Rim(kind=kind, version=version, chip=chip, measurements=measured)


def references(rims: Sequence[Rim], *, device_root: str) -> GpuReferences:
    """What a GPU must show that runs one of these drivers on one of these VBIOS versions.

    Raises `RefusedError("rim-set")` where a kind of manifest is missing, chips differ, or driver and VBIOS name one measurement.
    """
    kinds = {kind: [rim for rim in rims if rim.kind == kind] for kind in ("driver", "vbios")}
    require(all(kinds.values()), "rim-set", "a driver's manifest and a VBIOS's are needed")
    require(len({rim.chip for rim in rims}) == 1, "rim-set", "manifests of several chips")
    named = {kind: {index for rim in those for index in rim.measurements} for kind, those in kinds.items()}
    both = sorted(named["driver"] & named["vbios"])
    require(not both, "rim-set", f"driver and VBIOS both name {', '.join(map(str, both))}")
    for kind, those in kinds.items():
        # Alternatives of a policy are independent of each other: versions that differ in more would be mixed.
        require(len(those) == 1, "rim-set", f"more than one {kind}: one policy for each")
    measurements = {
        str(index): hashes for rim in sorted(rims, key=lambda rim: rim.kind) for index, hashes in sorted(rim.measurements.items())
    }
    return GpuReferences(
        roots=(device_root,),
        drivers=(kinds["driver"][0].version,),
        vbios=(kinds["vbios"][0].version,),
        measurements=measurements,
        models=(rims[0].chip,),
    )


def _whole(text: str, most: int) -> int:
    require(text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most, "rim-format", "number")
    return int(text)
