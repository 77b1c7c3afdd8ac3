"""What the owner of a package finds out about an adapter that a leg exported.

How far it is from the initial weights, and for an mlp row its loss on the package's data. numpy only; the leg's own words are
not among what is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads import mlp_material

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.wire.tensors import Buffer

_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}


def adapter_figures(workload: str, parts: Mapping[str, bytes], adapter: Buffer) -> dict[str, str]:
    """`distance`: the norm of the change, over that of the initial weights. `loss`, of mlp: the mean over all samples.

    Both are decimal numbers as text, `nan` and `inf` among them. Raises `IntegrityError` for an adapter of other tensors than
    the initial weights'.
    """
    import numpy as np

    initial, trained = arrays(parts["initial"]), arrays(adapter)
    if {name: array.shape for name, array in initial.items()} != {name: array.shape for name, array in trained.items()}:
        raise IntegrityError("adapter", "its tensors are not those of the initial weights")
    with np.errstate(all="ignore"):
        changed = sum(float(np.square(trained[name].astype("f8") - initial[name]).sum()) for name in initial)
        began = sum(float(np.square(array.astype("f8")).sum()) for array in initial.values())
        figures = {"distance": f"{(changed / max(began, 1e-30)) ** 0.5:.6g}"}
        if workload == "mlp":
            figures["loss"] = f"{mlp_material.mean_loss(arrays(parts['data']), trained):.6g}"
    return figures


def arrays(buffer: Buffer) -> dict[str, Any]:
    """The tensors of a safetensors buffer as numpy arrays; those of bfloat16 as float32."""
    import numpy as np

    octets = memoryview(buffer).cast("B")
    found: dict[str, Any] = {}
    for name, entry in parse_safetensors(octets).items():
        content = octets[entry.start : entry.end]
        if entry.dtype == "BF16":
            array = (np.frombuffer(content, dtype="<u2").astype("<u4") << 16).view("<f4")
        elif entry.dtype in _DTYPES:
            array = np.frombuffer(content, dtype=_DTYPES[entry.dtype])
        else:
            raise IntegrityError("adapter", f"a tensor of {entry.dtype}, which no workload trains")
        found[name] = array.reshape(entry.shape)
    return found
