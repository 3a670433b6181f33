"""scripts/bench reflect: KVStoreMesh's first sync."""
import pathlib
import tempfile

from common import output_of, Processes, start_etcd, table


def reflect(bin_dir, folder):
    """100,000 keys of each of 8 remotes into one etcd, against bare loops of transactions that write the same there."""
    clusters, keys = 8, 100_000
    program = bin_dir / "reflect_bench"
    processes = Processes(folder)
    runs = {}
    try:
        _, port = start_etcd(processes, folder)
        source = f"http://127.0.0.1:{port}"
        output_of("fill", [program, "write", "--etcd", source, "--keys", keys, "--clusters", clusters])
        remotes = pathlib.Path(tempfile.mkdtemp(dir=folder))
        for i in range(clusters):
            (remotes / f"remote{i}").write_text(f"endpoints: ['{source}']\nmesh: {{limits: {{services: {keys}}}}}\n")
        for name, words in (("one loop of Txn", ["write", "--layout", "cache", "--keys", keys]),
                            ("8 loops of Txn", ["write", "--layout", "cache", "--keys", keys, "--loops", 8]),
                            ("KVStoreMesh", ["reflect", "--remotes", remotes])):
            etcd, port = start_etcd(processes, folder)
            runs[name] = output_of(name, [program, *words, "--etcd", f"http://127.0.0.1:{port}", "--clusters", clusters])
            processes.stop(etcd)
    finally:
        processes.stop_all()
    best = min(runs[name]["seconds"] for name in runs if name != "KVStoreMesh")
    print(f"\n  {clusters} x {keys} keys of 300 bytes into an etcd of its own (ratios to the faster loop)")
    table(["", "wall s", "x loop", "keys/s", "CPU s", "peak RSS MiB"],
          [[name, f"{r['seconds']:.1f}", f"{r['seconds'] / best:.2f}", f"{r['keys'] / r['seconds']:.0f}",
            f"{r['cpu_seconds']:.1f}", f"{r['peak_rss_mib']:.0f}"] for name, r in runs.items()])
    return runs
