"""Stands in for ipykernel's launcher where PYTHONPATH names this folder: has a kernel forked.

A new kernel imports torch, Triton and matplotlib for seconds. server.py has imported them once,
and forks. The process that Jupyter started stays as the kernel's stand-in: it passes signals on,
ends as the kernel does, and the kernel ends with it.
"""

import os
import signal
import socket
import sys


def kernel_of_its_own():
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def forked(minder):
    order = repr((sys.argv, os.getcwd(), dict(os.environ))).encode()  # noqa: PTH109
    socket.send_fds(minder, [len(order).to_bytes(4, "big")], [0, 1, 2])
    minder.sendall(order)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: minder.send(bytes([number])))
    minder.settimeout(1)
    parent, status = os.getppid(), None
    while status is None and os.getppid() == parent:
        try:
            status = minder.recv(4)
        except TimeoutError:
            pass
    status = int.from_bytes(status or b"\1", "big")
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as minder:
        try:
            minder.connect(os.environ["ATTNCOURSE_FORKS"])
        except (KeyError, OSError):  # no server, or one that has ended
            kernel_of_its_own()
        else:
            forked(minder)
