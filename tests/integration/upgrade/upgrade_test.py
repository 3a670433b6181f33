#!/usr/bin/env python3
"""upgrade_test.py BIN [CASE ...]: agents die, are replaced by other builds, and traffic between clusters does not notice.

Two clusters of two nodes. During each case an iperf3 stream and requests by pod IP and by service run across them; at
its end the stream is the same connection and has had no second without data, and no request has failed. The cases share
the pair, in the order written: what one migrated stays so. The build with other layouts of the BPF maps is
BIN/next_layout/mesh-agent (tests/bpf/next_layout). Exit code 77 = skipped, with the reason on standard error.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "mesh"))
from sandboxes import DEADLINE, Cluster, Loop, delete_clusters, failed, run_cases, wait_for  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/bin").resolve()
NODES = ("node1", "node2")
STREAM_PORT = "5201"
# "[  5]   3.00-4.00   sec  11.9 MBytes  99.9 Mbits/sec ..."
INTERVAL = re.compile(r"\[ *\d+\] +([\d.]+)-([\d.]+) +sec +([\d.]+) (\w+) ")


class Stream:
    """An iperf3 stream from one cluster's client pod to the other's until the block ends."""

    def __init__(self, source, sink):
        self.lines, self.seconds = [], []
        ip = next(ip for pod in sink.pods("client").values() for ip in pod["ips"] if ":" not in ip)
        self.server_command = sink.exec_command("shop/client", "iperf3", "-s", "-1", "--forceflush", "-p",
                                                  STREAM_PORT)
        # Slow enough that a busy machine can keep it up.
        self.command = source.exec_command("shop/client", "iperf3", "-c", ip, "-p", STREAM_PORT, "-t", "3600", "-i", "1",
                                           "-b", "50M", "--forceflush")

    def __enter__(self):
        self.server = subprocess.Popen(self.server_command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            self.server.stdout.readline()  # a line of dashes; then that it listens
            self.server.stdout.readline()
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.reader = threading.Thread(target=self.read, daemon=True)
            self.reader.start()
            self.wait_for_seconds(1)
        except BaseException:
            self.stop()
            raise
        return self

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if found := INTERVAL.match(line):
                # The last line sums up from the start, or is less than a second.
                self.seconds.append((float(found[1]), float(found[2]), float(found[3])))

    def wait_for_seconds(self, count):
        """Until that many seconds more are reported; fails if the stream ends instead."""
        until = len(self.seconds) + count
        wait_for("the stream's next second", lambda: len(self.seconds) >= until or self.process.poll() is not None)
        self.check()

    def check(self):
        code = self.process.poll()
        if code is not None:
            raise AssertionError(f"the stream ended by itself, exit code {code}: {''.join(self.lines[-5:])}")
        if empty := [second for second in self.seconds if second[2] == 0]:
            raise AssertionError(f"seconds without data: {empty}")

    def stop(self):
        for process in (getattr(self, "process", None), self.server):
            if process is not None:
                process.kill()
                process.wait(DEADLINE)

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.wait_for_seconds(2)
        finally:
            self.stop()


class UpgradeTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="upgrade-e2e-")
        one = Cluster(BIN, cls.root, f"u{os.getpid()}a", 1, "embedded")
        two = Cluster(BIN, cls.root, f"u{os.getpid()}b", 2, "embedded", inherit=one)
        cls.one, cls.two = one, two
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (one, two):
            cluster.create()
        one.meshctl("clustermesh", "connect", "--cluster", one.name, "--to", two.name)
        for cluster in (one, two):
            cluster.apply("echo.yaml", replicas=2, annotations='service.cilium.io/global: "true"', port=8080 + cluster.id)
            cluster.apply("client.yaml")
        for cluster in (one, two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
            cluster.wait_used("echo", {one.name: 2, two.name: 2})

    def tearDown(self):
        if failed(self):
            for cluster in (self.one, self.two):
                cluster.print_logs()

    # -- traffic

    @contextlib.contextmanager
    def traffic(self):
        """A stream, and requests both ways by pod IP (TCP, UDP, both families) and by service, none of which fails."""
        one, two = self.one, self.two
        with contextlib.ExitStack() as stack:
            loops = [stack.enter_context(Loop(here, target)) for here, target in (
                (one, self.pod(two, "TCP", 4)), (two, self.pod(one, "UDP", 6)),
                (one, one.frontend("echo")), (two, two.frontend("echo", family=6)))]
            stream = stack.enter_context(Stream(one, two))
            yield stream
        for loop in loops:
            self.assertEqual(loop.errors, [], loop.command)

    @staticmethod
    def pod(cluster, protocol, family):
        """A pod that answers, by its own address."""
        ips = next(iter(cluster.pods("echo").values()))["ips"]
        return {"protocol": protocol, "address": next(ip for ip in ips if (":" in ip) == (family == 6)),
                "port": 8080 + cluster.id}

    # -- agents

    @staticmethod
    def program_of(cluster, node):
        """The file that the running agent was started from; "" = none runs."""
        for daemon in cluster.daemons():
            if (daemon["name"], daemon["node"]) == ("mesh-agent", node):
                with contextlib.suppress(OSError):
                    return os.readlink(f"/proc/{daemon['pid']}/exe")
        return ""

    def folder_with(self, agent):
        """A folder with a copy of meshctl, which starts what is beside it, and of that agent."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.root, prefix="bin-"))
        shutil.copy(BIN / "meshctl", folder)
        shutil.copy(agent, folder / "mesh-agent")
        return folder

    def start_from(self, folder, cluster, node):
        return subprocess.run([folder / "meshctl", "--root", self.root, "sandbox", "start", "--cluster", cluster.name,
                               "mesh-agent", "--node", node], capture_output=True, text=True, timeout=60)

    def replace_agent(self, folder, cluster, node):
        """kill -9, and the agent of that folder in its place; back when it is ready."""
        cluster.kill("mesh-agent", node)
        done = self.start_from(folder, cluster, node)
        self.assertEqual(done.returncode, 0, done.stderr)
        cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    @staticmethod
    def edit_command(cluster, node, edit):
        """What the agent of that node is started with from now on."""
        file = cluster.folder / "state.json"
        state = json.loads(file.read_text())
        for daemon in state["daemons"]:
            if (daemon["name"], daemon["node"]) == ("mesh-agent", node):
                daemon["argv"] = edit(daemon["argv"])
        file.write_text(json.dumps(state))

    def each_agent(self):
        return [(cluster, node) for cluster in (self.one, self.two) for node in NODES]

    @staticmethod
    def pinned(cluster, node, kind, name, pods=False):
        """What bpftool tells of a pinned map or link."""
        pin = f"/sys/fs/bpf/mesh-{cluster.name}_{node}{'_pods' if pods else ''}/{kind}s/{name}"
        return json.loads(subprocess.run(["bpftool", "-j", kind, "show", "pinned", pin], capture_output=True, text=True,
                                         check=True).stdout)

    def layouts(self, cluster, node):
        """Bytes of an entry of the maps whose layout the next build changes."""
        return [self.pinned(cluster, node, "map", "backends")["bytes_value"],
                self.pinned(cluster, node, "map", "ipcache", pods=True)["bytes_value"],
                self.pinned(cluster, node, "map", "endpoints", pods=True)["bytes_value"]]

    # -- cases

    def test_killed_and_started_again(self):
        """kill -9 of every agent, and some time without one."""
        with self.traffic() as stream:
            for cluster, node in self.each_agent():
                cluster.kill("mesh-agent", node)
            stream.wait_for_seconds(1)
            for cluster, node in self.each_agent():
                cluster.start("mesh-agent", node)
            for cluster in (self.one, self.two):
                cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    def test_another_binary(self):
        """Every agent is replaced by another file of the same build: its programs take the place of those in use."""
        folder = self.folder_with(BIN / "mesh-agent")
        before = {(c.name, n): self.pinned(c, n, "link", "connect4")["prog_id"] for c, n in self.each_agent()}
        maps = [self.pinned(c, n, "map", "nat", pods=True)["id"] for c, n in self.each_agent()]
        with self.traffic():
            for cluster, node in self.each_agent():
                self.replace_agent(folder, cluster, node)
                self.assertEqual(self.program_of(cluster, node), str(folder / "mesh-agent"))
                self.assertNotEqual(self.pinned(cluster, node, "link", "connect4")["prog_id"], before[cluster.name, node])
        self.assertEqual([self.pinned(c, n, "map", "nat", pods=True)["id"] for c, n in self.each_agent()], maps)

    def test_other_sizes_of_the_maps(self):
        """Tables are resized by flags: smaller, and larger again."""
        wanted = {"--ipcache-entries": 4000, "--node-entries": 300, "--endpoint-entries": 200, "--nat-entries": 5000,
                  "--service-entries": 400, "--backend-entries": 900}
        flags = [word for flag, size in wanted.items() for word in (flag, str(size))]
        maps = (("ipcache", True), ("nodes", True), ("endpoints", True), ("nat", True), ("services", False),
                ("backends", False))

        def sizes(cluster, node):
            return [self.pinned(cluster, node, "map", name, pods)["max_entries"] for name, pods in maps]
        before = sizes(self.one, "node1")
        with self.traffic():
            for edit, expected in ((lambda argv: [*argv, *flags], list(wanted.values())),
                                   (lambda argv: argv[:-len(flags)], before)):
                for cluster, node in self.each_agent():
                    cluster.kill("mesh-agent", node)
                    self.edit_command(cluster, node, edit)
                    cluster.start("mesh-agent", node)
                    cluster.meshctl("status", "--cluster", cluster.name, "--wait")
                    self.assertEqual(sizes(cluster, node), expected)

    def test_other_layouts_of_the_maps(self):
        """Agents with other layouts: the maps are converted; the older build is refused and breaks nothing."""
        old, new = self.folder_with(BIN / "mesh-agent"), self.folder_with(BIN / "next_layout" / "mesh-agent")
        ids = {c.name: c.service_ids("node1") for c in (self.one, self.two)}
        with self.traffic() as stream:
            before = self.layouts(self.one, "node1")
            for cluster, node in self.each_agent():
                self.replace_agent(new, cluster, node)
                self.assertEqual(self.layouts(cluster, node), [before[0] + 8, before[1] + 4, before[2] + 4])
            stream.wait_for_seconds(1)
            for cluster in (self.one, self.two):
                self.assertEqual(cluster.service_ids("node1"), ids[cluster.name])
            # Back is refused, by name of both layouts, and the maps stay.
            self.one.kill("mesh-agent", "node1")
            done = self.start_from(old, self.one, "node1")
            self.assertNotEqual(done.returncode, 0, done.stdout)
            log = (self.one.folder / "logs" / "mesh-agent-node1.log").read_text()
            self.assertRegex(log, r"pinned maps of layout \d+, expected \d+; what is there goes on serving. Start the newer")
            stream.wait_for_seconds(1)
            self.replace_agent(new, self.one, "node1")
        # The agents go on with what they converted: what changes now gets to the pods.
        for cluster in (self.one, self.two):
            cluster.apply("echo.yaml", replicas=3, annotations='service.cilium.io/global: "true"', port=8080 + cluster.id)
        for cluster in (self.one, self.two):
            cluster.wait_used("echo", {self.one.name: 3, self.two.name: 3})
            self.assertEqual(set(cluster.who(cluster.frontend("echo"), 60)), {self.one.name, self.two.name})


if __name__ == "__main__":
    sys.exit(run_cases(UpgradeTest, "iperf3"))
