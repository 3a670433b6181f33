"""scripts/bench policy_map: policies in the kernel."""
import json
import os
import subprocess

from common import Skipped, table


def policy_map(bin_dir, folder):
    """Policies in the kernel: writes beside the bare system call, packets beside the same program without a policy."""
    if os.geteuid() != 0:
        raise Skipped("needs root: BPF programs")
    done = subprocess.run([bin_dir / "policy_map_bench"], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    write = next(r for r in runs if r["what"] == "write")
    print(f"\n  a new policy of 16,000 rows: {write['rows_per_second']:,} rows/s, x "
          f"{write['rows_per_second'] / write['bare_rows_per_second']:.2f} of the bare batch system call; a change of one row: "
          f"{write['one_row_us']} us;\n  a new policy of 10 rows: {write['ten_rows_us']:,.0f} us, for 250 pods at once: "
          f"{write['ten_rows_of_250_pods_us']:,.0f} us (the kernel waits for its programs once)")
    packets = [r for r in runs if r["what"] == "packet"]
    least = next(r["ns"] for r in packets if r["rows"] == 10)
    print("\n  ns per packet of mesh_to_pod; rows 0: others have a policy, this pod has none")
    table(["rows", "ns", "median ns", "no policies", "x no policies", "x 10 rows"],
          [[f"{r['rows']:,}", r["ns"], r["median_ns"], r["base_ns"], f"{r['ns'] / max(r['base_ns'], 1):.2f}",
            f"{r['ns'] / least:.2f}"] for r in packets])
    print("\n  ns to find a packet's row, without what an empty program costs")
    table(["rows", "hash map", "trie", "x"],
          [[f"{r['rows']:,}", r["hash_ns"] - r["empty_ns"], r["trie_ns"] - r["empty_ns"],
            f"{(r['trie_ns'] - r['empty_ns']) / max(r['hash_ns'] - r['empty_ns'], 1):.2f}"]
           for r in runs if r["what"] == "lookup"])
    return runs
