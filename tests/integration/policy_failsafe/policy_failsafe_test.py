#!/usr/bin/env python3
"""policy_failsafe_test.py BIN [CASE ...]: two clusters; policies by label across them, and what holds while something is gone.

Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, run_cases, wait_for  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
PATIENCE = 60  # seconds until something that must happen counts as not happening

SPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
PODS = """
apiVersion: v1
kind: Pod
metadata: {name: good, namespace: shop, labels: {app: good}}
spec: {nodeName: node1, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bad, namespace: shop, labels: {app: bad}}
spec: {nodeName: node2, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec: {nodeName: node1, containers: [{name: c, command: [mesh-echo], ports: [{name: http, containerPort: 8080}]}]}
"""

# One request to an address: says "answer", or what became of it.
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 8080), timeout=float(sys.argv[2])) as s:
        s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print("answer" if s.recv(1) else "closed")
except OSError as e:
    print(type(e).__name__)
"""


def policy(name, rules, subject="app: server"):
    return (f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
            f"spec:\n  endpointSelector: {{matchLabels: {{{subject}}}}}\n{rules}")


def from_good(cluster, word="ingress", name="server"):
    return policy(name, f"  {word}:\n  - fromEndpoints:\n    - matchLabels:\n        app: good\n"
                        f"        io.cilium.k8s.policy.cluster: {cluster.name}\n")


class FailSafe(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-policy-")
        cls.one = Cluster(BIN, cls.root, f"p{os.getpid()}a", 31, "real")
        cls.two = Cluster(BIN, cls.root, f"p{os.getpid()}b", 32, "embedded", inherit=cls.one)
        cls.addClassCleanup(cls.clean)
        for cluster in (cls.one, cls.two):
            cluster.create()
        cls.one.meshctl("clustermesh", "connect", "--cluster", cls.one.name, "--to", cls.two.name)
        for cluster in (cls.one, cls.two):
            cls.apply(cluster, SPACE + "---" + PODS)
        for cluster in (cls.one, cls.two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        cls.address = {c.name: next(ip for ip in c.pods("server")["server"]["ips"] if ":" not in ip)
                       for c in (cls.one, cls.two)}

    @classmethod
    def clean(cls):
        left = []
        for cluster in (cls.one, cls.two):
            cluster.delete()
            left += cluster.leftovers()
        shutil.rmtree(cls.root, ignore_errors=True)
        if left:
            raise AssertionError(f"left behind: {left}")

    @staticmethod
    def apply(cluster, text):
        cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=text)

    def setUp(self):
        for daemon in ("etcd", "mesh-proxy", "mesh-operator", "mesh-agent"):
            self.one.start(daemon)
        for file in self.manifests().glob("test-*.yaml"):
            file.unlink()
        self.wait_policies(set())
        self.wait_open()

    def tearDown(self):
        if not self._outcome.success:
            self.one.print_logs()

    # -- what the cases share

    def manifests(self):
        operator = next(d for d in self.one.daemons() if d["name"] == "mesh-operator")["argv"]
        return pathlib.Path(operator[operator.index("--manifests") + 1])

    def write(self, text, name="test-policy.yaml"):
        new = self.manifests() / (name + ".new")
        new.write_text(text)
        new.rename(self.manifests() / name)

    def status(self, node="node1"):
        return self.one.ask_daemon(f"mesh-agent-{node}", "/v1/policy")

    def wait_policies(self, names):
        def there():
            for node in ("node1", "node2"):
                status = self.status(node)
                if not status["synced"] or status["counts"]["waiting"] or status["errors"]:
                    return False
                if {p["name"] for p in status["policies"]} != names:
                    return False
            return True
        wait_for(f"policies {names} on both nodes", there, PATIENCE)

    def ask(self, cluster, pod, seconds=2):
        done = subprocess.run(cluster.exec_command(f"shop/{pod}", "/usr/bin/python3", "-c", ASK,
                                                   self.address[self.one.name], str(seconds)),
                              capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def wait_open(self):
        for cluster in (self.one, self.two):
            for pod in ("good", "bad"):
                wait_for(f"{pod} of {cluster.name} gets an answer",
                         lambda: self.ask(cluster, pod, 10) == "answer", PATIENCE)

    def assert_good_of_two_only(self):
        self.assertEqual(self.ask(self.two, "good", 20), "answer")
        for cluster, pod in ((self.two, "bad"), (self.one, "good"), (self.one, "bad")):
            self.assertIn("imeout", self.ask(cluster, pod), f"{pod} of {cluster.name}")

    # -- cases

    def test_a_label_of_another_cluster_and_the_end_of_the_file(self):
        self.write(from_good(self.two))
        self.wait_policies({"server"})
        self.assert_good_of_two_only()
        endpoint = next(e for e in self.one.ask_daemon("mesh-agent-node1", "/v1/endpoints") if e["pod"] == "server")
        self.assertEqual((endpoint["policy"]["state"], endpoint["policy"]["enforcement"]), ("ready", "rules"))
        rows = self.one.ask_daemon("mesh-agent-node1", f"/v1/endpoints/{endpoint['id']}")["rows_now"]
        self.assertIn(self.two.name, {row["cluster"] for row in rows})
        (self.manifests() / "test-policy.yaml").unlink()
        self.wait_policies(set())
        self.wait_open()

    def test_a_bad_document_keeps_the_last_good_one(self):
        self.write(from_good(self.two))
        self.wait_policies({"server"})
        self.write(from_good(self.two, "ingres") + "---\n" + policy("other", "  egress: [{}]\n", "app: nobody"))
        self.wait_policies({"server", "other"})
        operator = self.one.ask_daemon("mesh-operator")
        errors = [e for e in operator["manifests"]["errors"] if "test-policy.yaml" in e]
        self.assertEqual(len(errors), 1, errors)
        self.assertIn("document 1: line 7: spec.ingres: expected", errors[0])
        self.assertEqual(operator["objects"]["CiliumNetworkPolicy"], 2)
        self.assert_good_of_two_only()
        # Also of an operator that has never seen it good.
        self.one.kill("mesh-operator")
        self.one.start("mesh-operator")
        wait_for("the operator is ready", lambda: self.one.ask_daemon("mesh-operator")["ready"], PATIENCE)
        self.wait_policies({"server", "other"})
        self.assert_good_of_two_only()
        self.write(policy("other", "  egress: [{}]\n", "app: nobody"))
        self.wait_policies({"other"})
        self.wait_open()

    def test_without_an_agent_and_without_an_etcd(self):
        self.write(from_good(self.two))
        self.wait_policies({"server"})
        self.one.kill("mesh-agent")
        self.assert_good_of_two_only()
        self.one.kill("etcd")
        self.one.kill("mesh-proxy")
        self.assert_good_of_two_only()
        self.one.start("mesh-agent")
        wait_for("the agent answers", lambda: self.status()["synced"] is False, PATIENCE)
        self.assertEqual({p["name"] for p in self.status()["policies"]}, set())
        self.assert_good_of_two_only()
        self.one.start("etcd")
        self.one.start("mesh-proxy")
        self.wait_policies({"server"})
        self.assert_good_of_two_only()

    def test_a_new_pod_is_locked_while_its_cluster_is_not_known(self):
        self.one.kill("mesh-agent", "node2")
        self.one.kill("etcd")
        self.one.kill("mesh-proxy")
        self.one.start("mesh-agent", "node2")
        new = PODS.split("---")[1].replace("name: bad,", "name: new,")
        self.apply(self.one, new)

        def locked():
            endpoints = self.one.ask_daemon("mesh-agent-node2", "/v1/endpoints")
            return [e["policy"] for e in endpoints if e["pod"] == "new" and e["attached"]]
        found = wait_for("the new pod is attached", locked, PATIENCE)[0]
        self.assertEqual((found["state"], found["enforcement"]), ("waiting", "locked"))
        self.assertIn("imeout", self.ask(self.one, "new"))
        self.one.start("etcd")
        self.one.start("mesh-proxy")
        wait_for("the new pod gets an answer", lambda: self.ask(self.one, "new", 10) == "answer", PATIENCE)
        self.one.meshctl("sandbox", "remove", "--cluster", self.one.name, "-f", "-", input=new)

    def test_a_policy_of_too_many_rows_locks_its_pod_alone(self):
        state = self.one.folder / "state.json"
        before = state.read_text()
        daemons = json.loads(before)
        for daemon in daemons["daemons"]:
            if daemon["name"] == "mesh-agent":
                daemon["argv"] += ["--bpf-policy-map-max", "20"]
        self.one.kill("mesh-agent")
        state.write_text(json.dumps(daemons))
        try:
            self.one.start("mesh-agent")
            self.wait_policies(set())
            ports = ", ".join(f"{{port: '{9001 + 2 * i}'}}" for i in range(30))
            self.write(policy("server", f"  ingress: [{{toPorts: [{{ports: [{ports}]}}]}}]\n"))
            found = wait_for("the server is locked", lambda: self.status()["errors"], PATIENCE)
            self.assertEqual([(e["endpoint"].split(".")[-1], e["state"]) for e in found][0][1], "overflow")
            self.assertIn("there is room for 20", found[0]["error"])
            self.assertIn("imeout", self.ask(self.two, "good"))
            self.write(from_good(self.two))
            self.wait_policies({"server"})
            self.assert_good_of_two_only()
        finally:
            self.one.kill("mesh-agent")
            state.write_text(before)
            self.one.start("mesh-agent")


if __name__ == "__main__":
    sys.exit(run_cases(FailSafe, seconds=570))
