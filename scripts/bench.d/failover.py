"""scripts/bench failover: from a kill to the last connection that fails."""
import json
import os
import statistics
import subprocess
import sys

from common import goal, ROOT, Skipped, table


def failover(bin_dir, folder):
    """From a kill to the last new connection that fails, and to the error of an established one; default settings."""
    if os.geteuid() != 0:
        raise Skipped("needs root: network namespaces and BPF")
    rounds = int(os.environ.get("MESH_BENCH_ROUNDS", "10"))
    script = ROOT / "benchmarks" / "failover" / "failover.py"
    runs = []
    with subprocess.Popen([sys.executable, script, bin_dir, str(rounds)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            runs.append(json.loads(line))
            print(f"\r  {len(runs)} kills", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if process.returncode == 77:
        raise Skipped("see above")
    if process.returncode != 0:
        raise RuntimeError("failover.py: see above")
    result, rows = {}, []
    rank = lambda values, share: sorted(values)[min(len(values) - 1, int(len(values) * share))]
    shown = lambda seconds: f"{seconds:.2f} s"
    for way in dict.fromkeys(run["way"] for run in runs):
        of = [run for run in runs if run["way"] == way]
        last = [run["last_failed"] for run in of]
        resets = [seconds for run in of for seconds in run["reset"] if seconds is not None]
        hung = sum(seconds is None for run in of for seconds in run["reset"])
        result[way] = {"last_failed": last, "reset": resets, "hung": hung, "failed": [run["failed"] for run in of],
                       "failed_before": sum(run["failed_before"] for run in of)}
        rows.append([way.replace("_", " "), len(of), shown(statistics.median(last)), shown(rank(last, 0.99)),
                     *((shown(statistics.median(resets)), shown(rank(resets, 0.99))) if resets else ("", "")), hung])
    print(f"\n  two clusters, a new connection every 5 ms; p99 of {rounds} rounds is their greatest")
    table(["", "rounds", "last failed new connect p50", "p99", "established: error p50", "p99", "hung"], rows)
    worst = rank([seconds for of in result.values() for seconds in of["last_failed"]], 0.99)
    goal(f"p99 of the last failed new connect below 1 s ({worst:.2f} s)", worst < 1)
    return result
