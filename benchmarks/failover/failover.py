#!/usr/bin/env python3
"""failover.py BIN ROUNDS: how long new connections fail, and established ones hang, when something dies.

Two sandboxed clusters of two nodes with default settings, a pod of one global service on each node; a client pod opens a new
connection every 5 ms, each with a GET, and holds one to the pod that is to die. Per way of dying and round: seconds from the kill
to the start of the last new connection that failed (refused, reset, or unanswered after 1 s), and until the held one had its error.
Prints one line of JSON per round. Run by scripts/bench failover; needs root.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "integration"
sys.path += [str(TESTS / "mesh"), str(TESTS / "failover")]
from sandboxes import Cluster, missing_needs, wait_for  # noqa: E402

from kills import HeldConnection, kill_node, pod_link, set_wire, signal_pod  # noqa: E402

SERVICE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: shop
  annotations: {service.cilium.io/global: "true", libmesh.io/health-check: "http:/healthz"}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: web}]
"""
PODS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        command: [mesh-echo, --port, "8080"]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: web}}
"""
CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node1, containers: [{name: c, command: [sleep, infinity]}]}
"""
# Runs in the client pod until its input ends; then tells the starts of all attempts that failed.
CONNECT = """
import asyncio, json, sys, time
host, port = sys.argv[1], int(sys.argv[2])
failed, attempts, tasks = [], 0, set()

async def attempt():
    begin = time.monotonic()
    try:
        async def ask():
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET / HTTP/1.1\\r\\nHost: echo\\r\\nConnection: close\\r\\n\\r\\n")
                if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
                    raise OSError("no answer")
            finally:
                writer.transport.abort()
        await asyncio.wait_for(ask(), 1)
    except (OSError, asyncio.TimeoutError) as e:
        failed.append((begin, time.monotonic(), type(e).__name__))

async def main():
    global attempts
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("ready", flush=True)
    while not end.done():
        attempts += 1
        task = asyncio.create_task(attempt())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    print(json.dumps({"attempts": attempts, "failed": failed}), flush=True)

asyncio.run(main())
"""


class Bench:
    def __init__(self, bin_dir, root):
        self.one = Cluster(bin_dir, root, f"b{os.getpid()}a", 21, "embedded")
        self.two = Cluster(bin_dir, root, f"b{os.getpid()}b", 22, "embedded", inherit=self.one)

    def open(self):
        for cluster in (self.one, self.two):
            cluster.create()
        self.one.meshctl("clustermesh", "connect", "--cluster", self.one.name, "--to", self.two.name)
        for cluster in (self.one, self.two):
            self.apply(cluster, SERVICE)
            self.apply(cluster, PODS)
        self.apply(self.one, CLIENT)
        self.await_whole()

    def close(self):
        for cluster in (self.one, self.two):
            cluster.delete()

    def apply(self, cluster, manifest):
        cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=manifest)

    def victim(self, node="node2"):
        return next(p for p in self.two.pods("echo").values() if p["node"] == node)

    def await_whole(self):
        """All four pods are used, and every target has answered its probes."""
        self.one.meshctl("status", "--cluster", self.one.name, "--wait")
        self.one.wait_used("echo", {self.one.name: 2, self.two.name: 2})

        def healthy():
            health = [n["status"]["health"] for n in self.one.json("status")["nodes"]]
            return all(not h["other_backends"] and all(row["state"] == "healthy" for row in h["nodes"]) for h in health)
        wait_for("all targets are healthy", healthy, 30)

    def renew(self):
        """New pods in the second cluster."""
        self.two.remove("deployment/echo")
        self.apply(self.two, PODS)

    # -- ways to die, each with what makes it whole again

    def process_killed(self):
        pod = self.victim()
        return [pod], lambda: signal_pod(self.two, pod, signal.SIGKILL), self.renew

    def process_hangs(self):
        pod = self.victim()
        return [pod], lambda: signal_pod(self.two, pod, signal.SIGSTOP), \
            lambda: signal_pod(self.two, pod, signal.SIGCONT)

    def pod_link_cut(self):
        pod = self.victim()
        return [pod], lambda: pod_link(self.two, pod, "down"), self.renew

    def node_killed(self):
        def restore():
            set_wire(self.two, "node2", "up")
            self.two.start("mesh-agent", "node2")
            self.renew()
        return [self.victim()], lambda: kill_node(self.two, "node2"), restore

    def cluster_killed(self):
        def kill():
            for node in ("node1", "node2"):
                set_wire(self.two, node, "down")
            for node in ("node1", "node2"):
                kill_node(self.two, node)

        def restore():
            for node in ("node1", "node2"):
                set_wire(self.two, node, "up")
            for daemon in ("mesh-proxy", "mesh-operator", "mesh-agent"):
                self.two.start(daemon)
            self.renew()
        return list(self.two.pods("echo").values()), kill, restore

    def round(self, way):
        victims, kill, restore = getattr(self, way)()
        frontend = self.one.frontend("echo")
        held = [HeldConnection(self.one, frontend, pod) for pod in victims]
        command = self.one.exec_command("shop/client", "/usr/bin/python3", "-u", "-c", CONNECT, frontend["address"],
                                        str(frontend["port"]))
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            client.stdout.readline()
            time.sleep(0.5)  # of undisturbed connections, to see that there are no other failures
            at = time.monotonic()
            kill()
            fates = [each.fate(30) for each in held]
            # Its last failure may be after that.
            time.sleep(max(0.0, at + 4 - time.monotonic()))
            out, _ = client.communicate(timeout=30)
        finally:
            client.kill()
            for each in held:
                each.close()
        told = json.loads(out)
        after = [begin - at for begin, _, _ in told["failed"] if begin >= at]
        # Those that were on their way when it died are no new ones.
        result = {"way": way, "attempts": told["attempts"], "failed": len(after),
                  "failed_before": sum(end < at for _, end, _ in told["failed"]),
                  "last_failed": max(after, default=0.0),
                  "reset": [fate and fate[1] - at for fate in fates],
                  "errors": sorted({fate[0] if fate else "hangs" for fate in fates})}
        restore()
        self.await_whole()
        return result


WAYS = ("process_killed", "process_hangs", "pod_link_cut", "node_killed", "cluster_killed")


def main():
    if (missing := missing_needs()) is not None:
        print(f"SKIPPED: needs {missing}", file=sys.stderr)
        return 77
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = tempfile.mkdtemp(prefix="mesh-fo-")
    bench = Bench(pathlib.Path(sys.argv[1]).resolve(), root)
    try:
        bench.open()
        for _ in range(int(sys.argv[2])):
            for way in sys.argv[3:] or WAYS:
                print(json.dumps(bench.round(way)), flush=True)
    finally:
        bench.close()
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
