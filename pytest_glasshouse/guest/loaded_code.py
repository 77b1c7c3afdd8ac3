"""Where the code of this process came from: every loaded module, executable mapping and import hook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.wire.leg_messages import LoadedFiles

_MAP_FIELDS = 6


def executable_maps() -> dict[str, str]:
    """The executable file mappings of this process: path to `device:inode`."""
    maps: dict[str, str] = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == _MAP_FIELDS and "x" in fields[1] and fields[5].startswith("/"):
            maps[fields[5]] = f"{fields[3]}:{fields[4]}"
    return maps


def collect() -> LoadedFiles:
    """The code that this process has loaded now."""
    maps = executable_maps()
    modules: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
        if isinstance(origin, str) and origin.startswith("/"):
            modules[name] = origin
    return {
        "maps": [[path, maps[path]] for path in sorted(maps)],
        "modules": [[name, modules[name]] for name in sorted(modules)],
        "hooks": [[_name_of(hook), _code_file(hook)] for hook in (*sys.meta_path, *sys.path_hooks)],
    }


def _name_of(hook: object) -> str:
    owner = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{owner.__module__}.{owner.__qualname__}"


def _code_file(hook: object) -> str:
    """The file with the hook's own code: a hook can load any code under any module's name, so its own file is measured."""
    for name in ("find_spec", "__init__"):
        code = getattr(getattr(hook, name, None), "__code__", None)
        if code is not None:
            return str(code.co_filename)
    return str(getattr(getattr(hook, "__code__", None), "co_filename", ""))
