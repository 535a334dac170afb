"""Several hosts on one machine, for MPI: network namespaces on a bridge, each with its own name, address and link.

    with hosts(2, "1gbit"):
        run(2, ["python", "-m", "mpi4py", "program.py"])       # two ranks on each host

Inside a host, ranks share memory; between hosts they speak TCP over links of the given rate. The hosts share out this machine's
cores, where there is one for each. Needs Linux, root, `ip`
and `tc` (iproute2), `unshare` (util-linux), and an MPICH whose mpiexec can be given a launcher of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BRIDGE = "autopar-bridge"
NETWORK = "10.78.0"
NEEDED = ("ip", "tc", "unshare")


def missing() -> str:
    """What this machine lacks to make hosts, in words; empty if nothing."""
    lacking = [tool for tool in NEEDED if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    return "" if os.geteuid() == 0 else "needs root"


@contextmanager
def hosts(number: int, rate: str) -> Iterator[None]:
    """`number` hosts, each behind a link of `rate` (as `tc` writes it: 1gbit), while the context lasts."""
    _remove()
    try:
        _sh(f"ip link add {BRIDGE} type bridge")
        _sh(f"ip addr add {NETWORK}.254/24 dev {BRIDGE}")
        _sh(f"ip link set {BRIDGE} up")
        for i in range(number):
            name = _name(i)
            _sh(f"ip netns add {name}")
            _sh(f"ip link add {name}-up type veth peer name eth0 netns {name}")
            _sh(f"ip link set {name}-up master {BRIDGE} up")
            _sh(f"ip -n {name} addr add {NETWORK}.{i + 1}/24 dev eth0")
            _sh(f"ip -n {name} link set lo up")
            _sh(f"ip -n {name} link set eth0 up")
            _sh(f"ip netns exec {name} tc qdisc add dev eth0 root tbf rate {rate} burst 256kb latency 100ms")
        yield
    finally:
        _remove()


def run(per_host: int, words: Sequence[str], mpiexec: str, timeout: float = 300.0) -> str:
    """Run `words` on `per_host` ranks of every host and return what they print; ends this program where they fail."""
    names = _present()
    with tempfile.TemporaryDirectory() as place:
        launcher = Path(place) / "enter"
        launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n')
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        where = ",".join(f"{name}:{per_host}" for name in names)
        command = [
            mpiexec, "-localhost", f"{NETWORK}.254", "-launcher", "ssh", "-launcher-exec", str(launcher),
            "-hosts", where, "-n", str(per_host * len(names)), *words,
        ]  # fmt: skip
        environment = os.environ | {"FI_PROVIDER": "tcp", "MPIR_CVAR_CH4_NETMOD": "ofi", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        sys.exit("the ranks failed:\n" + done.stdout[-2000:] + done.stderr[-3000:])
    return done.stdout


def enter(words: Sequence[str]) -> None:
    """What mpiexec calls in the place of ssh: ``enter [-x] HOST COMMAND...``."""
    rest = list(words)
    while rest[0].startswith("-"):
        rest.pop(0)
    name, *command = rest
    os.sched_setaffinity(0, cores(_present().index(name), len(_present()), sorted(os.sched_getaffinity(0))))
    inside = f"hostname {name}; {' '.join(command)}"
    os.execvp("ip", ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", inside])


def cores(place: int, number: int, every: Sequence[int]) -> Sequence[int]:
    """The cores of one of so many hosts: a share of its own, or all of them where there are fewer than hosts."""
    return every[place * len(every) // number : (place + 1) * len(every) // number] or every


def _name(i: int) -> str:
    return f"aphost{i}"


def _present() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return sorted(line.split()[0] for line in listed.splitlines() if line.startswith("aphost"))


def _remove() -> None:
    for name in _present():
        subprocess.run(["ip", "link", "del", f"{name}-up"], capture_output=True, check=False)
        _sh(f"ip netns del {name}")
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _sh(line: str) -> None:
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"`{line}` failed: {done.stderr.strip()}")


if __name__ == "__main__":
    enter(sys.argv[1:])
