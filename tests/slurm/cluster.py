"""A real Slurm on this machine: munged, slurmctld and a slurmd for each node, on ports that nobody else takes, in a directory of its own.

It starts empty, shares nothing with a Slurm that the machine may have, and ends by SIGTERM, also when the process that started it dies.
A node's GPU is an ordinary file, so a job gets one and no more jobs than GPUs run at once; there is no device behind it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from tests.limits import HANG_S, until
from tests.loopback.ports import reserve_ports

PARTS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun", "scontrol")
#: Where Debian installs daemons, which the path of an ordinary user lacks.
_PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"

#: Sets PR_SET_PDEATHSIG to SIGTERM, so that a daemon ends with the process that started it, then becomes the daemon.
_PDEATHSIG = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])"""

_CONFIG = """ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1,sched_min_interval=10000
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
# As by default: a job on a busy machine is not killed before it has removed its files.
KillWait=30
SlurmdTimeout=5
InactiveLimit=0
MessageTimeout=2
MinJobAge=300
{extra}
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=8 RealMemory=8000 Gres=gpu:h100:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=02:00:00 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=02:00:00 State=UP PriorityTier=9
PartitionName=closed Nodes=ALL MaxTime=02:00:00 State=DOWN
PartitionName=lab Nodes=ALL MaxTime=02:00:00 State=UP AllowAccounts=physics
PartitionName=short Nodes=ALL MaxTime=00:10:00 State=UP
"""


def missing() -> tuple[str, ...]:
    """The programs that this machine lacks for a Slurm of its own."""
    return tuple(name for name in PARTS if shutil.which(name, path=_PATH) is None)


class Cluster:
    """A controller and its nodes; `environment` lets a client of Slurm find it."""

    def __init__(self, nodes: int = 2, *, gpus: int = 1, extra: str = "") -> None:
        """`gpus` of each node; `extra`: lines of its configuration. Starts it and waits until every node is idle. `SystemExit` and all that comes in between ends what was started."""
        # munged refuses a folder that others may write to, and a path of a unix socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="gsl-"))
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self._gpus = gpus
        self._extra = extra
        self.down: set[str] = set()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._environment: dict[str, str] = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self._configure()
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside its own environment."""
        return {**self._environment, "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"}

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's clients; its standard output."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=HANG_S, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """The jobs in the queue, by id, and their states; those that have ended stay there for a while."""
        lines = self.run("squeue", "-h", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def living(self) -> tuple[str, ...]:
        """The ids of the jobs that wait, run or are being ended."""
        return tuple(self.run("squeue", "-h", "-o", "%i").split())

    def names(self) -> tuple[str, ...]:
        """The names of this project's jobs, those that ended included."""
        listed = self.run("squeue", "-h", "-t", "all", "-o", "%j").split()
        return tuple(name for name in listed if name.startswith("glasshouse-"))

    def staying(self) -> tuple[str, ...]:
        """The ids of the jobs that nobody ends: those that are being ended are not among them."""
        states = self.run("squeue", "-h", "-o", "%i %T").splitlines()
        return tuple(line.split()[0] for line in states if not line.endswith("COMPLETING"))

    def stop_node(self, node: str) -> None:
        """Kill a node's daemon, as a node that loses its power: the controller declares it down."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        self.down.add(node)

    def start_node(self, node: str) -> None:
        """Start a node again and wait until it is idle."""
        self._start_daemon(node, "slurmd", "-D", "-N", node, "-f", f"{self.folder}/slurm.conf")
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        until(lambda: self._idle([node]), f"an idle node {node}")
        self.down.discard(node)

    def stop_controller(self) -> None:
        """End the controller; its state stays."""
        self._end("slurmctld")

    def start_controller(self) -> None:
        """Start it and wait until it answers."""
        self._start_daemon("slurmctld", "slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        until(self._ping, "a controller that answers")

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """A while in which nobody answers."""
        self.stop_controller()
        try:
            yield
        finally:
            self.start_controller()
            until(lambda: "unk" not in self.run("sinfo", "-h", "-N", "-o", "%T", check=False), "nodes that the controller knows")

    def end_jobs(self) -> None:
        """Cancel every job and wait until none is left."""
        if ids := self.living():
            self.run("scancel", *ids, check=False)
            until(lambda: not self.living(), "an empty queue")

    def close(self) -> None:
        """End every job and every daemon, and remove the directory."""
        with contextlib.suppress(Exception):
            if self._ping():
                self.end_jobs()
        for name in [*self.nodes, "slurmctld", "munged"]:
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        ports = reserve_ports(1 + len(self.nodes))
        (self.folder / "state").mkdir()
        for number in range(self._gpus):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "slurm.conf").write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=self.folder, controller=ports[0],
                extra=self._extra, gpus=self._gpus, nodes=f"n[1-{len(self.nodes)}]" if len(self.nodes) > 1 else "n1", ports=_range(ports[1:]),
            )
        )  # fmt: skip
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={node} Name=gpu Type=h100 File={self.folder}/gpu[0-{self._gpus - 1}]\n" for node in self.nodes)
        )
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o400)

    def _start(self) -> None:
        own = [f"--{name}={self.folder}/munge.{kind}" for name, kind in (
            ("socket", "sock"), ("key-file", "key"), ("log-file", "log"), ("pid-file", "pid"), ("seed-file", "seed"),
        )]  # fmt: skip
        self._start_daemon("munged", "munged", "-F", "--force", "--num-threads=2", "--group-update-time=0", *own)
        until((self.folder / "munge.sock").exists, "a munged that listens")
        self.start_controller()
        for node in self.nodes:
            self._start_daemon(node, "slurmd", "-D", "-N", node, "-f", f"{self.folder}/slurm.conf")
        until(lambda: self._idle(self.nodes), "idle nodes")

    def _start_daemon(self, name: str, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=_PATH)
        assert found is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PDEATHSIG, str(os.getpid()), found, *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", env={**self.environment, "LANG": "C"},
                start_new_session=True,
            )  # fmt: skip

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(HANG_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _ping(self) -> bool:
        self._check("slurmctld")
        return "is UP" in self.run("scontrol", "ping", check=False)

    def _idle(self, nodes: Sequence[str]) -> bool:
        for node in nodes:
            self._check(node)
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T", "-p", "gpu", check=False).splitlines()
        return {f"{node} idle" for node in nodes} <= {" ".join(line.split()) for line in states}

    def _check(self, name: str) -> None:
        daemon = self._daemons.get(name)
        if daemon is not None and daemon.poll() is not None:
            log = self.folder / {"slurmctld": "ctld.log"}.get(name, f"d.{name}.log")
            said = [path.read_text(errors="replace")[-1000:] for path in (self.folder / f"{name}.out", log) if path.exists()]
            raise AssertionError(f"{name} of the test's Slurm ended with {daemon.returncode}: {' '.join(said)}")


def _range(ports: Sequence[int]) -> str:
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"
