"""The library's log lines, told to Python on a thread of Python's."""
from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from ._mesh import ffi, lib

#: Takes a level of the logging module, the part of the library that speaks, and the text.
LogFunction = Callable[[int, str, str], object]

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


def _to_function(log: LogFunction | logging.Logger) -> LogFunction:
    if isinstance(log, logging.Logger):
        logger = log
        return lambda level, subsystem, text: logger.log(level, "%s: %s", subsystem, text)
    return log


class LogReader:
    """Lines come by a socket, so that the mesh's thread never waits for Python; what finds no room there is counted
    and told."""

    def __init__(self, log: LogFunction | logging.Logger) -> None:
        self._function = _to_function(log)
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._state = ffi.new("mesh_python_log*")
        self._state.fd = self._writer.fileno()
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="libmesh-log", daemon=True)
        self._thread.start()

    def set_options(self, options: Any) -> None:
        options.log = ffi.addressof(lib, "mesh_python_write_log")
        options.log_user_data = self._state

    def close(self) -> None:
        """After the mesh is closed: the lines that wait are told first."""
        self._writer.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with self._reader:
            while line := self._reader.recv(8192):
                subsystem, _, text = line[1:].partition(b"\0")
                self._tell(_LEVELS[min(line[0], 3)], subsystem, text)
                dropped = self._state.dropped
                if dropped != self._told:
                    self._tell(logging.WARNING, b"log", b"%d lines were lost: they came faster than the log function "
                               b"took them" % (dropped - self._told))
                    self._told = dropped

    def _tell(self, level: int, subsystem: bytes, text: bytes) -> None:
        try:
            self._function(level, subsystem.decode("utf-8", "replace"), text.decode("utf-8", "replace"))
        except Exception:
            logging.getLogger("libmesh").exception("the log function failed")
