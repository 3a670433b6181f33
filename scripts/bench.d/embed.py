"""scripts/bench embed: what linking, loading or importing libmesh costs, beside the least that could work."""
import json
import os
import pathlib
import subprocess
import sys
import time

from common import goal, median_of, output_of, Processes, ROOT, start_etcd, table

HERE = ROOT / "benchmarks" / "embed"
PYTHON = "/usr/bin/python3"  # Debian's: it has etcd3, cffi and numpy
IPS = "cilium/state/ip/v1/"


class Place:
    """The etcds of two clusters: cluster1, whose services are global, and cluster2 with all else; and readers of them."""

    def __init__(self, bin_dir, folder, processes, size=()):
        self.bin, self.folder = bin_dir, pathlib.Path(folder)
        self.shared_object = bin_dir.parent / "lib" / "libmesh.so"
        self.sync, self.embed = bin_dir / "sync_bench", bin_dir / "embed_client"
        self.ports = [start_etcd(processes, folder)[1] for _ in range(2)]
        self.own, self.remotes = self.folder / "own.yaml", self.folder / "remotes"
        self.own.write_text(f"endpoints: [http://127.0.0.1:{self.ports[0]}]\n")
        self.remotes.mkdir()
        (self.remotes / "cluster2").write_text(f"endpoints: [http://127.0.0.1:{self.ports[1]}]\n")
        filled = [self.fill(0, "--own", *size), self.fill(1, *size)]
        self.keys, self.bytes = (sum(f[what] for f in filled) for what in ("keys", "bytes"))
        package = bin_dir.parent / "python"
        self.environment = {**os.environ, "PYTHONPATH": str(package)}
        self.has_python = (package / "libmesh").is_dir()
        self.has_etcd3 = subprocess.run([PYTHON, "-c", "import etcd3"], capture_output=True).returncode == 0

    def url(self, which):
        return f"http://127.0.0.1:{self.ports[which]}"

    def fill(self, which, *words):
        return output_of("fill", [self.sync, "fill", "--etcd", self.url(which), *words], timeout=900)

    def c(self, mode, *words):
        return [self.embed, mode, self.shared_object, self.own, self.remotes, *words]

    def python(self, mode, *words):
        return [PYTHON, HERE / "python_client.py", mode, self.own, self.remotes, *words]

    def prefixes(self):
        return [f"{self.ports[0]}:mesh/", f"{self.ports[1]}:cilium/"]

    def run(self, command, timeout=1200):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, env=self.environment)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    def follow(self, command, events, number):
        """Starts a follower, changes that many ips when it is ready, and gives what it says."""
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                   env=self.environment)
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{command[:3]}: ended before it was ready")
            if "etcd3_client" in str(command):
                time.sleep(0.5)  # its watch may not have reached the server yet, and it cannot tell
            self.fill(1, "--change", events, "--round", number)
            out, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        return json.loads(out)


def first_snapshot(place, repetitions):
    """Each reader in turn, in a process of its own."""
    bare = [[place.sync, "range", "--keep", "--page", 30_000, "--etcd", place.url(which), "--prefix", prefix]
            for which, prefix in enumerate(("mesh/", "cilium/"))]
    ways = {"libmesh, C by dlopen()": lambda: place.run(place.c("snapshot"))}
    if place.has_python:
        ways["libmesh, Python"] = lambda: place.run(place.python("snapshot"))
    if place.has_etcd3:
        for mode, name in (("list", "python3-etcd3, bytes kept"), ("parse", "python3-etcd3, JSON parsed")):
            ways[name] = lambda mode=mode: place.run([PYTHON, HERE / "etcd3_client.py", mode, *place.prefixes()])

    def bare_reads():
        # One after the other, as one process would.
        runs = [place.run(command) for command in bare]
        return {"seconds": sum(r["seconds"] for r in runs), "cpu_seconds": sum(r["cpu_seconds"] for r in runs),
                "rss_kib": max(r["rss_mib"] for r in runs) * 1024, "peak_kib": max(r["peak_rss_mib"] for r in runs) * 1024}

    ways["bare C++ Range, bytes kept"] = bare_reads
    runs = {}
    for _ in range(repetitions):
        for way, read in ways.items():
            runs.setdefault(way, []).append(read())
    return runs


def events_from_memory(place, rounds):
    runs = {"libmesh, C callback": place.run(place.c("memory", rounds))}
    if place.has_python:
        for way, name in (("callback", "libmesh, Python callback"), ("for", "libmesh, Python for"),
                          ("asyncio", "libmesh, asyncio")):
            runs[name] = place.run(place.python("memory", rounds, way))
    return runs


def events_from_etcd(place, events, repetitions):
    ways = {"libmesh, C callback": place.c("follow", events),
            "bare C++ watch": [place.sync, "watch", "--etcd", place.url(1), "--events", events]}
    if place.has_python:
        for way, name in (("callback", "libmesh, Python callback"), ("asyncio", "libmesh, asyncio")):
            ways[name] = place.python("follow", events, way)
    if place.has_etcd3:
        ways["python3-etcd3 watch"] = [PYTHON, HERE / "etcd3_client.py", "watch", f"{place.ports[1]}:{IPS}", events]
    runs, number = {}, 0
    for _ in range(repetitions):
        for way, command in ways.items():
            number += 1
            runs.setdefault(way, []).append(place.follow(command, events, number))
    return runs


def show_first_snapshot(place, runs):
    base = median_of(runs["bare C++ Range, bytes kept"], "seconds")
    c = runs["libmesh, C by dlopen()"]
    print(f"\n  {place.keys:,} keys, {place.bytes / 1e6:.1f} MB of keys and values, two etcds: until all ips and services are "
          f"read (median of {len(c)})")
    table(["", "wall s", "x bare", "CPU s", "of it load", "sync", "snapshot"],
          [[way, f"{median_of(r, 'seconds'):.3f}", f"{median_of(r, 'seconds') / base:.2f}",
            f"{median_of(r, 'cpu_seconds'):.3f}",
            *(f"{median_of(r, field):.3f}" if field in r[0] else "" for field in
              ("dlopen_seconds" if "dlopen_seconds" in r[0] else "import_seconds", "ready_seconds", "snapshot_seconds"))]
           for way, r in runs.items()])
    limit = 1.3 * place.bytes + 16e6
    print("\n  MB of memory (RSS); the snapshot's own memory is the reader's, and freed")
    columns = (("before", "empty_kib"), ("ready", "rss_kib"), ("with a snapshot", "holding_kib"), ("freed", "freed_kib"),
               ("malloc_trim", "trimmed_kib"), ("peak", "peak_kib"))
    megabytes = lambda r, field: f"{median_of(r, field) * 1024 / 1e6:.1f}" if field in r[0] else ""
    table(["", *(name for name, _ in columns), "x raw bytes"],
          [[way, *(megabytes(r, field) for _, field in columns),
            f"{median_of(r, 'rss_kib') * 1024 / place.bytes:.2f}"] for way, r in runs.items()])
    for way in ("libmesh, C by dlopen()", "libmesh, Python"):
        if way not in runs:
            continue
        most = {field: median_of(runs[way], field) * 1024 for field in ("rss_kib", "freed_kib", "trimmed_kib")}
        goal(f"{way}: RSS at most 1.3 x raw bytes + 16 MB = {limit / 1e6:.1f} MB (ready {most['rss_kib'] / 1e6:.1f}, a "
             f"snapshot read and freed {most['freed_kib'] / 1e6:.1f}, trimmed {most['trimmed_kib'] / 1e6:.1f})",
             max(most["rss_kib"], most["freed_kib"]) <= limit)


def show_events(memory, etcd):
    rate = lambda r, field: r["events"] / max(r[field], 1e-9)
    median_rate = lambda rs, field: median_of([{"rate": rate(r, field)} for r in rs], "rate")
    first = next(iter(memory.values()))
    print(f"\n  {first[0]['events']:,} ips from the library's memory to the reader, {len(first)} times")
    table(["", "events/s", "events/CPU s"],
          [[way, f"{median_rate(r, 'seconds'):,.0f}", f"{median_rate(r, 'cpu_seconds'):,.0f}"] for way, r in memory.items()])
    goal("C callback: 1,000,000 events/s from memory", median_rate(memory["libmesh, C callback"], "seconds") >= 1e6)
    base = {name: median_rate(etcd[name], "cpu_seconds") for name in ("bare C++ watch", "python3-etcd3 watch") if name in etcd}
    some = next(iter(etcd.values()))
    print(f"\n  {some[0]['events']:,} changes of ips put into the etcd, until the reader has seen the last; how fast is the "
          "etcd's affair,\n  what it costs the reader's")
    table(["", "events/s", "events/CPU s", *(f"x {name}" for name in base)],
          [[way, f"{median_rate(r, 'seconds'):,.0f}", f"{median_rate(r, 'cpu_seconds'):,.0f}",
            *(f"{median_rate(r, 'cpu_seconds') / b:.2f}" for b in base.values())] for way, r in etcd.items()])


def million(bin_dir, folder):
    """A million ips in one read."""
    processes = Processes(folder)
    try:
        place = Place(bin_dir, folder, processes, ("--ips", 1_000_000, "--services", 10))
        runs = {"C": place.run(place.c("records"), timeout=1200)}
        if place.has_python:
            for run in place.run(place.python("records"), timeout=1200):
                runs.setdefault("Python, numpy" if run["numpy"] else "Python, memoryview", []).append(run)
    finally:
        processes.stop_all()
    print("\n  1,000,000 ips in one read")
    table(["", "seconds", "ips"], [[way, f"{median_of(r, 'seconds'):.3f}", f"{r[0]['ips']:,}"] for way, r in runs.items()])
    for way, r in runs.items():
        if way.startswith("Python"):
            goal(f"{way}: below 1 s", max(x["seconds"] for x in r) < 1 and r[0]["ips"] == 1_000_000)
    return runs


def embed(bin_dir, folder):
    """First snapshot, memory, events to callbacks; in C and Python, beside a bare C++ client and python3-etcd3."""
    rounds = int(os.environ.get("MESH_BENCH_ROUNDS", "5"))
    processes = Processes(folder)
    try:
        place = Place(bin_dir, folder, processes)
        if not place.has_python:
            print("  NOTE: no Python package in the build tree (target mesh_python): Python is not measured", file=sys.stderr)
        if not place.has_etcd3:
            print("  NOTE: python3-etcd3 is not installed: that peer is not measured", file=sys.stderr)
        snapshot = first_snapshot(place, rounds)
        show_first_snapshot(place, snapshot)
        memory = events_from_memory(place, rounds)
        etcd = events_from_etcd(place, 100_000, min(rounds, 3))
        show_events(memory, etcd)
    finally:
        processes.stop_all()
    second = pathlib.Path(folder) / "million"
    second.mkdir()
    return {"keys": place.keys, "bytes": place.bytes, "first_snapshot": snapshot, "memory": memory, "etcd": etcd,
            "million": million(bin_dir, second)}
