"""A model hub on 127.0.0.1: two hosts, as the real one has, one for the API and small files and one where large files lie.

It speaks what `huggingface_hub` asks for. What it refuses, sends and redirects is what https://huggingface.co does, as far as
we have seen it; `test_hub.py` and `test_hub_faults.py` ask it by the real client.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Mapping
from typing import Literal, Self

from tests.loopback.hub_api import HubApi
from tests.loopback.hub_faults import Armed, HubFault, HubOperation, HubScript
from tests.loopback.hub_hosts import Host, HubRequest
from tests.loopback.hub_repository import LARGE_BYTES, Files, Repository


class Hub:
    """Serves `models`: by repository and commit, a directory or contents by name. A context manager.

    `refs`: branches and tags by repository; `main` is the last commit given unless it is named there. `gated` repositories are
    listed for everybody and read by a token that is let in, `private` ones are seen by no other. `tokens`: the repositories that
    each is let into; any other token is refused. `renamed`: new names by old ones, which are redirected. Large files are
    `*.safetensors` and those of `large_bytes` and more.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Files]],
        *,
        refs: Mapping[str, Mapping[str, str]] | None = None,
        gated: Collection[str] = (),
        private: Collection[str] = (),
        renamed: Mapping[str, str] | None = None,
        tokens: Mapping[str, Collection[str]] | None = None,
        large_bytes: int = LARGE_BYTES,
        listings_gated: bool = False,
        small_redirected: bool = True,
        xet: bool = False,
        page_entries: int = 1000,
    ) -> None:
        self._repositories = {
            repo: Repository(repo, commits, (refs or {}).get(repo, {}), large_bytes=large_bytes)
            for repo, commits in models.items()
        }
        self._faults = HubScript()
        #: Every request to either host.
        self.requests: list[HubRequest] = []
        self._api = HubApi(
            self._repositories, gated=gated, private=private, tokens=tokens or {}, renamed=renamed or {}, secret=secrets.token_bytes(16),
            listings_gated=listings_gated, small_redirected=small_redirected, xet=xet, page_entries=page_entries,
        )  # fmt: skip
        self._closing = threading.Event()
        self._hosts = [Host(self._api, self, "hub"), Host(self._api, self, "storage")]
        self._api.hub_url, self._api.storage_url = (host.url for host in self._hosts)

    @property
    def url(self) -> str:
        """The hub's address, for `HF_ENDPOINT`."""
        return self._api.hub_url

    @property
    def storage_url(self) -> str:
        """The address where large files lie: another port, and so another origin."""
        return self._api.storage_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; answers that are still held back go."""
        self._closing.set()
        self._faults.release()
        for host in self._hosts:
            host.close()

    def arm(
        self,
        fault: HubFault,
        *,
        on: HubOperation,
        file: str | None = None,
        method: str | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> None:
        """Play a fault on the next `times` such requests (None: on all), after letting `skip` of them pass."""
        self._faults.add([Armed(fault=fault, on=on, file=file, method=method, skip=skip, times=times)])

    def unmet(self) -> tuple[HubFault, ...]:
        """Faults that too few requests have met."""
        return self._faults.left()

    def move(self, repo: str, ref: str, commit: str) -> None:
        """Let a branch or tag mean another commit."""
        assert commit in self._repositories[repo].commits
        self._repositories[repo].refs[ref] = commit

    def sha256(self, repo: str, commit: str, file: str) -> str:
        """The SHA-256 of a file's bytes, large or not."""
        return self._repositories[repo].commits[commit][file].content.sha256

    def asked(self, operation: HubOperation, *, method: str | None = None, file: str | None = None) -> list[HubRequest]:
        """The requests for something, in order."""
        return [
            one
            for one in tuple(self.requests)
            if one.operation == operation and method in {None, one.method} and file in {None, one.file}
        ]

    def bodies_asked(self) -> set[str]:
        """The large files whose bytes somebody asked for."""
        return {one.file for one in self.asked("large", method="GET") if one.file is not None}

    def tokens_seen(self, host: Literal["hub", "storage"]) -> set[str | None]:
        """What came in the `Authorization` headers to one host; None stands for requests without one."""
        return {one.authorization for one in tuple(self.requests) if one.host == host}

    # What the hosts need.

    def take(self, request: HubRequest) -> HubFault | None:
        """The fault to be played on a request."""
        return None if request.operation is None else self._faults.take(request.operation, request.method, request.file)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the hub's end."""
        self._closing.wait(seconds)

    @property
    def closed(self) -> bool:
        return self._closing.is_set()
