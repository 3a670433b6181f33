#!/usr/bin/env python3
"""policy_test.py BIN REFERENCE tunnel|native|three [CASE ...]: network policy end to end.

Two sandboxed clusters (of `three`: three, and the cases that say so) of two nodes and four pods each, and hosts outside. For each
case of cases/*.yaml its policies are applied as a user would, and pods, nodes and hosts outside ask pods, services, nodes and
hosts outside: TCP, UDP, ICMP, HTTP, DNS; IPv4 and IPv6. What comes of each request is compared with what the reference
evaluator (REFERENCE, policy_reference.cpp) says of the source's egress and the destination's ingress.
Exit code 77 = skipped, with the reason on standard error.
"""
import collections
import os
import pathlib
import shutil
import string
import sys
import tempfile
import time
import unittest

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import failed, run_cases  # noqa: E402

from matrix import Matrix, describe  # noqa: E402
from rollout import Rollout  # noqa: E402
from world import HERE, World  # noqa: E402

BIN, REFERENCE, MODE = sys.argv[1:4]
OPTIONS = {"default_local_cluster": True, "enforcement": "default", "audit": False}
# What cases may need and the product does not have yet, with the reason: they are skipped, and say so.
MISSING = {}


def load_cases():
    """Those of the mode, in an order that changes the agents' options as seldom as possible."""
    cases = [case for file in sorted((HERE / "cases").glob("*.yaml")) for case in yaml.safe_load(file.read_text())]
    for case in cases:
        unknown = set(case) - {"name", "in", "options", "needs", "three", "policies"}
        if unknown:
            raise AssertionError(f"case {case.get('name')}: unknown fields {sorted(unknown)}")
        case["options"] = OPTIONS | case.get("options", {})
    if len({case["name"] for case in cases}) != len(cases):
        raise AssertionError("two cases have one name")
    wanted = [case for case in cases if MODE != "three" or case.get("three")]
    return sorted(wanted, key=lambda case: [case["options"][key] != OPTIONS[key] for key in OPTIONS])


class PolicyTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-policy-")
        letters = "abc" if MODE == "three" else "ab"
        cls.world = World(BIN, cls.root, f"p{os.getpid()}", letters, "native" if MODE == "native" else "tunnel")
        cls.addClassCleanup(cls.clean)
        cls.world.create()
        cls.rollout = Rollout(cls.world, OPTIONS)
        cls.matrix = Matrix(cls.world, REFERENCE)

    @classmethod
    def clean(cls):
        left = cls.world.delete()
        shutil.rmtree(cls.root, ignore_errors=True)
        if left:
            raise AssertionError(f"left behind: {left}")

    def tearDown(self):
        if failed(self):
            for cluster in self.world.clusters.values():
                cluster.print_logs(5)

    # -- a case

    def documents(self, case):
        """{letter: the YAML text that is applied there}"""
        fields = {letter: cluster.name for letter, cluster in self.world.clusters.items()} | {"zone": f"{case['name']}.test"}
        for name in ("out/node1", "out/node2"):
            for family, address in self.world.places[name].addresses.items():
                fields[f"{name.replace('/node', '')}v{family}"] = address
        policies = case.get("policies", "")
        if not isinstance(policies, dict):
            where = self.world.letters if case.get("in", "a") == "all" else case.get("in", "a")
            policies = {letter: policies for letter in where}
        return {letter: string.Template(text).substitute(fields) for letter, text in policies.items()}

    def run_case(self, case):
        for part in case.get("needs", ()):
            if part in MISSING:
                self.skipTest(f"SKIPPED: needs {part}: {MISSING[part]}")
        begin = time.monotonic()
        documents = self.documents(case)
        self.rollout.set_options(case["options"])
        self.addCleanup(self.rollout.remove_all)
        self.rollout.apply(documents)
        applied = time.monotonic()
        counts = self.check_requests(case, documents)
        print(f"{applied - begin:.1f} s to apply, {time.monotonic() - applied:.1f} s of requests: "
              + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())), file=sys.stderr, end=" ")

    def check_requests(self, case, documents):
        views = {letter: {"options": case["options"] | {"cluster": cluster.name},
                          "policies": [documents[letter]] if letter in documents else []}
                 for letter, cluster in self.world.clusters.items()}
        names = list(self.matrix.name_cells(f"{case['name']}.test"))
        self.matrix.expect(names, views, {})
        learnt = self.learnt(names)
        # What is learnt from names counts for requests that come after it.
        counts = self.check(names) if learnt else collections.Counter()
        cells = self.matrix.cells
        self.matrix.expect(cells, views, learnt)
        return counts + self.check(cells if learnt else names + cells)

    def check(self, cells):
        wrong, counts = self.matrix.run(cells)
        if wrong:
            self.fail(f"{len(wrong)} of {len(cells)} requests:\n{describe(wrong)}")
        return counts

    def learnt(self, names):
        """{node: {(name, place, family)}} of the names that a proxy is to let pass."""
        learnt = {}
        for cell in names:
            if cell.words["egress"] == "l7-allow":
                node = f"{cell.source.letter}/{cell.source.node}"
                place = "out/node1" if cell.probe["name"].startswith("good") else "out/node2"
                learnt.setdefault(node, set()).add((cell.probe["name"], place, 4 if cell.probe["type"] == 1 else 6))
        return learnt


def add_case(case):
    name = "test_" + case["name"].replace("-", "_")
    method = lambda self: self.run_case(case)
    method.__name__ = name
    setattr(PolicyTest, name, method)


for one in load_cases():
    add_case(one)

if __name__ == "__main__":
    del sys.argv[2:4]  # what run_cases would take for words of names
    sys.exit(run_cases(PolicyTest, "ip", seconds=870))
