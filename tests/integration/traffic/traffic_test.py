#!/usr/bin/env python3
"""Traffic annotations in a mesh-agent that follows two real etcds: weights, a remote that falls silent or dies
(stale-policy) and its return (slow-start), as the agent's status socket tells them.

Usage: traffic_test.py <mesh-agent> [unittest arguments]. Exits 77, saying so, where etcd is missing.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

AGENT = ""
DEADLINE = 60.0  # of any wait; a wait ends as soon as what it waits for is there

HTTP = {"http": {"Protocol": "TCP", "Port": 8080}}
LOCAL = {
    "namespace": "shop", "name": "echo", "type": "ClusterIP", "clusterIPs": ["10.11.0.10"],
    "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
    "backends": [{"address": "10.10.0.1", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]}],
    "global": True, "shared": True, "affinity": "none",
    "annotations": {"libmesh.io/cluster-weights": "cluster1=80,cluster2=20", "libmesh.io/slow-start": "6s",
                    "libmesh.io/stale-policy": "close:10s"}}
REMOTE = {
    "cluster": "cluster2", "namespace": "shop", "name": "echo", "frontends": {"10.21.0.1": HTTP},
    "backends": {f"10.20.0.{i}": HTTP for i in (1, 2, 3)}, "labels": {}, "selector": {},
    "includeExternal": True, "shared": True, "clusterID": 2}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, what):
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {DEADLINE:.0f} s in vain for: {what}")
        time.sleep(0.05)


class Etcd:
    def __init__(self, directory, name):
        self.url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        with open(os.path.join(directory, name + ".log"), "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", os.path.join(directory, name), "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
                 "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
                stdout=log, stderr=log)
        wait_for(lambda: self.ctl("endpoint", "health", check=False).returncode == 0, name)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ctl(self, *arguments, check=True):
        return subprocess.run(["etcdctl", "--endpoints", self.url, *arguments], check=check,
                              env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class TrafficTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="mesh-traffic-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.own, self.remote = (self.start_etcd(name) for name in ("own", "remote"))
        self.own.ctl("put", "mesh/local/services/v1/shop/echo", json.dumps(LOCAL))
        self.remote.ctl("put", "cilium/cluster-config/cluster2",
                        json.dumps({"id": 2, "capabilities": {"maxConnectedClusters": 255}}))
        self.remote.ctl("put", "cilium/state/services/v1/cluster2/shop/echo", json.dumps(REMOTE))
        os.mkdir(self.path("remotes"))
        for file, etcd in (("own.yaml", self.own), ("remotes/cluster2", self.remote)):
            with open(self.path(file), "w") as out:
                out.write(f'endpoints: ["{etcd.url}"]\n')
        with open(self.path("agent.log"), "wb") as log:
            agent = subprocess.Popen(
                [AGENT, "--datapath", "memory", "--cluster-name", "cluster1", "--cluster-id", "1", "--node-name", "n1",
                 "--etcd-config", self.path("own.yaml"), "--clustermesh-config", self.path("remotes"),
                 "--status-socket", self.path("agent.sock")], stdout=log, stderr=log)
        self.addCleanup(lambda: (agent.kill(), agent.wait()))

    def start_etcd(self, name):
        etcd = Etcd(self.directory, name)
        self.addCleanup(etcd.kill)
        return etcd

    def path(self, name):
        return os.path.join(self.directory, name)

    def look(self):
        """The share of cluster2 in percent (None = no new connections), reasons of its backends, notes."""
        connection = UnixConnection(self.path("agent.sock"))
        try:
            connection.request("GET", "/v1/services")
            services = json.loads(connection.getresponse().read())
        except OSError:
            return None, set(), ""
        finally:
            connection.close()
        if not services:
            return None, set(), ""
        backends = services[0]["frontends"][0]["backends"]
        total = sum(b["weight"] for b in backends if b["selected"])
        theirs = [b for b in backends if b["cluster"] == "cluster2"]
        share = sum(b["weight"] for b in theirs if b["selected"])
        return (100 * share / total if share else None), {b["reason"] for b in theirs}, "\n".join(services[0]["notes"])

    def await_share(self, percent):
        wait_for(lambda: abs((self.look()[0] or 0) - percent) < 0.5, f"cluster2 gets {percent}% of new connections")

    def await_closed(self, note):
        def closed():
            share, reasons, notes = self.look()
            return share is None and any("stale remote" in r for r in reasons) and note in notes
        wait_for(closed, f"cluster2 gets none, and a note: {note}")

    def test_weights_stale_and_slow_start(self):
        self.await_share(20)
        # Silent but connected: nobody tells the agent, it must look at the time itself.
        self.remote.process.send_signal(signal.SIGSTOP)
        self.await_closed("no proof of life for 10 s or longer")
        self.remote.process.send_signal(signal.SIGCONT)
        percents = []

        def is_back():
            share, _, notes = self.look()
            slow = re.search(r"cluster2: slow start: at (\d+)%", notes)
            if slow and (not percents or percents[-1] != int(slow[1])):
                percents.append(int(slow[1]))
            return abs((share or 0) - 20) < 0.5
        wait_for(is_back, "cluster2 has its share again")
        self.assertTrue(percents, "no slow start was seen")
        self.assertEqual(percents, sorted(percents))
        self.assertLessEqual(set(percents), set(range(10, 100, 10)))
        # Gone: the connection is lost at once, the age decides all the same.
        self.remote.kill()
        self.await_closed("cluster2: stale: not connected")


if __name__ == "__main__":
    AGENT = os.path.abspath(sys.argv.pop(1))
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        print("SKIPPED: etcd and etcdctl are needed (Debian packages etcd-server, etcd-client)")
        sys.exit(77)
    unittest.main(verbosity=2)
