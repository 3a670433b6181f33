#!/usr/bin/env python3
"""Makes this host a backend of a service of the mesh for as long as the program runs, or the command that it starts.

    vm_backend.py --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml \\
        --name vm-1 --ip 192.168.7.20 --backend shop/echo:8080 -- python3 -m http.server 8080

The Service must exist in the own cluster; if it is global, clients of all clusters get here. SIGTERM or Ctrl-C: it leaves the
mesh first, then connections get --drain seconds, then the command is ended. If this program is killed, it is out of the mesh
after --lease-ttl seconds. The etcd user needs to write below mesh/local/workloads/.
"""
import argparse
import subprocess
import sys
import time

from libmesh import PublicationState, WorkloadBackend, cli


def parse_backend(text):
    """NAMESPACE/NAME:PORT[:PORT-NAME]"""
    service, _, rest = text.partition(":")
    port, _, port_name = rest.partition(":")
    if service.count("/") != 1 or not all(service.split("/")) or not port.isascii() or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAMESPACE/NAME:PORT or NAMESPACE/NAME:PORT:PORT-NAME")
    return WorkloadBackend(service, int(port), port_name)


def parse_label(text):
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    return key, value


def serve(publication, command):
    """Tells how the publication stands until the command ends. @return its exit code"""
    told = None
    while command is None or command.poll() is None:
        if (now := (publication.state, publication.reason)) != told:
            print(f"{publication.workload.name}: {now[0].name.lower()}{': ' if now[1] else ''}{now[1]}", flush=True)
            told = now
        time.sleep(0.5 if now[0] == PublicationState.PUBLISHED else 0.1)
    return command.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of this host in the mesh: a DNS label")
    parser.add_argument("--namespace", default="default", help="default: %(default)s")
    parser.add_argument("--ip", required=True, action="append", help="an address that only this host has; again for more")
    parser.add_argument("--backend", action="append", type=parse_backend, required=True, metavar="NAMESPACE/NAME:PORT[:PORT-NAME]",
                        help="a service and the port that serves it here; again for more. PORT-NAME: that of the service's port")
    parser.add_argument("--label", action="append", type=parse_label, default=[], metavar="KEY=VALUE", help="for policies; again for more")
    parser.add_argument("--zone", default="", help="topology.kubernetes.io/zone")
    parser.add_argument("--lease-ttl", type=int, default=15, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--drain", type=float, default=0.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("command", nargs="*", help="what serves; without one, something else does")
    cli.add_arguments(parser)
    arguments = parser.parse_args()
    with cli.open_mesh(arguments) as mesh:
        # A session of its own: Ctrl-C is ours, and we leave the mesh first.
        command = subprocess.Popen(arguments.command, start_new_session=True) if arguments.command else None
        try:
            with mesh.publish(name=arguments.name, namespace=arguments.namespace, ips=arguments.ip, backends=arguments.backend,
                              labels=dict(arguments.label), zone=arguments.zone, lease_ttl=arguments.lease_ttl) as publication:
                return serve(publication, command)
        finally:
            if command is not None and command.poll() is None:
                time.sleep(arguments.drain)
                command.terminate()
                command.wait()


if __name__ == "__main__":
    sys.exit(cli.run(main))
