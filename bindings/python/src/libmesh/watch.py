"""Following the mesh: a snapshot first, then every change of it in order."""
from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ._mesh import ffi, lib
from ._native import Handle, check_number, text, to_milliseconds, warn_unclosed
from .errors import Cancelled, Timeout, make_error
from .events import Batch, Event
from .objects import Objects

if TYPE_CHECKING:
    import asyncio

    from .mesh import Mesh


class Watch:
    """Events, by `for` or `async for`, one by one or in batches(); ends when it or its mesh is closed.

    After SNAPSHOT_BEGIN, UPSERTs and SNAPSHOT_END come UPSERT and DELETE as things change. Who reads too slowly gets
    a new snapshot instead of what was dropped. Waiting in `for` is ended by Ctrl-C, or by close() from another
    thread; `async for` waits for the file descriptor in the running loop, without a thread.
    """

    def __init__(self, owner: Mesh, mesh: Handle, objects: Objects, max_queued_bytes: int) -> None:
        self._owner = owner
        self._fd = -1
        self._lock = threading.RLock()  # guards _fd and _pollers
        self._pollers = 0
        self._awaited = False
        self._rest: Iterator[Event] = iter(())
        options = ffi.new("mesh_subscribe_options*")
        options.struct_size = ffi.sizeof("mesh_subscribe_options")
        options.objects = check_number("objects", objects, 0xffffffff)
        options.max_queued_bytes = check_number("max_queued_bytes", max_queued_bytes, (1 << 64) - 1)
        out, fd = ffi.new("mesh_subscription**"), ffi.new("int*")
        mesh.call(lib.mesh_subscribe, options, out)
        self._handle = Handle("watch", out[0], lib.mesh_subscription_close)
        self._handle.call(lib.mesh_subscription_fd, fd)
        # One of our own: it is still there, and readable, while the library closes its.
        self._fd = os.dup(fd[0])

    def fileno(self) -> int:
        """Readable while there is something to read with next_batch(0): for select(), selectors and foreign loops."""
        self._handle.get()
        return self._fd

    @property
    def closed(self) -> bool:
        return not self._handle.is_open

    def close(self) -> None:
        """Ends it; who waits in it is told. May be called from any thread, and more than once."""
        self._handle.close()
        with self._lock:
            if self._pollers == 0:
                self._close_fd()

    def next_batch(self, timeout: float | None = None) -> Batch:
        """The next events, some thousand at most.

        @param timeout seconds; 0 = only look, None = no limit
        @raises Timeout: there is nothing; Cancelled: closed, nothing will come
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (batch := self._take()) is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            # Python's poll, not the library's wait: signal handlers run in it.
            if not self._poll(left):
                raise Timeout(lib.MESH_ERR_TIMEOUT, "there is nothing to tell")
        return batch

    def batches(self) -> Batches:
        """The same events in batches, by `for` or `async for`: cheaper where there are many."""
        return Batches(self)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            for event in self._rest:
                return event
            try:
                self._rest = iter(self.next_batch())
            except Cancelled:
                self.close()
                raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            for event in self._rest:
                return event
            self._rest = iter(await self._next_batch_async())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        forgotten = handle is not None and handle.is_open
        if handle is not None:
            handle.close()
        self._close_fd()
        closed = self._owner.closed
        del self._owner  # who keeps the warning does not keep the mesh
        if forgotten and not closed:
            warn_unclosed(self)

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take(self) -> Batch | None:
        """The next events if there are some."""
        out, error = ffi.new("mesh_batch**"), ffi.new("mesh_error*")
        error.struct_size = ffi.sizeof("mesh_error")
        code = lib.mesh_subscription_next(self._handle.get(), 0, out, error)
        if code == lib.MESH_OK:
            return Batch(out[0])
        if code == lib.MESH_ERR_TIMEOUT:
            return None
        if code == lib.MESH_ERR_INVALID_ARGUMENT and not self._handle.is_open:
            raise self._handle.closed_error()  # by another thread, since get()
        raise make_error(code, text(error.message))

    def _enter_poll(self) -> int:
        with self._lock:
            self._handle.get()
            self._pollers += 1
            return self._fd

    def _leave_poll(self) -> None:
        with self._lock:
            self._pollers -= 1
            if self._pollers == 0 and not self._handle.is_open:
                self._close_fd()

    def _poll(self, timeout: float | None) -> bool:
        fd = self._enter_poll()
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(to_milliseconds(timeout)))
        finally:
            self._leave_poll()

    async def _next_batch_async(self) -> Batch:
        import asyncio  # 10 MB: for those only who use it

        try:
            # Others get their turn between batches, also when there is always a next one.
            await asyncio.sleep(0)
            while (batch := self._take()) is None:
                await self._readable()
            return batch
        except Cancelled:
            self.close()
            raise StopAsyncIteration from None

    async def _readable(self) -> None:
        if self._awaited:
            raise RuntimeError("a watch can be awaited by one task at a time: give each task a watch of its own")
        import asyncio

        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        fd = self._enter_poll()
        self._awaited = True
        try:
            loop.add_reader(fd, _wake, readable)
            await readable
        finally:
            loop.remove_reader(fd)
            self._awaited = False
            self._leave_poll()


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


class Batches:
    """A watch's events in batches."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return self._watch.next_batch()
        except Cancelled:
            self._watch.close()
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        return await self._watch._next_batch_async()


class Subscription:
    """A watch whose batches are told to a callback, on a thread of its own. An exception that leaves the callback is
    logged (logger "libmesh") and ends it."""

    def __init__(self, watch: Watch, callback: Callable[[Batch], object]) -> None:
        self._watch = watch
        self._thread = threading.Thread(target=_tell, args=(watch, callback), name="libmesh-events", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._watch.closed

    def close(self) -> None:
        """Ends it. After its return no callback runs or begins, unless this is called from within it."""
        self._watch.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.is_alive():
            self._watch.close()
            warn_unclosed(self)


def _tell(watch: Watch, callback: Callable[[Batch], object]) -> None:
    try:
        for batch in watch.batches():
            callback(batch)
    except Exception:
        import logging
        logging.getLogger("libmesh").exception("the callback of on_events() failed and is not called any more")
    finally:
        watch.close()
