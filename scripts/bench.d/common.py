"""What the parts of scripts/bench share: servers of real kinds, certificates, tables, goals."""
import json
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "build" / "bench"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def table(header, rows):
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for n, row in enumerate(cells):
        print("  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))))
        if n == 0:
            print("  " + "  ".join("-" * w for w in widths))


class Tls:
    """A CA and one certificate per name, made with openssl."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.ca = self.dir / "ca.crt"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                     "-subj", "/CN=bench CA", "-keyout", self.dir / "ca.key", "-out", self.ca)

    def openssl(self, *args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    def issue(self, name, subject=None):
        key, csr, crt, ext = (self.dir / f"{name}.{s}" for s in ("key", "csr", "crt", "ext"))
        ext.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                     subject or f"/CN={name}", "-keyout", key, "-out", csr)
        self.openssl("x509", "-req", "-in", csr, "-CA", self.ca, "-CAkey", self.dir / "ca.key", "-CAcreateserial",
                     "-days", "2", "-extfile", ext, "-out", crt)
        return crt, key


class Processes:
    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.all = []

    def start(self, name, *command, cpu=None):
        command = [str(c) for c in command]
        if cpu is not None:
            command = ["taskset", "-c", str(cpu), *command]
        log = open(self.dir / f"{name}.log", "w")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self.all.append(process)
        return process

    def wait_port(self, process, port, name):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{name} did not come up:\n{(self.dir / f'{name}.log').read_text()[-2000:]}")

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.all.remove(process)

    def stop_all(self):
        for process in list(self.all):
            self.stop(process)


def start_etcd(processes, folder, tls=None, server=None, cpu=None):
    client, peer = free_port(), free_port()
    scheme = "https" if tls else "http"
    data = pathlib.Path(folder) / f"etcd-{client}"
    secure = [f"--cert-file={server[0]}", f"--key-file={server[1]}", f"--trusted-ca-file={tls.ca}",
              "--client-cert-auth"] if tls else []
    process = processes.start(f"etcd-{client}", "etcd", "--name", "bench", "--data-dir", data,
                              "--listen-client-urls", f"{scheme}://127.0.0.1:{client}",
                              "--advertise-client-urls", f"{scheme}://127.0.0.1:{client}",
                              "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                              "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                              "--initial-cluster", f"bench=http://127.0.0.1:{peer}", "--log-level", "error", *secure,
                              cpu=cpu)
    processes.wait_port(process, client, f"etcd-{client}")
    return process, client


def in_process(program):
    """A Google Benchmark program: 5 repetitions, the medians."""

    def run(bin_dir, folder):
        out = pathlib.Path(folder) / f"{program}.json"
        subprocess.run([bin_dir / program, "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true",
                        f"--benchmark_out={out}", "--benchmark_out_format=json"], check=True,
                       stdout=subprocess.DEVNULL)
        document = json.loads(out.read_text())
        medians = {b["run_name"]: b for b in document["benchmarks"] if b.get("aggregate_name") == "median"}

        def peer(name):
            """The benchmark that does the same with the peer: Boost.JSON for our codecs, std::map for our store, the
            bare system call for a table of ours."""
            if name.startswith("parse/"):
                return medians.get(name.replace("parse/", "parse_boost_json/", 1))
            if "/ours" in name:
                return medians.get(name.replace("/ours", "/bare", 1))
            if name.endswith("/store"):
                stem = name.removesuffix("store")
                return next((b for n, b in medians.items() if n.startswith(stem + "std::map")), None)
            return None

        rows = []
        for name, b in medians.items():
            rate = b.get("bytes_per_second")
            items = b.get("items_per_second")
            other = peer(name)
            rows.append([name, f"{b['cpu_time']:.1f} {b['time_unit']}", f"{rate / 1e6:.0f} MB/s" if rate else "",
                         f"{items:.3g}/s" if items else "",
                         f"{other['cpu_time'] / b['cpu_time']:.2f}" if other else ""])
        print()
        table(["benchmark (median of 5)", "CPU time", "bytes", "items", "speed x peer"], rows)
        return document

    return run


def output_of(name, command, cpu=None, timeout=300):
    """Runs one of our clients; the JSON line that it prints."""
    command = list(map(str, command))
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


def start_proxy(processes, bin_dir, tls, server, cluster, cluster_id, *mode, cpu=None, environment=()):
    """mesh-proxy; (process, remote port, local port)."""
    remote_port, local_port = free_port(), free_port()
    name = f"mesh-proxy-{remote_port}"
    process = processes.start(name, "env", *environment, bin_dir / "mesh-proxy", "--cluster-name", cluster, "--cluster-id", cluster_id,
                              "--listen-remote", f"127.0.0.1:{remote_port}", "--listen-local",
                              f"127.0.0.1:{local_port}", "--tls-ca", tls.ca, "--tls-cert", server[0], "--tls-key",
                              server[1], "--log-level", "warn", *mode, cpu=cpu)
    processes.wait_port(process, local_port, name)
    return process, remote_port, local_port


def median_of(runs, field):
    return statistics.median(r[field] for r in runs)


def cgroup2_root():
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(where)
    return None


class Skipped(Exception):
    pass


def goal(text, met):
    print(f"  goal: {text}: {'met' if met else 'MISSED'}")


class NetnsProcesses(Processes):
    """The same, in a network namespace of their own; the host's cgroups and BPF file system stay in sight."""

    def __init__(self, folder, netns):
        super().__init__(folder)
        self.enter = ["nsenter", f"--net=/run/netns/{netns}"]

    def start(self, name, *command, cpu=None):
        return super().start(name, *self.enter, *command, cpu=cpu)

    def wait_port(self, process, port, name):
        end = time.monotonic() + 20
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        while time.monotonic() < end and process.poll() is None:
            if subprocess.run([*self.enter, sys.executable, "-c", probe], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not come up:\n{(self.dir / f'{name}.log').read_text()[-2000:]}")


def memory_of(pid, field):
    line = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
