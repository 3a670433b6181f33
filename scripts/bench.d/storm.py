"""scripts/bench storm: a thousand clients connect at once and list everything."""
import os
import shlex

from common import goal, table
from etcd_servers import EMBEDDED, ETCD, EtcdServers, GRPC_PROXY, MIRROR

CONNECTIONS, KEYS, PAGE = 1000, 10_000, 256  # Cilium's page


def storm(bin_dir, folder):
    """Time until all of 1,000 TLS clients have everything, and the server's peak memory."""
    arguments = {"--connections": CONNECTIONS, "--keys": KEYS, "--page": PAGE}
    given = shlex.split(os.environ.get("STORM", ""))
    arguments.update(zip(given[::2], given[1::2]))
    options = [word for pair in arguments.items() for word in pair]
    servers = EtcdServers(bin_dir, folder)
    results = {}
    for server in servers.each():
        servers.fill(server, arguments["--keys"])
        results[server.name] = servers.client(server, "storm_client", "run", *options, "--seconds", 900, timeout=1000)
    one = results[MIRROR]
    print(f"\n  {one['connections']} TLS clients at once, each lists {one['keys']} keys of about 250 bytes, "
          f"{'in pages of ' + str(one['page']) if one['page'] else 'all in one answer'}: {one['mib']:.0f} MiB")
    if one["keys"] == KEYS:
        print("  (scaled down: 100,000 keys take more than two minutes per server; STORM='--keys 100000')")
    base, against = (results[peer]["seconds"] for peer in (ETCD, GRPC_PROXY))
    table(["server", "all synced s", "half s", "connected s", "x etcd", "x grpc-proxy", "server CPU s", "client CPU s",
           "peak RSS MiB", "before", "retries"],
          [[name, f"{r['seconds']:.2f}", f"{r['sync_p50_s']:.2f}", f"{r['connect_max_s']:.2f}",
            f"{base / r['seconds']:.2f}", f"{against / r['seconds']:.2f}", f"{r['server_cpu_seconds']:.2f}",
            f"{r['client_cpu_seconds']:.2f}", f"{r['rss_peak_mib']:.0f}", f"{r['rss_before_mib']:.0f}", r["retries"]]
           for name, r in results.items()])
    for ours in (MIRROR, EMBEDDED):
        ratio = against / results[ours]["seconds"]
        goal(f"{ours}: >= 5x faster than grpc-proxy: {ratio:.1f}x", ratio >= 5)
    return results
