"""scripts/bench fairness: what light clients notice of one that asks for a hundred times as much."""
import json
import pathlib
import subprocess

from common import free_port, Processes, start_etcd, table, Tls

LIGHT = 10
KEYS = 5000


def fill(port, tls, admin):
    """Keys of 300 bytes below the prefix that the clients page through."""
    for begin in range(0, KEYS, 100):
        puts = "".join(f"put cilium/state/bench/{n:06d} {'v' * 300}\n" for n in range(begin, begin + 100))
        done = subprocess.run(["etcdctl", f"--endpoints=https://127.0.0.1:{port}", f"--cacert={tls.ca}",
                               f"--cert={admin[0]}", f"--key={admin[1]}", "txn"], input=f"\n{puts}\n\n", text=True,
                              capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"})
        if done.returncode != 0:
            raise RuntimeError(f"etcdctl txn: {done.stderr}")


def fairness(bin_dir, folder):
    """p50 and p99 of light clients' pages, alone and beside a greedy client: etcd, mesh-proxy before that etcd."""
    tls = Tls(folder)
    server, admin = tls.issue("server"), tls.issue("admin-bench")
    greedy = tls.issue("remote-greedy")
    light = [tls.issue(f"remote-light{n}") for n in range(LIGHT)]
    processes = Processes(folder)
    results = {}

    def measure(name, port):
        command = ["taskset", "-c", "1", bin_dir / "fairness_client", "--server", f"127.0.0.1:{port}", "--tls-ca", tls.ca,
                   "--greedy-cert", greedy[0], "--greedy-key", greedy[1]]
        for cert, key in light:
            command += ["--cert", cert, "--key", key]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr}")
        results[name] = json.loads(done.stdout)

    try:
        etcd, port = start_etcd(processes, folder, tls, server, cpu=0)
        fill(port, tls, admin)
        measure("etcd", port)
        config = pathlib.Path(folder) / "upstream.yaml"
        config.write_text(f"endpoints:\n- https://127.0.0.1:{port}\ntrusted-ca-file: {tls.ca}\n"
                          f"cert-file: {admin[0]}\nkey-file: {admin[1]}\n")
        listen, local = free_port(), free_port()
        proxy = processes.start("mesh-proxy", bin_dir / "mesh-proxy", "--cluster-name", "bench", "--cluster-id", 1,
                                "--loops", 1, "--etcd-config", config, "--listen-remote", f"127.0.0.1:{listen}",
                                "--listen-local", f"127.0.0.1:{local}", "--tls-ca", tls.ca, "--tls-cert", server[0],
                                "--tls-key", server[1], "--log-level", "warn", cpu=0)
        processes.wait_port(proxy, listen, "mesh-proxy")
        wait_for_keys(local, tls, admin)
        measure("mesh-proxy", listen)
    finally:
        processes.stop_all()
    print(f"\n  {LIGHT} clients at 20 pages of 256 keys per second, alone and beside one that asks for 2000 per second")
    table(["server", "p50 us", "p99 us", "p50 beside", "p99 beside", "p99 ratio", "greedy pages/s"],
          [[name, f"{r['alone']['p50_us']:.0f}", f"{r['alone']['p99_us']:.0f}", f"{r['beside']['p50_us']:.0f}",
            f"{r['beside']['p99_us']:.0f}", f"{r['beside']['p99_us'] / max(r['alone']['p99_us'], 1):.2f}",
            f"{r['greedy_answers_per_second']:.0f}"] for name, r in results.items()])
    return results


def wait_for_keys(port, tls, cert):
    """Until the proxy serves what the etcd has."""
    for _ in range(100):
        done = subprocess.run(["etcdctl", f"--endpoints=https://127.0.0.1:{port}", f"--cacert={tls.ca}",
                               f"--cert={cert[0]}", f"--key={cert[1]}", "get", f"cilium/state/bench/{KEYS - 1:06d}"],
                              text=True, capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"})
        if done.stdout:
            return
    raise RuntimeError("mesh-proxy serves no keys")
