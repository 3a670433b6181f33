#!/usr/bin/env python3
"""mesh-proxy --kvstoremesh between real etcds: what is reflected, when, and what the loss of either side does.

Usage: kvstoremesh_test.py <folder of the programs> [unittest arguments]. Exits 77, saying so, where etcd is missing.
"""
import base64
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "operator"))
from operator_test import NODE, Etcd, UnixConnection, endpoints, free_port, pod, service, wait_for  # noqa: E402

BIN = ""
CONFIG = '{"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":true}}'
CACHED = ('{"id":7,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255,'
          '"serviceExportsEnabled":true}}')
RESOURCES = ("nodes", "services", "ip", "identities", "serviceexports")
# What a remote has and where it stands in the cache; values are anything at all.
REFLECTED = {
    "cilium/state/nodes/v1/ape/n1": "cilium/cache/nodes/v1/ape/n1",
    "cilium/state/services/v1/ape/shop/cart": "cilium/cache/services/v1/ape/shop/cart",
    "cilium/state/serviceexports/v1/ape/shop/cart": "cilium/cache/serviceexports/v1/ape/shop/cart",
    "cilium/state/ip/v1/default/10.7.1.20": "cilium/cache/ip/v1/ape/10.7.1.20",
    "cilium/state/ip/v1/default/10.7.0.0/16": "cilium/cache/ip/v1/ape/10.7.0.0/16",
    "cilium/state/identities/v1/id/458753": "cilium/cache/identities/v1/ape/id/458753",
}
NOT_REFLECTED = ("cilium/state/nodes/v1/bee/n1", "cilium/state/identities/v1/value/k8s:a=b;/10.0.0.1",
                 "cilium/.heartbeat", "mesh/local/services/v1/shop/cart")


def canary(resource, layout="state"):
    return f"cilium/synced/ape/cilium/{layout}/{resource}/v1"


class KvstoreMeshTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="mesh-kvstoremesh-")
        self.remotes = self.path("remotes")
        os.mkdir(self.remotes)
        self.own, self.remote = self.etcd("own"), self.etcd("ape")
        self.processes = {}
        self.certificates()

    def tearDown(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        for etcd in (self.own, self.remote):
            etcd.kill()
        result = self._outcome.result
        if any(case is self for case, _ in result.failures + result.errors):
            for log in sorted(pathlib.Path(self.directory).glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-40:]), file=sys.stderr)
        shutil.rmtree(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name) + ".new", "w") as file:
            file.write(text)
        os.rename(self.path(name) + ".new", self.path(name))

    def etcd(self, name):
        os.mkdir(self.path(name))
        etcd = Etcd(self.path(name))
        etcd.start()
        return etcd

    def certificates(self):
        run = lambda *words: subprocess.run(["openssl", *words], check=True, cwd=self.directory,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")

    # --- programs ---

    def start(self, name, program, *arguments):
        with open(self.path(name + ".log"), "ab") as log:
            self.processes[name] = subprocess.Popen([os.path.join(BIN, program), *arguments], stderr=log)

    def start_proxy(self, *more, name="proxy"):
        self.write("own.yaml", f"endpoints: ['{self.own.url}']\n")
        self.start(name, "mesh-proxy", "--cluster-name=bee", "--cluster-id=8", "--etcd-config", self.path("own.yaml"),
                   f"--listen-remote=127.0.0.1:{free_port()}", "--tls-ca", self.path("ca.crt"), "--tls-cert",
                   self.path("ca.crt"), "--tls-key", self.path("ca.key"), "--status-socket", self.path(name + ".sock"),
                   "--kvstoremesh", "--clustermesh-config", self.remotes, *more)

    def get(self, path, name="proxy"):
        connection = UnixConnection(self.path(name + ".sock"))
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except OSError:
            return ""
        finally:
            connection.close()

    def end(self, name):
        self.processes[name].terminate()
        self.assertEqual(self.processes[name].wait(timeout=30), 0)

    def status(self, name="proxy"):
        return json.loads(self.get("/v1/status", name) or "{}")

    def state_of_ape(self, name="proxy"):
        remotes = self.status(name).get("kvstoremesh", {}).get("remotes", [])
        return next((remote for remote in remotes if remote["name"] == "ape"), None)

    def wait_synced(self):
        return wait_for(lambda: (ape := self.state_of_ape()) and ape["state"] == "synced" and ape["pending"] == 0 and ape,
                        "ape to be synced")

    # --- clusters ---

    def configure(self, text=""):
        self.write("ape.yaml", "")  # of the same folder for the rename
        self.write("remotes/ape", f"endpoints: ['{self.remote.url}']\n{text}")

    def fill_remote(self, canaries=RESOURCES):
        self.remote.ctl("put", "cilium/cluster-config/ape", CONFIG)
        for key in (*REFLECTED, *NOT_REFLECTED):
            self.remote.ctl("put", key, "value of " + key)
        for resource in canaries:
            self.remote.ctl("put", canary(resource), "2026-01-01T00:00:00Z")

    def cache(self):
        """What the own etcd has of ape, by key; canaries without their text."""
        return {key: "" if key.startswith("cilium/synced/") else value for key, (value, *_) in self.own.keys().items()}

    def expected(self):
        all_of_it = {cached: "value of " + key for key, cached in REFLECTED.items()}
        all_of_it["cilium/cluster-config/ape"] = CACHED
        all_of_it.update({canary(resource, "cache"): "" for resource in RESOURCES})
        all_of_it.update({key: value for key, value in self.cache().items() if key.startswith("cilium/kvstoremesh-lock/")})
        return all_of_it

    def revision(self):
        return json.loads(self.own.ctl("get", "x", "-w", "json").stdout)["header"]["revision"]

    # --- what is reflected ---

    def test_a_remote_is_reflected_key_by_key_and_followed(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        self.assertEqual(self.cache(), self.expected())
        keys = self.own.keys()
        leases = {lease for key, (*_, lease) in keys.items() if "kvstoremesh-lock" not in key}
        self.assertEqual(len(leases), 1)
        self.assertNotIn(0, leases)
        # The config before all, each canary after what it speaks for.
        created = {key: created for key, (_, _, created, _) in keys.items()}
        for key in REFLECTED.values():
            self.assertLessEqual(created["cilium/cluster-config/ape"], created[key])
            resource = key.split("/")[2]
            self.assertLessEqual(created[key], created[canary(resource, "cache")])
        self.remote.ctl("put", "cilium/state/ip/v1/default/10.7.1.21", "new")
        self.remote.ctl("put", "cilium/state/nodes/v1/ape/n1", "changed")
        self.remote.ctl("del", "cilium/state/services/v1/ape/shop/cart")
        expected = self.expected()
        expected["cilium/cache/ip/v1/ape/10.7.1.21"] = "new"
        expected["cilium/cache/nodes/v1/ape/n1"] = "changed"
        del expected["cilium/cache/services/v1/ape/shop/cart"]
        wait_for(lambda: self.cache() == expected, "changes to be reflected")
        self.assertIn(f'mesh_kvstoremesh_keys{{cluster="ape"}} {len(expected) - 1}', self.get("/metrics"))

    def test_nothing_is_read_before_its_canary(self):
        self.fill_remote(canaries=("nodes",))
        self.configure()
        self.start_proxy()
        wait_for(lambda: canary("nodes", "cache") in self.cache(), "the nodes' canary")
        self.assertIn("cilium/cache/nodes/v1/ape/n1", self.cache())
        self.assertNotIn("cilium/cache/ip/v1/ape/10.7.1.20", self.cache())
        self.assertEqual(self.state_of_ape()["state"], "syncing")
        for resource in RESOURCES[1:]:
            self.remote.ctl("put", canary(resource), "2026-01-01T00:00:00Z")
        self.wait_synced()
        self.assertEqual(self.cache(), self.expected())

    def test_a_writer_without_canaries_and_exports(self):
        self.fill_remote(canaries=())
        self.remote.ctl("put", "cilium/cluster-config/ape", '{"id":7,"capabilities":{}}')
        self.configure()
        self.start_proxy()
        self.wait_synced()
        expected = self.expected()
        expected["cilium/cluster-config/ape"] = '{"id":7,"capabilities":{"syncedCanaries":true,"cached":true}}'
        del expected["cilium/cache/serviceexports/v1/ape/shop/cart"]
        self.assertEqual(self.cache(), expected)

    def test_a_remote_that_is_a_cache_itself(self):
        self.remote.ctl("put", "cilium/cluster-config/ape", CACHED)
        for key, cached in REFLECTED.items():
            self.remote.ctl("put", cached, "value of " + key)
        for resource in RESOURCES:
            self.remote.ctl("put", canary(resource, "cache"), "2026-01-01T00:00:00Z")
        self.configure()
        self.start_proxy()
        self.wait_synced()
        self.assertEqual(self.cache(), self.expected())

    def test_limits_and_wrong_ids_are_named(self):
        self.fill_remote()
        self.configure("mesh: {limits: {ips: 1, cidrs: 0, value-bytes: 64}}\n")
        self.remote.ctl("put", "cilium/state/nodes/v1/ape/n2", "x" * 65)
        self.start_proxy()
        ape = self.wait_synced()
        ips = [key for key in self.cache() if key.startswith("cilium/cache/ip/")]
        self.assertEqual((len(ips), ape["beyond_limits"]), (1, 2))
        self.assertNotIn("cilium/cache/nodes/v1/ape/n2", self.cache())
        self.configure("mesh: {id: 9}\n")
        wait_for(lambda: "expected 9" in self.state_of_ape()["last_failure"], "the wrong id to be told")
        self.assertIn("cilium/cache/nodes/v1/ape/n1", self.cache())

    # --- failures ---

    def test_a_lost_remote_keeps_its_cache_and_what_it_missed_is_made_good(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        before = self.own.keys()
        self.remote.kill()
        wait_for(lambda: self.state_of_ape()["state"] == "connecting", "the loss to be seen")
        self.assertEqual(self.own.keys(), before)
        # Also over a restart while it is away: on the same lease, nothing written.
        self.processes["proxy"].kill()
        self.processes["proxy"].wait()
        self.start_proxy("--max-connected-clusters=255")
        wait_for(lambda: self.state_of_ape() and self.status()["kvstoremesh"]["leader"], "the lock")
        self.remote.start()
        self.remote.ctl("del", "cilium/state/ip/v1/default/10.7.1.20")
        self.wait_synced()
        expected = self.expected()
        del expected["cilium/cache/ip/v1/ape/10.7.1.20"]
        wait_for(lambda: self.cache() == expected, "the missed delete")
        after = self.own.keys()
        for key in expected:
            if "lock" not in key:
                self.assertEqual(after[key], before[key], "written again: " + key)

    def test_a_restart_writes_what_changed_and_nothing_else(self):
        self.fill_remote()
        self.fill_with_ips(100_000)
        self.configure()
        self.start_proxy()
        ape = self.wait_synced()
        self.assertGreater(ape["keys"], 100_000)
        self.end("proxy")
        before = self.revision()
        self.start_proxy()
        ape = self.wait_synced()
        self.assertEqual((ape["puts"], ape["deletes"]), (0, 0))
        # The lock alone.
        self.assertLessEqual(self.revision() - before, 1)
        self.end("proxy")
        for i in range(3):
            self.remote.ctl("put", f"cilium/state/ip/v1/default/10.7.{i}.1", "another")
        self.remote.ctl("del", "cilium/state/ip/v1/default/10.7.9.1")
        self.start_proxy()
        ape = wait_for(lambda: (ape := self.wait_synced()) and ape["puts"] + ape["deletes"] >= 4 and ape, "the changes")
        self.assertEqual((ape["puts"], ape["deletes"]), (3, 1))

    def fill_with_ips(self, count):
        """By etcd's own JSON gateway: one connection, transactions of its largest size."""
        encoded = lambda text: base64.b64encode(text.encode()).decode()
        connection = http.client.HTTPConnection(self.remote.url.removeprefix("http://"))
        for at in range(0, count, 128):
            puts = [{"requestPut": {"key": encoded(f"cilium/state/ip/v1/default/10.{7 + i // 62500}.{i // 250 % 250}.{i % 250}"),
                                    "value": encoded(f"value {i}")}} for i in range(at, min(at + 128, count))]
            connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
            answer = connection.getresponse()
            body = answer.read()
            self.assertEqual(answer.status, 200, body)
        connection.close()

    def test_a_wiped_remote_is_swept_only_once_it_says_so(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        expected = self.expected()
        self.remote.kill()
        shutil.rmtree(self.remote.data)
        self.remote.start()
        self.remote.ctl("put", "cilium/cluster-config/ape", CONFIG)
        wait_for(lambda: self.state_of_ape()["state"] == "syncing", "the new etcd to be read")
        self.assertEqual(self.cache(), expected)
        self.remote.ctl("put", "cilium/state/nodes/v1/ape/n9", "new")
        for resource in RESOURCES:
            self.remote.ctl("put", canary(resource), "2026-01-01T00:00:00Z")
        self.wait_synced()
        expected = {key: value for key, value in expected.items() if not key.startswith("cilium/cache/")}
        expected["cilium/cache/nodes/v1/ape/n9"] = "new"
        wait_for(lambda: self.cache() == expected, "the old keys to go")

    def test_a_wiped_own_etcd_is_filled_again(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        self.own.kill()
        shutil.rmtree(self.own.data)
        self.own.start()
        wait_for(lambda: set(self.cache()) >= set(REFLECTED.values()), "the cache to be filled again")
        self.wait_synced()
        self.assertEqual(self.cache(), self.expected())

    def test_keys_that_somebody_removed_come_back_with_the_lease(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        lease = f'{next(lease for key, (*_, lease) in self.own.keys().items() if key.startswith("cilium/cache/")):x}'
        self.own.ctl("lease", "revoke", lease)
        wait_for(lambda: set(self.cache()) >= set(self.expected()), "all keys under a new lease")

    # --- configurations ---

    def test_a_removed_remote_is_drained_after_the_grace(self):
        self.fill_remote()
        self.configure()
        self.start_proxy("--kvstoremesh-drain-grace=3600")
        self.wait_synced()
        os.remove(self.path("remotes/ape"))
        wait_for(lambda: "cilium/cluster-config/ape" not in self.cache(), "the config to go")
        self.assertIn("cilium/cache/nodes/v1/ape/n1", self.cache())
        self.assertEqual(self.state_of_ape()["state"], "draining")
        # It comes back in time: nothing was lost.
        self.configure()
        self.wait_synced()
        self.assertEqual(self.cache(), self.expected())
        # It goes while nobody looks.
        self.end("proxy")
        os.remove(self.path("remotes/ape"))
        self.start_proxy("--kvstoremesh-drain-grace=0")
        wait_for(lambda: all("kvstoremesh-lock" in key for key in self.cache()), "the cache to be drained")

    def test_of_two_instances_one_writes(self):
        self.fill_remote()
        self.configure()
        self.start_proxy()
        self.wait_synced()
        self.start_proxy(name="second")
        wait_for(lambda: (ape := self.state_of_ape("second")) and ape["connected"], "the second to read")
        self.assertFalse(self.status("second")["kvstoremesh"]["leader"])
        self.end("proxy")
        wait_for(lambda: self.status("second")["kvstoremesh"]["leader"], "the second to take over")
        self.remote.ctl("put", "cilium/state/nodes/v1/ape/n2", "new")
        wait_for(lambda: "cilium/cache/nodes/v1/ape/n2" in self.cache(), "the second to write")

    def test_an_agent_reads_the_cache_as_it_reads_the_remote(self):
        os.mkdir(self.path("manifests"))
        self.write("manifests/all.yaml", "---".join(
            [NODE, service(), endpoints("cart", "10.10.1.5"), pod("cart-1", "10.10.1.5")]))
        self.write("ape-etcd.yaml", f"endpoints: ['{self.remote.url}']\n")
        self.start("operator", "mesh-operator", "--cluster-name=ape", "--cluster-id=7", "--etcd-config",
                   self.path("ape-etcd.yaml"), "--manifests", self.path("manifests"))
        self.configure()
        self.start_proxy()
        self.wait_synced()
        # An agent of bee: ape is in bee's etcd.
        os.mkdir(self.path("agent-remotes"))
        self.write("agent-remotes/ape", f"endpoints: ['{self.own.url}']\n")
        os.mkdir(self.path("bee-manifests"))
        self.write("bee-manifests/all.yaml", service())
        self.start("bee-operator", "mesh-operator", "--cluster-name=bee", "--cluster-id=8", "--etcd-config",
                   self.path("own.yaml"), "--manifests", self.path("bee-manifests"))
        self.start("agent", "mesh-agent", "--cluster-name=bee", "--cluster-id=8", "--node-name=b1", "--datapath=memory",
                   "--etcd-config", self.path("own.yaml"), "--clustermesh-config", self.path("agent-remotes"),
                   "--status-socket", self.path("agent.sock"))

        wait_for(lambda: "10.10.1.5" in self.get("/v1/services", "agent"), "ape's backend at bee's agent")


if __name__ == "__main__":
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        print("SKIPPED: needs etcd-server and etcd-client", file=sys.stderr)
        sys.exit(77)
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
