"""The servers that fanout, storm and stall put side by side: etcd, its grpc-proxy, mesh-proxy as mirror and as the etcd.
Each has CPU 0 to itself; the clients, and the etcd behind a proxy, have CPU 1. mesh-proxy runs with the environment that
its systemd unit sets."""
import pathlib
import re
import resource
import subprocess
import tempfile
from typing import NamedTuple

from common import free_port, output_of, Processes, ROOT, start_etcd, start_proxy, Tls

ETCD, GRPC_PROXY, MIRROR, EMBEDDED = "etcd", "etcd grpc-proxy", "mesh-proxy (mirror)", "mesh-proxy (embedded)"
SERVER_CPU, CLIENT_CPU = 0, 1


class Server(NamedTuple):
    name: str
    process: subprocess.Popen
    read: int  # port
    put: int  # port: of the etcd behind it, if it is a proxy


class EtcdServers:
    def __init__(self, bin_dir, folder):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # servers and clients inherit it
        self.bin_dir, self.folder = bin_dir, folder
        self.tls = Tls(folder)
        self.server, self.reader, self.admin = (self.tls.issue(n) for n in ("server", "remote-bench", "admin-bench"))
        self.nameless = self.tls.issue("grpc-proxy", "/O=bench")  # grpc-proxy refuses a client certificate with a name
        self.processes = Processes(folder)
        unit = (ROOT / "packaging/systemd/mesh-proxy.service").read_text()
        self.environment = re.findall(r"^Environment=(\S+)$", unit, re.M)
        help_text = subprocess.run([bin_dir / "mesh-proxy", "--help"], capture_output=True, text=True).stdout
        self.one_loop = ["--loops", "1"] if "--loops" in help_text else []

    def each(self, names=(ETCD, GRPC_PROXY, MIRROR, EMBEDDED)):
        """One running server after another; each is stopped when the next is asked for."""
        try:
            if ETCD in names:
                etcd, port = self._etcd(SERVER_CPU)
                yield Server(ETCD, etcd, port, port)
                self.processes.stop(etcd)
            for name, start in ((GRPC_PROXY, self._grpc_proxy), (MIRROR, self._mirror)):
                if name not in names:
                    continue
                etcd, port = self._etcd(CLIENT_CPU)
                proxy, read = start(port)
                server = Server(name, proxy, read, port)
                self.fill(server, 0)
                yield server
                self.processes.stop(proxy)
                self.processes.stop(etcd)
            if EMBEDDED in names:
                own, read, local = self._mesh_proxy("--embedded", "--data-dir", tempfile.mkdtemp(dir=self.folder))
                yield Server(EMBEDDED, own, read, local)
                self.processes.stop(own)
        finally:
            self.processes.stop_all()

    def client(self, server, program, *arguments, timeout=300):
        """Runs one of our clients against it; the JSON line that it prints."""
        return output_of(server.name, self._command(server, program, *arguments), cpu=CLIENT_CPU, timeout=timeout)

    def fill(self, server, keys):
        """Writes so many keys and waits until the server has them."""
        for step in ("fill", "wait"):
            subprocess.run(list(map(str, self._command(server, "storm_client", step, "--keys", keys))), check=True,
                           timeout=300)

    def _command(self, server, program, *arguments):
        words = arguments[:1] if program == "storm_client" else ()
        return [self.bin_dir / program, *words, "--read", f"127.0.0.1:{server.read}", "--put", f"127.0.0.1:{server.put}",
                   "--pid", server.process.pid, "--tls-ca", self.tls.ca, "--tls-cert", self.reader[0], "--tls-key",
                   self.reader[1], "--put-cert", self.admin[0], "--put-key", self.admin[1], *arguments[len(words):]]

    def _etcd(self, cpu):
        return start_etcd(self.processes, self.folder, self.tls, self.server, cpu=cpu)

    def _grpc_proxy(self, etcd_port):
        listen = free_port()
        proxy = self.processes.start("grpc-proxy", "etcd", "grpc-proxy", "start",
                                     f"--endpoints=https://127.0.0.1:{etcd_port}", f"--listen-addr=127.0.0.1:{listen}",
                                     f"--cert={self.nameless[0]}", f"--key={self.nameless[1]}", f"--cacert={self.tls.ca}",
                                     f"--cert-file={self.server[0]}", f"--key-file={self.server[1]}",
                                     f"--trusted-ca-file={self.tls.ca}", cpu=SERVER_CPU)
        self.processes.wait_port(proxy, listen, "grpc-proxy")
        return proxy, listen

    def _mirror(self, etcd_port):
        config = pathlib.Path(self.folder) / "upstream.yaml"
        config.write_text(f"endpoints:\n- https://127.0.0.1:{etcd_port}\ntrusted-ca-file: {self.tls.ca}\n"
                          f"cert-file: {self.admin[0]}\nkey-file: {self.admin[1]}\n")
        proxy, read, _ = self._mesh_proxy("--etcd-config", config)
        return proxy, read

    def _mesh_proxy(self, *mode):
        return start_proxy(self.processes, self.bin_dir, self.tls, self.server, "bench", 1, *self.one_loop, *mode,
                           cpu=SERVER_CPU, environment=self.environment)
