#!/usr/bin/env python3
"""connectivity_test.py BIN: `meshctl connectivity test` on the real kernel.

The whole matrix passes in tunnel and native mode, a broken path is reported by name, and nothing of it is left, also
after an interruption. Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/bin").resolve()
PREFIX = f"ct{os.getpid()}"
NAMES = (f"{PREFIX}-a", f"{PREFIX}-b", f"{PREFIX}-out")
DEADLINE = 400  # seconds until a command counts as hanging


def cgroup_root():
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return pathlib.Path(fields[1])
    return None


def missing_needs():
    if os.geteuid() != 0:
        return "root: network namespaces and BPF programs of the real kernel"
    if cgroup_root() is None:
        return "cgroup v2 mounted"
    return None if shutil.which("ip") else "the program ip"


class Connectivity(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="connectivity-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.addCleanup(self.run_meshctl, "sandbox", "delete", "--ignore-not-found", *NAMES)

    def command(self, *words):
        return [str(BIN / "meshctl"), "--root", str(self.root), *words]

    def run_meshctl(self, *words):
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=DEADLINE)

    def connectivity(self, *words):
        return self.run_meshctl("connectivity", "test", "--prefix", PREFIX, *words)

    def leftovers(self):
        prefixes = tuple(f"mesh-{name}{mark}" for name in NAMES for mark in "._")
        places = (pathlib.Path("/run/netns"), pathlib.Path("/sys/fs/bpf"), cgroup_root())
        found = [str(p) for place in places if place.exists() for p in place.iterdir() if p.name.startswith(prefixes)]
        return found + [str(self.root / name) for name in NAMES if (self.root / name).exists()]

    def test_the_whole_matrix_passes(self):
        cases = self.connectivity("--list").stdout.split()
        self.assertEqual({case.split("/")[0] for case in cases},
                         {"tunnel", "native", "encrypted", "encrypted-native"})
        done = self.connectivity()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[-1], f"{len(cases)} passed, 0 failed")
        self.assertEqual(sum("  passed  " in line for line in lines), len(cases))
        self.assertEqual(self.leftovers(), [])

    def test_a_broken_path_is_named(self):
        good, bad = "pod-to-pod-other-cluster/ipv4/tcp/a1-b1", "pod-to-pod-other-cluster/ipv4/tcp/a1-b2"
        only = f"({good}|{bad})$"
        done = self.connectivity("--routing", "tunnel", "--only", only, "--keep")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"meshctl sandbox delete {' '.join(NAMES)}", done.stderr)
        # A name that is taken is not taken over.
        again = self.connectivity("--routing", "tunnel", "--only", only)
        self.assertEqual(again.returncode, 1)
        self.assertIn("--reuse", again.stderr)

        pod = f"mesh-{PREFIX}-b.node2.connectivity.server-node2"
        subprocess.run(["ip", "-n", pod, "link", "set", "eth0", "down"], check=True)
        done = self.connectivity("--reuse", "--only", only, "-o", "json")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        document = json.loads(done.stdout)
        self.assertEqual((document["passed"], document["failed"]), (1, 1))
        outcome = {case["name"]: case for case in document["cases"]}
        self.assertTrue(outcome[f"tunnel/{good}"]["passed"])
        self.assertIn("nothing within 5000 ms", outcome[f"tunnel/{bad}"]["reason"])

        done = self.connectivity("--reuse", "--only", only)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout.splitlines()[-2:], [f"failed: tunnel/{bad}", "1 passed, 1 failed"])
        other = self.connectivity("--reuse", "--routing", "native")
        self.assertEqual((other.returncode, other.stdout), (2, ""))
        self.assertTrue((self.root / NAMES[0]).exists())  # --reuse leaves what it did not make

    def test_an_interruption_leaves_nothing(self):
        process = subprocess.Popen(self.command("connectivity", "test", "--prefix", PREFIX), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        for line in process.stdout:
            if "  passed  " in line:
                break
        self.assertNotEqual(self.leftovers(), [])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("meshctl: interrupted", errors)
        self.assertEqual(self.leftovers(), [])

    def test_wrong_usage_makes_nothing(self):
        for words in (["--only", "no-such-case"], ["--only", "("], ["--cluster-ids", "7"], ["--routing", "ipsec"]):
            done = self.connectivity(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), (words, done.stderr))
        self.assertEqual(self.connectivity("--reuse").returncode, 1)
        self.assertEqual(self.leftovers(), [])


if __name__ == "__main__":
    if reason := missing_needs():
        print(f"SKIPPED: this test needs {reason}", file=sys.stderr)
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
