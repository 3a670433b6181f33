#!/usr/bin/env python3
"""services.py ROOT CGROUP: runs what the systemd units in ROOT would run, in ROOT, the agent also with the kernel's datapath
for processes of a new CGROUP: two clusters, each a real etcd (the
host's) with its operator; the second one's proxy; the first one's agent, which follows the second through that proxy.
To be called in mount, PID and network namespaces of its own, which end all of it. Prints what was found wrong."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

root, cgroup = pathlib.Path(sys.argv[1]), sys.argv[2]
failures = []
ETCD = {"cluster1": 2379, "cluster2": 2479}
MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.11.0.7, ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, namespace: shop, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [BACKEND], conditions: {ready: true}}]
"""


def check(ok, what):
    print(("ok   " if ok else "FAIL ") + what, flush=True)
    if not ok:
        failures.append(what)
    return ok


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **options)


def mount(kind, at):
    (root / at).mkdir(parents=True, exist_ok=True)
    return run("mount", "-t", kind, kind, root / at).returncode == 0


class Unit:
    """A systemd unit as far as it says what to run: ExecStart, EnvironmentFile, credentials, readiness."""

    def __init__(self, name, flags, moved=None):
        lines = (root / f"usr/lib/systemd/system/{name}.service").read_text().splitlines()
        values = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
        self.name = name
        credentials = f"/run/credentials/{name}.service"
        (root / credentials[1:]).mkdir(parents=True, exist_ok=True)
        for key, value in values:
            identity, _, path = value.partition(":")
            if key == "LoadCredential" and (root / path[1:]).exists():
                (root / credentials[1:] / identity).write_bytes((root / path[1:]).read_bytes())
            if key in ("RuntimeDirectory", "StateDirectory"):
                at = root / ("run" if key == "RuntimeDirectory" else "var/lib") / value
                at.mkdir(parents=True, exist_ok=True)
        environment = root / next(value for key, value in values if key == "EnvironmentFile")[1:]
        variable = name.upper().replace("-", "_") + "_FLAGS"
        kept = [line for line in environment.read_text().splitlines() if not line.startswith(f"{variable}=")]
        check(len(kept) < len(environment.read_text().splitlines()), f"{environment.name} has {variable}")
        environment.write_text("\n".join([*kept, f"{variable}={flags}"]) + "\n")
        line = next(value for key, value in values if key == "ExecStart")
        line = line.replace("${CREDENTIALS_DIRECTORY}", credentials).replace(f"${variable}", flags)
        for old, new in (moved or {}).items():
            line = line.replace(old, new)
        self.command = line.split()
        self.log = root / f"tmp/{name}-{len(self.command)}-{id(self)}.log"
        self.notify = f"/tmp/notify-{id(self)}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(root) + self.notify)

    def start(self):
        self.process = subprocess.Popen(["chroot", root, *self.command], stdout=subprocess.DEVNULL,
                                        stderr=self.log.open("w"), env={"PATH": "/usr/sbin:/usr/bin", "NOTIFY_SOCKET": self.notify})
        return self

    def wait_ready(self, seconds=60):
        self.socket.settimeout(0.2)
        end = time.monotonic() + seconds
        told = b""
        while told != b"READY=1" and self.process.poll() is None and time.monotonic() < end:
            try:
                told = self.socket.recv(100)
            except TimeoutError:
                pass
        if not check(told == b"READY=1", f"{self.name} tells that it is ready"):
            print(" ".join(self.command) + "\n" + self.log.read_text())
        return self

    def stop(self):
        self.process.terminate()
        check(self.process.wait(timeout=60) == 0, f"{self.name} stops in order")


def certificates(folder):
    folder.mkdir(parents=True)

    def openssl(*arguments):
        done = run("openssl", *arguments, cwd=folder)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name, subject in (("server", "cluster2"), ("client", "remote")):
        openssl("req", *curve, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "extensions", "-out", f"{name}.crt")


def start_etcds():
    for name, port in ETCD.items():
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
        folder = root / "tmp" / name
        subprocess.Popen(["etcd", "--name", name, "--data-dir", folder, "--listen-client-urls", client,
                          "--advertise-client-urls", client, "--listen-peer-urls", peer,
                          "--initial-advertise-peer-urls", peer, "--initial-cluster", f"{name}={peer}"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_operators():
    operators = []
    for number, (name, port) in enumerate(ETCD.items(), start=1):
        manifests = root / f"etc/libmesh/{'manifests' if number == 1 else 'manifests2'}"
        manifests.mkdir(exist_ok=True)
        (manifests / "echo.yaml").write_text(MANIFEST.replace("BACKEND", f"10.{number}.0.5"))
        (root / "etc/libmesh/mesh-operator").mkdir(exist_ok=True)
        (root / "etc/libmesh/mesh-operator/etcd.yaml").write_text(f"endpoints: ['http://127.0.0.1:{port}']\n")
        moved = {"/run/mesh-operator": "/run/operator2", "/etc/libmesh/manifests": "/etc/libmesh/manifests2"}
        (root / "run/operator2").mkdir(exist_ok=True)
        operators.append(Unit("mesh-operator", f"--cluster-name {name} --cluster-id {number}", moved if number == 2 else {}).start())
        operators[-1].wait_ready()
    return operators


def start_proxy():
    folder = root / "etc/libmesh/mesh-proxy"
    certificates(folder)
    (folder / "etcd.yaml").write_text(f"endpoints: ['http://127.0.0.1:{ETCD['cluster2']}']\n")
    flags = ("--cluster-name cluster2 --cluster-id 2 --listen-remote 127.0.0.1:2380 "
             "--etcd-config /run/credentials/mesh-proxy.service/etcd.yaml")
    # The first one's peers have that port.
    return Unit("mesh-proxy", flags.replace("2380", "2390")).start().wait_ready()


def start_agent(flags):
    (root / "etc/libmesh/etcd.yaml").write_text(f"endpoints: ['http://127.0.0.1:{ETCD['cluster1']}']\n")
    remotes = root / "etc/libmesh/clustermesh"
    remotes.mkdir(exist_ok=True)
    pki = "/etc/libmesh/mesh-proxy"
    (remotes / "cluster2").write_text(f"endpoints: ['https://127.0.0.1:2390']\ntrusted-ca-file: {pki}/ca.crt\n"
                                      f"cert-file: {pki}/client.crt\nkey-file: {pki}/client.key\n")
    return Unit("mesh-agent", "--cluster-name cluster1 --cluster-id 1 --node-name node1 --etcd-config /etc/libmesh/etcd.yaml "
                f"--clustermesh-config /etc/libmesh/clustermesh {flags}").start().wait_ready()


def meshctl(*arguments):
    return run("chroot", root, "meshctl", *arguments, "--socket", "/run/libmesh/agent.sock")


def check_mesh(agent):
    status = meshctl("status", "--wait", "--timeout", "60")
    if not check(status.returncode == 0, "meshctl status --wait is green"):
        print(status.stdout + status.stderr + agent.log.read_text())
    shown = meshctl("service", "get", "shop/echo", "-o", "json")
    addresses = {b["address"].split(":")[0] for f in json.loads(shown.stdout or '{"frontends": []}')["frontends"] for b in f["backends"]}
    check(addresses == {"10.1.0.5", "10.2.0.5"}, f"shop/echo has backends of both clusters: {sorted(addresses)}")


def main():
    run("ip", "link", "set", "lo", "up")
    for kind, at in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")):
        mount(kind, at)
    kernel = mount("bpf", "sys/fs/bpf") and mount("cgroup2", "sys/fs/cgroup")
    start_etcds()
    operators = start_operators()
    proxy = start_proxy()
    agent = start_agent("--datapath memory")
    check_mesh(agent)
    agent.stop()
    if kernel:
        group = root / "sys/fs/cgroup" / cgroup
        group.mkdir()
        try:
            agent = start_agent(f"--cgroup /sys/fs/cgroup/{cgroup}")
            check_mesh(agent)
            print(meshctl("status").stdout, end="")
            agent.stop()
        finally:
            group.rmdir()
    else:
        print("NOT CHECKED: the agent with the kernel's datapath: no BPF file system or no cgroup v2")
    for unit in (proxy, *operators):
        unit.stop()
    return 1 if failures else 0


sys.exit(main())
