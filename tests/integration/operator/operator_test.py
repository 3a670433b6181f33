#!/usr/bin/env python3
"""mesh-operator against a real etcd: publish, change, remove, crash, restart, lease loss, bad input.

Usage: operator_test.py <mesh-operator> [unittest arguments]. Exits 77, saying so, where etcd is missing.
"""
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

OPERATOR = ""
DEADLINE = 40.0  # of any wait; a wait ends as soon as what it waits for is there

NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.10.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
"""


def service(name="cart", annotations="{service.cilium.io/global: 'true'}"):
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, annotations: {annotations}}}
spec: {{clusterIP: 10.11.0.10, ports: [{{name: http, port: 80}}], selector: {{app: {name}}}}}
"""


def endpoints(name, *addresses):
    listed = ", ".join(f"{{addresses: [{a}], nodeName: n1}}" for a in addresses)
    return f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{listed}]
"""


def pod(name, address):
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: cart}}}}
spec: {{nodeName: n1}}
status: {{podIP: {address}, phase: Running}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Etcd:
    def __init__(self, directory):
        self.directory = directory
        self.data = os.path.join(directory, "etcd")
        self.port, self.peer_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        with open(os.path.join(self.directory, "etcd.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", self.data, "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
                 "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
                 # One member elects itself: not only after a second.
                 "--heartbeat-interval", "20", "--election-timeout", "200"],
                stdout=log, stderr=log)
        wait_for(lambda: self.ctl("endpoint", "health", check=False).returncode == 0, "etcd")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ctl(self, *arguments, check=True):
        return subprocess.run(["etcdctl", "--endpoints", self.url, "--command-timeout", "10s", *arguments],
                              env={**os.environ, "ETCDCTL_API": "3"}, check=check, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def keys(self):
        """All keys: key → (value, mod revision, create revision, lease)."""
        out = json.loads(self.ctl("get", "", "--prefix", "-w", "json").stdout)
        decode = lambda text: base64.b64decode(text).decode()
        return {decode(kv["key"]): (decode(kv.get("value", "")), kv["mod_revision"], kv["create_revision"],
                                    kv.get("lease", 0)) for kv in out.get("kvs", [])}


def wait_for(condition, what):
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {DEADLINE:.0f} s in vain for: {what}")
        time.sleep(0.05)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class OperatorTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="mesh-operator-")
        self.manifests = os.path.join(self.directory, "manifests")
        self.socket = os.path.join(self.directory, "status.sock")
        os.mkdir(self.manifests)
        self.etcd = Etcd(self.directory)
        self.etcd.start()
        self.process = None

    def tearDown(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.etcd.kill()
        result = self._outcome.result
        failed = any(case is self for case, _ in result.failures + result.errors)
        if failed:
            for name in ("operator.log", "etcd.log"):
                path = os.path.join(self.directory, name)
                if os.path.exists(path):
                    with open(path) as log:
                        print(f"--- {name}\n" + "".join(log.readlines()[-40:]), file=sys.stderr)
        shutil.rmtree(self.directory)

    # --- the operator ---

    def arguments(self, *more):
        config = os.path.join(self.directory, "etcd.yaml")
        with open(config, "w") as file:
            file.write(f"endpoints: ['{self.etcd.url}']\n")
        usual = {"--cluster-name": "c1", "--cluster-id": "7", "--etcd-config": config,
                 "--manifests": self.manifests, "--status-socket": self.socket}
        return [OPERATOR, *(word for name, value in usual.items() if name not in more for word in (name, value)),
                *more]

    def start(self, *more, ready=True):
        with open(os.path.join(self.directory, "operator.log"), "ab") as log:
            self.process = subprocess.Popen(self.arguments(*more), stderr=log)
        if ready:
            self.wait_ready()

    def run_to_end(self, *more):
        return subprocess.run(self.arguments(*more), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def get(self, path):
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def status(self):
        try:
            return json.loads(self.get("/v1/status")[1])
        except OSError:
            return {}

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"mesh-operator ended with {self.process.returncode}")
            return self.settled()
        wait_for(ready, "mesh-operator to have published all")

    def settled(self):
        status = self.status()
        return status.get("ready") and status["state"] == "published" and status["etcd"]["pending"] == 0

    def write(self, name, text):
        """As a careful writer does: complete at once."""
        path = os.path.join(self.manifests, name)
        with open(path + ".new", "w") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def write_all(self):
        self.write("nodes.yaml", NODE)
        self.write("cart.yaml", service() + "---" + endpoints("cart", "10.10.1.20"))
        self.write("pods.yaml", pod("cart-0", "10.10.1.20"))

    # --- what is in etcd ---

    def keys(self, heartbeat=False):
        """Without references to identities: see references()."""
        keys = {k: v for k, v in self.etcd.keys().items() if not k.startswith((self.REFERENCES, self.LOCKS))}
        if not heartbeat:
            keys.pop("cilium/.heartbeat", None)
        return keys

    def references(self):
        """Who uses an identity: (labels, lease as the key names it) → (number, lease that it hangs on)."""
        return {tuple(k[len(self.REFERENCES):].rsplit("/", 1)): (v[0], f"{v[3]:x}")
                for k, v in self.etcd.keys().items() if k.startswith(self.REFERENCES)}

    def value(self, key):
        return self.keys().get(key, (None,))[0]

    SERVICE = "cilium/state/services/v1/c1/shop/cart"
    LOCAL = "mesh/local/services/v1/shop/cart"
    IP = "cilium/state/ip/v1/default/10.10.1.20"
    NODE = "cilium/state/nodes/v1/c1/n1"
    CONFIG = "cilium/cluster-config/c1"
    IDENTITIES = "cilium/state/identities/v1/id/"
    REFERENCES = "cilium/state/identities/v1/value/"
    LOCKS = "cilium/state/identities/v1/locks/"
    CANARIES = ["cilium/synced/c1/cilium/state/" + r + "/v1"
                for r in ("nodes", "services", "ip", "identities", "serviceexports")]

    # --- tests ---

    def test_publishes_all_under_one_lease_canaries_last(self):
        self.write_all()
        self.start()
        keys = self.keys(heartbeat=True)
        identities = [k for k in keys if k.startswith(self.IDENTITIES)]
        self.assertEqual(len(identities), 1)
        self.assertEqual(sorted(keys), sorted([self.SERVICE, self.LOCAL, self.IP, self.NODE, self.CONFIG,
                                               "cilium/.heartbeat", *self.CANARIES, *identities]))
        self.assertEqual(json.loads(keys[self.CONFIG][0]),
                         {"id": 7, "capabilities": {"syncedCanaries": True, "maxConnectedClusters": 255,
                                                    "serviceExportsEnabled": False}})
        self.assertEqual(keys[identities[0]][0],
                         "k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.team=a;"
                         "k8s:io.cilium.k8s.policy.cluster=c1;k8s:io.cilium.k8s.policy.serviceaccount=default;"
                         "k8s:io.kubernetes.pod.namespace=shop;")
        ip = json.loads(keys[self.IP][0])
        self.assertEqual(str(ip["ID"]), identities[0][len(self.IDENTITIES):])
        self.assertEqual(ip["ID"] >> 16, 7)
        self.assertEqual(ip["HostIP"], "192.0.2.11")
        record = json.loads(keys[self.SERVICE][0])
        self.assertEqual(record["backends"], {"10.10.1.20": {"http": {"Protocol": "TCP", "Port": 8080}}})
        # One lease with the default of 15 minutes, and the canaries after everything. An identity stays as long as
        # somebody refers to it.
        leases = {kv[3] for k, kv in keys.items() if k not in identities}
        self.assertEqual(len(leases), 1)
        self.assertEqual(keys[identities[0]][3], 0)
        name = f"{leases.pop():x}"
        self.assertEqual(self.references(), {(keys[identities[0]][0], name): (str(ip["ID"]), name)})
        lease = json.loads(self.etcd.ctl("lease", "timetolive", name, "-w", "json").stdout)
        self.assertEqual(lease["granted-ttl"], 900)
        first_canary = min(keys[c][2] for c in self.CANARIES)
        others = [kv[1] for k, kv in keys.items() if k not in self.CANARIES]
        self.assertGreater(first_canary, max(others))

        status = self.status()
        self.assertEqual(status["cluster"], {"name": "c1", "id": 7, "maxConnectedClusters": 255})
        self.assertEqual(status["objects"], {"Namespace": 1, "Node": 1, "Pod": 1, "Service": 1, "EndpointSlice": 1,
                                             "NetworkPolicy": 0, "CiliumNetworkPolicy": 0,
                                             "CiliumClusterwideNetworkPolicy": 0})
        self.assertEqual(status["etcd"]["keys"], 6)
        self.assertEqual(status["manifests"]["errors"], [])
        self.assertEqual(self.get("/healthz")[0], 200)
        self.assertIn('mesh_operator_objects{kind="Pod"} 1', self.get("/metrics")[1])
        self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o600)

    def test_a_change_writes_only_what_it_changes(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.write("cart.yaml", service() + "---" + endpoints("cart", "10.10.1.20", "10.10.1.21"))
        wait_for(lambda: "10.10.1.21" in self.value(self.SERVICE), "the new backend")
        wait_for(self.settled, "the end of it")
        after = self.keys()
        changed = sorted(k for k in after if after[k] != before.get(k))
        self.assertEqual(changed, [self.SERVICE, self.LOCAL])
        # No longer shared: withdrawn from the mesh, still there for the own agents.
        self.write("cart.yaml", service(annotations="{service.cilium.io/global: 'true', "
                                                    "service.cilium.io/shared: 'false'}"))
        wait_for(lambda: self.value(self.SERVICE) is None, "the record's end")
        self.assertIsNotNone(self.value(self.LOCAL))

    def test_removed_files_take_their_keys_along(self):
        self.write_all()
        self.start()
        os.remove(os.path.join(self.manifests, "cart.yaml"))
        os.remove(os.path.join(self.manifests, "pods.yaml"))
        wait_for(lambda: not {self.SERVICE, self.LOCAL, self.IP} & self.keys().keys(), "the keys' end")
        # The identity has its time of grace.
        self.assertEqual(len([k for k in self.keys() if k.startswith(self.IDENTITIES)]), 1)
        self.assertIn(self.NODE, self.keys())

    def test_a_restart_after_kill_rewrites_nothing(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.kill()
        self.start()
        self.assertEqual(self.keys(), before)
        # And the lease is kept alive by the new process: not a copy of it that runs out.
        self.assertEqual(self.status()["etcd"]["lease"], f"{before[self.NODE][3]:x}")
        self.kill()
        self.write("cart.yaml", service() + "---" + endpoints("cart", "10.10.1.99"))
        os.remove(os.path.join(self.manifests, "pods.yaml"))
        self.start()
        after = self.keys()
        self.assertEqual({k for k in before if after.get(k) != before[k]}, {self.SERVICE, self.LOCAL, self.IP})
        self.assertNotIn(self.IP, after)
        # A pod of the same labels gets the number that stands in etcd.
        identity = [k for k in after if k.startswith(self.IDENTITIES)]
        self.write("pods.yaml", pod("other", "10.10.1.30"))
        ip = wait_for(lambda: self.value("cilium/state/ip/v1/default/10.10.1.30"), "the new pod")
        self.assertEqual(identity, [self.IDENTITIES + str(json.loads(ip)["ID"])])

    def test_another_lease_ttl_puts_all_under_a_new_lease(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.kill()
        self.start("--lease-ttl", "60")
        after = self.keys()
        self.assertEqual({k: kv[0] for k, kv in after.items() if k not in self.CANARIES},
                         {k: kv[0] for k, kv in before.items() if k not in self.CANARIES})
        self.assertEqual(len({kv[3] for k, kv in after.items() if not k.startswith(self.IDENTITIES)}), 1)
        self.assertNotEqual(after[self.NODE][3], before[self.NODE][3])

    def test_a_bad_manifest_keeps_the_last_good_one(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.write("cart.yaml", service("better") + "---" + service().replace("port: 80", "port: web"))
        errors = wait_for(lambda: self.status()["manifests"]["errors"], "the error")
        self.assertEqual(errors, ["cart.yaml: document 2: line 10: spec.ports[0].port: expected an integer 1..65535, "
                                  'got "web"'])
        self.write("more.yaml", pod("cart-1", "10.10.1.21"))
        wait_for(lambda: self.value("cilium/state/ip/v1/default/10.10.1.21"), "the other file's change")
        after = self.keys()
        self.assertEqual({k: after.get(k) for k in before}, before)
        self.write("cart.yaml", service("better"))
        wait_for(lambda: self.value("mesh/local/services/v1/shop/better"), "the good one")
        self.assertEqual(self.status()["manifests"]["errors"], [])
        wait_for(lambda: self.value(self.LOCAL) is None, "the old one's end")

    def test_a_restart_with_a_bad_manifest_leaves_etcd_as_it_is(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.kill()
        self.write("cart.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n")
        self.start()
        self.assertFalse(self.status()["manifests"]["complete"])
        self.assertEqual(self.keys(), before)
        # What is known still changes.
        os.remove(os.path.join(self.manifests, "pods.yaml"))
        wait_for(lambda: self.value(self.IP) is None, "the pod's end")
        self.assertIsNotNone(self.value(self.SERVICE))
        # The file goes: now its objects are known to be gone.
        os.remove(os.path.join(self.manifests, "cart.yaml"))
        wait_for(lambda: self.value(self.SERVICE) is None, "the service's end")

    POLICIES = "mesh/local/policies/v1/CiliumNetworkPolicy/shop/"

    @staticmethod
    def policy(name, rules="ingress: []"):
        return (f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
                f"spec:\n  endpointSelector: {{}}\n  {rules}\n")

    def policies(self):
        return {k.removeprefix(self.POLICIES) for k in self.keys() if k.startswith(self.POLICIES)}

    def test_policies_are_published_document_by_document(self):
        self.write("net.yaml", self.policy("a") + "---\n" + self.policy("b"))
        self.start()
        keys = self.keys()
        record = json.loads(keys[self.POLICIES + "a"][0])
        self.assertEqual((record["file"], record["document"], record["lines"]), ("net.yaml", 1, [5]))
        self.assertEqual(record["policy"]["spec"], {"endpointSelector": {}, "ingress": []})
        self.assertEqual(keys[self.POLICIES + "a"][3], keys[self.CONFIG][3], "the lease of all")
        before = keys[self.POLICIES + "a"]
        self.write("net.yaml", self.policy("a", "ingres: []") + "---\n" + self.policy("c"))
        wait_for(lambda: self.policies() == {"a", "c"}, "the good document's change")
        self.assertEqual(self.keys()[self.POLICIES + "a"], before)
        status = self.status()
        self.assertEqual(len(status["manifests"]["errors"]), 1)
        self.assertIn("net.yaml: document 1: line 6: spec.ingres: expected", status["manifests"]["errors"][0])
        self.assertEqual((status["objects"]["CiliumNetworkPolicy"], status["etcd"]["policies"]), (2, 2))
        # One that has never been good in this run is what the last run published.
        self.kill()
        self.write("net.yaml", self.policy("a", "ingres: []"))
        self.start()
        self.assertEqual(self.policies(), {"a"})
        self.assertEqual(self.keys()[self.POLICIES + "a"], before)
        self.assertFalse(self.status()["manifests"]["complete"])
        self.write("net.yaml", self.policy("d"))
        wait_for(lambda: self.policies() == {"d"}, "the bad one's end")

    def test_policies_that_somebody_imported_stay(self):
        self.start()
        value = json.dumps({"file": "", "document": 0, "lines": [], "policy": {}})
        self.etcd.ctl("put", self.POLICIES + "imported", value)
        self.write("net.yaml", self.policy("a"))
        wait_for(lambda: "a" in self.policies(), "the other policy")
        self.kill()
        self.start()
        self.assertEqual(self.policies(), {"a", "imported"})
        os.remove(os.path.join(self.manifests, "net.yaml"))
        wait_for(lambda: self.policies() == {"imported"}, "its end")

    def test_etcd_restarted_gets_what_changed_meanwhile(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.etcd.kill()
        wait_for(lambda: self.status()["state"] == "connecting", "the loss to be told")
        for i in range(3):  # of several values the newest counts
            self.write("cart.yaml", service() + "---" + endpoints("cart", f"10.10.1.{50 + i}"))
            wait_for(lambda: self.status()["etcd"]["pending"] > 0, "the change to be read")
        os.remove(os.path.join(self.manifests, "pods.yaml"))
        wait_for(lambda: self.status()["objects"]["Pod"] == 0, "the pod's end to be read")
        self.assertEqual(self.get("/healthz")[0], 200)
        self.etcd.start()
        wait_for(lambda: "10.10.1.52" in (self.value(self.SERVICE) or ""), "the newest backend")
        wait_for(lambda: self.value(self.IP) is None, "the ip's end")
        self.assertEqual(self.keys()[self.NODE], before[self.NODE])

    def test_an_emptied_etcd_is_filled_again(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.etcd.kill()
        shutil.rmtree(self.etcd.data)
        self.etcd.start()
        wait_for(lambda: set(self.keys()) == set(before), "all keys")
        after = self.keys()
        for key in before:
            if key not in self.CANARIES:
                self.assertEqual(after[key][0], before[key][0])
        self.assertGreater(min(after[c][2] for c in self.CANARIES),
                           max(kv[2] for k, kv in after.items() if k not in self.CANARIES))

    def test_a_revoked_lease_brings_all_keys_back(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.etcd.ctl("lease", "revoke", f"{before[self.NODE][3]:x}")
        def back():
            keys = self.keys(heartbeat=True)
            return keys if set(keys) == {*before, "cilium/.heartbeat"} else None
        after = wait_for(back, "all keys")
        self.assertEqual({k: kv[0] for k, kv in after.items() if k in before and k not in self.CANARIES},
                         {k: kv[0] for k, kv in before.items() if k not in self.CANARIES})
        self.assertNotEqual(after[self.NODE][3], before[self.NODE][3])
        self.assertEqual(self.status()["etcd"]["leasesLost"], 1)

    def test_a_deleted_cluster_config_comes_back_at_once(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.etcd.ctl("put", self.NODE, "{}")
        self.etcd.ctl("del", self.CONFIG)
        wait_for(lambda: self.value(self.CONFIG), "the cluster-config")
        wait_for(lambda: self.value(self.NODE) == before[self.NODE][0], "the node")
        after = self.keys()
        self.assertEqual({k for k in before if after[k] != before[k]}, {self.CONFIG, self.NODE})

    def test_refuses_the_etcd_of_another_cluster(self):
        self.write_all()
        self.etcd.ctl("put", "cilium/cluster-config/other", '{"id":9,"capabilities":{}}')
        self.etcd.ctl("put", "cilium/state/nodes/v1/other/x", "{}")
        ended = self.run_to_end()
        self.assertEqual(ended.returncode, 2, ended.stderr)
        self.assertIn("cilium/cluster-config/other", ended.stderr)
        self.assertIn("--force", ended.stderr)
        self.assertEqual(len(self.keys()), 2)
        self.start("--force")
        self.assertIn(self.NODE, self.keys())
        self.assertFalse([k for k in self.keys() if "/other" in k])

    def test_refuses_an_etcd_with_its_name_and_another_id(self):
        self.etcd.ctl("put", self.CONFIG, '{"id":8,"capabilities":{}}')
        ended = self.run_to_end()
        self.assertEqual(ended.returncode, 2, ended.stderr)
        self.assertIn("expected cilium/cluster-config/c1 with id 7", ended.stderr)

    def test_copies_of_remotes_configs_are_no_other_cluster(self):
        self.etcd.ctl("put", "cilium/cluster-config/remote", '{"id":9,"capabilities":{"cached":true}}')
        self.etcd.ctl("put", "cilium/cache/nodes/v1/remote/x", "{}")
        self.start()
        self.assertIn("cilium/cluster-config/remote", self.keys())
        self.assertIn("cilium/cache/nodes/v1/remote/x", self.keys())

    def test_keys_of_others_are_left_alone(self):
        for key in ("cilium/state/identities/v1/id/590000", "cilium/state/nodes/v1/c2/n", "registry/pods/x"):
            self.etcd.ctl("put", key, "k8s:io.cilium.k8s.policy.cluster=c2;")
        for key in ("cilium/state/nodes/v1/c1/gone", "cilium/state/ip/v1/default/10.10.1.77",
                    "mesh/local/services/v1/a/gone"):
            self.etcd.ctl("put", key, "{}")
        self.write_all()
        self.start()
        keys = self.keys()
        self.assertIn("cilium/state/identities/v1/id/590000", keys)
        self.assertIn("cilium/state/nodes/v1/c2/n", keys)
        self.assertIn("registry/pods/x", keys)
        self.assertNotIn("cilium/state/nodes/v1/c1/gone", keys)
        self.assertNotIn("cilium/state/ip/v1/default/10.10.1.77", keys)
        self.assertNotIn("mesh/local/services/v1/a/gone", keys)

    LABELS = ("k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.team=a;k8s:io.cilium.k8s.policy.cluster=c1;"
              "k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;")

    def test_a_number_that_another_writer_uses_is_taken(self):
        number = 7 * 65536 + 4711
        self.etcd.ctl("put", self.IDENTITIES + str(number), self.LABELS)
        self.etcd.ctl("put", self.REFERENCES + self.LABELS + "/192.0.2.99", str(number))
        self.write_all()
        self.start()
        self.assertEqual(json.loads(self.value(self.IP))["ID"], number)
        self.assertEqual([k for k in self.keys() if k.startswith(self.IDENTITIES)], [self.IDENTITIES + str(number)])
        name = f"{self.keys()[self.NODE][3]:x}"
        self.assertEqual(self.references(), {(self.LABELS, "192.0.2.99"): (str(number), "0"),
                                             (self.LABELS, name): (str(number), name)})
        # Without pods ours goes; the other one's stays, and the number with it.
        os.remove(os.path.join(self.manifests, "pods.yaml"))
        wait_for(lambda: list(self.references()) == [(self.LABELS, "192.0.2.99")], "our reference's end")
        self.assertIn(self.IDENTITIES + str(number), self.keys())

    def test_labels_that_make_an_identity(self):
        self.write_all()
        self.start("--labels", "k8s:tier !k8s:io.cilium.k8s.namespace.labels.team")
        (labels, _), = self.references()
        self.assertEqual(labels, "k8s:io.cilium.k8s.policy.cluster=c1;"
                         "k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;")
        self.kill()
        self.assertIn("regular expression", self.run_to_end("--labels", "a(b").stderr)

    def test_a_value_that_etcd_refuses_holds_up_nobody(self):
        self.write("big.yaml", service("big", "{service.cilium.io/global: 'true', example.org/x: '" +
                                       "x" * 1_700_000 + "'}"))
        self.write_all()
        self.start(ready=False)
        wait_for(lambda: self.value(self.LOCAL), "the other service")
        wait_for(lambda: self.status()["ready"], "the canaries")
        self.assertEqual(self.status()["etcd"]["refused"], 1)
        self.assertIsNone(self.value("mesh/local/services/v1/shop/big"))
        self.assertIsNotNone(self.value("cilium/state/services/v1/c1/shop/big"))

    def test_thousands_of_objects(self):
        pods = [pod(f"p{i}", f"10.{20 + i // 60000}.{i // 250 % 240}.{i % 250 + 1}") for i in range(3000)]
        self.write("many.yaml", "---".join(pods))
        self.write_all()
        self.start()
        self.assertEqual(len([k for k in self.keys() if k.startswith("cilium/state/ip/v1/default/10.20.")]), 3000)

    def test_waits_for_manifests_and_etcd_in_any_order(self):
        os.rmdir(self.manifests)
        self.etcd.kill()
        self.start(ready=False)
        wait_for(lambda: self.status().get("state") == "waiting", "the status")
        self.assertEqual(self.get("/healthz")[0], 503)
        self.etcd.start()
        self.assertEqual(self.keys(), {})
        os.mkdir(self.manifests)
        self.write_all()
        wait_for(lambda: self.value(self.CANARIES[0]), "the canaries")
        self.assertIsNotNone(self.value(self.SERVICE))

    def test_a_clean_stop_leaves_the_keys_to_the_lease(self):
        self.write_all()
        self.start()
        before = self.keys()
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(timeout=20), 0)
        self.assertEqual(self.keys(), before)
        self.assertFalse(os.path.exists(self.socket))

    def test_flags(self):
        def told(*more):
            ended = self.run_to_end(*more)
            self.assertEqual(ended.returncode, 2, ended.stderr)
            return ended.stderr
        self.assertIn("expected 1..255, got 0", told("--cluster-id", "0"))
        self.assertIn("256", told("--cluster-id", "256"))
        self.assertIn("255 or 511", told("--max-connected-clusters", "300"))
        self.assertIn("a-z", told("--cluster-name", "Upper"))
        self.assertIn('"default"', told("--cluster-name", "default"))
        self.assertIn("nowhere.yaml", told("--etcd-config", "nowhere.yaml"))
        self.assertIn("--lease-ttl", told("--lease-ttl", "1"))
        self.assertIn("--nonsense", told("--nonsense"))
        ended = self.run_to_end("--help")
        self.assertEqual(ended.returncode, 0)
        self.assertIn("Examples:", ended.stdout)
        self.assertEqual(self.run_to_end("--version").returncode, 0)


if __name__ == "__main__":
    OPERATOR = os.path.abspath(sys.argv.pop(1))
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        print("SKIPPED: etcd and etcdctl are needed (Debian packages etcd-server, etcd-client)")
        sys.exit(77)
    unittest.main(verbosity=2)
