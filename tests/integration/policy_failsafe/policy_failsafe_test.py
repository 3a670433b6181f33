#!/usr/bin/env python3
"""policy_failsafe_test.py BIN [CASE ...]: two clusters; policies by label across them, and what holds while something is gone.

Exit code 77 = skipped, with the reason on standard error.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, delete_clusters, failed, run_cases, wait_for  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "policy"))
from shop import ASK, PODS, SPACE  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
LOOP = pathlib.Path(__file__).resolve().parent / "http_loop.py"
PATIENCE = 60  # seconds until something that must happen counts as not happening


def policy(name, rules, subject="app: server"):
    return (f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
            f"spec:\n  endpointSelector: {{matchLabels: {{{subject}}}}}\n{rules}")


def from_good(cluster, word="ingress", name="server"):
    return policy(name, f"  {word}:\n  - fromEndpoints:\n    - matchLabels:\n        app: good\n"
                        f"        io.cilium.k8s.policy.cluster: {cluster.name}\n")


# One path, and a header that no client sends and the proxy adds: a request that has it has been through the rules.
HTTP_PORT = 8081
HTTP_RULES = """  ingress:
  - fromEndpoints:
    - matchLabels: {app: good, io.cilium.k8s.policy.cluster: %(other)s}
    - {}
    toPorts:
    - ports: [{port: "8081", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: /public, headerMatches: [{name: X-Filtered, value: "yes", mismatch: ADD}]}
"""
EXPECTED = {"/public": 200, "/private": 403}


def as_ruled(row):
    return row.get("status") == EXPECTED[row["path"]]


class Background:
    """http_loop.py in a pod until close(); `rows` is what it has said so far."""

    def __init__(self, cluster, pod, *args):
        self.cluster, self.pod = cluster, pod
        command = cluster.exec_command(f"shop/{pod}", "/usr/bin/python3", "-u", str(LOOP), *map(str, args))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.rows = f"{pod} of {cluster.name}", []
        self.reader = threading.Thread(target=lambda: self.rows.extend(map(json.loads, self.process.stdout)),
                                       daemon=True)
        self.reader.start()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        self.reader.join(PATIENCE)


class FailSafe(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-policy-")
        cls.one = Cluster(BIN, cls.root, f"p{os.getpid()}a", 31, "real")
        cls.two = Cluster(BIN, cls.root, f"p{os.getpid()}b", 32, "embedded", inherit=cls.one)
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (cls.one, cls.two):
            cluster.create()
        cls.one.meshctl("clustermesh", "connect", "--cluster", cls.one.name, "--to", cls.two.name)
        for cluster in (cls.one, cls.two):
            cls.apply(cluster, SPACE + "---" + PODS)
        for cluster in (cls.one, cls.two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        cls.address = {c.name: next(ip for ip in c.pods("server")["server"]["ips"] if ":" not in ip)
                       for c in (cls.one, cls.two)}

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
        if failed(self):
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

    @contextlib.contextmanager
    def agents_with(self, *flags):
        """The agents of the first cluster have these flags, too, while the block runs."""
        state = self.one.folder / "state.json"
        before = state.read_text()
        daemons = json.loads(before)
        for daemon in daemons["daemons"]:
            if daemon["name"] == "mesh-agent":
                daemon["argv"] += flags
        self.one.kill("mesh-agent")
        state.write_text(json.dumps(daemons))
        try:
            self.one.start("mesh-agent")
            yield
        finally:
            self.one.kill("mesh-agent")
            state.write_text(before)
            self.one.start("mesh-agent")

    def background(self, *args):
        started = Background(*args)
        self.addCleanup(started.close)
        return started

    def wait_each(self, clients, what, seconds, count, fits):
        """Waits until each client has that many rows that fit, of each path over kept and over new connections."""
        for client in clients:
            for path in EXPECTED:
                for kind in ("kept", "new"):
                    wait_for(f"{client.name}: {path}, {kind} connections: {what}",
                             lambda: sum((r["path"], r["kind"]) == (path, kind) and fits(r) for r in list(client.rows))
                             >= count, seconds)

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
        with self.agents_with("--bpf-policy-map-max", "20"):
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

    def test_http_rules_while_their_agent_is_killed_and_started(self):
        log = self.one.folder / "logs" / "http-access.log"
        with self.agents_with("--http-access-log", str(log)):
            self.write(policy("server", HTTP_RULES % {"other": self.two.name}))
            self.wait_policies({"server"})
            server = self.background(self.one, "server", "serve", HTTP_PORT)
            wait_for("the server listens", lambda: server.rows, PATIENCE)
            clients = [self.background(cluster, pod, "ask", self.address[self.one.name], HTTP_PORT,
                                       f"{cluster.name}/{pod}", *EXPECTED)
                       for cluster, pod in ((self.two, "good"), (self.one, "bad"), (self.one, "good"))]
            self.wait_each(clients, "answers as ruled", PATIENCE, 3, as_ruled)
            at = {"kill": time.monotonic()}
            self.one.kill("mesh-agent", "node1")
            at["down"] = time.monotonic()
            logged = log.stat().st_size
            self.wait_each(clients, "requests without an agent", PATIENCE, 3, lambda r: r["began"] > at["down"])
            at["start"] = time.monotonic()
            self.one.start("mesh-agent", "node1")
            self.wait_each(clients, "as ruled again", 30, 1, lambda r: r["began"] > at["start"] and as_ruled(r))
            at["again"] = time.monotonic()
            self.wait_each(clients, "as ruled still", PATIENCE, 3, lambda r: r["began"] > at["again"] and as_ruled(r))
            for client in clients:
                self.wait_logged(log, logged, client)
            for one in (*clients, server):
                one.close()
        self.assert_ruled_at_all_times(server.rows[1:], clients)
        self.assert_closed_while_down(server.rows[1:], clients, at)

    def assert_ruled_at_all_times(self, reached, clients):
        """Nothing has reached the server but what the rules let pass, and all of it through the proxy."""
        rows = {row["id"]: row for client in clients for row in client.rows}
        self.assertEqual([r for r in reached if r["first"] != "GET /public HTTP/1.1"
                          or r["headers"].get("x-filtered") != "yes" or r["headers"].get("x-id") not in rows], [])
        for row in rows.values():
            if row["path"] == "/private":
                self.assertNotIn("reached", row.get("body", ""), row)
            if row.get("status") == 200:
                self.assertEqual((row["path"], row["body"]), ("/public", f"reached {row['id']}"), row)
        # The server's record is whole.
        self.assertLessEqual({i for i, row in rows.items() if row.get("status") == 200},
                             {r["headers"]["x-id"] for r in reached})

    def assert_closed_while_down(self, reached, clients, at):
        """Without an agent nothing is answered or reaches the server; with one, every answer is as ruled."""
        rows = {row["id"]: row for client in clients for row in client.rows}
        for row in rows.values():
            if "status" in row and (row["ended"] < at["kill"] or row["began"] > at["again"]):
                self.assertTrue(as_ruled(row), row)
        for client in clients:
            ports = [row["port"] for row in client.rows
                     if row["kind"] == "kept" and row["ended"] < at["kill"] and "port" in row]
            self.assertLess(len(set(ports)), len(ports), f"{client.name} keeps no connection")
        down = [row for row in rows.values() if row["began"] > at["down"] and row["ended"] < at["start"]]
        self.assertEqual([row for row in down if "error" not in row], [])
        self.assertEqual([r for r in reached
                          if rows[r["headers"]["x-id"]]["began"] > at["down"] and r["at"] < at["start"]], [])

    def wait_logged(self, log, size, client):
        """Waits for a line for each path from that client, behind the log's first bytes."""
        address = next(ip for ip in client.cluster.pods(client.pod)[client.pod]["ips"] if ":" not in ip)

        def lines():
            text = log.read_bytes()[size:].decode()
            found = {}
            for line in map(json.loads, text.splitlines()[:None if text.endswith("\n") else -1]):
                if line.get("source", {}).get("ip") == address and line.get("path") in EXPECTED and as_ruled(line):
                    found[line["path"]] = line
            return found.keys() == EXPECTED.keys() and found
        found = wait_for(f"the access log has lines of {client.name}", lines, PATIENCE)
        for path, verdict in (("/public", "forwarded"), ("/private", "denied")):
            line = found[path]
            self.assertEqual((line["direction"], line["method"], line["verdict"]), ("ingress", "GET", verdict), line)
            self.assertEqual((line["destination"]["ip"], line["destination"]["port"]),
                             (self.address[self.one.name], HTTP_PORT), line)
            self.assertGreater(line["source"]["identity"], 255, line)


if __name__ == "__main__":
    sys.exit(run_cases(FailSafe, seconds=570))
