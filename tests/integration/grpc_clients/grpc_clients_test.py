"""mesh-proxy over mutual TLS before python3-etcd3: another HTTP/2, another gRPC, another etcd client than all others here.

Usage: grpc_clients_test.py <mesh-proxy> [unittest arguments]. Exits 77, saying so, where python3-etcd3 is missing.
"""
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

try:
    import etcd3
    import grpc
except ImportError as missing:
    print(f"skipped: {missing} (apt-get install python3-etcd3)")
    sys.exit(77)

PROXY = ""
DEADLINE = 30  # seconds; far more than anything here takes


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class GrpcClientsTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="mesh-grpc-clients-")
        self.ports = {"remote": free_port(), "local": free_port()}
        self.certificates()
        self.process = None
        self.clients = []
        self.start()

    def tearDown(self):
        for client in self.clients:
            client.close()
        self.stop()
        shutil.rmtree(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, cwd=self.directory, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def certificates(self):
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self.openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
        with open(self.path("san"), "w") as file:
            file.write("subjectAltName=IP:127.0.0.1\n")
        for name, subject in (("server", "server"), ("remote", "remote"), ("admin", "admin-cluster1")):
            self.openssl("req", *curve, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                         "-days", "2", "-extfile", "san", "-out", f"{name}.crt")

    def start(self):
        with open(self.path("proxy.log"), "ab") as log:
            self.process = subprocess.Popen(
                [PROXY, "--cluster-name=cluster1", "--cluster-id=1", "--embedded", "--data-dir", self.path("store"),
                 f"--listen-remote=127.0.0.1:{self.ports['remote']}", f"--listen-local=127.0.0.1:{self.ports['local']}",
                 "--tls-ca", self.path("ca.crt"), "--tls-cert", self.path("server.crt"), "--tls-key",
                 self.path("server.key")], stderr=log, stdout=log)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=DEADLINE)

    def client(self, name):
        """Connected with that certificate, where it belongs; pings as often as its library lets it."""
        client = etcd3.client(
            host="127.0.0.1", port=self.ports["local" if name == "admin" else "remote"], timeout=DEADLINE,
            ca_cert=self.path("ca.crt"), cert_cert=self.path(f"{name}.crt"), cert_key=self.path(f"{name}.key"),
            grpc_options=[("grpc.keepalive_time_ms", 10000), ("grpc.keepalive_permit_without_calls", 1),
                          ("grpc.max_receive_message_length", 64 << 20), ("grpc.max_reconnect_backoff_ms", 500)])
        self.clients.append(client)
        wait_for(lambda: self.answers(client), f"{name} to be answered")
        return client

    @staticmethod
    def answers(client):
        try:
            client.get("cilium/.heartbeat")
            return True
        except (grpc.RpcError, etcd3.exceptions.Etcd3Exception):
            return False

    def test_reads_pages_and_a_large_answer(self):
        admin, remote = self.client("admin"), self.client("remote")
        for i in range(30):
            admin.put(f"cilium/state/nodes/v1/{i:02}", f"{i}" * 100_000)
        value, meta = remote.get("cilium/state/nodes/v1/07")
        self.assertEqual(value, b"7" * 100_000)
        self.assertEqual(meta.version, 1)
        everything = list(remote.get_prefix("cilium/state/nodes/v1/"))
        self.assertEqual([m.key.decode()[-2:] for _, m in everything], [f"{i:02}" for i in range(30)])
        self.assertGreater(sum(len(v) for v, _ in everything), 4_000_000)
        keys, key = [], b"cilium/state/nodes/v1/"
        while key:
            page = remote.kvstub.Range(
                etcd3.etcdrpc.RangeRequest(key=key, range_end=b"cilium/state/nodes/v10", limit=7, keys_only=True),
                DEADLINE)
            keys += [kv.key for kv in page.kvs]
            key = page.kvs[-1].key + b"\0" if page.more else b""
        self.assertEqual(keys, [m.key for _, m in everything])
        self.assertEqual(remote.get("cilium/state/absent"), (None, None))

    def test_watches_see_each_change_and_end_when_cancelled(self):
        admin, remote = self.client("admin"), self.client("remote")
        seen = queue.Queue()
        events, cancel = remote.watch_prefix("cilium/state/")
        reader = threading.Thread(target=lambda: [seen.put(event) for event in events])
        reader.start()
        for i in range(100):
            admin.put("cilium/state/x", f"{i}")
        admin.delete("cilium/state/x")
        got = [seen.get(timeout=DEADLINE) for _ in range(101)]
        self.assertEqual([e.value for e in got[:-1]], [f"{i}".encode() for i in range(100)])
        self.assertIsInstance(got[-1], etcd3.events.DeleteEvent)
        cancel()
        reader.join(timeout=DEADLINE)
        self.assertFalse(reader.is_alive())
        admin.put("cilium/state/x", "again")
        self.assertEqual(remote.get("cilium/state/x")[0], b"again")

    def test_what_is_denied_says_so(self):
        remote = self.client("remote")
        for refused in (lambda: remote.put("cilium/state/x", "y"), lambda: remote.delete("cilium/state/x"),
                        lambda: remote.get("other/key"), lambda: remote.lease(10)):
            with self.assertRaises(grpc.RpcError) as told:
                refused()
            self.assertEqual(told.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
            self.assertIn("permission denied", told.exception.details())

    def test_the_same_client_goes_on_over_a_restart(self):
        admin, remote = self.client("admin"), self.client("remote")
        admin.put("cilium/state/x", "before")
        self.stop()
        self.start()
        wait_for(lambda: self.answers(remote), "the remote to be answered again")
        self.assertEqual(remote.get("cilium/state/x")[0], b"before")
        wait_for(lambda: self.answers(admin), "the admin to be answered again")
        admin.put("cilium/state/x", "after")
        self.assertEqual(remote.get("cilium/state/x")[0], b"after")

    def test_leases(self):
        admin = self.client("admin")
        lease = admin.lease(60)
        admin.put("cilium/state/leased", "x", lease=lease)
        self.assertEqual([answer.TTL for answer in lease.refresh()], [60])
        self.assertEqual(admin.get("cilium/state/leased")[1].lease_id, lease.id)
        lease.revoke()
        self.assertEqual(admin.get("cilium/state/leased"), (None, None))


if __name__ == "__main__":
    PROXY = sys.argv.pop(1)
    unittest.main(verbosity=2)
