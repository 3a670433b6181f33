#!/usr/bin/env python3
"""Writes a load balancer's backends from the services of the whole mesh, and reloads it when they change.

The file has a backend (nginx: an upstream) for each service and port, named NAMESPACE_NAME_PORT, with those backends of
all clusters that new connections may go to. A new file is checked first: one that is refused never takes the place of
the old one.

    haproxy_upstreams.py --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml \\
        --clustermesh-config clustermesh/ --service shop/echo --output /etc/haproxy/mesh.cfg

with `haproxy -f /etc/haproxy/haproxy.cfg -f /etc/haproxy/mesh.cfg` and in the first file `default_backend shop_echo_80`. For
nginx: --format nginx --output /etc/nginx/conf.d/mesh.conf, and `proxy_pass http://shop_echo_80;`.
"""
import argparse
import os
import re
import shlex
import subprocess
import sys
import time

from libmesh import EventKind, Objects, Timeout, cli

CHECK = {"haproxy": "haproxy -c -f /etc/haproxy/haproxy.cfg -f {file}",
         # Without the rest of nginx's files, which would still include the old one.
         "nginx": "echo 'events {} http { include {file}; }' >{file}.test && nginx -t -q -c {file}.test; "
                  "status=$?; rm -f {file}.test; exit $status"}
RETRY = 10.0  # seconds, after a failure
RELOAD = {"haproxy": "systemctl reload haproxy", "nginx": "nginx -s reload"}


def upstreams(services):
    """name → backends, of each service and port; backends are (host:port, cluster, weight)."""
    found = {}
    for service in services:
        for frontend in service.frontends:
            if frontend.protocol != "TCP" or frontend.node_port:
                continue
            backends = found.setdefault(f"{service.namespace}_{service.name}_{frontend.port}", {})
            for b in frontend.backends:
                if b.selected:
                    host = f"[{b.address}]" if ":" in b.address else b.address
                    backends[f"{host}:{b.port}"] = (b.cluster, b.weight)
    return {name: [(place, *about) for place, about in sorted(backends.items())]
            for name, backends in sorted(found.items())}


def render(format, found):
    lines = ["# Written by haproxy_upstreams.py; changes here are lost."]
    for name, backends in found.items():
        most = max((weight for _, _, weight in backends), default=1) or 1
        lines.append(f"backend {name}" if format == "haproxy" else f"upstream {name} {{")
        for place, cluster, weight in backends:
            share = max(1, round(weight * 100 / most))
            label = re.sub(r"[^\w.:-]", "", f"{cluster}_{place}")
            lines.append(f"    server {label} {place} weight {share}" if format == "haproxy" else
                         f"    server {place} weight={share};  # {cluster}")
        if format == "nginx":
            # It refuses an upstream without servers.
            lines += ["}"] if backends else ["    server 127.0.0.1:1 down;", "}"]
    return "\n".join(lines) + "\n"


def shell(command):
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return None if done.returncode == 0 else f"{command}: exit {done.returncode}\n{done.stdout}".strip()


def install(text, arguments):
    """Checks the text, puts it in the file's place and reloads. @return what failed, or None"""
    candidate = arguments.output + ".new"
    with open(candidate, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    failure = shell(arguments.check.replace("{file}", shlex.quote(candidate)))
    if failure:
        os.unlink(candidate)
        return failure
    os.replace(candidate, arguments.output)
    return shell(arguments.reload)


def follow(watch, arguments):
    services, complete = {}, False
    written, failed, last = None, None, -RETRY
    while True:
        wanted = written
        if complete:
            chosen = [s for s in services.values() if not arguments.service or f"{s.namespace}/{s.name}" in arguments.service]
            wanted = render(arguments.format, upstreams(chosen))
        left = None  # seconds until there is something to do without another change
        if wanted != written:
            left = last + (RETRY if wanted == failed else arguments.min_interval) - time.monotonic()
            if left <= 0:
                failure = install(wanted, arguments)
                print(failure or f"{arguments.output}: written", flush=True)
                written, failed = (written, wanted) if failure else (wanted, None)
                last = time.monotonic()
                continue
        try:
            batch = watch.next_batch(left)
        except Timeout:
            continue
        for event in batch:
            if event.kind == EventKind.SNAPSHOT_BEGIN:
                services, complete = {}, False
            elif event.kind == EventKind.SNAPSHOT_END:
                complete = True
            elif event.kind == EventKind.UPSERT:
                services[event.object.namespace, event.object.name] = event.object
            else:
                services.pop((event.object.namespace, event.object.name), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to keep")
    parser.add_argument("--format", choices=("haproxy", "nginx"), default="haproxy")
    parser.add_argument("--service", action="append", metavar="NAMESPACE/NAME", help="again for more; default: all")
    parser.add_argument("--check", metavar="COMMAND", help="{file} is the new file; default: " + "; ".join(CHECK.values()))
    parser.add_argument("--reload", metavar="COMMAND", help="default: " + "; ".join(RELOAD.values()))
    parser.add_argument("--min-interval", type=float, default=1.0, metavar="SECONDS", help="between reloads (default: %(default)s)")
    parser.add_argument("--ready-timeout", type=float, default=60.0, metavar="SECONDS",
                        help="for remotes, until the first file is written without them (default: %(default)s)")
    cli.add_arguments(parser)
    arguments = parser.parse_args()
    for name in arguments.service or ():
        if name.count("/") != 1 or not all(name.split("/")):
            parser.error(f"--service {name}: expected NAMESPACE/NAME")
    arguments.check = arguments.check or CHECK[arguments.format]
    arguments.reload = arguments.reload or RELOAD[arguments.format]
    with cli.open_mesh(arguments) as mesh:
        try:
            mesh.wait_ready(arguments.ready_timeout)
        except Timeout as error:
            if not next(c for c in mesh.clusters() if c.own).ready:
                raise
            print(f"going on without all remotes: {error}", file=sys.stderr)
        with mesh.watch(Objects.SERVICES) as watch:
            follow(watch, arguments)


if __name__ == "__main__":
    sys.exit(cli.run(main))
