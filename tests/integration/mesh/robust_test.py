#!/usr/bin/env python3
"""robust_test.py BIN [CASE ...]: two clusters under what should not happen: no etcd left, nodes that flap, tables that are full.

As mesh_test.py; a pair of its own, so that it may be run alone. Exit code 77 = skipped, with the reason on standard error.
"""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

from sandboxes import Cluster, Loop, delete_clusters, failed, run_cases, wait_for

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()

# Runs on node1 of a cluster: puts (a value) and deletes (null) by etcd's JSON gateway, in transactions of up to 100.
# Standard input is a list of rounds {"key": value or null}; they are repeated for that many seconds (0: once).
# Prints how many keys were written.
ETCD_WRITER = """
import base64, http.client, json, ssl, sys, time
host, port, ca, cert, key, seconds = *sys.argv[1:6], float(sys.argv[6])
rounds = json.load(sys.stdin)
tls = ssl.create_default_context(cafile=ca)
tls.check_hostname = False
tls.load_cert_chain(cert, key)
connection = http.client.HTTPSConnection(host, int(port), context=tls)
encode = lambda text: base64.b64encode(text.encode()).decode()
bodies = []
for changes in rounds:
    keys = list(changes)
    for i in range(0, len(keys), 100):
        bodies.append((len(keys[i:i + 100]), json.dumps({"success": [
            {"request_put": {"key": encode(k), "value": encode(changes[k])}} if changes[k] is not None else
            {"request_delete_range": {"key": encode(k)}} for k in keys[i:i + 100]]})))
end, written, once = time.monotonic() + seconds, 0, True
while once or time.monotonic() < end:
    once = False
    for count, body in bodies:
        connection.request("POST", "/v3/kv/txn", body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"etcd: {answer.status} {text}")
        written += count
print(written)
"""


class RobustTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-robust-")
        cls.one = Cluster(BIN, cls.root, f"r{os.getpid()}a", 3, "embedded")
        cls.two = Cluster(BIN, cls.root, f"r{os.getpid()}b", 4, "real", inherit=cls.one)
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (cls.one, cls.two):
            cluster.create()
        cls.one.meshctl("clustermesh", "connect", "--cluster", cls.one.name, "--to", cls.two.name)
        for cluster in (cls.one, cls.two):
            cls.deploy(cluster)
            cluster.apply("client.yaml")
        for cluster in (cls.one, cls.two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    @classmethod
    def deploy(cls, cluster, replicas=2):
        cluster.apply("echo.yaml", replicas=replicas, annotations='service.cilium.io/global: "true"',
                      port=8080 + cluster.id)

    def setUp(self):
        self.both = {self.one.name: 2, self.two.name: 2}
        for cluster in (self.one, self.two):
            self.start_all(cluster)
            self.deploy(cluster)
        for cluster in (self.one, self.two):
            cluster.wait_used("echo", self.both)
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    def tearDown(self):
        if failed(self):
            for cluster in (self.one, self.two):
                cluster.print_logs()

    def start_all(self, cluster):
        for daemon in ("etcd", "mesh-proxy", "mesh-operator", "mesh-agent"):
            if daemon != "etcd" or cluster.etcd == "real":
                cluster.start(daemon)

    # -- what the cases share

    def pod_frontends(self, cluster):
        """Each address of each echo pod, as something to ask."""
        return [{"protocol": "TCP", "address": ip, "port": 8080 + cluster.id}
                for pod in cluster.pods("echo").values() for ip in pod["ips"]]

    @contextlib.contextmanager
    def undisturbed(self):
        """Requests between the clusters go on in the block, by pod IP and through the service, and none fails."""
        one, two = self.one, self.two
        to_pod = next(f for f in self.pod_frontends(two) if ":" not in f["address"])
        back = next(f for f in self.pod_frontends(one) if ":" in f["address"])
        with Loop(one, to_pod) as pods, Loop(two, back) as pods6, Loop(one, one.frontend("echo")) as service:
            yield
        self.assertEqual(pods.errors + pods6.errors + service.errors, [])

    def status(self):
        return self.one.ask_daemon("mesh-agent-node1")

    def metric(self, name, labels=""):
        done = subprocess.run(["curl", "-sSm5", "--unix-socket", self.one.folder / "run" / "mesh-agent-node1.sock",
                               "http://daemon/metrics"], capture_output=True, text=True, check=True)
        found = re.search(rf"^{re.escape(name + labels)} (\S+)$", done.stdout, re.MULTILINE)
        self.assertIsNotNone(found, f"no metric {name}: {done.stdout}")
        return float(found[1])

    def log(self):
        return (self.one.folder / "logs" / "mesh-agent-node1.log").read_text()

    def write_to_etcd(self, rounds, seconds=0):
        """Puts and deletes in the second cluster's etcd."""
        two = self.two
        host, port = two.writer_endpoint().removeprefix("https://").rsplit(":", 1)
        pki = two.folder / "pki"
        done = subprocess.run(two.exec_command("node1", "/usr/bin/python3", "-c", ETCD_WRITER, host, port,
                                               pki / "ca.crt", pki / "admin.crt", pki / "admin.key", str(seconds)),
                              input=json.dumps(rounds), capture_output=True, text=True, timeout=60 + seconds)
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(done.stdout)

    def ip_entries(self, count):
        """Entries of pods of the second cluster that nobody has, by key."""
        known = json.loads(self.two.etcdctl("get", "cilium/state/ip/v1/default/", "--prefix", "--print-value-only",
                                            "--limit=1").stdout.splitlines()[0])
        addresses = [f"10.{90 + self.two.id}.240.{n}" for n in range(1, count + 1)]
        return {f"cilium/state/ip/v1/default/{ip}": json.dumps(dict(known, IP=ip)) for ip in addresses}

    @contextlib.contextmanager
    def agent_with(self, *flags):
        """The first cluster's agent on node1 with these flags; as before afterwards."""
        self.restart_agent(lambda argv: [*argv, *flags])
        try:
            yield
        finally:
            self.restart_agent(lambda argv: argv[:-len(flags)])

    def restart_agent(self, edit):
        one = self.one
        one.kill("mesh-agent", "node1")
        file = one.folder / "state.json"
        state = json.loads(file.read_text())
        for daemon in state["daemons"]:
            if (daemon["name"], daemon["node"]) == ("mesh-agent", "node1"):
                daemon["argv"] = edit(daemon["argv"])
        file.write_text(json.dumps(state))
        one.start("mesh-agent", "node1")
        one.meshctl("status", "--cluster", one.name, "--wait")

    def kernel_rows(self, table, folder="_pods"):
        pin = f"/sys/fs/bpf/mesh-{self.one.name}_node1{folder}/maps/{table}"
        rows = json.loads(subprocess.run(["bpftool", "-j", "map", "dump", "pinned", pin], capture_output=True,
                                         text=True, check=True).stdout)
        return {tuple(row["key"]): tuple(row["value"]) for row in rows}

    # -- no etcd left

    def test_without_any_etcd_everything_known_goes_on(self):
        """Own and remote etcds and proxies die: pods and services go on, also over a restart of the agents."""
        one, two = self.one, self.two
        ipcache, frontends = self.kernel_rows("ipcache"), self.kernel_rows("frontends", "")
        services, addresses = one.frontend("echo"), self.pod_frontends(two) + self.pod_frontends(one)
        with self.undisturbed():
            for cluster in (two, one):
                for daemon in ("mesh-operator", "mesh-proxy", "etcd"):
                    if daemon != "etcd" or cluster.etcd == "real":
                        cluster.kill(daemon)
            wait_for("the own etcd is missed", lambda: not self.status()["local"]["ready"])
            one.wait_remote(two, "stale")
            self.check_all_answer(addresses, services)
            # A new agent has nobody to ask: what the kernel has stays, and nothing more is known.
            one.kill("mesh-agent")
            one.start("mesh-agent")
            wait_for("it tries to connect", lambda: self.status()["local"]["failures"] > 1)
            self.assertFalse(self.status()["synced"])
            self.check_all_answer(addresses, services)
            self.assertEqual(self.kernel_rows("ipcache"), ipcache)
            self.assertEqual(self.kernel_rows("frontends", ""), frontends)
            for cluster in (one, two):
                self.start_all(cluster)
            for cluster in (one, two):
                cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        # Followed again, not only kept.
        self.deploy(two, replicas=1)
        one.wait_used("echo", {one.name: 2, two.name: 1})

    def check_all_answer(self, addresses, service):
        for frontend in addresses:
            self.assertFalse([r for r in self.one.ask(frontend, 2) if "error" in r], frontend)
        self.assertEqual(set(self.one.who(service)), set(self.both))

    # -- nodes that flap

    def flapping_nodes(self, count):
        """Records of nodes of the second cluster that nobody has, by key."""
        two = self.two
        known = json.loads(two.etcdctl("get", f"cilium/state/nodes/v1/{two.name}/node1", "--print-value-only").stdout)
        nodes = {}
        for n in range(1, count + 1):
            blocks = {"IPv4AllocCIDR": f"10.{90 + two.id}.{100 + n}.0", "IPv6AllocCIDR": f"fd00:{90 + two.id}:0:{100 + n}::"}
            node = dict(known, Name=f"flap{n}", **{k: dict(known[k], IP=ip) for k, ip in blocks.items()},
                        IPAddresses=[{"Type": "InternalIP", "IP": f"172.30.1.{n}"}])
            for field in ("IPv4HealthIP", "IPv6HealthIP"):
                node.pop(field, None)
            nodes[f"cilium/state/nodes/v1/{two.name}/flap{n}"] = json.dumps(node)
        return nodes

    def memory_mib(self):
        pid = next(d["pid"] for d in self.one.daemons() if (d["name"], d["node"]) == ("mesh-agent", "node1"))
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024

    def test_flapping_nodes_cost_little_and_leave_others_alone(self):
        """Nodes come and go many times a second: others are untouched, nothing grows, and the end is what is kept."""
        nodes = self.flapping_nodes(30)
        away = dict.fromkeys(nodes)
        before, nodes_before = self.kernel_rows("ipcache"), self.kernel_rows("nodes")
        occupancy = lambda: (self.status()["pods"]["ipcache"], self.status()["datapath"]["routes"])
        at_first = occupancy()
        changes, writes = 0, self.metric("mesh_route_comparisons_total")
        memory, begin = [], time.monotonic()
        with self.undisturbed():
            for _ in range(3):
                changes += self.write_to_etcd([nodes, away] * 50, seconds=1.5)
                # Half of what flaps is there, half is away: none of the others was touched.
                now = self.kernel_rows("ipcache")
                self.assertEqual({k: now.get(k) for k in before}, before)
                memory.append(self.memory_mib())
        wait_for("what went is gone", lambda: occupancy() == at_first)
        self.assertEqual(self.kernel_rows("ipcache"), before)
        self.assertEqual(self.kernel_rows("nodes"), nodes_before)
        took = time.monotonic() - begin
        compared = self.metric("mesh_route_comparisons_total") - writes
        # One for what comes and one for what goes in each pace of 50 ms, however many changes there were.
        self.assertLess(compared, 2 * took / 0.05 + 10, f"comparisons of routes for {changes} changes in {took:.1f} s")
        self.assertLess(memory[-1] - memory[0], 2, f"MiB after each round: {memory}")

        self.write_to_etcd([nodes])
        wait_for("all are there", lambda: self.status()["datapath"]["routes"] == at_first[1] + 2 * len(nodes))
        now = self.kernel_rows("ipcache")
        self.assertEqual({k: now.get(k) for k in before}, before)
        self.write_to_etcd([away])
        wait_for("all are gone", lambda: occupancy() == at_first)
        self.assertEqual(self.kernel_rows("ipcache"), before)

    # -- tables that are full

    def test_a_full_ipcache_is_told_and_the_rest_goes_on(self):
        """More addresses than room: counted, logged, shown; what is there serves, and room is used when it is free."""
        one, two = self.one, self.two
        used = self.status()["pods"]["ipcache"]
        with self.agent_with("--ipcache-entries", str(used + 5)):
            self.assertEqual(self.status()["pods"]["max_ipcache"], used + 5)
            entries = self.ip_entries(20)
            with self.undisturbed():
                self.write_to_etcd([entries])
                wait_for("rows without room", lambda: self.status()["pods"]["ipcache_refused"] == 15)
                self.assertEqual(self.metric("mesh_ipcache_refused"), 15)
                self.assertEqual(self.metric("mesh_ipcache_entries"), used + 5)
                self.assertEqual(self.log().count("ipcache: no room for"), 1)
                told = one.run("status", "--cluster", one.name)
                self.assertEqual(told.returncode, 0, told.stdout)
                self.assertIn(f"node1: ipcache found no room for 15 entries, it has room for {used + 5} "
                              "(--ipcache-entries)", told.stdout)
                self.assertEqual(one.health("mesh-agent-node1"), 200)
                # A pod without a row of its own is reached by its node's.
                self.deploy(two, replicas=4)
                one.wait_used("echo", {one.name: 2, two.name: 4})
                for frontend in self.pod_frontends(two):
                    self.assertFalse([r for r in one.ask(frontend, 2) if "error" in r], frontend)
                self.deploy(two)
                one.wait_used("echo", self.both)
                filled = lambda: (self.status()["pods"]["ipcache"], self.status()["pods"]["ipcache_refused"])
                self.write_to_etcd([dict.fromkeys(list(entries)[:15])])
                wait_for("what had no room has some", lambda: filled() == (used + 5, 0))
                self.write_to_etcd([dict.fromkeys(entries)])
                wait_for("what is left", lambda: filled() == (used, 0))
            self.assertEqual(self.metric("mesh_ipcache_refused"), 0)
            self.assertIn("all rows have found room", self.log())

    def test_full_nodes_and_endpoints_likewise(self):
        """A node or a pod too many: told, and the others go on; it is taken when another goes."""
        one = self.one
        pods = self.status()["pods"]
        with self.agent_with("--node-entries", str(pods["nodes"] + 10), "--endpoint-entries", str(pods["endpoints"])):
            nodes = self.flapping_nodes(14)
            with self.undisturbed():
                self.write_to_etcd([nodes])
                wait_for("nodes without room", lambda: self.status()["pods"]["nodes_refused"] == 4)
                self.assertEqual(self.metric("mesh_tunnel_nodes_refused"), 4)
                self.assertIn("nodes: no room for 172.30.1.", self.log())
                self.assertIn("node1: nodes found no room for 4 entries", one.run("status", "--cluster", one.name).stdout)
                self.write_to_etcd([dict.fromkeys(list(nodes)[:7])])
                wait_for("there is room", lambda: self.status()["pods"]["nodes_refused"] == 0)
                self.write_to_etcd([dict.fromkeys(nodes)])

                one.apply("late.yaml")
                wait_for("a pod without room", lambda: self.status()["pods"]["failed_endpoints"] == 1)
                self.assertEqual(self.metric("mesh_endpoints_failed"), 1)
                self.assertIn("endpoints: no room for", self.log())
                self.assertEqual(one.health("mesh-agent-node1"), 200)
                one.remove("pod/late")
                wait_for("it is gone", lambda: self.status()["pods"]["failed_endpoints"] == 0)

    def test_full_services_likewise(self):
        """A service too many is refused by name; the others are load balanced, and it is taken when there is room."""
        one, two = self.one, self.two
        used = self.status()["datapath"]["services"]
        with self.agent_with("--service-entries", str(used + 1)):  # id 0 is nobody's
            with self.undisturbed():
                for cluster in (one, two):
                    cluster.apply("spare.yaml")
                rejected = wait_for("a service without room", lambda: self.status()["datapath"]["rejected"])
                self.assertEqual([r["service"] for r in rejected], ["shop/spare"])
                self.assertEqual(self.metric("mesh_datapath_rejected_services"), 1)
                self.assertIn("node1: services found no room for 1 entries", one.run("status", "--cluster", one.name).stdout)
                self.assertEqual(one.health("mesh-agent-node1"), 200)
                self.deploy(two, replicas=3)
                one.wait_used("echo", {one.name: 2, two.name: 3})
                self.assertEqual(set(one.who(one.frontend("echo"))), set(self.both))
                for cluster in (one, two):
                    cluster.remove("service/spare")
                wait_for("nothing is refused", lambda: not self.status()["datapath"]["rejected"])


if __name__ == "__main__":
    sys.exit(run_cases(RobustTest))
