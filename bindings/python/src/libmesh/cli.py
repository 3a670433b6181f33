"""What programs on the command line have in common: the flags that say which mesh, one line for what went wrong."""
from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from .errors import MeshError
from .mesh import Mesh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of mesh-agent that name the own cluster and its remotes."""
    group = parser.add_argument_group("the mesh")
    group.add_argument("--cluster-name", required=True, help="the own cluster")
    group.add_argument("--cluster-id", required=True, type=int, help="its id")
    group.add_argument("--node-name", default=os.uname().nodename, help="this host (default: %(default)s)")
    group.add_argument("--etcd-config", required=True, metavar="FILE", help="etcd client YAML of the own cluster")
    group.add_argument("--clustermesh-config", metavar="FOLDER", help="a file for each remote; it is watched")
    group.add_argument("--max-connected-clusters", type=int, default=255, help="255 or 511 (default: %(default)s)")
    group.add_argument("--verbose", action="store_true", help="tell on stderr what libmesh logs")


def open_mesh(arguments: argparse.Namespace, **more: Any) -> Mesh:
    """The mesh that add_arguments()'s flags name; `more` are options of Mesh."""
    if arguments.verbose and "log" not in more:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        more["log"] = logging.getLogger("libmesh")
    return Mesh(cluster_name=arguments.cluster_name, cluster_id=arguments.cluster_id, node_name=arguments.node_name,
                etcd_config=arguments.etcd_config, clustermesh_config=arguments.clustermesh_config,
                max_connected_clusters=arguments.max_connected_clusters, **more)


def run(main: Callable[[], int | None]) -> int:
    """main(), for sys.exit(): SIGTERM and Ctrl-C leave through its `with` statements, errors are one line."""
    signal.signal(signal.SIGTERM, _end)
    try:
        return main() or 0
    except KeyboardInterrupt:
        return 130
    except (MeshError, OSError) as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        return 1


def _end(number: int, frame: FrameType | None) -> None:
    # Once: a second one must not break off what leaves cleanly.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)
