#!/usr/bin/env python3
"""The peer in Python: package etcd3 (Debian's python3-etcd3, over grpcio), doing the least that could work. One JSON line.

  etcd3_client.py list PORT:PREFIX...          all values of the prefixes, kept as they came
  etcd3_client.py parse PORT:PREFIX...         the same, parsed, in a dictionary by key: what may be looked up
  etcd3_client.py watch PORT:PREFIX EVENTS     says "ready", then counts events
"""
import json
import sys
import time

from memory import memory_kib, trim

EMPTY_KIB = memory_kib("VmRSS")
BEGIN = time.monotonic()
import etcd3

LOADED = time.monotonic()
# All of the dataset in one answer, as get_prefix() asks for it.
OPTIONS = {"grpc.max_receive_message_length": 1 << 29}.items()


def client(port):
    return etcd3.client(host="127.0.0.1", port=int(port), timeout=120, grpc_options=OPTIONS)


def read(places, parse):
    held, size = {} if parse else [], 0
    for place in places:
        port, prefix = place.split(":", 1)
        with client(port) as etcd:
            for value, about in etcd.get_prefix(prefix):
                size += len(about.key) + len(value)
                if parse:
                    held[about.key] = json.loads(value) if value[:1] == b"{" else value
                else:
                    held.append((about.key, value))
    done, rss = time.monotonic(), memory_kib("VmRSS")
    trim()
    return {"keys": len(held), "bytes": size, "import_seconds": LOADED - BEGIN, "seconds": done - BEGIN,
            "cpu_seconds": time.process_time(), "empty_kib": EMPTY_KIB, "rss_kib": rss, "peak_kib": memory_kib("VmHWM"),
            "trimmed_kib": memory_kib("VmRSS")}


def watch(place, wanted):
    port, prefix = place.split(":", 1)
    with client(port) as etcd:
        events, cancel = etcd.watch_prefix(prefix)
        print("ready", flush=True)
        begin, begin_cpu, seen, size = time.monotonic(), time.process_time(), 0, 0
        for event in events:
            size += len(event.value)
            seen += 1
            if seen >= wanted:
                break
        result = {"events": seen, "seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - begin_cpu}
        cancel()
        return result


if sys.argv[1] == "watch":
    print(json.dumps(watch(sys.argv[2], int(sys.argv[3]))))
else:
    print(json.dumps(read(sys.argv[2:], sys.argv[1] == "parse")))
