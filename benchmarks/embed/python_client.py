#!/usr/bin/env python3
"""What an embedder pays in Python: as embed_client.c, through package libmesh. One JSON line to stdout.

  python_client.py snapshot|records|memory|follow ETCD-CONFIG REMOTES-FOLDER [ROUNDS|EVENTS [callback|for|asyncio]]
"""
import json
import struct
import sys
import threading
import time

from memory import memory_kib, trim

EMPTY_KIB = memory_kib("VmRSS")
BEGIN = time.monotonic()
import libmesh
from libmesh import EventKind, Objects

LOADED = time.monotonic()
RECORD = struct.calcsize(libmesh.IP_RECORD_FORMAT)


def open_mesh(etcd_config, remotes):
    return libmesh.Mesh(cluster_name="cluster1", cluster_id=1, node_name="bench", etcd_config=etcd_config,
                        clustermesh_config=remotes)


def snapshot(where):
    with open_mesh(*where) as mesh:
        mesh.wait_ready(120)
        ready, rss, peak = time.monotonic(), memory_kib("VmRSS"), memory_kib("VmHWM")
        batch = mesh.list(Objects.IPS | Objects.SERVICES)
        count = len(batch)
        read, holding = time.monotonic(), memory_kib("VmRSS")
        del batch
        freed = memory_kib("VmRSS")
        trim()
        return {"events": count, "import_seconds": LOADED - BEGIN, "ready_seconds": ready - LOADED,
                "snapshot_seconds": read - ready, "seconds": read - BEGIN, "cpu_seconds": time.process_time(),
                "empty_kib": EMPTY_KIB, "rss_kib": rss, "peak_kib": peak, "holding_kib": holding, "freed_kib": freed,
                "trimmed_kib": memory_kib("VmRSS")}


def records(where):
    with open_mesh(*where) as mesh:
        mesh.wait_ready(600)
        runs = []
        for numpy in (True, False, True, False):
            begin = time.monotonic()
            all_ips = mesh.read_ips(numpy=numpy)
            seconds = time.monotonic() - begin
            runs.append({"numpy": numpy, "ips": len(all_ips) if numpy else len(all_ips) // RECORD, "seconds": seconds})
            del all_ips
        return runs


class Counter:
    """Upserts until so many were seen after the first snapshot; 0: until its end."""

    def __init__(self, wanted):
        self.wanted, self.seen, self.sum, self.following = wanted, 0, 0, False
        self.begin = self.begin_cpu = self.end = self.end_cpu = 0.0
        self.ready, self.done = threading.Event(), threading.Event()

    def start(self):
        self.begin, self.begin_cpu = time.monotonic(), time.process_time()

    def take(self, batch):
        for event in batch:
            if event.kind is EventKind.UPSERT:
                if self.following or not self.wanted:
                    self.sum += event.object.identity
                    self.seen += 1
            elif event.kind is EventKind.SNAPSHOT_END:
                self.following = True
                if self.wanted:
                    self.start()
                    print("ready", flush=True)
        if self.following and self.seen >= self.wanted and not self.done.is_set():
            self.end, self.end_cpu = time.monotonic(), time.process_time()
            self.done.set()
        return self.done.is_set()

    def result(self):
        return {"events": self.seen, "seconds": self.end - self.begin, "cpu_seconds": self.end_cpu - self.begin_cpu}


async def follow_async(watch, counter):
    async for batch in watch.batches():
        if counter.take(batch):
            return


def events(mesh, way, wanted):
    counter = Counter(wanted)
    counter.start()
    options = {"max_queued_bytes": 1 << 30}
    if way == "callback":
        with mesh.on_events(counter.take, Objects.IPS, **options):
            if not counter.done.wait(300):
                raise SystemExit(f"python_client: {counter.seen} events after 300 s")
    else:
        with mesh.watch(Objects.IPS, **options) as watch:
            if way == "asyncio":
                import asyncio

                asyncio.run(follow_async(watch, counter))
            else:
                for batch in watch.batches():
                    if counter.take(batch):
                        break
    return counter.result()


def main():
    mode, where = sys.argv[1], sys.argv[2:4]
    if mode in ("snapshot", "records"):
        result = snapshot(where) if mode == "snapshot" else records(where)
    else:
        number, way = int(sys.argv[4]), sys.argv[5]
        with open_mesh(*where) as mesh:
            mesh.wait_ready(120)
            result = [events(mesh, way, 0) for _ in range(number)] if mode == "memory" else events(mesh, way, number)
    print(json.dumps(result))


main()
