"""scripts/bench store: the MVCC store, alone and behind mutual TLS."""
import pathlib
import shutil
import tempfile

from common import in_process, median_of, output_of, Processes, ROOT, start_etcd, start_proxy, table, Tls


def store(bin_dir, folder):
    """The store alone, then puts over mutual TLS into etcd and into mesh-proxy --embedded, on a disk and in memory."""
    result = {"in_process": in_process("store_bench")(bin_dir, folder)}
    tls = Tls(folder)
    server, admin = tls.issue("server"), tls.issue("admin-bench")
    rows = []
    disk = ROOT / "build" / "bench" / "disk"
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir(parents=True)
    try:
        for where, data in (("/dev/shm", pathlib.Path(folder)), ("disk", disk)):
            for window in (1, 64):
                runs = {}
                for name in ("etcd", "mesh-proxy --embedded"):
                    processes = Processes(folder)
                    try:
                        if name == "etcd":
                            _, port = start_etcd(processes, data, tls, server, cpu=0)
                        else:
                            mode = ["--embedded", "--data-dir", tempfile.mkdtemp(dir=data)]
                            _, _, port = start_proxy(processes, bin_dir, tls, server, "bench", 1, *mode, cpu=0)
                        puts = 3_000 if window == 1 else 20_000
                        runs[name] = [output_of(name, [bin_dir / "put_client", "--to", f"127.0.0.1:{port}", "--puts",
                                                       puts, "--window", window, "--tls-ca", tls.ca, "--tls-cert",
                                                       admin[0], "--tls-key", admin[1]], cpu=1) for _ in range(3)]
                    finally:
                        processes.stop_all()
                base = median_of(runs["etcd"], "puts_per_second")
                for name, r in runs.items():
                    rate = median_of(r, "puts_per_second")
                    rows.append([f"{name}, {where}", window, f"{rate:.0f}", f"{rate / base:.2f}",
                                 f"{median_of(r, 'p50_us'):.0f}", f"{median_of(r, 'p99_us'):.0f}"])
                result[f"{where}/{window}"] = runs
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    print("\n  200-byte puts over mutual TLS, each answered when it is on disk (median of 3)")
    table(["server, its files", "under way", "puts/s", "x etcd", "p50 us", "p99 us"], rows)
    return result
