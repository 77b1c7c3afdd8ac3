"""Archives of given files."""

from __future__ import annotations

import io
import zipfile


def archive(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, data in files:
            out.writestr(name, data)
    return buffer.getvalue()
