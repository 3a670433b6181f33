"""scripts/bench programs: ns per packet of each tc program."""
import json
import os
import subprocess

from common import Skipped, table


def programs(bin_dir, folder):
    """Each tc program by the kernel's test run, beside an empty one; the socket programs are in `connects`."""
    if os.geteuid() != 0:
        raise Skipped("needs root: BPF programs")
    done = subprocess.run([bin_dir / "programs_bench"], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = {0: "pass", 2: "drop", 7: "redirect"}
    print("\n  ns per packet, 100,000 addresses in the ipcache: the least of all rounds; net: without what an empty program "
          "costs")
    table(["program", "packet", "verdict", "net ns", "ns", "median ns", "empty", "x empty"],
          [[r["program"], r["packet"], verdicts.get(r["verdict"], r["verdict"]), max(r["ns"] - r["empty_ns"], 0), r["ns"],
            r["median_ns"], r["empty_ns"], f"{r['ns'] / max(r['empty_ns'], 1):.1f}"] for r in runs])
    return runs
