"""The objects of the mesh as plain values, and how they are read from the structs of mesh/mesh.h."""
from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._mesh import ffi, lib
from ._native import text


class Objects(enum.IntFlag):
    """Kinds of objects, to be combined with |."""

    NODES = lib.MESH_OBJECT_NODE
    SERVICES = lib.MESH_OBJECT_SERVICE
    IPS = lib.MESH_OBJECT_IP
    IDENTITIES = lib.MESH_OBJECT_IDENTITY
    CLUSTERS = lib.MESH_OBJECT_CLUSTER
    ALL = lib.MESH_OBJECT_ALL


class EventKind(enum.IntEnum):
    """What an event tells."""

    SNAPSHOT_BEGIN = lib.MESH_EVENT_SNAPSHOT_BEGIN  #: forget everything held: a snapshot follows
    UPSERT = lib.MESH_EVENT_UPSERT  #: the object is new, or is now this
    DELETE = lib.MESH_EVENT_DELETE  #: the object is gone
    SNAPSHOT_END = lib.MESH_EVENT_SNAPSHOT_END  #: what was told since the begin is all there is


@dataclass(frozen=True, slots=True)
class Node:
    """A node of some cluster. Its key is cluster and name."""

    cluster: str
    cluster_id: int
    name: str
    addresses: tuple[tuple[str, str], ...]  #: type, such as "InternalIP", and IP text; in published order
    pod_cidrs: tuple[str, ...]
    labels: Mapping[str, str] = field(hash=False)
    encryption_key: int  #: index; 0 = none
    wireguard_public_key: str  #: base64; "" = none


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend of a frontend, as this node sees it."""

    address: str  #: IP text
    port: int
    cluster: str
    state: str  #: "active", "terminating", "quarantined", "maintenance"
    weight: int  #: among the selected ones of the frontend; relative
    selected: bool  #: whether new connections may go there
    reason: str  #: why it is selected, or why not: one sentence


@dataclass(frozen=True, slots=True)
class Frontend:
    """An address of a service with the backends behind it."""

    address: str  #: IP text
    port: int
    protocol: str  #: "TCP", "UDP", "SCTP"
    port_name: str
    node_port: bool  #: at this node's own address
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the own cluster with the backends of all. Its key is namespace and name; of a deleted one nothing
    else is told."""

    namespace: str
    name: str
    global_: bool
    shared: bool
    affinity: str  #: "none", "local", "remote"
    frontends: tuple[Frontend, ...]
    notes: tuple[str, ...]  #: what has no effect and why, a sentence each

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Of all frontends; each address and port once."""
        by_place = {(b.address, b.port): b for f in reversed(self.frontends) for b in reversed(f.backends)}
        return tuple(reversed(by_place.values()))


@dataclass(frozen=True, slots=True)
class Ip:
    """What stands behind a prefix: a pod, or a block. Its key is cluster and prefix."""

    prefix: str  #: "10.1.2.3/32"
    cluster: str
    cluster_id: int
    identity: int
    host: str  #: IP text of the node that has it; "" = not told
    encryption_key: int  #: index; 0 = none
    k8s_namespace: str
    k8s_pod_name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A security identity. Its key is cluster and id."""

    cluster: str
    cluster_id: int
    id: int
    labels: tuple[str, ...]  #: "source:key=value"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The own cluster or a remote, and how fresh what is known of it is. Its key is its name. An event comes when
    state, id, ready or connected change, not for the counts and ages: ask again for those."""

    name: str
    id: int
    own: bool  #: the cluster that this node belongs to
    state: str  #: "disabled", "connecting", "syncing", "ready", "stale"
    ready: bool
    connected: bool
    nodes: int
    services: int
    ips: int
    identities: int
    revision: int  #: of its etcd, up to which all is known
    lag_revisions: int  #: known to exist and not seen yet
    lag: float  #: seconds since when behind, or without proof of life
    last_proof_of_life: float | None  #: seconds ago; None = never
    last_failure: str


Object = Node | Service | Ip | Identity | Cluster


def _texts(list_: Any, count: int) -> tuple[str, ...]:
    return tuple(text(p) for p in ffi.unpack(list_, count)) if count else ()


def _pairs(list_: Any, count: int) -> tuple[tuple[str, str], ...]:
    return tuple((text(list_[i].key), text(list_[i].value)) for i in range(count))


def to_node(c: Any) -> Node:
    return Node(text(c.cluster), c.cluster_id, text(c.name), _pairs(c.addresses, c.addresses_count),
                _texts(c.pod_cidrs, c.pod_cidrs_count), dict(_pairs(c.labels, c.labels_count)), c.encryption_key,
                text(c.wireguard_public_key))


def to_backend(c: Any) -> Backend:
    return Backend(text(c.address), c.port, text(c.cluster), text(c.state), c.weight, bool(c.selected), text(c.reason))


def to_frontend(c: Any) -> Frontend:
    backends = ffi.unpack(c.backends, c.backends_count) if c.backends_count else ()
    return Frontend(text(c.address), c.port, text(c.protocol), text(c.port_name), bool(c.node_port),
                    tuple(map(to_backend, backends)))


def to_service(c: Any) -> Service:
    frontends = ffi.unpack(c.frontends, c.frontends_count) if c.frontends_count else ()
    return Service(text(c.namespace_), text(c.name), bool(getattr(c, "global")), bool(c.shared), text(c.affinity),
                   tuple(map(to_frontend, frontends)), _texts(c.notes, c.notes_count))


def to_ip(c: Any) -> Ip:
    return Ip(text(c.prefix), text(c.cluster), c.cluster_id, c.identity, text(c.host), c.encryption_key,
              text(c.k8s_namespace), text(c.k8s_pod_name))


def to_identity(c: Any) -> Identity:
    return Identity(text(c.cluster), c.cluster_id, c.id, _texts(c.labels, c.labels_count))


def to_cluster(c: Any) -> Cluster:
    alive = c.last_proof_of_life_ns
    return Cluster(text(c.name), c.id, bool(c.own), text(c.state), bool(c.ready), bool(c.connected), c.nodes,
                   c.services, c.ips, c.identities, c.revision, c.lag_revisions, c.lag_ns / 1e9,
                   None if alive < 0 else alive / 1e9, text(c.last_failure))


#: Of an event's kind of object: how its struct becomes a value.
DECODERS: dict[int, Callable[[Any], Object]] = {
    lib.MESH_OBJECT_NODE: lambda event: to_node(event.node),
    lib.MESH_OBJECT_SERVICE: lambda event: to_service(event.service),
    lib.MESH_OBJECT_IP: lambda event: to_ip(event.ip),
    lib.MESH_OBJECT_IDENTITY: lambda event: to_identity(event.identity),
    lib.MESH_OBJECT_CLUSTER: lambda event: to_cluster(event.cluster),
}
