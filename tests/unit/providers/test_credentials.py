"""Where keys and base URLs come from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError, CredentialsError
from pytest_glasshouse.providers.credentials import RUNPOD_URL, api_url, runpod_key, vast_key
from pytest_glasshouse.providers.registry import open_runpod
from pytest_glasshouse.providers.runpod_rest import RunPodRestProvider
from pytest_glasshouse.providers.runpod_sdk import RunPodSdkProvider
from pytest_glasshouse.providers.vastai import open_vastai


def test_runpods_key_is_the_environments_then_the_sdks_files(tmp_path: Path) -> None:
    config = tmp_path / ".runpod" / "config.toml"
    config.parent.mkdir()
    config.write_text('[default]\napi_key = "from-the-file"\n')
    config.chmod(0o600)
    home = {"HOME": str(tmp_path)}
    assert runpod_key(home).reveal() == b"from-the-file"
    assert runpod_key({**home, "RUNPOD_API_KEY": "from-the-environment"}).reveal() == b"from-the-environment"


@pytest.mark.parametrize("text", ["", "not toml [", "[default]\n", "default = 3\n", '[other]\napi_key = "a"\n'])
def test_a_file_without_a_key_is_an_error_that_names_what_was_expected(tmp_path: Path, text: str) -> None:
    config = tmp_path / ".runpod" / "config.toml"
    config.parent.mkdir()
    config.write_text(text)
    config.chmod(0o600)
    with pytest.raises(CredentialsError, match="RUNPOD_API_KEY"):
        runpod_key({"HOME": str(tmp_path)})


def test_no_key_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="VAST_API_KEY"):
        vast_key({})
    with pytest.raises(CredentialsError, match="RUNPOD_API_KEY"):
        runpod_key({"HOME": str(tmp_path)})


def test_a_key_that_could_inject_a_header_is_refused() -> None:
    with pytest.raises(CredentialsError) as caught:
        vast_key({"VAST_API_KEY": "key\r\nX-Evil: 1"})
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.runpod.io",
        "ftp://127.0.0.1",
        "https://",
        "api.runpod.io",
        "https://user@h",
        "https://h?a=1",
        "http://127.0.0.1.evil.example",
    ],
)
def test_a_base_url_that_would_show_the_key_to_others_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="RUNPOD_API_BASE_URL"):
        api_url({"RUNPOD_API_BASE_URL": url}, "RUNPOD_API_BASE_URL", RUNPOD_URL)


def test_only_the_providers_own_address_is_not_simulated() -> None:
    environ = {"RUNPOD_API_KEY": "key-1", "VAST_API_KEY": "key-2"}
    assert not open_runpod(environ).simulated
    assert not open_vastai(environ).simulated
    assert open_runpod({**environ, "RUNPOD_API_BASE_URL": "http://127.0.0.1:9"}).simulated
    assert open_vastai({**environ, "VAST_URL": "https://mirror.example"}).simulated


def test_api_v2_is_used_unless_the_sdk_is_chosen() -> None:
    environ = {"RUNPOD_API_KEY": "key-1"}
    assert isinstance(open_runpod(environ), RunPodRestProvider)
    assert isinstance(open_runpod({**environ, "GLASSHOUSE_RUNPOD_API": "sdk"}), RunPodSdkProvider)
    with pytest.raises(ConfigurationError, match="expected rest or sdk"):
        open_runpod({**environ, "GLASSHOUSE_RUNPOD_API": "graphql"})
    for volume in ("vol_1", "vol_1:models", "vol_1:/a/../b", ":/models"):
        with pytest.raises(ConfigurationError, match="GLASSHOUSE_RUNPOD_VOLUME: expected the id of a network volume"):
            open_runpod({**environ, "GLASSHOUSE_RUNPOD_VOLUME": volume})
    with pytest.raises(ConfigurationError, match="by API v2 only"):
        open_runpod({**environ, "GLASSHOUSE_RUNPOD_VOLUME": "vol_1:/models", "GLASSHOUSE_RUNPOD_API": "sdk"})
    with pytest.raises(ConfigurationError, match="expected secure or community"):
        open_runpod({**environ, "GLASSHOUSE_RUNPOD_CLOUD": "cheap"})


def test_a_missing_sdk_package_is_an_error_that_names_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runpod", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pytest-glasshouse\[runpod\]'"):
        open_runpod({"RUNPOD_API_KEY": "key-1", "GLASSHOUSE_RUNPOD_API": "sdk"})


def test_opening_a_provider_imports_neither_the_sdk_nor_urllib3_before_they_are_used() -> None:
    code = (
        "import sys, pytest_glasshouse.plugin.hooks\n"
        "from pytest_glasshouse.providers.registry import open_provider\n"
        "open_provider('runpod'), open_provider('vastai')\n"
        "print(sorted({'runpod', 'urllib3', 'requests'} & set(sys.modules)))"
    )
    environ = {**os.environ, "RUNPOD_API_KEY": "a", "VAST_API_KEY": "b"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert result.stdout.strip() == "[]"
