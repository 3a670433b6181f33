"""A workload that no Kubernetes object describes (a VM, a process) registers itself in its cluster."""
from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._mesh import ffi, lib
from ._native import SLICE_MS, Handle, check_number, text, to_c, warn_unclosed
from .errors import Timeout

if TYPE_CHECKING:
    from .mesh import Mesh


class PublicationState(enum.IntEnum):
    """How a publication stands."""

    PENDING = lib.MESH_PUBLICATION_PENDING  #: etcd or the operator has not answered yet
    PUBLISHED = lib.MESH_PUBLICATION_PUBLISHED  #: the cluster has it as it was said
    REFUSED = lib.MESH_PUBLICATION_REFUSED  #: not in the mesh; tried again by itself
    CLOSED = lib.MESH_PUBLICATION_CLOSED  #: it has left


@dataclass(frozen=True, slots=True)
class WorkloadBackend:
    """A port of a workload that serves a Service of its cluster."""

    service: str  #: "namespace/name"
    port: int
    port_name: str = ""  #: that of the Service's port; "": its only one, without one
    protocol: str = "TCP"  #: "TCP", "UDP", "SCTP"


@dataclass(frozen=True, slots=True)
class Workload:
    """What a workload says of itself."""

    name: str  #: a DNS label; no other workload, and no pod of the namespace, has it
    ips: Sequence[str]  #: 1 to 16 texts: addresses that this host has and nothing else of the cluster
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)  #: make its security identity, as a pod's do
    backends: Sequence[WorkloadBackend] = ()  #: at most 64
    zone: str = ""  #: topology.kubernetes.io/zone; "" = not told
    node: bool = False  #: it is a node of the cluster, too, at these addresses and without pods
    lease_ttl: int = 15  #: seconds that it stays when this process ends without a word, 2 to 86400


def _to_options(workload: Workload, kept: list[Any]) -> Any:
    """@param kept takes what the options point to"""

    def keep(memory: Any) -> Any:
        kept.append(memory)
        return memory

    def keep_text(name: str, value: str) -> Any:
        return keep(to_c(name, str(value)))

    options = ffi.new("mesh_workload_options*")
    options.struct_size = ffi.sizeof("mesh_workload_options")
    options.name = keep_text("name", workload.name)
    options.namespace_ = keep_text("namespace", workload.namespace)
    options.zone = keep_text("zone", workload.zone)
    options.ips = keep(ffi.new("const char*[]", [keep_text("ips", ip) for ip in workload.ips]))
    options.ips_count = len(workload.ips)
    options.labels = labels = keep(ffi.new("mesh_pair[]", len(workload.labels)))
    options.labels_count = len(workload.labels)
    for c, (key, value) in zip(labels, workload.labels.items()):
        c.key, c.value = keep_text("labels", key), keep_text("labels", value)
    options.backends = backends = keep(ffi.new("mesh_workload_backend[]", len(workload.backends)))
    options.backends_count = len(workload.backends)
    for c, backend in zip(backends, workload.backends):
        c.service, c.port_name = keep_text("service", backend.service), keep_text("port_name", backend.port_name)
        c.protocol, c.port = keep_text("protocol", backend.protocol), check_number("port", backend.port, 65535)
    options.node = bool(workload.node)
    options.lease_ttl_seconds = check_number("lease_ttl", workload.lease_ttl, 0xffffffff)
    return options


class Publication:
    """A workload that is registered, over lost leases and etcds that restart, until this or its mesh is closed. Of a
    process that is killed it is gone when its lease ends. Any thread may use it."""

    def __init__(self, mesh: Mesh, handle: Handle, workload: Workload) -> None:
        self._mesh = mesh
        self._workload = workload
        kept: list[Any] = []
        out = ffi.new("mesh_publication**")
        handle.call(lib.mesh_publish, _to_options(workload, kept), out)
        self._handle = Handle(f"publication of {workload.name}", out[0], lib.mesh_publication_close)

    @property
    def workload(self) -> Workload:
        """What is said, with all updates."""
        return self._workload

    @property
    def state(self) -> PublicationState:
        return self._look()[0]

    @property
    def reason(self) -> str:
        """One sentence: what is waited for, why it is refused, or what a published one still lacks; "" = nothing."""
        return self._look()[1]

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it is published. In asyncio: `await asyncio.to_thread(publication.wait, timeout)`.

        @param timeout seconds; 0 = only look, None = no limit
        @raises Conflict: refused by the cluster's operator, or another process has the name; PermissionDenied: refused
                by etcd; Timeout: neither yet; Cancelled: closed, or its mesh
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE_MS if end is None else max(0, min(SLICE_MS, int((end - time.monotonic()) * 1000)))
            try:
                return self._handle.call(lib.mesh_publication_wait, left)
            except Timeout:
                if end is not None and time.monotonic() >= end:
                    raise

    def update(self, **changes: Any) -> None:
        """Says something else from now on, in place: fields of Workload; what does not change is not interrupted.

        @raises InvalidArgument names the field; the name cannot change
        """
        workload = dataclasses.replace(self._workload, **changes)
        kept: list[Any] = []
        self._handle.call(lib.mesh_publication_update, _to_options(workload, kept))
        self._workload = workload

    def close(self) -> None:
        """Leaves: at once if etcd answers within some 3 seconds, else when its lease ends."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publication of {self._workload.name}>"

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None and handle.is_open:
            handle.close()
            closed = self._mesh.closed
            del self._mesh  # who keeps the warning does not keep the mesh
            if not closed:
                warn_unclosed(self)

    def _look(self) -> tuple[PublicationState, str]:
        if not self._handle.is_open and not self._handle.of_parent:
            return PublicationState.CLOSED, ""
        state, reason = ffi.new("uint32_t*"), ffi.new("char**")
        self._handle.call(lib.mesh_publication_state, state, reason)
        try:
            return PublicationState(state[0]), text(reason[0])
        finally:
            lib.mesh_text_free(reason[0])
