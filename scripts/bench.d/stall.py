"""scripts/bench stall: one watcher of many stops reading, and comes back."""
import os

from common import table
from etcd_servers import EtcdServers

SECONDS, QUICK = 60, 10


def stall(bin_dir, folder):
    """A watcher is stopped at 1,000 puts per second: memory meanwhile, the others' latency, and its catching up."""
    seconds = QUICK if os.environ.get("QUICK") else SECONDS
    servers = EtcdServers(bin_dir, folder)
    results = {server.name: servers.client(server, "stall_client", "--stall", seconds) for server in servers.each()}
    one = next(iter(results.values()))
    print(f"\n  {one['rate']} puts/s of 300 bytes to {one['watchers']} watchers; one more is stopped for {seconds} s "
          "(QUICK=1: 10 s)")
    table(["server", "events missed", "caught up s", "reconnects", "lists", "RSS growth MiB", "others' p50 ms", "p99 ms",
           "p50 before", "p99 before"],
          [[name, r["missing"], f"{r['catch_up_s']:.3f}" if r["caught_up"] else "NEVER", r["reconnects"], r["lists"],
            f"{r['rss_growth_mib']:.1f}", f"{r['during_p50_ms']:.2f}", f"{r['during_p99_ms']:.2f}",
            f"{r['before_p50_ms']:.2f}", f"{r['before_p99_ms']:.2f}"] for name, r in results.items()])
    return results
