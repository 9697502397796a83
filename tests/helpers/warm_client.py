"""Stands for a Python interpreter: has ``warm_server.py`` run the arguments, and ends as that run ends.

The process runs with the streams, the folder and the environment of this one. Signals are handed on to it; when this
process is killed, so is that one. ``warm_python.py`` puts a copy beside the socket, and a script that starts it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # until it is known whom they are for

folder = os.path.dirname(sys.argv[0])
link = socket.socket(socket.AF_UNIX)
link.connect(os.path.join(folder, "socket"))
content: dict[str, Any] = {"python": os.path.join(folder, "python"), "arguments": sys.argv[1:]}
content |= {"folder": os.getcwd(), "environment": dict(os.environ)}
request = json.dumps(content).encode()
socket.send_fds(link, [len(request).to_bytes(8, "big")], [0, 1, 2])
link.sendall(request)
pid = int.from_bytes(link.recv(8), "big")


def hand_on(number: int, frame: Any) -> None:
    os.kill(pid, number)


for handed_on in HANDED_ON:
    signal.signal(handed_on, hand_on)
signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
code = int.from_bytes(link.recv(8), "big", signed=True)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
