#!/usr/bin/env python3
"""demo_test.py BIN embedded|real: scripts/demo as a user runs it, with clusters of this run's own names.

Passes when the demo says that all passed and nothing of its clusters is left. Exit code 77 = skipped.
"""
import os
import pathlib
import re
import signal
import subprocess
import sys

from sandboxes import Cluster, missing_needs

DEMO = pathlib.Path(__file__).resolve().parents[3] / "scripts" / "demo"
ROOT = "/run/libmesh/sandbox"  # meshctl's own


def main():
    if (missing := missing_needs()) is not None:
        print(f"SKIPPED: demo_test needs {missing}", file=sys.stderr)
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bin_dir, etcd = sys.argv[1:3]
    clusters = [Cluster(bin_dir, ROOT, f"d{os.getpid()}{letter}", n, etcd) for n, letter in ((1, "a"), (2, "b"))]
    try:
        done = subprocess.run([sys.executable, DEMO, bin_dir, etcd, *(c.name for c in clusters)], capture_output=True,
                              text=True, timeout=240)
        print(done.stdout, done.stderr, sep="")
        left = [path for cluster in clusters for path in cluster.leftovers()]
    finally:
        for cluster in clusters:
            cluster.delete()
    passed = re.search(r"^(\d+) passed, 0 failed$", done.stdout, re.MULTILINE)
    # As many as the demo has checks: one that stopped half-way is no success.
    ok = done.returncode == 0 and passed and int(passed[1]) >= 12 and not left
    if not ok:
        print(f"FAILED: exit code {done.returncode}, left behind: {left}", file=sys.stderr)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
