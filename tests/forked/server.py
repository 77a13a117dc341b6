"""Imports once what chapters import, and forks a kernel when ipykernel_launcher.py asks for one.

`python server.py ADDRESS` listens at a Unix socket of that name until its standard input ends.
"""

import ast
import gc
import importlib
import os
import select
import signal
import socket
import sys
from pathlib import Path

os.environ["JPY_PARENT_PID"] = "2"  # read by the import: a kernel looks whether its parent lives
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel sets it

PRELOADED = (
    "attncourse.kernels",  # before triton: see its docstring
    "attncourse.bench",
    "attncourse.claims",
    "attncourse.grading.check",
    "attncourse.model",
    "attncourse.plots",
    "attncourse.widgets",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "seaborn",
)


def serve(address):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)  # who asks during the imports waits for them
        for name in PRELOADED:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the minders
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    mind(connection)


def mind(connection):
    """Fork a kernel, pass signals on to it, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    order = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    kernel = os.fork()
    if kernel == 0:
        connection.close()
        become_a_kernel(streams, *ast.literal_eval(order.decode()))
    ended = os.pidfd_open(kernel)
    while connection in select.select([connection, ended], [], [])[0]:
        for number in connection.recv(64) or [signal.SIGKILL]:  # nothing: the stand-in is dead
            signal_group(kernel, number)
            if number == signal.SIGKILL:
                select.select([ended], [], [])
                os._exit(0)
    _, status = os.waitpid(kernel, 0)
    connection.sendall(status.to_bytes(4, "big"))
    os._exit(0)


def signal_group(kernel, number):
    """Signal a kernel and what it started, as Jupyter does."""
    try:
        os.killpg(kernel, number)
    except ProcessLookupError:  # it has ended, or has no group yet
        pass


def become_a_kernel(streams, argv, folder, environment):
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    interpreted = os.environ.get("TRITON_INTERPRET")
    os.environ.clear()
    os.environ.update(environment)
    if interpreted:  # set by attncourse.kernels, which is imported already
        os.environ.setdefault("TRITON_INTERPRET", interpreted)
    os.chdir(folder)
    sys.argv[:] = argv
    sys.path.remove(str(Path(__file__).parent))
    from ipykernel import kernelapp

    status = 1
    try:
        kernelapp.launch_new_instance()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
