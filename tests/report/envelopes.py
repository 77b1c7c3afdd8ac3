"""Bundles with other members, and envelopes that are not the report's."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

from pytest_glasshouse.report import intoto as attest
from pytest_glasshouse.report.bundle import bundle_members
from tests.unit.report import example


def rezipped(bundle: bytes, change: dict[str, bytes | None]) -> bytes:
    files = {**bundle_members(bundle), **change}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    return buffer.getvalue()


def changed(change: dict[str, Any]) -> bytes:
    document = example.document()
    whole = json.loads(attest.envelope(document, document["rows"][0], key=example.KEYS.report))
    return json.dumps({**whole, **change}).encode()


SIGNATURE = json.loads(changed({}))["signatures"][0]


CHANGED_ENVELOPES: list[tuple[dict[str, Any], str]] = [
    ({"extra": 1}, "dsse"),
    ({"payloadType": "text/plain"}, "dsse"),
    ({"payload": 7}, "dsse"),
    ({"payload": "%%%"}, "dsse"),
    ({"payload": base64.b64encode(b"{}").decode()}, "signature"),
    ({"signatures": []}, "dsse"),
    ({"signatures": {}}, "dsse"),
    ({"signatures": ["x"]}, "dsse"),
    ({"signatures": [SIGNATURE, SIGNATURE]}, "dsse"),
    ({"signatures": [{**SIGNATURE, "keyid": "another"}]}, "dsse"),
    ({"signatures": [{**SIGNATURE, "more": 1}]}, "dsse"),
    ({"signatures": [{**SIGNATURE, "sig": base64.b64encode(bytes(64)).decode()}]}, "signature"),
    ({"signatures": [{**SIGNATURE, "sig": base64.b64encode(bytes(3)).decode()}]}, "signature"),
]
