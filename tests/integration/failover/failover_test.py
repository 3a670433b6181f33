#!/usr/bin/env python3
"""failover_test.py BIN [CASE ...]: what new and established connections of a pod feel when a backend hangs, loses its link,
or goes with its node or its whole cluster; and that those that only end are left to do so.

Two sandboxed clusters of two nodes, a pod of the service on each; the client is a pod of the first. The cases share them, in the
order written; the last two kill a node and then the rest of the second cluster.
Exit code 77 = skipped, with the reason on standard error.
"""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, Loop, delete_clusters, failed, run_cases, wait_for  # noqa: E402

from kills import HeldConnection, kill_node, pod_link, set_agent_flags, signal_pod  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/bin").resolve()
ANNOTATIONS = 'service.cilium.io/global: "true", libmesh.io/health-check: "http:/healthz"'
RESET = ("ECONNABORTED", "ECONNRESET")


class FailoverTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-fo-")
        cls.one = Cluster(BIN, cls.root, f"f{os.getpid()}a", 11, "embedded")
        cls.two = Cluster(BIN, cls.root, f"f{os.getpid()}b", 12, "embedded", inherit=cls.one)
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (cls.one, cls.two):
            cluster.create()
        cls.one.meshctl("clustermesh", "connect", "--cluster", cls.one.name, "--to", cls.two.name)
        for cluster in (cls.one, cls.two):
            cls.deploy(cluster)
        cls.one.apply("client.yaml")
        for cluster in (cls.one, cls.two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    @classmethod
    def deploy(cls, cluster, replicas=2):
        cluster.apply("echo.yaml", replicas=replicas, annotations=ANNOTATIONS, port=8080 + cluster.id)

    def tearDown(self):
        if failed(self):
            for cluster in (self.one, self.two):
                cluster.print_logs()

    # -- what is looked at

    def backend(self, pod):
        return next(b for b in self.one.frontend("echo")["backends"] if b["address"] == pod["ips"][0])

    def await_used(self, pod, used):
        return wait_for(f"{pod['name']} is {'' if used else 'not '}used",
                        lambda: (lambda b: b if b["selected"] == used else None)(self.backend(pod)))

    def await_all(self):
        self.one.wait_used("echo", {self.one.name: 2, self.two.name: 2})
        # By every node, and known to be healthy: what is unknown is used, too.
        for pod in self.pods():
            self.await_used(pod, True)

    def pods(self):
        return [p for cluster in (self.one, self.two) for p in cluster.pods("echo").values()]

    def pod_of(self, cluster, node="node2"):
        return next(p for p in cluster.pods("echo").values() if p["node"] == node)

    def hold(self, pod, **more):
        held = HeldConnection(self.one, self.one.frontend("echo"), pod, **more)
        self.addCleanup(held.close)
        return held

    def assert_avoided(self, victims):
        """Requests are all answered, and by others."""
        answers = self.one.ask(self.one.frontend("echo"), 80)
        self.assertEqual([row for row in answers if "error" in row], [])
        servers = {row["server"].rpartition(":")[0] for row in answers}
        self.assertEqual(servers & {p["ips"][0] for p in victims}, set())
        self.assertTrue(servers)

    def check_death(self, kill, victims, reason):
        """Kills, and looks at what new and established connections feel."""
        held = [self.hold(pod) for pod in victims]
        with Loop(self.one, self.one.frontend("echo")):
            kill()
            for pod in victims:
                self.assertIn(reason, self.await_used(pod, False)["reason"])
            # Whoever waits for an answer learns that there will be none.
            for each in held:
                word = each.fate(30)
                self.assertIsNotNone(word, "the connection hangs")
                self.assertIn(word[0], RESET)
        self.assert_avoided(victims)

    # -- cases

    def test_process_that_hangs(self):
        """Its kernel goes on accepting; only a GET tells."""
        self.await_all()
        pod = self.pod_of(self.two)
        self.check_death(lambda: signal_pod(self.two, pod, signal.SIGSTOP), [pod], "fails its health check")
        self.assertTrue(any("libmesh.io/health-check http:/healthz" in note and "no answer in time" in note
                            for note in self.one.service("echo")["notes"]), self.one.service("echo")["notes"])
        signal_pod(self.two, pod, signal.SIGCONT)
        self.await_used(pod, True)

    def test_link_down(self):
        self.await_all()
        pod = self.pod_of(self.one)
        # The link's addresses and routes are the sandbox's, made with it: a pod that was cut off is replaced.
        self.check_death(lambda: pod_link(self.one, pod, "down"), [pod], "fails its health check")
        self.deploy(self.one, replicas=1)
        self.deploy(self.one, replicas=2)
        if any(p["name"] == pod["name"] for p in self.one.pods("echo").values()):
            self.one.remove(f"deployment/echo")
            self.deploy(self.one)
        self.await_all()

    def test_all_unhealthy_are_all_used(self):
        """Fail open: nobody is refused because of probes."""
        self.await_all()
        pods = self.pods()
        for pod in pods:
            signal_pod(self.one if pod in self.one.pods("echo").values() else self.two, pod, signal.SIGSTOP)
        try:
            wait_for("the service says so", lambda: any(
                "all backends are unhealthy, so that all are used" in note for note in self.one.service("echo")["notes"]))
            for pod in pods:
                self.await_used(pod, True)
        finally:
            for pod in pods:
                for cluster in (self.one, self.two):
                    signal_pod(cluster, pod, signal.SIGCONT)
        wait_for("all are healthy", lambda: not any(
            "unhealthy" in note or "fails" in note for note in self.one.service("echo")["notes"]))

    def test_terminating_backend_finishes(self):
        """A pod that is asked to stop answers what it was asked before, although it is a remote's and listed no more."""
        self.await_all()
        pods = list(self.two.pods("echo").values())
        held = [self.hold(pod, what="ask", delay=3000) for pod in pods]
        self.deploy(self.two, replicas=1)
        fates = [each.fate(30) for each in held]
        self.assertEqual([fate and fate[0] for fate in fates], [pod["ips"][0] for pod in pods])
        self.deploy(self.two)
        self.await_all()

    def test_agent_that_is_down_is_not_a_dead_node(self):
        self.await_all()
        pod = self.pod_of(self.two)
        held = self.hold(pod)
        with Loop(self.one, self.one.frontend("echo")) as loop:
            self.two.kill("mesh-agent", "node2")
            before = self.probes_of("node2")
            wait_for("twenty more probes", lambda: self.probes_of("node2") > before + 20)
            self.assertTrue(self.backend(pod)["selected"])
        self.assertEqual(loop.errors, [])
        self.two.start("mesh-agent", "node2")
        self.assertIsNone(held.fate(0), "the connection was reset")

    def probes_of(self, node):
        address = next(n["status"]["health"]["nodes"] for n in self.one.json("status")["nodes"])
        rows = [row for row in address if row["cluster"] == self.two.name]
        self.assertEqual({row["state"] for row in rows}, {"healthy"}, rows)
        return min(row["probes"] for row in rows)

    def test_process_that_is_killed(self):
        """Whoever talks to it gets a reset from its kernel; the pod's end is published, and nobody connects there."""
        self.await_all()
        pod = self.pod_of(self.two)
        held = self.hold(pod)
        signal_pod(self.two, pod, signal.SIGKILL)
        wait_for("it is not used", lambda: pod["ips"][0] not in {
            b["address"] for b in self.one.frontend("echo")["backends"] if b["selected"]})
        self.assertIsNotNone(held.fate(30), "the connection hangs")
        self.assert_avoided([pod])
        self.two.remove("deployment/echo")
        self.deploy(self.two)
        self.await_all()

    def test_pod_that_is_gone(self):
        """Deleted while nothing can reach the client: without any probe of it, its connection is reset."""
        self.await_all()
        for cluster in (self.one, self.two):
            cluster.apply("spare.yaml")  # the same pods, no health check
        self.one.wait_used("spare", {self.one.name: 2, self.two.name: 2})
        pod = self.pod_of(self.two)
        held = HeldConnection(self.one, self.one.frontend("spare"), pod)
        self.addCleanup(held.close)
        pod_link(self.two, pod, "down")
        self.two.remove("deployment/echo")
        word = held.fate(30)
        self.assertIsNotNone(word, "the connection hangs")
        self.assertIn(word[0], RESET)
        for cluster in (self.one, self.two):
            cluster.remove("service/spare")
        self.deploy(self.two)
        self.await_all()

    def test_node_record_that_goes(self):
        """A lease that ends takes the node's record: its pods' backends are avoided although they answer."""
        self.await_all()
        pod = self.pod_of(self.two)
        key = f"cilium/state/nodes/v1/{self.two.name}/node2"
        record = self.two.etcdctl("get", key, "--print-value-only").stdout.rstrip("\n")
        self.two.etcdctl("del", key)
        reason = self.await_used(pod, False)["reason"]
        self.assertIn("the record of its node is gone", reason)
        self.assert_avoided([pod])
        self.two.etcdctl("put", key, record)
        self.await_all()

    def test_remote_away_for_too_long(self):
        """Fail-static by default; with --remote-max-stale-age its backends count as gone, and connections are reset."""
        self.await_all()
        pod = self.pod_of(self.two)
        held = self.hold(pod)
        self.two.kill("mesh-proxy")
        self.one.wait_remote(self.two, "stale")
        self.assertTrue(self.backend(pod)["selected"])
        self.two.start("mesh-proxy")
        set_agent_flags(self.one, {"--remote-max-stale-age": "2"})
        self.one.meshctl("status", "--cluster", self.one.name, "--wait")
        self.await_all()
        self.assertIsNone(held.fate(0))
        self.two.kill("mesh-proxy")
        self.one.wait_used("echo", {self.one.name: 2})
        word = held.fate(30)
        self.assertIsNotNone(word, "the connection hangs")
        self.assertIn(word[0], RESET)
        self.two.start("mesh-proxy")
        set_agent_flags(self.one, {"--remote-max-stale-age": "0"})
        self.one.meshctl("status", "--cluster", self.one.name, "--wait")
        self.await_all()

    def test_switched_off(self):
        """--reset-connections none: new connections avoid it all the same, the established one hangs."""
        self.await_all()
        set_agent_flags(self.one, {"--reset-connections": "none"})
        self.one.meshctl("status", "--cluster", self.one.name, "--wait")
        self.await_all()
        pod = self.pod_of(self.two)
        held = self.hold(pod)
        signal_pod(self.two, pod, signal.SIGSTOP)
        self.await_used(pod, False)
        # Longer than the grace time.
        wait_for("it is unhealthy for 8 s", lambda: all(
            any(row["address"] == pod["ips"][0] and row["since_seconds"] > 8
                for row in n["status"]["health"]["other_backends"]) for n in self.one.json("status")["nodes"]))
        self.assertIsNone(held.fate(0))
        self.assert_avoided([pod])
        signal_pod(self.two, pod, signal.SIGCONT)
        set_agent_flags(self.one, {"--reset-connections": "tcp,udp"})
        self.one.meshctl("status", "--cluster", self.one.name, "--wait")
        self.await_all()

    def test_y_node_killed(self):
        self.await_all()
        pod = self.pod_of(self.two)
        self.check_death(lambda: kill_node(self.two, "node2"), [pod], "")
        status = self.one.run("status", "--cluster", self.one.name).stdout
        self.assertIn("unhealthy", status)
        nodes = [row for n in self.one.json("status")["nodes"] for row in n["status"]["health"]["nodes"]]
        self.assertEqual({row["state"] for row in nodes if row["cluster"] == self.one.name}, {"healthy"})
        self.assertEqual({row["state"] for row in nodes if row["cluster"] == self.two.name}, {"healthy", "unhealthy"})

    def test_z_cluster_killed(self):
        """Its state stays known (fail-static), its backends are avoided all the same."""
        pod = self.pod_of(self.two, "node1")
        self.check_death(lambda: kill_node(self.two, "node1"), [pod], "")
        self.assertEqual(self.one.used("echo"), {self.one.name: 2})


if __name__ == "__main__":
    sys.exit(run_cases(FailoverTest))
