"""scripts/bench fanout: one event to many watch streams."""
import json
import pathlib
import subprocess
import tempfile
import time

from common import free_port, Processes, start_etcd, table, Tls


def fanout(bin_dir, folder):
    """One event to many watch streams: etcd, etcd grpc-proxy, mesh-proxy as mirror and as the etcd."""
    shapes = [(1000, 10, 600), (1000, 1000, 100), (5000, 50, 120)]
    tls = Tls(folder)
    server, remote, admin, local = (tls.issue(n) for n in ("server", "remote-bench", "admin-bench", "local-bench"))
    nameless = tls.issue("grpc-proxy", "/O=bench")  # etcd's grpc-proxy refuses a client certificate with a common name
    processes = Processes(folder)
    load = bin_dir / "fanout_client"
    results = {}

    def measure(name, process, watch, put, shape, watch_cert=remote):
        streams, connections, events = shape
        command = ["taskset", "-c", "1", load, "--watch", f"127.0.0.1:{watch}", "--put", f"127.0.0.1:{put}", "--pid",
                   process.pid, "--streams", streams, "--connections", connections, "--events", events, "--seconds", 60,
                   "--tls-ca", tls.ca, "--tls-cert", watch_cert[0], "--tls-key", watch_cert[1],
                   "--put-cert", admin[0], "--put-key", admin[1]]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{name} {streams}/{connections}: {done.stderr}")
        results.setdefault(name, {})[f"{streams}/{connections}"] = json.loads(done.stdout)

    def proxy(*mode):
        remote_port, local_port = free_port(), free_port()
        process = processes.start(f"mesh-proxy-{remote_port}", bin_dir / "mesh-proxy", "--cluster-name", "bench",
                                  "--cluster-id", 1, "--listen-remote", f"127.0.0.1:{remote_port}", "--listen-local",
                                  f"127.0.0.1:{local_port}", "--tls-ca", tls.ca, "--tls-cert", server[0], "--tls-key",
                                  server[1], "--log-level", "warn", *mode, cpu=0)
        processes.wait_port(process, local_port, f"mesh-proxy-{remote_port}")
        return process, remote_port, local_port

    try:
        for shape in shapes:
            etcd, port = start_etcd(processes, folder, tls, server, cpu=0)
            measure("etcd", etcd, port, port, shape)
            processes.stop(etcd)

            upstream, port = start_etcd(processes, folder, tls, server, cpu=1)
            listen = free_port()
            peer = processes.start("grpc-proxy", "etcd", "grpc-proxy", "start",
                                   f"--endpoints=https://127.0.0.1:{port}", f"--listen-addr=127.0.0.1:{listen}",
                                   f"--cert={nameless[0]}", f"--key={nameless[1]}", f"--cacert={tls.ca}",
                                   f"--cert-file={server[0]}", f"--key-file={server[1]}",
                                   f"--trusted-ca-file={tls.ca}", cpu=0)
            processes.wait_port(peer, listen, "grpc-proxy")
            measure("etcd grpc-proxy", peer, listen, port, shape)
            processes.stop(peer)

            config = pathlib.Path(folder) / "upstream.yaml"
            config.write_text(f"endpoints:\n- https://127.0.0.1:{port}\ntrusted-ca-file: {tls.ca}\n"
                              f"cert-file: {admin[0]}\nkey-file: {admin[1]}\n")
            mirror, remote_port, _ = proxy("--etcd-config", config)
            time.sleep(0.5)
            measure("mesh-proxy (mirror)", mirror, remote_port, port, shape)
            processes.stop(mirror)
            processes.stop(upstream)

            own, remote_port, local_port = proxy("--embedded", "--data-dir", tempfile.mkdtemp(dir=folder))
            measure("mesh-proxy (embedded)", own, remote_port, local_port, shape)
            processes.stop(own)
    finally:
        processes.stop_all()
    for streams, connections, _ in shapes:
        shape = f"{streams}/{connections}"
        print(f"\n  watch fan-out, 300-byte values over TLS, {shape} streams/connections")
        base = results["etcd"][shape]["delivered_per_cpu_second"]
        against = results["etcd grpc-proxy"][shape]["delivered_per_cpu_second"]
        table(["server", "delivered/CPU s", "x etcd", "x grpc-proxy", "p50 us", "p99 us", "KiB/stream", "complete"],
              [[name, f"{r[shape]['delivered_per_cpu_second']:.0f}",
                f"{r[shape]['delivered_per_cpu_second'] / max(base, 1):.2f}",
                f"{r[shape]['delivered_per_cpu_second'] / max(against, 1):.2f}", f"{r[shape]['p50_us']:.0f}",
                f"{r[shape]['p99_us']:.0f}", f"{r[shape]['rss_kib_per_stream']:.1f}",
                "yes" if r[shape]["complete"] else "NO"] for name, r in results.items()])
    return results
