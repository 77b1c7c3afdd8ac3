"""What the user says of a site, parsed into what is no other option of `sbatch`."""

from __future__ import annotations

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.place_settings import OwnMachines, SlurmSite
from pytest_glasshouse.providers.slurm_options import SlurmOptions, gres_from, longest_minutes, minutes_from


def test_a_map_is_read_line_by_line_as_an_ini_file_has_it() -> None:
    assert gres_from('\n h100 = "gpu:h100:1"\na4000=gpu:a4000\n') == {"h100": "gpu:h100:1", "a4000": "gpu:a4000"}
    assert gres_from("") == {}


@pytest.mark.parametrize(
    "text", ["h100", "h100 = ", "h100 = tmp:1", "h100 = gpu:1 --uid=0", "h100 = 'gpu:h100:1' x", "=gpu", "H 100 = gpu"]
)
def test_a_line_that_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a line such as h100"):
        gres_from(text)


def test_a_job_over_several_nodes_has_one_first_process_and_the_gpus_on_each() -> None:
    options = SlurmOptions(gres={"h100": "gpu:h100:1"})
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gres=gpu:h100:4"} <= {
        *options.arguments("name", gres="gpu:h100:4", minutes=1, nodes=2)
    }


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30", 30), ("1:30", 2), ("2:00:00", 120), ("0:10:01", 11), ("1-12", 36 * 60), ("2-00:30:00", 48 * 60 + 30), ("", None)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, minutes: int | None) -> None:
    assert minutes_from(text) == minutes


@pytest.mark.parametrize("text", ["soon", "-1", "0", "1:2:3:4", "1h", "10; id", "\u0661"])
def test_what_is_no_time_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--glasshouse-slurm-time"):
        minutes_from(text)


@pytest.mark.parametrize("name", ["partition", "account", "qos", "login", "container_image", "stream"])
@pytest.mark.parametrize("value", ["-x", "--uid=0", "a b", "a\nb", "a;b", "$(id)", "a" * 600])
def test_a_value_that_could_be_something_else_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--glasshouse-slurm-{name.replace('_', '-')}") as caught:
        SlurmOptions.of(SlurmSite(**{name: value}))
    assert str(caught.value).isprintable()


def test_every_job_stays_on_one_node_and_is_never_requeued() -> None:
    options = SlurmOptions.of(SlurmSite(partition="gpu", account="physics", qos="normal", container_image="site/torch:2"))
    arguments = options.arguments("glasshouse-x", gres="gpu:h100:1", minutes=30)
    assert {
        "--job-name=glasshouse-x", "--gres=gpu:h100:1", "--time=30", "--partition=gpu", "--account=physics", "--qos=normal", "--nodes=1",
        "--container-image=site/torch:2", "--no-requeue", "--output=/dev/null",
    } <= set(arguments)  # fmt: skip


def test_nothing_is_said_of_what_the_user_did_not_name() -> None:
    arguments = SlurmOptions.of(SlurmSite()).arguments("x", gres="gpu:1", minutes=1)
    assert not [each for each in arguments if each.startswith(("--partition", "--account", "--qos", "--container"))]


def test_a_partitions_limit_is_found_in_sinfos_lines() -> None:
    listed = "gpu*|2:00:00\nshort|10:00\nlong|5-00:00:00\nfree|infinite\n"
    found = {name: longest_minutes(listed, name) for name in ("", "short", "long", "free", "short,gpu", "nowhere")}
    assert found == {"": 120, "short": 10, "long": 1440, "free": 1440, "short,gpu": 10, "nowhere": 1440}


def test_what_the_user_says_of_a_site_reaches_other_processes_by_the_environment() -> None:
    """The reaper and the commands: a process list shows none of it."""
    site = SlurmSite(
        login="me@login",
        gres="h100=gpu:h100:1",
        partition="gpu",
        account="a",
        qos="q",
        time="30",
        container_image="i",
        stream="ssh",
    )
    written = OwnMachines(slurm=site, remote_python="/p").to_environment()
    assert OwnMachines.from_environment(written).slurm == site
    assert "" not in written.values()
