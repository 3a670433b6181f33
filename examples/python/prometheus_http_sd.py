#!/usr/bin/env python3
"""Shows the pods of all clusters to Prometheus, by its HTTP service discovery.

    prometheus_http_sd.py --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml \\
        --clustermesh-config clustermesh/ --listen 127.0.0.1:9099
    curl '127.0.0.1:9099/targets?port=8080&namespace=shop&cluster=cluster2'

and in prometheus.yml:

    scrape_configs:
      - job_name: mesh
        http_sd_configs: [{url: "http://127.0.0.1:9099/targets?port=8080"}]
        relabel_configs: [{source_labels: [__meta_mesh_cluster], target_label: cluster}]

Meta labels of a target: __meta_mesh_cluster, _namespace, _pod, _node (the node's address), _identity, and _label_NAME for
each label of its identity. 503 until all is known; Prometheus keeps what it had.
"""
import argparse
import http.server
import ipaddress
import json
import re
import socket
import sys
import urllib.parse

from libmesh import MeshError, Objects, cli


def meta(name):
    return "__meta_mesh_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)


def identity_labels(identity):
    for label in identity.labels:
        source, _, pair = label.partition(":")
        name, _, value = pair.partition("=")
        if source == "k8s":
            yield meta("label_" + name), value


def targets(mesh, port, wanted):
    """The document of https://prometheus.io/docs/prometheus/latest/http_sd/ .

    @param wanted {"namespace" or "cluster": names}; others are left out
    """
    identities, groups = {}, []
    for event in mesh.list(Objects.IDENTITIES | Objects.IPS):
        o = event.object
        if event.type == Objects.IDENTITIES:
            identities[o.cluster, o.id] = dict(identity_labels(o))
            continue
        address = ipaddress.ip_network(o.prefix)
        if not o.k8s_pod_name or address.prefixlen != address.max_prefixlen:
            continue  # a node, or a block
        about = {"cluster": o.cluster, "namespace": o.k8s_namespace}
        if any(about[key] not in names for key, names in wanted.items()):
            continue
        host = address.network_address
        labels = {**identities.get((o.cluster, o.identity), {}),
                  **{meta(name): str(value) for name, value in (
                      *about.items(), ("pod", o.k8s_pod_name), ("node", o.host), ("identity", o.identity))}}
        groups.append({"targets": [f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"], "labels": labels})
    return groups


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        unknown = sorted(query.keys() - {"port", "namespace", "cluster"})
        port = query.pop("port", [str(self.server.port)])[-1]
        if url.path != "/targets":
            return self.answer(404, f"{url.path}: expected /targets")
        if unknown:
            return self.answer(400, f"{unknown[0]}: expected port, namespace or cluster")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            return self.answer(400, f"port: expected 1 to 65535, got {port!r}")
        try:
            if not (self.server.complete or self.server.mesh.ready):
                return self.answer(503, "not all clusters are known yet")
            self.server.complete = True  # what is known of a remote stays when it goes away
            groups = targets(self.server.mesh, int(port), query)
        except MeshError as error:
            return self.answer(500, str(error))
        self.answer(200, json.dumps(groups), "application/json")

    def answer(self, code, text, kind="text/plain; charset=utf-8"):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, mesh, port):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.mesh, self.port, self.complete = mesh, port, False
        super().__init__(address, Handler)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:9099", metavar="ADDRESS:PORT", help="default: %(default)s; port 0 = any")
    parser.add_argument("--target-port", type=int, default=8080, metavar="PORT", help="without ?port= (default: %(default)s)")
    cli.add_arguments(parser)
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError as error:
        parser.error(f"--listen {arguments.listen}: expected ADDRESS:PORT ({error})")
    with cli.open_mesh(arguments) as mesh, Server(address, mesh, arguments.target_port) as server:
        print(f"http://{host}:{server.server_address[1]}/targets", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(cli.run(main))
