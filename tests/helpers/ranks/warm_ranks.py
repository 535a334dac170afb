"""A process that has imported the runtime once and forks ranks from it: importing torch is most of what a small job costs.

mpiexec starts `warm_rank`, which hands its standard files, its connection to mpiexec, its words, folder and environment to
this process, whose fork is the rank: MPI is started in it and not before, by an mpiexec that is none the wiser. When either
is killed, the other is. What is different from a job of a user's: ranks hash alike, their /proc/PID/environ is this
process's, and a rank's parent is not mpiexec. Tests of that start their ranks cold.
"""

import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from warm_rank import SOCKET

CLIENT = Path(__file__).with_name("warm_rank.py")
SERVERS: list[subprocess.Popen[str]] = []


def warm(line):
    """This mpiexec line, such that its ranks are forked. Its environment must have `found_by`."""
    if not sys.platform.startswith("linux"):
        return line
    at = line.index(sys.executable)
    return [*line[: at + 1], "-IS", str(CLIENT), *line[at + 1 :]]


def python(code, **environment):
    """Run ``python -c code`` in a process that is forked. Returns it, ended, with what it has written."""
    line, variables = warm([sys.executable, "-c", code]), os.environ | found_by() | environment
    return subprocess.run(line, capture_output=True, text=True, check=False, env=variables, stdin=subprocess.DEVNULL)


@functools.cache
def found_by():
    """Start the server, which ends with this process, and return the entry of the environment that finds it."""
    if not sys.platform.startswith("linux"):
        return {}
    path = Path(tempfile.mkdtemp(prefix="autopar-warm-")) / "socket"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout.readline() == "ready\n"
    SERVERS.append(process)  # its pipe is open for as long as this process lives
    return {SOCKET: str(path)}


def serve(path):
    """Fork a rank per connection; returns its request in the rank. The server ends when its standard input does."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    ranks = {}
    with selectors.DefaultSelector() as events:
        for file in (listener, sys.stdin):
            events.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fileobj is sys.stdin:
                    end(ranks, path)
                elif key.fileobj is listener:
                    connection, request, files = accepted(listener)
                    pid = os.fork()
                    if pid == 0:
                        for other in (listener, connection, *ranks.values()):
                            other.close()
                        return request, files
                    for file in files:
                        os.close(file)
                    ranks[pid] = connection
                    events.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    events.register(connection, selectors.EVENT_READ, pid)
                elif key.data not in ranks:  # both of its files were ready
                    continue
                elif key.fileobj is ranks[key.data]:  # its client was killed
                    events.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                else:
                    report(events, key, ranks.pop(key.data))


def accepted(listener):
    connection, _ = listener.accept()
    size, files, _, _ = socket.recv_fds(connection, 4, 8)
    text = b""
    while len(text) < int.from_bytes(size):
        text += connection.recv(1 << 20)
    return connection, json.loads(text), files


def report(events, key, connection):
    """Tell the client of a rank that has ended how it did."""
    events.unregister(key.fileobj)
    os.close(key.fileobj)
    status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
    if connection in {one.fileobj for one in events.get_map().values()}:
        events.unregister(connection)
        with contextlib.suppress(OSError):  # it was killed just now
            connection.sendall(str(status).encode())
    connection.close()


def end(ranks, path):
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    Path(path).unlink()
    Path(path).parent.rmdir()
    os._exit(0)


def become(request, files):
    """Take the place of the process that asked."""
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 100) for file in files]  # no two stand in each other's place
    for file in files:
        os.close(file)
    for file, number in zip(aside, request["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    eager = "PYTHONUNBUFFERED" in os.environ
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for number, name in ((1, "stdout"), (2, "stderr")):
        raw = io.FileIO(number, "wb", closefd=False)
        file = raw if eager else io.BufferedWriter(raw)
        text = io.TextIOWrapper(file, line_buffering=number == 2, write_through=eager)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def run(words):
    """``python [-P] -m module words...`` or ``python -c code words...``, with PYTHONPATH as it is now."""
    safe = words[0] == "-P"
    option, text, *rest = words[safe:]
    assert option in ("-c", "-m"), words
    sys.path[:0] = [*([] if safe else [str(Path.cwd())]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = [text if option == "-m" else option, *rest]
    if option == "-m":
        runpy.run_module(text, run_name="__main__", alter_sys=True)
    else:
        exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})


def main():
    importlib.import_module("autopar.runtime")
    importlib.import_module("hypothesis")
    importlib.import_module("pytest")
    gc.freeze()
    request, files = serve(sys.argv[1])
    del sys.path[0]  # the folder of this file
    become(request, files)
    run(request["words"])


if __name__ == "__main__":
    main()
