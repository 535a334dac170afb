"""What mpiexec starts in the place of Python: has `warm_ranks` fork a process that has torch already, and ends as it ends.

Imports next to nothing: ``python -IS warm_rank.py [options] -m mpi4py ...``. Under Open MPI Python itself takes its place.
"""

import contextlib
import json
import os
import signal
import socket
import sys

SOCKET = "AUTOPAR_TESTS_WARM"  # the path of the server's socket


def main():
    if "OMPI_COMM_WORLD_RANK" in os.environ:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    files = [0, 1, 2, *([int(os.environ["PMI_FD"])] if "PMI_FD" in os.environ else [])]
    request = {"files": files, "words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    text = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SOCKET])
        socket.send_fds(server, [len(text).to_bytes(4)], files)
        server.sendall(text)
        status = int(server.recv(16) or b"1")  # nothing comes if the server is gone
    if status < 0:
        with contextlib.suppress(OSError):  # some cannot be caught anyhow
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
