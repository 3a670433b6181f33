#!/usr/bin/env python3
"""meshctl policy as a user runs it without a cluster: validate, trace and diff on the files of samples/, and import and
delete against the embedded etcd server. Needs no rights. Usage: policy_cli_test.py MESHCTL ETCD_TEST_SERVER"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SAMPLES = pathlib.Path(__file__).resolve().parent / "samples"
MESHCTL, ETCD = map(os.path.abspath, sys.argv[1:3])


def meshctl(*arguments, stdin=None):
    return subprocess.run([MESHCTL, *arguments], cwd=SAMPLES, input=stdin, text=True, capture_output=True, timeout=60,
                          env={**os.environ, "NO_COLOR": "1"})


class Offline(unittest.TestCase):
    def run_ok(self, *arguments, code=0, stdin=None):
        done = meshctl(*arguments, stdin=stdin)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def document(self, *arguments, code=0):
        return json.loads(self.run_ok(*arguments, "-o", "json", code=code).stdout)

    def trace(self, source, destination, dport, *more, code=0):
        return self.document("policy", "trace", "-f", "app.yaml", "-f", "policies.yaml", "--src", source, "--dst", destination,
                             "--dport", dport, *more, code=code)

    def test_validate(self):
        good = self.document("policy", "validate", "-f", "policies.yaml")
        self.assertTrue(good["valid"])
        self.assertEqual([p["name"] for p in good["policies"]], ["web", "walls"])
        bad = self.document("policy", "validate", "-f", "wrong.yaml", code=1)
        self.assertFalse(bad["valid"])
        self.assertIn("wrong.yaml: document 1: line 9: spec.ingress[0].toPorts[0].ports[0].port: expected a port", bad["errors"][0])
        text = self.run_ok("policy", "validate", "-f", ".", code=1).stdout
        self.assertIn("valid    CiliumClusterwideNetworkPolicy walls (./policies.yaml: document 2)", text)
        self.assertIn("skipped  v1 Pod", text)
        self.run_ok("policy", "validate", "-f", "-", stdin=(SAMPLES / "policies.yaml").read_text())
        # Nothing to check is not good; a file that is not there neither.
        self.assertIn("no network policy", self.run_ok("policy", "validate", "-f", "app.yaml", code=1).stderr)
        self.assertIn("gone.yaml", self.run_ok("policy", "validate", "-f", "gone.yaml", code=1).stderr)

    def test_trace_allowed_by_a_rule(self):
        trace = self.trace("shop/client", "shop/web", "9090/TCP")
        self.assertEqual(trace["verdict"], "allowed")
        rule = trace["ingress"]["decided"][0]
        self.assertEqual((rule["name"], rule["path"], rule["line"], rule["source"]),
                         ("web", "spec.ingress[0].toPorts[1]", 8, "policies.yaml: document 1"))

    def test_trace_denied(self):
        stranger = self.trace("elsewhere/stranger", "shop/web", "9090/TCP", code=1)
        self.assertEqual(stranger["ingress"]["verdict"], "default-denied")
        wall = self.trace("shop/web", "192.0.2.7", "443/TCP", code=1)
        self.assertEqual(wall["egress"]["decided"][0]["path"], "spec.egressDeny[0]")
        self.assertEqual(wall["egress"]["lost"][0]["path"], "spec.egress[0]")
        self.assertEqual(wall["destination"]["cidr"], "192.0.2.7/32")

    def test_trace_requests(self):
        allowed = self.trace("shop/client", "10.10.1.2", "80/TCP", "--http", "GET /about")
        self.assertTrue(allowed["ingress"]["passes"])
        self.assertEqual(allowed["ingress"]["l7"][0]["path"], "spec.ingress[0].toPorts[0].rules.http[0]")
        refused = self.trace("shop/client", "10.10.1.2", "80/TCP", "--http", "PUT /about", code=1)
        self.assertFalse(refused["ingress"]["passes"])

    def test_trace_by_labels_and_modes(self):
        web = "app=web,io.kubernetes.pod.namespace=shop"
        new = "app=client,tier=new,io.kubernetes.pod.namespace=shop"
        self.trace(new, web, "9090/TCP")
        self.trace(new + ",io.cilium.k8s.policy.cluster=west", web, "9090/TCP", code=1)
        self.trace(new + ",io.cilium.k8s.policy.cluster=west", web, "9090/TCP", "--all-clusters")
        self.trace("elsewhere/stranger", "shop/web", "1/TCP", "--enable-policy", "never")

    def test_trace_that_cannot_be_answered_is_no_denial(self):
        base = ["policy", "trace", "-f", "app.yaml", "-f", "policies.yaml"]
        for wrong in (["--src", "shop/nobody", "--dst", "shop/web", "--dport", "80/TCP"],
                      ["--src", "shop/client", "--dst", "shop/web", "--dport", "80/ABC"],
                      ["--src", "app=client", "--dst", "shop/web", "--dport", "80/TCP"],
                      ["--src", "world", "--dst", "192.0.2.7", "--dport", "80/TCP"]):
            done = self.run_ok(*base, *wrong, code=2)
            self.assertTrue(done.stderr or done.stdout.startswith("unknown:"), done)
        done = self.run_ok("policy", "trace", "-f", "wrong.yaml", "--src", "a", "--dst", "b", "--dport", "1", code=2)
        self.assertIn("line 9", done.stderr)

    def test_known_identities(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as known:
            json.dump([{"id": 131082, "labels": ["k8s:app=client", "k8s:io.cilium.k8s.policy.cluster=west",
                                                 "k8s:io.kubernetes.pod.namespace=shop"], "prefix": ""}], known)
            known.flush()
            trace = self.trace("131082", "shop/web", "9090/TCP", "--identities", known.name, "--all-clusters")
            self.assertEqual(trace["source"]["cluster"], "west")
            self.assertFalse(trace["egress"]["evaluated"])

    def test_diff(self):
        against = ["--against", "app.yaml", "--against", "policies.yaml"]
        diff = self.document("policy", "diff", "-f", "new.yaml", *against)
        (one,) = diff["differences"]
        self.assertEqual((one["direction"], one["endpoints"][0]["pods"]), ("ingress", ["shop/web"]))
        self.assertEqual([(c["ports"], c["before"]["verdict"], c["after"]["verdict"]) for c in one["changes"]],
                         [("80", "redirected", "allowed"), ("81", "denied", "allowed"), ("9090", "allowed", "denied")])
        self.assertIn("no packet has another verdict", self.run_ok("policy", "diff", "-f", "policies.yaml", *against).stdout)
        # Without the other policies the wall goes, too.
        pruned = self.document("policy", "diff", "-f", "new.yaml", "--prune", *against)
        self.assertEqual([d["peers"]["outside"] for d in pruned["differences"] if d["direction"] == "egress"], [["192.0.2.0/24"]])

    def test_help_has_examples(self):
        for command in ("validate", "trace", "diff", "get", "import", "delete"):
            self.assertIn("Examples:", self.run_ok("policy", command, "--help").stdout, command)


class Store(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.server = subprocess.Popen([ETCD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = self.server.stdout.readline().split()[1]
        self.config = pathlib.Path(self.folder.name) / "etcd.yaml"
        self.config.write_text(f"endpoints: [http://127.0.0.1:{port}]\n")

    def tearDown(self):
        self.server.terminate()
        self.server.wait(30)
        self.server.stdout.close()
        self.folder.cleanup()

    def policy(self, *arguments, code=0):
        done = meshctl("policy", *arguments, "--etcd-config", str(self.config), "-o", "json")
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return {c["name"]: c["change"] for c in json.loads(done.stdout)} if code == 0 else done.stderr

    def test_import_and_delete(self):
        both = {"web", "walls"}
        self.assertEqual(self.policy("import", "-f", "policies.yaml", "--dry-run"), dict.fromkeys(both, "created"))
        self.assertEqual(self.policy("import", "-f", "policies.yaml"), dict.fromkeys(both, "created"))
        self.assertEqual(self.policy("import", "-f", "policies.yaml"), dict.fromkeys(both, "unchanged"))
        self.assertEqual(self.policy("import", "-f", "new.yaml"), {"web": "configured"})
        self.assertEqual(self.policy("delete", "shop/web", "CiliumClusterwideNetworkPolicy/-/walls", "--dry-run"),
                         dict.fromkeys(both, "deleted"))
        self.assertEqual(self.policy("delete", "shop/web"), {"web": "deleted"})
        self.assertEqual(self.policy("delete", "-f", "policies.yaml"), {"web": "not found", "walls": "deleted"})

    def test_nothing_wrong_goes_in(self):
        self.assertIn("line 9", self.policy("import", "-f", "wrong.yaml", "-f", "policies.yaml", code=2))
        self.assertEqual(self.policy("delete", "shop/web"), {"web": "not found"})
        self.assertIn("NAMESPACE/NAME", self.policy("delete", "web", code=2))
        self.assertIn("expected -f or policies", self.policy("delete", code=2))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
