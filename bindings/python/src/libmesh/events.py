"""Events and the batches they come in. Nothing is decoded before it is asked for."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from ._mesh import ffi, lib
from ._native import Handle, call
from .objects import DECODERS, EventKind, Object, Objects

_KINDS = {int(kind): kind for kind in EventKind}
_TYPES = {0: Objects(0), **{int(bit): bit for bit in Objects}}


class Event:
    """One event. It keeps its batch alive, a few hundred KB at most: keep `object`, not events."""

    __slots__ = ("_c", "_batch", "_object")

    def __init__(self, c: Any, batch: Batch) -> None:
        self._c = c
        self._batch = batch
        self._object: Object | None = None

    @property
    def kind(self) -> EventKind:
        return _KINDS[self._c.kind]

    @property
    def type(self) -> Objects:
        """Of the object; Objects(0) without one."""
        return _TYPES[self._c.object]

    @property
    def sequence(self) -> int:
        """Grows with each change of this mesh; equal within a snapshot."""
        return int(self._c.sequence)

    @property
    def object(self) -> Object | None:
        """With UPSERT and DELETE, the object; of a deleted one only its key is told. Else None."""
        if self._object is None:
            decode = DECODERS.get(self._c.object)
            if decode is not None:
                self._object = decode(self._c)
        return self._object

    def __repr__(self) -> str:
        return f"<Event {self.kind.name} {self.sequence} {self.object!r}>"


class Batch(Sequence[Event]):
    """Events in order, some thousand at most when they come from a watch. Its memory is the library's, until the
    batch and its events are gone."""

    __slots__ = ("_handle", "_events", "_count")

    def __init__(self, handle: Any) -> None:
        self._handle = ffi.gc(handle, lib.mesh_batch_free)
        events, count = ffi.new("const mesh_event* const**"), ffi.new("size_t*")
        call(lib.mesh_batch_events, handle, events, count)
        self._events = events[0]
        self._count = int(count[0])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Event]:
        for c in ffi.unpack(self._events, self._count) if self._count else ():
            yield Event(c, self)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [Event(self._events[i], self) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"batch: expected an index below {self._count}, got {index}")
        return Event(self._events[index % self._count], self)

    def __repr__(self) -> str:
        return f"<Batch of {self._count} events>"


def take_batch(handle: Handle, function: Callable[..., int], *arguments: Any) -> Batch:
    """function(handle, *arguments, mesh_batch** out, mesh_error*)."""
    out = ffi.new("mesh_batch**")
    handle.call(function, *arguments, out)
    return Batch(out[0])
