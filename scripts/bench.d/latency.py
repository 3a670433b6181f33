"""scripts/bench latency: from a put to the kernel."""
import os
import pathlib
import shutil
import subprocess
import tempfile

from common import cgroup2_root, output_of, Processes, Skipped, start_etcd, start_proxy, table, Tls


def latency(bin_dir, folder):
    """A put into a remote's etcd until the kernel can choose the backend, against a bare watch of the same put."""
    cgroups = cgroup2_root()
    if os.geteuid() != 0 or cgroups is None:
        raise Skipped("needs root and a cgroup v2 hierarchy, for BPF programs in a cgroup of their own")
    tls = Tls(folder)
    server, remote, admin = (tls.issue(n) for n in ("server", "remote-cluster1", "admin-cluster2"))
    name = f"mesh-bench-{os.getpid()}"
    cgroup, pins = cgroups / name, pathlib.Path("/sys/fs/bpf") / name
    client = bin_dir / "latency_client"
    processes = Processes(folder)
    try:
        cgroup.mkdir()
        _, own = start_etcd(processes, folder)
        _, theirs = start_etcd(processes, folder)
        upstream = pathlib.Path(folder) / "upstream.yaml"
        upstream.write_text(f"endpoints:\n- http://127.0.0.1:{theirs}\n")
        own_config = pathlib.Path(folder) / "own.yaml"
        own_config.write_text(f"endpoints:\n- http://127.0.0.1:{own}\n")
        subprocess.run([client, "setup", "--own", f"127.0.0.1:{own}", "--remote", f"127.0.0.1:{theirs}"], check=True,
                       timeout=60)
        _, proxy, _ = start_proxy(processes, bin_dir, tls, server, "cluster2", 2, "--etcd-config", upstream)
        remotes = pathlib.Path(tempfile.mkdtemp(dir=folder))
        (remotes / "cluster2").write_text(f"endpoints:\n- https://127.0.0.1:{proxy}\ntrusted-ca-file: {tls.ca}\n"
                                          f"cert-file: {remote[0]}\nkey-file: {remote[1]}\n")
        agent = processes.start("mesh-agent", bin_dir / "mesh-agent", "--cluster-name", "cluster1", "--cluster-id", 1,
                                "--node-name", "node1", "--etcd-config", own_config, "--clustermesh-config", remotes,
                                "--datapath", "bpf", "--cgroup", cgroup, "--bpf-pin", name, "--log-level", "warn")
        try:
            result = output_of("latency", [client, "measure", "--remote", f"127.0.0.1:{theirs}", "--proxy",
                                           f"127.0.0.1:{proxy}", "--maps", pins / "maps", "--tls-ca", tls.ca,
                                           "--tls-cert", remote[0], "--tls-key", remote[1], "--events", 2_000])
        except RuntimeError as e:
            log = (pathlib.Path(folder) / "mesh-agent.log").read_text()[-2000:]
            raise RuntimeError(f"{e}\nmesh-agent ({'runs' if agent.poll() is None else 'ended'}): {log}") from e
    finally:
        processes.stop_all()
        shutil.rmtree(pins, ignore_errors=True)
        if cgroup.exists():
            cgroup.rmdir()
    base = result["watch_etcd"]
    print(f"\n  put into the remote's etcd, {result['events']} times; looked at each {result['poll_us']:.0f} us")
    table(["seen by", "p50 us", "p99 us", "max us", "p50 x bare watch", "p99 x bare watch"],
          [[what, *(f"{result[field][q]:.0f}" for q in ("p50_us", "p99_us", "max_us")),
            *(f"{result[field][q] / base[q]:.2f}" for q in ("p50_us", "p99_us"))]
           for what, field in (("bare watch of the etcd", "watch_etcd"), ("the put's answer", "put_answered"),
                               ("bare watch of mesh-proxy, TLS", "watch_proxy"),
                               ("the kernel: BPF map of mesh-agent", "map"))])
    return result
