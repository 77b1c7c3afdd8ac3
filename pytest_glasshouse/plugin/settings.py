"""Every option of the plugin in one table: its name in each place it may be written, and how its text becomes a value.

This module knows single values. It refuses to know which source wins and which options exclude each other; `options` does.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pytest_glasshouse.providers.requirements import CudaVersion

from pytest_glasshouse.providers.places import PLACES
from pytest_glasshouse.wire.documentation import page

_LONGEST_SHOWN = 60
_LONGEST_PATH = 1024
ORDERS = ("row", "raw-first", "protected-first", "interleaved")
PROVIDERS = (*PLACES, "row")
PRESETS = ("quick", "standard", "publish")
ALLOCATIONS = ("shared", "row")
_WHERE = ", ".join(f"{name} ({place.where})" for name, place in PLACES.items())
_BOOT_TIMEOUTS = ", ".join(f"{name}: {place.boot_timeout_s:g}" for name, place in PLACES.items())
MODEL_SOURCES = ("there", "hub", "pushed")
STAND_INS = ("tiny", "0.5b", "7b")

#: Variables that are read elsewhere and are not options of pytest.
OTHER_VARIABLES = (
    "GLASSHOUSE_INIT", "GLASSHOUSE_LOCKS", "GLASSHOUSE_RUNPOD_API", "GLASSHOUSE_RUNPOD_CLOUD", "GLASSHOUSE_RUNPOD_VOLUME", "GLASSHOUSE_SIGNING_KEY",
)  # fmt: skip


class Setting:
    """One option: its name in every place a user may write it, and how its text becomes a value.

    No dataclass, which takes half a millisecond to make: every start of pytest makes this class.
    """

    def __init__(
        self,
        name: str,
        parse: Callable[[str], Any],
        help: str,  # noqa: A002  (as argparse calls it)
        metavar: str | None = None,
        short: str | None = None,
        ini_type: Literal["string", "int", "float", "bool", "args"] = "string",
    ) -> None:
        self.name, self.parse, self.help = name, parse, help
        self.metavar, self.short, self.ini_type = metavar, short, ini_type

    @property
    def flag(self) -> str:
        return "--glasshouse-" + self.name.replace("_", "-")

    @property
    def dest(self) -> str:
        return "glasshouse_" + self.name

    @property
    def variable(self) -> str:
        return "GLASSHOUSE_" + self.name.upper()

    def argparse(self) -> dict[str, str | None]:
        """Keyword arguments for `addoption`. Values stay text: one parser serves all three places."""
        if self.ini_type == "bool":
            return {"dest": self.dest, "action": "store_const", "const": "yes", "default": None}
        action = {"action": "append"} if self.ini_type == "args" else {}
        return {"dest": self.dest, "default": None, "metavar": self.metavar, **action}


def _one_of(values: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"{text!r} is not one of {', '.join(values)}{_did_you_mean(text, values)}")
        return text

    return parse


def _fault(text: str) -> str:
    from pytest_glasshouse.providers.mock_faults import FAULTS  # a start of pytest without a fault imports no provider

    return _one_of(tuple(FAULTS))(text)


def _did_you_mean(text: str, values: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(text, values, n=1, cutoff=0.5)
    return f". Did you mean {close[0]}?" if close else ""


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.strip()
        value = int(digits) if re.fullmatch(r"[+-]?[0-9]{1,15}", digits) else least - 1
        if value < least:
            raise ValueError(f"expected a whole number of at least {least}, saw {_shown(text)}")
        return value

    return parse


def _number(*, positive: bool = True) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (positive and value <= 0):
            raise ValueError(f"expected a finite number{' above 0' if positive else ''}, saw {_shown(text)}")
        return value

    return parse


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


def _switch(text: str) -> bool:
    value = text.strip().lower()
    if value not in ("yes", "true", "1", "on", "no", "false", "0", "off"):
        raise ValueError(f"expected yes or no, saw {text!r}")
    return value in ("yes", "true", "1", "on")


def _text(text: str) -> str:
    return text.strip()


def _path(text: str) -> Path:
    from pytest_glasshouse.errors import ConfigurationError
    from pytest_glasshouse.wire.folder import expanded

    try:
        return expanded(text)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _cuda(text: str) -> CudaVersion:
    from pytest_glasshouse.providers.requirements import CudaVersion

    return CudaVersion.parse(text)


def _guest_path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable() or ".." in text.split("/") or len(text) > _LONGEST_PATH:
        raise ValueError(f"expected an absolute path of the guest, saw {_shown(text)}")
    return text


def _model(text: str) -> str:
    path = _path(text)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{text!r} is not a model directory: it has no config.json")
        return str(path.resolve())
    if path.exists() or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or not text.strip():
        raise ValueError(f"{text!r} is neither a model directory nor a hub id such as Qwen/Qwen2.5-0.5B-Instruct")
    return text


SETTINGS: tuple[Setting, ...] = (
    Setting("order", _one_of(ORDERS), "which leg runs first: row (each row's own), raw-first, protected-first; or interleaved: both in turns", "ORDER", "--order"),
    Setting("provider", _one_of(PROVIDERS),
            f"where the legs run: {_WHERE}, or row (where each row was published)", "NAME", "--provider"),
    Setting("budget", _number(), "most that this run may spend; renting without one needs a terminal and a yes", "USD", "--budget", "float"),
    Setting("max_price", _number(), "most that an allocation may cost per hour", "USD", ini_type="float"),
    Setting("max_gpu_hours", _number(), "most GPU-hours that this run may take where no money is known (ssh, slurm)", "HOURS", ini_type="float"),
    Setting("rounds", _whole(1), "rounds per row, in place of each row's own", "N", ini_type="int"),
    Setting("fixed_order", _switch, "keep one order in all rounds of a row", ini_type="bool"),
    Setting("preset", _one_of(PRESETS), "time of interleaved rows, cut into as many rounds as it holds: quick, standard, publish", "NAME"),
    Setting("leg_seconds", _number(), "let every leg train this long, in place of each row's target", "SECONDS", ini_type="float"),
    Setting("leg_steps", _whole(1), "let every leg train this many steps or epochs, in place of each row's target", "N", ini_type="int"),
    Setting("margin", _number(), "equivalence margin in percentage points, in place of each row's own (1)", "POINTS", ini_type="float"),
    Setting("half_width", _number(), "half width of the interval that rows are extended to, once, after their first rounds", "POINTS", ini_type="float"),
    Setting("seed", _whole(0), "seed of every random choice of the run; drawn and recorded if not given", "N", ini_type="int"),
    Setting("max_overhead", _number(positive=False),
            "a row passes only if its one-sided 95 %% upper bound is at most this", "PERCENT", ini_type="float"),
    Setting("sequential", _switch,
            "judge a row under --glasshouse-max-overhead after 5, 7, 9, 12, 16, 20 and 24 rounds, and end it where it is decided", ini_type="bool"),
    Setting("publishable", _switch, "a row that is not publishable fails (for a release gate; needs a provider)", ini_type="bool"),
    Setting("allocation", _one_of(ALLOCATIONS), "shared (one per provider, GPU and image) or row (one per row)", "HOW"),
    Setting("boot_timeout", _number(), f"seconds until a new allocation must run ({_BOOT_TIMEOUTS})", "SECONDS", ini_type="float"),
    Setting("queue_timeout", _number(positive=False), "seconds to wait for a GPU that others use, where it costs nothing (ssh: 0, which refuses at once)", "SECONDS", ini_type="float"),
    Setting("leg_timeout", _number(), "seconds until a leg must have ended", "SECONDS", ini_type="float"),
    Setting("allow_simulated", _switch, "accept a provider whose base URL is not its own; its rows are dry runs", ini_type="bool"),
    Setting("sweeper", _text, "name of the scheduled job that runs `glasshouse reap --expired`; needed to rent where CI is set", "NAME"),
    Setting("strict_memory", _switch, f"both legs overwrite freed memory at once (glibc); slower, see {page('writing-rows')}", ini_type="bool"),
    Setting("report", _path, "report to write (default: reports/<run-id>.json)", "PATH"),
    Setting("report_dir", _path, "directory for reports that --glasshouse-report does not name a path of (default: reports)", "DIR"),
    Setting("html", _switch, "also write the report as a page, beside it", ini_type="bool"),
    Setting("resume", _text, "resume an earlier run: keep its judged rows, run the rest (run id, its directory, or its report)", "RUN"),
    Setting("mock_fault", _fault, "a fault that the mock provider plays; repeatable", "FAULT", ini_type="args"),
    Setting("server", _text, "URL of an attestation server (`glasshouse serve`), in place of one in this process", "URL"),
    Setting("server_key", _text, "its public key: a file, or the key itself", "KEY"),
    Setting("server_ca", _path, "PEM file of the authority that signed its TLS certificate, where that is no public one", "FILE"),
    Setting("owner_key", _path, "the owner's key that the server works for: a file made by `glasshouse keygen`", "FILE"),
    Setting("policy", _path, "a policy file (`glasshouse policy capture`) that every protected leg must satisfy beside what the host knows", "FILE"),
    Setting("image", _text, f"image of rented guests, pinned by digest ({page('guest-image')})", "NAME@sha256:DIGEST"),
    Setting("min_cuda", _cuda,
            "CUDA version that a rented machine's driver must support (13.0 is driver 580); default: what the image's tag names", "VERSION"),
    Setting("min_gpu_memory", _number(), "least memory of a rented GPU", "GB", ini_type="float"),
    Setting("min_memory", _number(), "least memory of a rented machine (not on RunPod's API v2)", "GB", ini_type="float"),
    Setting("min_disk", _whole(1), "least disk of a rented machine; base models are added to 40 in any case", "GB", ini_type="int"),
    Setting("host", _text, "a machine of your own, by the name that `ssh NAME` accepts (provider ssh); repeatable", "NAME", ini_type="args"),
    Setting("remote_python", _text, "the Python of these machines in which torch is installed (python3)", "PATH"),
    Setting("gpu", _text, "the GPU of these machines to use, by UUID or index; default: any that the row names", "UUID"),
    Setting("slurm_login", _text, "a login node of the cluster, by the name that `ssh NAME` accepts; default: Slurm's clients are on this machine", "NAME"),
    Setting("slurm_gres", _text, "what to ask Slurm for by a row's GPU, one a line: h100 = \"gpu:h100:1\"", "MAP"),
    Setting("slurm_partition", _text, "the partition of jobs", "NAME"),
    Setting("slurm_account", _text, "the account of jobs", "NAME"),
    Setting("slurm_qos", _text, "the QOS of jobs", "NAME"),
    Setting("slurm_time", _text, "time limit of a job, as sbatch takes it (default: twice the estimate of its rows)", "LIMIT"),
    Setting("slurm_container_image", _text, "image for the site's own --container-image", "IMAGE"),
    Setting("slurm_stream", _one_of(("srun", "ssh")), "how a job is reached: srun, or ssh to its node where the site allows that", "HOW"),
    Setting("model", _model, "causal LM directory or hub id to train in every lora row, in place of the row's own", "MODEL"),
    Setting("stand_in", _one_of(STAND_INS),
            "random weights of this shape, made by the guest, in place of every lora row's model: tiny, or of Qwen2.5 0.5b, 7b", "SHAPE"),
    Setting("model_source", _one_of(MODEL_SOURCES),
            "how models reach rented guests: there (already, see --glasshouse-guest-models), hub (the guest downloads), pushed (by this machine); default: the first that can", "SOURCE"),
    Setting("guest_models", _guest_path, "directory of the guest that has models: in its image, or on a volume", "DIR"),
    Setting("push_limit", _number(), "largest model that this machine pushes to a guest (4)", "GB", ini_type="float"),
)  # fmt: skip
