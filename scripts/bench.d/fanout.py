"""scripts/bench fanout: one event to many watch streams."""
from common import goal, output_of, table
from etcd_servers import CLIENT_CPU, EMBEDDED, ETCD, EtcdServers, GRPC_PROXY, MIRROR, SERVER_CPU

SHAPES = [(1000, 10, 600), (5000, 50, 120), (1000, 1000, 100)]  # streams, connections, events
RATES = [(100, 10, 100), (100, 10, 1000), (1000, 10, 100)]  # streams, connections, puts per second
RATE_SECONDS = 5
ONE_BY_ONE = "1000/1000, one event under way"  # else several of them leave in one write


def fanout(bin_dir, folder):
    """Delivered events per CPU second, latency at fixed rates and memory of who does nothing."""
    servers = EtcdServers(bin_dir, folder)
    results = {}

    def load(server, name, streams, connections, *arguments):
        results.setdefault(server.name, {})[name] = servers.client(
            server, "fanout_client", "--streams", streams, "--connections", connections, *arguments)

    for streams, connections, events in SHAPES:  # a fresh server for each shape: its memory is measured too
        for server in servers.each():
            load(server, f"{streams}/{connections}", streams, connections, "--settle", 1, "--events", events)
            if streams == connections:
                load(server, ONE_BY_ONE, streams, connections, "--window", 1, "--events", 2 * events)
    for server in servers.each():
        for streams, connections, rate in RATES:
            load(server, f"{streams}/{connections} at {rate}/s", streams, connections, "--rate", rate, "--events",
                 rate * RATE_SECONDS, "--seconds", 3 * RATE_SECONDS)
    floor = output_of("send_floor", [bin_dir / "send_floor", "--cpu", SERVER_CPU, "--reader-cpu", CLIENT_CPU])
    print_throughput(results)
    print_one_stream(results, floor)
    print_latency(results)
    print_memory(results)
    return {**results, "floor": floor}


def rate_of(results, server, shape):
    return results[server][shape]["delivered_per_cpu_second"]


def print_throughput(results):
    for streams, connections, _ in SHAPES:
        shape = f"{streams}/{connections}"
        print(f"\n  watch fan-out, 300-byte values over TLS, {shape} streams/connections")
        base, against = (max(rate_of(results, peer, shape), 1) for peer in (ETCD, GRPC_PROXY))
        table(["server", "delivered/CPU s", "x etcd", "x grpc-proxy", "p50 us", "p99 us", "complete"],
              [[name, f"{rate_of(results, name, shape):.0f}", f"{rate_of(results, name, shape) / base:.2f}",
                f"{rate_of(results, name, shape) / against:.2f}", f"{r[shape]['p50_us']:.0f}", f"{r[shape]['p99_us']:.0f}",
                "yes" if r[shape]["complete"] else "NO"] for name, r in results.items()])
        least = 10 if streams > connections else 2.5
        for ours in (MIRROR, EMBEDDED):
            ratio = rate_of(results, ours, shape) / base
            goal(f"{shape}, {ours}: >= {least}x etcd's delivered per CPU second: {ratio:.1f}x", ratio >= least)


def print_one_stream(results, floor):
    print(f"\n  {ONE_BY_ONE}: CPU ns per event, and what bare send() on {floor['connections']} sockets takes")
    per_event = {name: 1e9 / max(rate_of(results, name, ONE_BY_ONE), 1) for name in results}
    rows = [["send(), plain", floor["plain_ns"]], ["send(), TLS records made before", floor["tls_ns"]],
            ["send(), TLS records made here", floor["tls_encrypted_here_ns"]]]
    if "tls_io_uring_ns" in floor:
        rows.append(["io_uring, one submission for all, TLS records made before", floor["tls_io_uring_ns"]])
    rows += list(per_event.items())
    table(["", "CPU ns", "x send()"], [[name, f"{ns:.0f}", f"{ns / floor['tls_ns']:.2f}"] for name, ns in rows])


def print_latency(results):
    print("\n  put to delivered at fixed rates (ms; the put included)")
    names = [f"{s}/{c} at {rate}/s" for s, c, rate in RATES]
    table(["server", *(f"{name} {q}" for name in names for q in ("p50", "p99"))],
          [[server, *(f"{r[name][q] / 1000:.2f}{'' if r[name]['complete'] else ' (not all)'}"
                      for name in names for q in ("p50_us", "p99_us"))] for server, r in results.items()])


def print_memory(results):
    print("\n  memory of an idle server's clients, KiB")
    table(["server", "per connection, no stream", "per watcher, 5000/50", "per stream, 1000/1000"],
          [[server, f"{r['1000/1000']['rss_kib_per_connection']:.1f}", f"{r['5000/50']['rss_kib_per_watcher']:.1f}",
            f"{r['1000/1000']['rss_kib_per_stream']:.1f}"] for server, r in results.items()])
    for ours in (MIRROR, EMBEDDED):
        for shape in ("5000/50", "1000/1000"):
            own, theirs = (results[name][shape]["rss_kib_per_stream"] for name in (ours, ETCD))
            goal(f"{shape}, {ours}: RSS per stream <= 1/5 of etcd's: 1/{theirs / max(own, 0.01):.1f}", own * 5 <= theirs)
