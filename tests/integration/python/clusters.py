"""Clusters for tests of the Python package: real etcds that ask for certificates, filled as operators fill them."""
import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

DEADLINE = 60.0  # of any wait, which ends as soon as what it waits for is there: a machine may be slow

HAVE_ETCD = shutil.which("etcd") is not None


def wait_for(what, condition, seconds=DEADLINE):
    """The condition's first true value; fails naming what was waited for and the last thing seen."""
    end = time.monotonic() + seconds
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}; last seen: {seen!r}")
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Certificates:
    """A CA, a server's and a client's certificate, as files of a folder and as texts."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._openssl("req", "-x509", *self._new_key("ca"), "-subj", "/CN=test", "-out", "ca.crt")
        self._issue("server", "subjectAltName=IP:127.0.0.1")
        self._issue("client", "extendedKeyUsage=clientAuth")
        self.ca, self.cert, self.key = (self.text(name) for name in ("ca.crt", "client.crt", "client.key"))

    def path(self, name):
        return str(self.folder / name)

    def text(self, name):
        return (self.folder / name).read_text()

    def _new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key", "-days", "2"]

    def _issue(self, name, extension):
        (self.folder / f"{name}.ext").write_text(extension)
        self._openssl("req", *self._new_key(name)[:-2], "-subj", f"/CN={name}", "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt")

    def _openssl(self, *words):
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class Etcd:
    """One member; the mesh talks to it over TLS with client certificates, the test without."""

    def __init__(self, folder, certificates):
        self.folder = pathlib.Path(folder)
        self.certificates = certificates
        self.url = f"https://127.0.0.1:{free_port()}"
        self._plain = f"http://127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._process = None
        self.start()

    def start(self):
        certificates = self.certificates
        with open(self.folder / "etcd.log", "ab") as log:
            self._process = subprocess.Popen(
                ["etcd", f"--data-dir={self.folder / 'data'}", f"--listen-client-urls={self.url},{self._plain}",
                 f"--advertise-client-urls={self.url}", f"--listen-peer-urls={self._peer}",
                 f"--initial-advertise-peer-urls={self._peer}", f"--initial-cluster=default={self._peer}",
                 f"--cert-file={certificates.path('server.crt')}", f"--key-file={certificates.path('server.key')}",
                 f"--trusted-ca-file={certificates.path('ca.crt')}", "--client-cert-auth", "--max-txn-ops=20000",
                 "--max-request-bytes=67108864", "--heartbeat-interval=50", "--election-timeout=500"],
                stdout=log, stderr=log)
        wait_for("etcd", self._healthy)

    def kill(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def put(self, values):
        """key → value, in one transaction each 10,000."""
        if len(values) > 1000:
            done = subprocess.run([sys.executable, str(pathlib.Path(__file__).with_name("bulk_put.py")), self._plain[7:]],
                                  input=json.dumps(values), text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
            return
        self._call("kv/txn", {"success": [{"requestPut": {"key": _base64(key), "value": _base64(value)}}
                                          for key, value in values.items()]})

    def delete(self, key):
        self._call("kv/deleterange", {"key": _base64(key)})

    def clear(self):
        self._call("kv/deleterange", {"key": _base64("\0"), "range_end": _base64("\0")})

    def keys(self, prefix):
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._call("kv/range", {"key": _base64(prefix), "range_end": _base64(end)})
        return {base64.b64decode(kv["key"]).decode(): base64.b64decode(kv["value"]).decode()
                for kv in answer.get("kvs", [])}

    def _healthy(self):
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "etcd.log").read_text()[-4000:])
        try:
            with urllib.request.urlopen(self._plain + "/health", timeout=10) as answer:
                return json.load(answer)["health"] == "true"
        except OSError:
            return False

    def _call(self, method, body):
        request = urllib.request.Request(f"{self._plain}/v3/{method}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return json.load(answer)


def _base64(text):
    return base64.b64encode(text.encode()).decode()


def ip(address, identity, pod="echo-1", namespace="shop", host="192.168.0.1"):
    return {f"cilium/state/ip/v1/default/{address}": json.dumps(
        {"IP": address, "Mask": None, "HostIP": host, "ID": identity, "Key": 0, "Metadata": "",
         "K8sNamespace": namespace, "K8sPodName": pod})}


def node(cluster, cluster_id, name, address):
    return {f"cilium/state/nodes/v1/{cluster}/{name}": json.dumps(
        {"Name": name, "Cluster": cluster, "IPAddresses": [{"Type": "InternalIP", "IP": address}],
         "IPv4AllocCIDR": {"IP": f"10.{cluster_id}.0.0", "Mask": "//8AAA=="}, "IPv4SecondaryAllocCIDRs": None,
         "IPv6AllocCIDR": None, "IPv6SecondaryAllocCIDRs": None, "IPv4HealthIP": "", "IPv6HealthIP": "",
         "IPv4IngressIP": "", "IPv6IngressIP": "", "ClusterID": cluster_id, "Source": "local", "EncryptionKey": 0,
         "Labels": {"zone": "z1"}, "Annotations": None, "NodeIdentity": 6, "WireguardPubKey": ""})}


def identity(number, labels):
    return {f"cilium/state/identities/v1/id/{number}": labels}


def own_service(name, *backends, port=8080, address="10.11.0.10", states=None, **more):
    """What the agents of a cluster read of a service of their own; `backends` are address texts, or (address, port)."""
    listed = [b if isinstance(b, tuple) else (b, port) for b in backends]
    return {f"mesh/local/services/v1/shop/{name}": json.dumps(
        {"namespace": "shop", "name": name, "type": "ClusterIP", "clusterIPs": [address],
         "ports": [{"name": "http", "protocol": "TCP", "port": 80}], "global": True, "shared": True,
         "backends": [{"address": a, "ports": [{"name": "http", "protocol": "TCP", "port": p}],
                       "state": (states or {}).get(a, "active")} for a, p in listed], **more})}


def remote_service(cluster, cluster_id, name, *backends, port=8080):
    """What a cluster shows of its service to others."""
    return {f"cilium/state/services/v1/{cluster}/shop/{name}": json.dumps(
        {"cluster": cluster, "namespace": "shop", "name": name, "frontends": {},
         "backends": {a: {"http": {"Protocol": "TCP", "Port": port}} for a in backends}, "labels": {}, "selector": {},
         "includeExternal": True, "shared": True, "clusterID": cluster_id})}


def cluster_config(cluster, cluster_id):
    return {"cilium/.heartbeat": "now",
            f"cilium/cluster-config/{cluster}": json.dumps({"id": cluster_id, "capabilities": {}})}


class World:
    """cluster1, the own one, and cluster2; service shop/echo has a backend in each."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.certificates = Certificates(folder)
        self.own, self.remote = (Etcd(self._new(name), self.certificates) for name in ("own", "remote"))

    def _new(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def fill(self):
        for etcd in (self.own, self.remote):
            etcd.clear()
        self.own.put({**cluster_config("cluster1", 1), **own_service("echo", "10.1.0.1"), **ip("10.1.0.1", 65_537),
                      **identity(65_537, "k8s:app=echo;k8s:io.cilium.k8s.policy.cluster=cluster1;"),
                      **node("cluster1", 1, "node-a", "192.168.0.1")})
        self.remote.put({**cluster_config("cluster2", 2), **remote_service("cluster2", 2, "echo", "10.2.0.1"),
                         **ip("10.2.0.1", 131_073, host="192.168.0.2"),
                         **node("cluster2", 2, "node-b", "192.168.0.2")})

    def kill(self):
        for etcd in (self.own, self.remote):
            etcd.kill()

    def remote_files(self):
        """As Secret cilium-clustermesh has them: the paths are those of a pod that nobody runs here."""
        at = "/var/lib/cilium/clustermesh/"
        return {"cluster2": f"endpoints: ['{self.remote.url}']\ntrusted-ca-file: {at}ca.crt\ncert-file: {at}tls.crt\n"
                            f"key-file: {at}tls.key\n",
                "ca.crt": self.certificates.ca, "tls.crt": self.certificates.cert,
                "tls.key": self.certificates.key.encode()}

    def options(self, **more):
        import libmesh

        return {"cluster_name": "cluster1", "cluster_id": 1, "node_name": "node-a",
                "etcd": libmesh.Etcd([self.own.url], self.certificates.ca, self.certificates.cert,
                                     self.certificates.key),
                "remote_files": self.remote_files(), **more}

    def write_files(self):
        """The same as files, as a program takes them by path. @return etcd_config, clustermesh_config"""
        folder = self.folder / "clustermesh"
        folder.mkdir(exist_ok=True)
        etcd = self.folder / "etcd.yaml"
        for path, url in ((etcd, self.own.url), (folder / "cluster2", self.remote.url)):
            path.write_text("".join(f"{key}: {value}\n" for key, value in (
                ("endpoints", f"['{url}']"), ("trusted-ca-file", self.certificates.path("ca.crt")),
                ("cert-file", self.certificates.path("client.crt")),
                ("key-file", self.certificates.path("client.key")))))
        return str(etcd), str(folder)
