"""Calls into libmesh.so: errors become exceptions, handles know whether they may still be used.

No Python code ever runs on a thread of the library, so that dropping the last reference to a handle is safe wherever
it happens. cffi releases the GIL in every call.
"""
from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from ._mesh import ffi, lib
from .errors import Cancelled, InvalidArgument, make_error

if lib.mesh_abi_version() < lib.MESH_ABI_VERSION:
    raise ImportError(f"libmesh.so has ABI version {lib.mesh_abi_version()}, older than {lib.MESH_ABI_VERSION}, that "
                      f"this package was built with: install the newer library, or build the package again")

# How long a signal handler of Python may have to wait for a call that waits in the library.
SLICE_MS = 100

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def text(pointer: Any) -> str:
    """A text of the library; what a cluster published as broken UTF-8 is shown with replacement characters."""
    return str(ffi.string(pointer), "utf-8", "replace")


def to_c(name: str, value: str | bytes) -> Any:
    """Memory for a text option. The caller keeps it until the call that takes it has returned."""
    raw = value.encode() if isinstance(value, str) else value
    if b"\0" in raw:
        raise InvalidArgument(lib.MESH_ERR_INVALID_ARGUMENT, f"{name}: expected a text without NUL")
    return ffi.new("char[]", raw)


def check_number(name: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise InvalidArgument(lib.MESH_ERR_INVALID_ARGUMENT, f"{name}: expected 0 to {most}, got {value}")
    return value


def to_milliseconds(timeout: float | None) -> int:
    """Seconds of Python, where None is no limit, as the C ABI takes them."""
    return -1 if timeout is None else max(0, min(int(timeout * 1000), 1 << 40))


def call(function: Callable[..., int], *arguments: Any) -> None:
    """function(*arguments, mesh_error*), or its exception."""
    error = ffi.new("mesh_error*")
    error.struct_size = ffi.sizeof("mesh_error")
    code = function(*arguments, error)
    if code != lib.MESH_OK:
        raise make_error(code, text(error.message))


def warn_unclosed(what: object) -> None:
    """Of something that was forgotten and is closed by now: -W error may make an exception of it."""
    warnings.warn(f"unclosed {what!r}: use it in a with statement, or close() it", ResourceWarning, stacklevel=3,
                  source=what)


class Handle:
    """A handle of the library with the function that ends it. Any thread may use or close it at any time."""

    __slots__ = ("_what", "_pointers", "_close", "_forks")

    def __init__(self, what: str, pointer: Any, close: Callable[[Any], int]) -> None:
        self._what = what
        self._pointers = [pointer]  # empty when closed: only one thread can pop it
        self._close = close
        self._forks = _forks

    @property
    def is_open(self) -> bool:
        return bool(self._pointers) and self._forks == _forks

    @property
    def of_parent(self) -> bool:
        return self._forks != _forks

    def get(self) -> Any:
        if self.of_parent:
            raise InvalidArgument(lib.MESH_ERR_INVALID_ARGUMENT,
                                  f"{self._what}: it is of the parent process and does not work after fork(); "
                                  f"open one in the child")
        try:
            return self._pointers[0]
        except IndexError:
            raise self.closed_error() from None

    def closed_error(self) -> Cancelled:
        return Cancelled(lib.MESH_ERR_CANCELLED, f"{self._what}: it is closed")

    def call(self, function: Callable[..., int], *arguments: Any) -> None:
        """function(this, *arguments, mesh_error*), or its exception."""
        try:
            call(function, self.get(), *arguments)
        except InvalidArgument:
            # Another thread may have closed it since get().
            if not self._pointers:
                raise self.closed_error() from None
            raise

    def take_text(self, function: Callable[..., int], *arguments: Any) -> str:
        """function(this, *arguments, char** out, mesh_error*)."""
        out = ffi.new("char**")
        self.call(function, *arguments, out)
        try:
            return text(out[0])
        finally:
            lib.mesh_text_free(out[0])

    def close(self) -> None:
        """Ends it, once; a parent's handle is only forgotten."""
        try:
            pointer = self._pointers.pop()
        except IndexError:
            return
        if self._forks != _forks:
            return
        code = self._close(pointer)
        if code != lib.MESH_OK:
            raise make_error(code, f"{self._what}: close")
