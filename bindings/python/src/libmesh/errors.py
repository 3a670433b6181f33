"""What can go wrong, by what the caller should do about it: a subclass for each MESH_ERR_* of mesh/mesh.h."""
from __future__ import annotations

from ._mesh import ffi, lib


class MeshError(Exception):
    """A failure with its `code` (MESH_ERR_*, negative) and a `message` that says what was wrong and expected."""

    code: int
    message: str

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    @property
    def name(self) -> str:
        """The code's name, such as "not_found"."""
        return str(ffi.string(lib.mesh_strerror(self.code)).decode())

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class InvalidArgument(MeshError, ValueError):
    """The input or handle is wrong; do not retry."""


class NotFound(MeshError, LookupError):
    """There is no such object."""


class Unavailable(MeshError):
    """The other side cannot be reached; retry."""


class Compacted(MeshError):
    """The revision is gone; list again."""


class Conflict(MeshError):
    """Somebody else was first."""


class Capacity(MeshError):
    """A bound was reached: reduce, or raise the bound."""


class PermissionDenied(MeshError):
    """Refused; do not retry with the same credentials."""


class Corrupt(MeshError):
    """Stored or received bytes make no sense."""


class Cancelled(MeshError):
    """The mesh, or what belongs to it, is closed."""


class Timeout(MeshError, TimeoutError):
    """The deadline passed first."""


class Internal(MeshError):
    """A defect of libmesh."""


class NoMemory(MeshError, MemoryError):
    """An allocation failed; nothing was changed."""


class Busy(MeshError):
    """Not from this thread."""


_BY_CODE: dict[int, type[MeshError]] = {
    lib.MESH_ERR_INVALID_ARGUMENT: InvalidArgument,
    lib.MESH_ERR_NOT_FOUND: NotFound,
    lib.MESH_ERR_UNAVAILABLE: Unavailable,
    lib.MESH_ERR_COMPACTED: Compacted,
    lib.MESH_ERR_CONFLICT: Conflict,
    lib.MESH_ERR_CAPACITY: Capacity,
    lib.MESH_ERR_PERMISSION: PermissionDenied,
    lib.MESH_ERR_CORRUPT: Corrupt,
    lib.MESH_ERR_CANCELLED: Cancelled,
    lib.MESH_ERR_TIMEOUT: Timeout,
    lib.MESH_ERR_INTERNAL: Internal,
    lib.MESH_ERR_NO_MEMORY: NoMemory,
    lib.MESH_ERR_BUSY: Busy,
}


def make_error(code: int, message: str) -> MeshError:
    """The exception of a code; one that this version does not know is a plain MeshError."""
    return _BY_CODE.get(code, MeshError)(code, message)
