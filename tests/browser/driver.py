"""A headless Chromium, driven over WebDriver's own HTTP: enough to open a file, inspect it, and read its console messages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.limits import HANG_S

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def required() -> str:
    """The path of chromedriver. Where CI is set its absence is a failure, elsewhere a skip."""
    path = shutil.which("chromedriver")
    if path is None or (shutil.which("chromium") or shutil.which("google-chrome")) is None:
        missing = "no Chromium here: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


class Browser:
    """One session; every request goes over loopback."""

    def __init__(self, port: int, profile: Path) -> None:
        self._http = urllib3.PoolManager()
        self._base = f"http://127.0.0.1:{port}/session"
        arguments = [*_FLAGS, f"--user-data-dir={profile}"]
        options = {"args": arguments, "binary": shutil.which("chromium") or shutil.which("google-chrome"),
                   "perfLoggingPrefs": {"enableNetwork": True}}  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._ask("POST", "", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **wanted}}})
        self._base += f"/{session['sessionId']}"

    def open(self, path: Path) -> None:
        """Open a local file; what was logged before is forgotten."""
        self.complaints()
        self.requests()
        self._ask("POST", "/url", {"url": path.resolve().as_uri()})

    def look(self, *, width: int, height: int, dark: bool = False, mobile: bool = False) -> bytes:
        """A PNG of the page from its top, as a screen of this size shows it."""
        self.as_screen(width=width, height=height, dark=dark, mobile=mobile)
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def as_screen(self, *, width: int, height: int, dark: bool = False, mobile: bool = False) -> None:
        """Be a screen of this size and mode."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self._ask("POST", "/print", {"background": True}))

    def run(self, script: str) -> Any:
        """What a function body returns, in the page; a promise is waited for. The page's own policy does not bind it."""
        answer = self.command("Runtime.evaluate", expression=f"(async()=>{{{script}}})()", awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """The console's messages since the last call."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Every address that was asked for since this was asked last."""
        entries = (json.loads(entry["message"])["message"] for entry in self._ask("POST", "/se/log", {"type": "performance"}))
        return [each["params"]["request"]["url"] for each in entries if each["method"] == "Network.requestWillBeSent"]

    def command(self, name: str, **params: Any) -> Any:
        """One command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def close(self) -> None:
        self._ask("DELETE", "")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, self._base + path, json=body, timeout=HANG_S, retries=False)
        value = answer.json()["value"]
        assert answer.status == 200, value
        return value


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own; gone afterwards."""
    driver = required()
    with tempfile.TemporaryDirectory(prefix="glasshouse-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "started successfully on port" in line)
            session = Browser(int(line.split("port")[1].strip(" .\n")), Path(profile) / "profile")
            try:
                yield session
            finally:
                session.close()
        finally:
            process.terminate()
            process.wait(HANG_S)
            if process.stdout is not None:
                process.stdout.close()
