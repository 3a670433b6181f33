"""The whole mesh of clusters, as one node of it sees it: services with the backends of all clusters, what stands
behind an address, and every change of that.

    with libmesh.Mesh(cluster_name="cluster1", cluster_id=1, node_name="my-host",
                      etcd=libmesh.Etcd(["https://etcd.example:2379"], ca, cert, key),
                      clustermesh_config="/var/lib/cilium/clustermesh") as mesh:
        mesh.wait_ready(30)
        print(mesh.lookup("10.2.0.17"), mesh.backends("shop/echo"))
        with mesh.watch(libmesh.Objects.SERVICES) as watch:
            for event in watch:
                print(event.kind, event.object)
"""
import importlib
from typing import TYPE_CHECKING

from ._mesh import lib as _lib
from ._native import text as _text
from .errors import (Busy, Cancelled, Capacity, Compacted, Conflict, Corrupt, Internal, InvalidArgument, MeshError,
                     NoMemory, NotFound, PermissionDenied, Timeout, Unavailable)
from .events import Batch, Event
from .ips import IP_RECORD_FORMAT, ip_record_dtype
from .mesh import Etcd, Mesh
from .objects import Backend, Cluster, EventKind, Frontend, Identity, Ip, Node, Object, Objects, Service
from .publish import Publication, PublicationState, Workload, WorkloadBackend
from .watch import Batches, Subscription, Watch

if TYPE_CHECKING:
    from . import cli


def __getattr__(name: str) -> object:
    if name == "cli":  # for programs: others need not load it
        return importlib.import_module(".cli", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: The version of libmesh.so that is loaded.
__version__ = _text(_lib.mesh_version())

__all__ = [
    "Backend", "Batch", "Batches", "Busy", "Cancelled", "Capacity", "Cluster", "Compacted", "Conflict", "Corrupt",
    "Etcd", "Event", "EventKind", "Frontend", "IP_RECORD_FORMAT", "Identity", "Internal", "InvalidArgument", "Ip",
    "Mesh", "MeshError", "NoMemory", "Node", "NotFound", "Object", "Objects", "PermissionDenied", "Publication",
    "PublicationState", "Service", "Subscription", "Timeout", "Unavailable", "Watch", "Workload", "WorkloadBackend",
    "cli", "ip_record_dtype",
]
