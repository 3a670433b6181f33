"""The mesh as one node sees it."""
from __future__ import annotations

import atexit
import json
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from . import ips
from ._mesh import ffi, lib
from ._native import SLICE_MS, Handle, call, check_number, to_c, warn_unclosed
from .errors import Timeout
from .events import Batch, take_batch
from .objects import Backend, Cluster, Identity, Ip, Node, Objects, Service
from .publish import Publication, Workload, WorkloadBackend
from .watch import Subscription, Watch

if TYPE_CHECKING:  # what most programs never use costs nobody its memory
    import ipaddress
    import logging

    from .logs import LogFunction, LogReader

_U32 = 0xffffffff


@dataclass(frozen=True, slots=True)
class Etcd:
    """An etcd to connect to, with its TLS material in memory."""

    endpoints: Sequence[str]  #: "https://host:port" or "http://host:port", all of one kind
    ca_pem: str | bytes | None = None  #: PEM text; None = the system's roots
    cert_pem: str | bytes | None = None  #: PEM texts of the client's pair; both or neither
    key_pem: str | bytes | None = None

    def __repr__(self) -> str:
        return f"Etcd(endpoints={self.endpoints!r})"  # never a key


class Mesh:
    """Follows the own cluster and its remotes, in memory, on a thread of the library's: no privileges are needed.

    Returns at once; nothing needs to be reachable yet: see wait_ready(). End it with close(), or use it in a `with`
    statement. Every method may be called from any thread. After fork() a child must open its own.

    @param cluster_name the own cluster's name
    @param cluster_id the own cluster's id, 1 to max_connected_clusters
    @param node_name this node, as its cluster publishes it; of a client that is no node, any name
    @param etcd_config the own cluster's etcd: path of an etcd client YAML; or `etcd` in its place
    @param clustermesh_config path of the folder of remotes, a file each; it is watched
    @param remote_files remotes in memory: name → content, as that folder or Secret cilium-clustermesh has them
    @param max_connected_clusters 255 or 511, equal in all clusters
    @param sync_timeout seconds that remotes are awaited, 1 to 3600
    @param remote_max_stale_age seconds without connection until a remote's services go; None = what is known stays
    @param log a logging.Logger, or a function of level, subsystem and text; it is called on a thread of its own
    @raises InvalidArgument names the option
    """

    def __init__(self, *, cluster_name: str, cluster_id: int, node_name: str,
                 etcd_config: str | os.PathLike[str] | None = None, etcd: Etcd | None = None,
                 clustermesh_config: str | os.PathLike[str] | None = None,
                 remote_files: Mapping[str, str | bytes] | None = None, max_connected_clusters: int = 255,
                 sync_timeout: int = 60, remote_max_stale_age: int | None = None,
                 log: LogFunction | logging.Logger | None = None) -> None:
        self._name = cluster_name
        options = ffi.new("mesh_options*")
        options.struct_size = ffi.sizeof("mesh_options")
        kept = []  # what the options point to

        def set_text(field: str, value: str | bytes | os.PathLike[str] | None) -> None:
            if value is not None:
                kept.append(to_c(field, os.fspath(value)))
                setattr(options, field, kept[-1])

        set_text("cluster_name", cluster_name)
        set_text("node_name", node_name)
        options.cluster_id = check_number("cluster_id", cluster_id, _U32)
        options.max_connected_clusters = check_number("max_connected_clusters", max_connected_clusters, _U32)
        set_text("etcd_config", etcd_config)
        if etcd is not None:
            kept += (endpoints := [to_c("etcd.endpoints", e) for e in etcd.endpoints])
            kept.append(ffi.new("const char*[]", endpoints))
            options.etcd_endpoints, options.etcd_endpoints_count = kept[-1], len(endpoints)
            set_text("etcd_ca_pem", etcd.ca_pem)
            set_text("etcd_cert_pem", etcd.cert_pem)
            set_text("etcd_key_pem", etcd.key_pem)
        set_text("clustermesh_config", clustermesh_config)
        kept.append(files := _to_files(remote_files or {}, kept))
        options.remote_files, options.remote_files_count = files, len(files)
        options.sync_timeout_seconds = check_number("sync_timeout", sync_timeout, _U32)
        options.remote_max_stale_age_seconds = check_number("remote_max_stale_age", remote_max_stale_age or 0, _U32)

        self._log: LogReader | None = None
        if log is not None:
            from .logs import LogReader
            self._log = LogReader(log)
            self._log.set_options(options)
        out = ffi.new("mesh_ctx**")
        try:
            call(lib.mesh_open, options, out)
        except BaseException:
            self._close_log()
            raise
        self._handle = Handle(f"mesh of {cluster_name}", out[0], lib.mesh_close)
        _open_meshes.add(self)

    @property
    def closed(self) -> bool:
        return not self._handle.is_open

    def close(self) -> None:
        """Ends it and its thread; its watches end. May be called from any thread, and more than once."""
        self._handle.close()
        self._close_log()
        _open_meshes.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None and handle.is_open:
            handle.close()
            self._close_log()
            warn_unclosed(self)

    def __repr__(self) -> str:
        return f"<Mesh of {self._name}>"

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the own cluster and every remote are read in full. In asyncio: `await
        asyncio.to_thread(mesh.wait_ready, timeout)`.

        @param timeout seconds; 0 = only look, None = no limit
        @raises Timeout; Cancelled if it is closed meanwhile
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE_MS if end is None else max(0, min(SLICE_MS, int((end - time.monotonic()) * 1000)))
            try:
                return self._handle.call(lib.mesh_wait_ready, left)
            except Timeout:
                if end is not None and time.monotonic() >= end:
                    raise Timeout(lib.MESH_ERR_TIMEOUT, f"not ready within {timeout:g} s; status() tells why") from None

    @property
    def ready(self) -> bool:
        """Whether the own cluster and every remote are read in full."""
        try:
            self.wait_ready(0)
        except Timeout:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """The status document of `meshctl status -o json`."""
        return cast(dict[str, Any], json.loads(self._handle.take_text(lib.mesh_status_json)))

    def metrics(self) -> str:
        """Metrics in Prometheus' text format."""
        return self._handle.take_text(lib.mesh_metrics_text)

    def list(self, objects: Objects) -> Batch:
        """All objects of some kinds, as they are at one moment, as events (UPSERT) in the order of kinds and keys."""
        return take_batch(self._handle, lib.mesh_list, check_number("objects", objects, _U32))

    def nodes(self) -> Sequence[Node]:
        """The nodes of all clusters."""
        return cast(Sequence[Node], self._all(Objects.NODES))

    def services(self) -> Sequence[Service]:
        """The services of the own cluster with the backends of all, by namespace and name."""
        return cast(Sequence[Service], self._all(Objects.SERVICES))

    def ips(self) -> Sequence[Ip]:
        """What stands behind every prefix of all clusters. For very many, read_ips() is faster by far."""
        return cast(Sequence[Ip], self._all(Objects.IPS))

    def identities(self) -> Sequence[Identity]:
        """The security identities of all clusters."""
        return cast(Sequence[Identity], self._all(Objects.IDENTITIES))

    def clusters(self) -> Sequence[Cluster]:
        """The own cluster first, then the remotes by name."""
        return cast(Sequence[Cluster], self._all(Objects.CLUSTERS))

    def lookup(self, address: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> Ip:
        """The ip with the longest prefix that holds the address; between clusters that claim the same, the own one
        goes first, then the lowest id.

        @raises NotFound: no cluster has it; InvalidArgument: it is no address
        """
        return cast(Ip, take_batch(self._handle, lib.mesh_lookup, to_c("address", str(address)))[0].object)

    def service(self, name: str) -> Service:
        """One service of the own cluster with the backends of all.

        @param name "namespace/name"
        @raises NotFound; InvalidArgument: no such form
        """
        return cast(Service, take_batch(self._handle, lib.mesh_get_service, to_c("name", name))[0].object)

    def backends(self, name: str) -> Sequence[Backend]:
        """The backends of a service, of all its frontends, each address and port once; as service()."""
        return self.service(name).backends

    def read_ips(self, *, numpy: bool | None = None) -> Any:
        """All ips of all clusters at one moment, in the order of address, length and cluster, without a Python object
        for each: a million take a fraction of a second.

        @param numpy True: a structured array (fields address, host, identity, cluster_id, prefix_length, family,
               encryption_key; addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d); False: a memoryview of records for
               struct.iter_unpack(libmesh.IP_RECORD_FORMAT, ...); None: an array if numpy is installed
        """
        if numpy is None:
            try:
                import numpy as _  # noqa: F401
                numpy = True
            except ImportError:
                numpy = False
        return ips.read_ips(self._handle, numpy)

    def watch(self, objects: Objects = Objects.ALL, *, max_queued_bytes: int = 0) -> Watch:
        """Follows changes: a snapshot first, then every change of it in order.

        @param max_queued_bytes changes that wait to be read; beyond, they are dropped and a new snapshot comes;
               0 = 16 MiB
        """
        return Watch(self, self._handle, objects, max_queued_bytes)

    def on_events(self, callback: Callable[[Batch], object], objects: Objects = Objects.ALL, *,
                  max_queued_bytes: int = 0) -> Subscription:
        """The same, told to a callback on a thread of its own. It may block and use the mesh."""
        return Subscription(self.watch(objects, max_queued_bytes=max_queued_bytes), callback)

    def publish(self, *, name: str, ips: Sequence[str], namespace: str = "default",
                labels: Mapping[str, str] | None = None, backends: Sequence[WorkloadBackend] = (), zone: str = "",
                node: bool = False, lease_ttl: int = 15) -> Publication:
        """Registers a workload in the own cluster: the fields are those of Workload. Returns at once; see
        Publication.wait(). It leaves when the publication or the mesh is closed.

        @raises InvalidArgument names the field
        """
        return Publication(self, self._handle, Workload(
            name=name, ips=tuple(ips), namespace=namespace, labels=dict(labels or {}), backends=tuple(backends),
            zone=zone, node=node, lease_ttl=lease_ttl))

    def set_remote_files(self, files: Mapping[str, str | bytes]) -> None:
        """Other remotes than `remote_files` had, or the last call: those that are new, other than before or gone are
        connected to, configured or drained, the others notice nothing. Returns at once.

        @raises InvalidArgument names the file; nothing is changed then
        """
        kept: list[Any] = []
        array = _to_files(files, kept)
        self._handle.call(lib.mesh_set_remote_files, array, len(array))

    def explain(self, source: str, destination: str, dport: str, *, http: str | None = None,
                headers: Sequence[str] = (), dns: str | None = None) -> dict[str, Any]:
        """Whether a packet passes and by which rules, where each is written, who the ends are, by which cluster this
        is known: the document of GET /v1/policy/trace, `meshctl policy trace -o json`.

        @param source, destination "[cluster/][namespace/]pod", an address, labels ("app=web,..."), an entity ("world")
               or an identity's number
        @param dport "80/TCP"
        @param http a request, "GET /a" or "GET http://host/a", with `headers` "Name: value"
        @param dns a name that is asked for
        @raises InvalidArgument names what cannot be understood; NotFound: no such pod or identity; Unavailable: the
                own cluster is not known yet
        """
        query = ffi.new("mesh_policy_query*")
        query.struct_size = ffi.sizeof("mesh_policy_query")
        kept = []
        for name, value in (("source", source), ("destination", destination), ("dport", dport), ("http", http),
                            ("dns", dns)):
            if value is not None:
                kept.append(to_c(name, value))
                setattr(query, name, kept[-1])
        kept += (lines := [to_c("headers", line) for line in headers])
        kept.append(ffi.new("const char*[]", lines))
        query.headers, query.headers_count = kept[-1], len(lines)
        return cast(dict[str, Any], json.loads(self._handle.take_text(lib.mesh_explain_json, query)))

    def policy_diff(self, policies: str, *, prune: bool = False) -> dict[str, Any]:
        """Which packets of the own cluster's pods other policies would let pass or not, in groups of peers and ports:
        the document of GET /v1/policy/diff.

        @param policies YAML or JSON text, in place of those of the same names
        @param prune policies that are not among them would go
        @raises InvalidArgument: mistakes in the text, a line each; Unavailable as explain()
        """
        return cast(dict[str, Any], json.loads(self._handle.take_text(
            lib.mesh_policy_diff_json, to_c("policies", policies), int(prune))))

    def _all(self, objects: Objects) -> Sequence[object]:
        return [event.object for event in self.list(objects)]

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()


def _to_files(files: Mapping[str, str | bytes], kept: list[Any]) -> Any:
    array = ffi.new("mesh_file[]", len(files))
    for c, (name, data) in zip(array, files.items()):
        raw = data.encode() if isinstance(data, str) else bytes(data)
        kept += [to_c("remote_files", name), ffi.new("char[]", raw)]
        c.name, c.data, c.size = kept[-2], kept[-1], len(raw)
    return array


_open_meshes: weakref.WeakSet[Mesh] = weakref.WeakSet()


def _close_all() -> None:
    """What is open at the end of the program: the library's threads must not outlive what they use."""
    for mesh in list(_open_meshes):
        mesh.close()


atexit.register(_close_all)
