"""Files as a user has them whom the kernel refuses what root may do.

Where root runs the tests, this process takes another user's ids for as long as the block lasts, and root's again after it: what
is imported in the block has to be in a place that every user reaches. Elsewhere the tests run as such a user already.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: nobody and nogroup: an account that owns nothing.
_NOBODY = 65534
_PR_SET_DUMPABLE = 4


@contextlib.contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of a user who is not root, in a place that every user reaches. Removed at the end, whatever its modes are then."""
    with _other_ids():
        # A path such as pytest's own leads through folders of root's.
        folder = Path(tempfile.mkdtemp(prefix="gh-user-", dir="/tmp"))
    try:
        with _other_ids():
            yield folder
    finally:
        with _other_ids():
            for path in (folder, *folder.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(folder)


@contextlib.contextmanager
def _other_ids() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, 0)
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
        # Who changes its ids may not be looked into: /proc/self would stay closed to what this process starts later.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
