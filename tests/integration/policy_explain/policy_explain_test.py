#!/usr/bin/env python3
"""policy_explain_test.py BIN [CASE ...]: two clusters; what meshctl policy, endpoint and identity say of running agents, and
that packets fare as it says.

Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, delete_clusters, failed, run_cases, wait_for  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "policy"))
from shop import ASK, PODS, SPACE  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
PATIENCE = 60  # seconds until something that must happen counts as not happening


def policy(cluster, app="good"):
    return f"""apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: server, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: server}}}}
  ingress:
  - fromEndpoints:
    - matchLabels: {{app: {app}, io.cilium.k8s.policy.cluster: {cluster.name}}}
    toPorts: [{{ports: [{{port: "8080", protocol: TCP}}]}}]
"""


class Explain(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-explain-")
        cls.one = Cluster(BIN, cls.root, f"x{os.getpid()}a", 41, "embedded")
        cls.two = Cluster(BIN, cls.root, f"x{os.getpid()}b", 42, "embedded", inherit=cls.one)
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (cls.one, cls.two):
            cluster.create()
        cls.one.meshctl("clustermesh", "connect", "--cluster", cls.one.name, "--to", cls.two.name)
        for cluster in (cls.one, cls.two):
            cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=SPACE + "---" + PODS)
        for cluster in (cls.one, cls.two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        cls.address = next(ip for ip in cls.one.pods("server")["server"]["ips"] if ":" not in ip)

    def setUp(self):
        self.policy("delete", "shop/server")
        self.wait_policies({})
        # All pods of both clusters are known to the agents that are asked.
        for pod in ("good", "bad", "server"):
            wait_for(f"{pod} is known", lambda: self.trace(f"{self.two.name}/shop/{pod}", "shop/server")["verdict"] == "allowed",
                     PATIENCE)

    def tearDown(self):
        if failed(self):
            self.one.print_logs()

    # -- what the cases share

    def command(self, *words, code=0, input=None):
        done = self.one.run(*words, "--cluster", self.one.name, "-o", "json", input=input)
        self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout else done.stderr

    def policy(self, *words, code=0, input=None):
        return self.command("policy", *words, code=code, input=input)

    def trace(self, source, destination, dport="8080/TCP"):
        """The document, whatever its verdict; {"verdict": <why not>} if there is none."""
        done = self.one.run("policy", "trace", "--cluster", self.one.name, "-o", "json", "--src", source, "--dst", destination,
                            "--dport", dport)
        document = json.loads(done.stdout) if done.stdout else {"verdict": done.stderr}
        expected = {"allowed": 0, "denied": 1}.get(document["verdict"], 2)
        self.assertEqual(done.returncode, expected, document)
        return document

    def wait_policies(self, ports):
        """Until both nodes enforce policy server for those peers' apps, by the agents' own lists."""
        def there():
            for node in ("node1", "node2"):
                status = self.one.ask_daemon(f"mesh-agent-{node}", "/v1/policy")
                if not status["synced"] or status["counts"]["waiting"] or status["errors"]:
                    return False
                if {p["name"]: p["file"] for p in status["policies"]} != ports:
                    return False
            return True
        wait_for(f"policies {ports} on both nodes", there, PATIENCE)

    def put(self, text, name):
        path = pathlib.Path(self.root) / name
        path.write_text(text)
        changes = self.policy("import", "-f", str(path))
        self.wait_policies({"server": str(path)})
        return changes

    def ask(self, cluster, pod, seconds=2):
        done = subprocess.run(cluster.exec_command(f"shop/{pod}", "/usr/bin/python3", "-c", ASK, self.address, str(seconds)),
                              capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    # -- cases

    def test_what_it_says_is_what_packets_meet(self):
        self.put(policy(self.two), "good.yaml")
        good = self.trace(f"{self.two.name}/shop/good", "shop/server")
        self.assertEqual(good["verdict"], "allowed")
        self.assertEqual(good["source"]["cluster"], self.two.name)
        fact = good["source"]["facts"][0]
        self.assertEqual((fact["cluster"], fact["state"]), (self.two.name, "ready"))
        self.assertGreaterEqual(fact["age_seconds"], 0)
        self.assertFalse(good["egress"]["evaluated"])
        ingress = good["ingress"]
        self.assertEqual((ingress["node"], ingress["installed"], ingress["endpoint"]["state"]), ("node1", True, "ready"))
        rule = ingress["decided"][0]
        self.assertEqual((rule["path"], rule["line"], rule["peer"]), ("spec.ingress[0].toPorts[0]", 7, "fromEndpoints[0]"))
        self.assertIn("good.yaml: document 1", rule["source"])
        self.assertEqual(self.ask(self.two, "good", 20), "answer")

        bad = self.trace("shop/bad", self.address)
        self.assertEqual((bad["verdict"], bad["ingress"]["verdict"]), ("denied", "default-denied"))
        # Its own egress is another node's, which says what it has.
        self.assertEqual((bad["egress"]["node"], bad["egress"]["verdict"]), ("node2", "not-enforced"))
        self.assertIn("imeout", self.ask(self.one, "bad"))
        self.assertEqual(self.trace("shop/nobody", "shop/server")["verdict"].split(":")[0], "meshctl")
        text = self.one.run("policy", "trace", "--cluster", self.one.name, "--src", f"{self.two.name}/shop/good", "--dst",
                            "shop/server", "--dport", "8080/TCP").stdout
        self.assertIn("decides  CiliumNetworkPolicy shop/server  spec.ingress[0].toPorts[0]", text)

    def test_what_would_change(self):
        self.put(policy(self.two), "good.yaml")
        diff = self.policy("diff", "-f", "-", input=policy(self.two, "bad"))
        changes = {change["after"]["verdict"]: difference["peers"] for difference in diff["differences"]
                   for change in difference["changes"]}
        self.assertEqual(set(changes), {"allowed", "denied"})
        self.assertIn("k8s:app=bad", changes["allowed"]["common_labels"])
        self.assertIn("k8s:app=good", changes["denied"]["common_labels"])
        for difference in diff["differences"]:
            self.assertEqual([e["pods"] for e in difference["endpoints"]], [["shop/server"]])
            self.assertEqual([(c["protocol"], c["ports"]) for c in difference["changes"]], [("TCP", "8080")])
        self.assertEqual(self.policy("diff", "-f", "-", input=policy(self.two))["differences"], [])
        # And it was only a question.
        self.assertEqual(self.ask(self.two, "good", 20), "answer")

    def test_policies_endpoints_and_identities_are_listed(self):
        self.put(policy(self.two), "good.yaml")
        self.assertEqual([p["name"] for p in self.policy("get")], ["server"])
        one = self.policy("get", "shop/server")
        self.assertEqual(one["policy"]["spec"]["endpointSelector"], {"matchLabels": {"app": "server"}})
        text = self.one.run("policy", "get", "server", "--cluster", self.one.name, "-o", "yaml").stdout
        self.assertIn("kind: CiliumNetworkPolicy\n", text)
        self.assertEqual(self.policy("diff", "-f", "-", input=text)["differences"], [])

        endpoint = self.command("endpoint", "get", "shop/server")
        self.assertEqual(endpoint["node"], "node1")
        self.assertTrue(endpoint["policy"]["ingress"])
        self.assertIn(self.two.name, {row["cluster"] for row in endpoint["rows_now"]})
        self.assertEqual(self.command("endpoint", "get", self.address)["number"], endpoint["number"])
        self.assertIn("no agent has it", self.command("endpoint", "get", "shop/nobody", code=1))

        found = self.command("identity", "list", "--labels", "app=good")
        self.assertEqual({i["cluster"] for i in found}, {self.one.name, self.two.name})
        self.assertEqual(len(self.command("identity", "list", "--labels", "app=good", "--of-cluster", self.two.name)), 1)
        number = str(found[0]["id"])
        self.assertEqual(self.command("identity", "get", number)[0]["labels"], found[0]["labels"])
        self.assertIn("no such identity", self.command("identity", "get", "4000000000", code=1))

    def test_import_and_delete(self):
        path = pathlib.Path(self.root) / "good.yaml"
        path.write_text(policy(self.two))
        self.assertEqual(self.policy("import", "-f", str(path), "--dry-run")[0]["change"], "created")
        self.assertEqual(self.policy("get"), [])
        self.assertEqual(self.put(policy(self.two), "good.yaml")[0]["change"], "created")
        self.assertEqual(self.policy("import", "-f", str(path))[0]["change"], "unchanged")
        self.assertIn("imeout", self.ask(self.one, "bad"))
        self.assertEqual(self.policy("delete", "shop/server")[0]["change"], "deleted")
        self.wait_policies({})
        wait_for("bad gets an answer", lambda: self.ask(self.one, "bad", 10) == "answer", PATIENCE)
        # One that is published from a manifest is not for import to change.
        self.one.meshctl("sandbox", "apply", "--cluster", self.one.name, "-f", "-", input=policy(self.two))
        wait_for("the manifest's policy", lambda: [p["name"] for p in self.policy("get")] == ["server"], PATIENCE)
        self.assertIn("published from a manifest", self.policy("import", "-f", str(path), code=1))
        self.assertIn("published from a manifest", self.policy("delete", "shop/server", code=1))
        self.one.meshctl("sandbox", "remove", "--cluster", self.one.name, "-f", "-", input=policy(self.two))
        self.wait_policies({})


if __name__ == "__main__":
    sys.exit(run_cases(Explain, seconds=570))
