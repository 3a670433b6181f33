"""scripts/bench sync: the first sync of a large remote."""
import pathlib
import tempfile

from common import median_of, output_of, Processes, start_etcd, table, Tls


def sync(bin_dir, folder):
    """First sync of 100,000 ips and 10,000 services of 10 backends, against a bare Range of the same bytes.

    Nothing is pinned to a core: a reader may ask for several prefixes at once, and etcd answer so.
    """
    pages, repetitions = (256, 1_000, 10_000, 30_000, 0), 5
    program = bin_dir / "sync_bench"
    tls = Tls(folder)
    server, remote = tls.issue("server"), tls.issue("remote-cluster1")
    results = {}
    for transport in ("plain", "TLS"):
        secure = transport == "TLS"
        processes = Processes(folder)
        try:
            _, port = start_etcd(processes, folder, tls if secure else None, server)
            url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
            certificates = ["--tls-ca", tls.ca, "--tls-cert", remote[0], "--tls-key", remote[1]] if secure else []
            filled = output_of("fill", [program, "fill", "--etcd", url, *certificates])
            remotes = pathlib.Path(tempfile.mkdtemp(dir=folder))
            (remotes / "cluster2").write_text(
                f"endpoints:\n- {url}\n" + (f"trusted-ca-file: {tls.ca}\ncert-file: {remote[0]}\n"
                                            f"key-file: {remote[1]}\n" if secure else ""))
            runs = {}
            # One of each in turn, so that what else the machine does touches all alike.
            for _ in range(repetitions):
                for page in pages:
                    runs.setdefault(f"Range, {page or 'all'} keys a page", []).append(output_of(
                        f"range {page}", [program, "range", "--etcd", url, "--page", page, *certificates]))
                runs.setdefault("sync until ready", []).append(
                    output_of("sync", [program, "sync", "--remotes", remotes]))
        finally:
            processes.stop_all()
        ranges = {name: r for name, r in runs.items() if name.startswith("Range")}
        best = min(ranges, key=lambda name: median_of(ranges[name], "seconds"))
        base, base_cpu = median_of(runs[best], "seconds"), median_of(runs[best], "cpu_seconds")
        print(f"\n  {filled['keys']} keys, {filled['bytes'] / 1e6:.1f} MB, etcd over {transport} (median of "
              f"{repetitions}; ratios to the best Range)")
        table(["", "wall s", "x best", "CPU s", "x best", "peak RSS MiB"],
              [[name, f"{median_of(r, 'seconds'):.3f}", f"{median_of(r, 'seconds') / base:.2f}",
                f"{median_of(r, 'cpu_seconds'):.3f}", f"{median_of(r, 'cpu_seconds') / base_cpu:.2f}",
                f"{max(x['peak_rss_mib'] for x in r):.1f}"] for name, r in runs.items()])
        ours = runs["sync until ready"]
        ratio, peak = median_of(ours, "seconds") / base, max(x["peak_rss_mib"] for x in ours)
        print(f"  goals: wall {ratio:.2f} <= 1.5 x best Range: {'met' if ratio <= 1.5 else 'MISSED'}; "
              f"peak RSS {peak:.1f} <= 55 MiB: {'met' if peak <= 55 else 'MISSED'}")
        results[transport] = {"filled": filled, "best": best, "ratio": ratio, "peak_rss_mib": peak, "runs": runs}
    return results
