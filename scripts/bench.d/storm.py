"""scripts/bench storm: a thousand clients connect at once and list everything."""
import os
import shlex

from common import goal, table
from etcd_servers import EMBEDDED, ETCD, EtcdServers, GRPC_PROXY, MIRROR

PAGE = 256  # Cilium's
# A thousand clients, or a hundred thousand keys: both together take etcd hours.
SHAPES = [(1000, 10_000), (10, 100_000)]


def storm(bin_dir, folder):
    """Time until all TLS clients have everything, and the server's peak memory."""
    given = shlex.split(os.environ.get("STORM", ""))
    options = {"--page": PAGE, **dict(zip(given[::2], given[1::2]))}
    servers = EtcdServers(bin_dir, folder)
    results = {}
    for connections, keys in SHAPES:
        shape = {"--connections": connections, "--keys": keys, **options}
        for server in servers.each():
            servers.fill(server, shape["--keys"])
            words = [word for pair in shape.items() for word in pair]
            results.setdefault(f"{connections} x {keys}", {})[server.name] = servers.client(
                server, "storm_client", "run", *words, "--seconds", 900, timeout=1000)
    for shape in results.values():
        report(shape)
    if not given:
        results["1000 x 100000"] = both(servers)
    return results


def both(servers):
    """A thousand clients and a hundred thousand keys: ours, and grpc-proxy for five times as long."""
    words = ["--page", PAGE, "--connections", 1000, "--keys", 100_000]
    ours = {}
    outcome = ""
    for server in (one for name in (MIRROR, GRPC_PROXY) for one in servers.each((name,))):
        servers.fill(server, 100_000)
        if server.name == MIRROR:
            ours = servers.client(server, "storm_client", "run", *words, "--seconds", 900, timeout=1000)
            continue
        limit = round(5 * ours["seconds"])
        try:
            theirs = servers.client(server, "storm_client", "run", *words, "--seconds", limit, timeout=limit + 100)
            outcome = f"{theirs['seconds']:.1f} s"
        except RuntimeError as end:
            outcome = str(end).strip().rsplit("storm_client: ", 1)[-1]
    print(f"\n  1000 x 100000 keys ({ours['mib']:.0f} MiB): {MIRROR} {ours['seconds']:.1f} s, peak RSS "
          f"{ours['rss_peak_mib']:.0f} MiB; {GRPC_PROXY}: {outcome}; etcd itself would take hours")
    goal(f"1000 x 100000: grpc-proxy is not done in 5 times {ours['seconds']:.1f} s", "took more than" in outcome)
    return {MIRROR: ours, GRPC_PROXY: outcome}


def report(results):
    one = results[MIRROR]
    pages = f"in pages of {one['page']}" if one["page"] else "all in one answer"
    print(f"\n  {one['connections']} TLS clients at once, each lists {one['keys']} keys of about 250 bytes, {pages}: "
          f"{one['mib']:.0f} MiB")
    base, against = (results[peer]["seconds"] for peer in (ETCD, GRPC_PROXY))
    table(["server", "all synced s", "half s", "x etcd", "x grpc-proxy", "server CPU s", "client CPU s", "peak RSS MiB",
           "before", "retries"],
          [[name, f"{r['seconds']:.2f}", f"{r['sync_p50_s']:.2f}", f"{base / r['seconds']:.1f}",
            f"{against / r['seconds']:.1f}", f"{r['server_cpu_seconds']:.2f}", f"{r['client_cpu_seconds']:.2f}",
            f"{r['rss_peak_mib']:.0f}", f"{r['rss_before_mib']:.0f}", r["retries"]] for name, r in results.items()])
    for ours in (MIRROR, EMBEDDED):
        ratio = against / results[ours]["seconds"]
        goal(f"{one['connections']} x {one['keys']}, {ours}: >= 5x faster than grpc-proxy: {ratio:.1f}x", ratio >= 5)
