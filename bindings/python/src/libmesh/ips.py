"""Very many ips at once, without a Python object for each."""
from __future__ import annotations

from typing import Any

from ._mesh import ffi, lib
from ._native import Handle
from .errors import Capacity

#: A record of read_ips() for struct.iter_unpack(): address and host (16 bytes each, network order, IPv4 as
#: ::ffff:a.b.c.d, a host of zeros = not told), identity, cluster id, prefix length, family (4 or 6), encryption key.
IP_RECORD_FORMAT = "=16s16sIIBBB5x"

_SIZE: int = ffi.sizeof("mesh_ip_record")


def ip_record_dtype() -> Any:
    """numpy's dtype of a record: the fields of mesh_ip_record, the addresses as 16 bytes (uint8) each."""
    import numpy

    formats = {"address": ("u1", (16,)), "host": ("u1", (16,)), "identity": "u4", "cluster_id": "u4"}
    fields = [(name, at) for name, at in ffi.typeof("mesh_ip_record").fields if name != "reserved"]
    return numpy.dtype({"names": [name for name, _ in fields],
                        "formats": [formats.get(name, "u1") for name, _ in fields],
                        "offsets": [at.offset for _, at in fields],
                        "itemsize": _SIZE})


def read_ips(mesh: Handle, numpy: bool) -> Any:
    """@return an array of records, or a memoryview of them"""
    count = ffi.new("size_t*")
    try:
        mesh.call(lib.mesh_read_ips, ffi.NULL, _SIZE, 0, count)
    except Capacity:
        pass
    while True:
        # Some may come between the calls.
        capacity = count[0] + count[0] // 64 + 64
        array, memory = _allocate(capacity, numpy)
        try:
            mesh.call(lib.mesh_read_ips, ffi.from_buffer(memory), _SIZE, capacity, count)
        except Capacity:
            continue
        return array[:count[0]] if numpy else memory[:count[0] * _SIZE]


def _allocate(capacity: int, numpy: bool) -> tuple[Any, Any]:
    """@return what is given out, and its memory as bytes"""
    if not numpy:
        memory = memoryview(bytearray(capacity * _SIZE))
        return memory, memory
    import numpy as np

    array = np.empty(capacity, dtype=ip_record_dtype())
    return array, array.view("u1")
