#!/usr/bin/env python3
"""mesh_test.py BIN [CASE ...]: two clusters and what may happen to them, with the real thing throughout.

The first cluster keeps its state in mesh-proxy's own store, the second in a real etcd; each is of two nodes, dual stack.
All cases share the pair, in the order written, and leave it as they found it; the last one deletes the second cluster.
Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from sandboxes import Cluster, HeldSocket, Loop, delete_clusters, failed, run_cases, wait_for

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
GLOBAL = 'service.cilium.io/global: "true"'


def annotated(*more):
    return ", ".join([GLOBAL, *more])


class MeshTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-e2e-")
        one = Cluster(BIN, cls.root, f"e{os.getpid()}a", 1, "embedded")
        two = Cluster(BIN, cls.root, f"e{os.getpid()}b", 2, "real", inherit=one)
        cls.one, cls.two = one, two
        cls.addClassCleanup(delete_clusters, cls.root, cls.one, cls.two)
        for cluster in (one, two):
            cluster.create()
        one.meshctl("clustermesh", "connect", "--cluster", one.name, "--to", two.name)
        for cluster in (one, two):
            cls.deploy(cluster)
            cluster.apply("client.yaml")
        for cluster in (one, two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    @classmethod
    def deploy(cls, cluster, replicas=2, annotations=GLOBAL):
        """The service echo as a case wants it. Its pods' port differs by cluster: ports are matched by name."""
        cluster.apply("echo.yaml", replicas=replicas, annotations=annotations, port=8080 + cluster.id)

    def setUp(self):
        self.both = {self.one.name: 2, self.two.name: 2}
        self.only_one = {self.one.name: 2}
        self.only_two = {self.two.name: 2}
        # Whatever the case before did, and however it ended.
        for cluster in (self.one, self.two):
            for daemon in ("etcd", "mesh-proxy", "mesh-operator", "mesh-agent"):
                if daemon != "etcd" or cluster.etcd == "real":
                    cluster.start(daemon)
            self.deploy(cluster)
        self.one.meshctl("clustermesh", "connect", "--cluster", self.one.name, "--to", self.two.name)
        for cluster in (self.one, self.two):
            cluster.wait_used("echo", self.both)

    def tearDown(self):
        if failed(self):
            for cluster in (self.one, self.two):
                cluster.print_logs()

    # -- traffic

    def assert_answers(self, cluster, expected, **frontend):
        """Requests from a pod of the cluster are all answered, by pods of exactly these clusters."""
        answers = cluster.who(cluster.frontend("echo", **frontend), 60)
        self.assertEqual(set(answers), {name for name, count in expected.items() if count}, answers)

    def assert_follows(self, cluster, expected):
        """`service get`, the kernel and so real traffic come to use exactly these backends."""
        cluster.wait_used("echo", expected)
        self.assert_answers(cluster, expected)

    def test_requests_by_every_family_and_protocol(self):
        """TCP and UDP, IPv4 and IPv6, to a target port that is another number in each cluster."""
        for cluster in (self.one, self.two):
            for port, family in (("http", 4), ("http", 6), ("who", 4), ("who", 6)):
                with self.subTest(cluster=cluster.name, port=port, family=family):
                    cluster.wait_used("echo", self.both, port=port, family=family)
                    self.assert_answers(cluster, self.both, port=port, family=family)
            udp = cluster.frontend("echo", "who", 4)
            self.assertEqual({row["sender"] for row in cluster.ask(udp, 10)}, {udp["address"]},
                             "answers to datagrams come from the address that was asked")

    def test_headless_service_is_published_and_has_no_frontend(self):
        """A headless Service travels with its backends and without frontends; nothing of it is load balanced."""
        one, two = self.one, self.two
        for cluster in (one, two):
            cluster.apply("headless.yaml")
        key = f"cilium/state/services/v1/{two.name}/shop/members"
        record = wait_for(f"{key} with two pods of both families",
                          lambda: (lambda r: r if len(r["backends"]) == 4 else None)(
                              json.loads(two.etcdctl("get", key, "--print-value-only").stdout)))
        self.assertEqual(record["frontends"], {})
        seen = wait_for("the other cluster's members", lambda: one.service("members"))
        self.assertEqual(seen["frontends"], [])
        self.assertTrue(any("headless" in note for note in seen["notes"]), seen)
        for cluster in (one, two):
            cluster.remove("service/members")
        wait_for("the record goes", lambda: two.etcdctl("get", key).stdout == "")

    def test_annotations_are_followed(self):
        """global, shared and affinity, changed while the service runs: `service get` and real requests follow."""
        one, two = self.one, self.two
        for who, annotation, in_one, in_two in (
                (two, annotated('service.cilium.io/shared: "false"'), self.only_one, self.both),
                (two, "", self.only_one, self.only_two),
                (one, "", self.only_one, self.only_two),
                (one, annotated("service.cilium.io/affinity: local"), self.only_one, self.both),
                (one, annotated("service.cilium.io/affinity: remote"), self.only_two, self.both),
                (two, annotated("io.cilium/service-affinity: local"), self.both, self.only_two)):
            with self.subTest(annotations=annotation, of=who.name):
                self.deploy(who, annotations=annotation)
                self.assert_follows(one, in_one)
                self.assert_follows(two, in_two)
                self.deploy(who)
                self.assert_follows(one, self.both)
                self.assert_follows(two, self.both)

    def test_affinity_is_a_preference_not_a_wall(self):
        """The preferred side has no pods: the other side serves; it has some again: it is preferred again."""
        one, two = self.one, self.two
        local = annotated("service.cilium.io/affinity: local")
        self.deploy(one, annotations=local)
        self.assert_follows(one, self.only_one)
        with Loop(one, one.frontend("echo")) as loop:
            self.deploy(one, replicas=0, annotations=local)
            self.assert_follows(one, self.only_two)
            self.deploy(one, annotations=local)
            self.assert_follows(one, self.only_one)
        self.assertEqual(loop.errors, [])
        self.assertEqual(loop.rows[0]["cluster"], one.name)
        self.assertEqual(loop.rows[-1]["cluster"], one.name, loop.rows[-5:])
        self.assertIn(two.name, {row["cluster"] for row in loop.rows})
        self.deploy(one)

    # -- clients that no socket load balancer knows

    def node_ports(self, cluster):
        """Addresses of the service edge at the cluster's nodes, as (address, port), by node and family."""
        return [(f["address"], f["port"]) for f in cluster.service("edge")["frontends"] if f["node_port"]]

    def test_node_ports_serve_clients_outside_of_the_cluster(self):
        """curl from a host that is not of the cluster, by IPv4 and IPv6: pods of both clusters answer."""
        one, two = self.one, self.two
        for cluster in (one, two):
            cluster.apply("node_port.yaml", policy="Cluster")
        ports = wait_for("node ports of two nodes and families",
                         lambda: (lambda found: found if len(found) == 4 else None)(self.node_ports(one)))
        wait_for("all four backends", lambda: all(
            len([b for b in f["backends"] if b["selected"]]) == 4
            for f in one.service("edge")["frontends"] if f["node_port"]))
        self.assertTrue(all(30000 <= port <= 32767 for _, port in ports), ports)

        def curl(address, port, count):
            url = f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
            script = f"for i in $(seq {count}); do curl -sS -m 5 -g '{url}' || exit 1; echo; done"
            # A node of the other cluster: to this one a host like any other.
            done = subprocess.run(two.exec_command("node1", "sh", "-c", script), capture_output=True, text=True,
                                  timeout=120)
            self.assertEqual(done.returncode, 0, f"{url}: {done.stdout}{done.stderr}")
            return [json.loads(line) for line in done.stdout.splitlines() if line]
        for address, port in ports:
            with self.subTest(address=address):
                self.assertEqual({row["cluster"] for row in curl(address, port, 40)}, {one.name, two.name})
        # With the policy Local the pods of that node alone, and they see who it is.
        one.apply("node_port.yaml", policy="Local")
        nodes = {pod["node"] for pod in one.pods("echo").values()}
        for address, port in ports:
            wait_for(f"only local pods at {address}", lambda: (lambda rows: rows and all(
                row["cluster"] == one.name for row in rows) and len({row["node"] for row in rows}) == 1)(
                    curl(address, port, 20)))
        self.assertEqual(len(nodes), 2, "a pod on each node")
        for cluster in (one, two):
            cluster.remove("service/edge")

    # -- pods by their own addresses

    def pod_frontends(self, cluster):
        """Each address of each echo pod, as something to ask."""
        return [{"protocol": protocol, "address": ip, "port": 8080 + cluster.id}
                for pod in cluster.pods("echo").values() for ip in pod["ips"] for protocol in ("TCP", "UDP")]

    def test_pods_reach_pods_of_the_other_cluster_as_themselves(self):
        """By pod IP, both families and protocols, on every node: the server sees the client's own address."""
        for here, there in ((self.one, self.two), (self.two, self.one)):
            own = next(iter(here.pods("client").values()))["ips"]
            for frontend in self.pod_frontends(there) + self.pod_frontends(here):
                with self.subTest(of=here.name, to=frontend):
                    for row in here.ask(frontend, 3):
                        self.assertNotIn("error", row)
                        client = row["client"].rpartition(":")[0].strip("[]")
                        self.assertIn(client, own)
                        # A datagram's server does not know at which of its addresses it was asked.
                        server = row.get("sender") or row["server"].rpartition(":")[0].strip("[]")
                        self.assertEqual(server, frontend["address"])
        for cluster in (self.one, self.two):
            for node in cluster.json("status")["nodes"]:
                pods = node["status"]["pods"]
                self.assertEqual(pods["routing"], "tunnel")
                self.assertEqual((pods["failed_endpoints"], pods["ipcache_refused"], pods["conflicts"]), (0, 0, 0))

    def test_the_monitor_knows_who_speaks_to_whom(self):
        """At the destination's node, the packet is told with the identity that the other cluster gave its source."""
        one, two = self.one, self.two
        client = next(iter(one.pods("client").values()))
        identity = next(e["identity"] for e in one.json("endpoint", "list") if e["pod"] == client["name"])
        self.assertEqual(identity >> 16, one.id)
        frontend = self.pod_frontends(two)[0]
        command = [*two.base(), "monitor", "--cluster", two.name, "--peer-cluster", one.name, "-o", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as monitor:
            monitor.stderr.readline()  # it watches
            one.ask(frontend, 3)
            event = json.loads(monitor.stdout.readline())
            monitor.terminate()
        self.assertEqual((event["kind"], event["source"]["identity"]), ("trace", identity), event)
        self.assertEqual(event["source"]["pod"], f"shop/{client['name']}")
        self.assertEqual(event["destination"]["cluster"], two.name)

    def test_pods_go_on_while_agents_are_away(self):
        """Every agent killed and started again under requests by pod IP between clusters: none fails."""
        one, two = self.one, self.two
        with Loop(one, self.pod_frontends(two)[0]) as loop, Loop(two, self.pod_frontends(one)[2]) as back:
            for cluster in (one, two):
                cluster.kill("mesh-agent")
            for frontend in self.pod_frontends(two):
                self.assertEqual(set(one.who(frontend, 3)), {two.name})
            for cluster in (one, two):
                cluster.start("mesh-agent")
                cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        self.assertEqual(loop.errors + back.errors, [])

    def test_a_spoofed_source_is_dropped_and_told(self):
        """A pod that takes another's address gets nowhere, and the drop is counted with its reason."""
        one, two = self.one, self.two
        client = next(iter(one.pods("client").values()))
        other = next(ip for ip in next(iter(one.pods("echo").values()))["ips"] if ":" not in ip)
        target = next(iter(self.pod_addresses(two)))

        def drops():
            return sum(node["status"]["pods"]["drops"].get("invalid-source", 0) for node in one.json("status")["nodes"])
        before = drops()
        one.meshctl("sandbox", "exec", "--cluster", one.name, f"shop/{client['name']}", "--",
                    "ip", "addr", "add", f"{other}/32", "dev", "eth0")
        try:
            done = one.run("sandbox", "exec", "--cluster", one.name, f"shop/{client['name']}", "--",
                           "ping", "-n", "-c", "1", "-W", "1", "-I", other, target)
            self.assertNotEqual(done.returncode, 0, done.stdout)
        finally:
            one.meshctl("sandbox", "exec", "--cluster", one.name, f"shop/{client['name']}", "--",
                        "ip", "addr", "del", f"{other}/32", "dev", "eth0")
        self.assertEqual(drops(), before + 1)

    # -- daemons that die

    def test_agent_killed_under_load_is_adopted(self):
        """kill -9 of an agent and its restart: no connect fails, services keep their ids in the kernel."""
        one = self.one
        before, frontend = one.service_ids("node1"), one.frontend("echo")
        self.assertTrue(before)
        with Loop(one, frontend) as loop:
            for _ in range(2):
                one.kill("mesh-agent", "node1")
                self.assertEqual(set(one.who(frontend)), set(self.both))
                self.assertEqual(one.service_ids("node1"), before)
                one.start("mesh-agent", "node1")
                one.meshctl("status", "--cluster", one.name, "--wait")
        self.assertEqual(loop.errors, [])
        self.assertEqual(one.service_ids("node1"), before)
        self.assert_follows(one, self.both)

    def test_agent_restarted_after_the_remote_changed_drops_what_is_gone(self):
        """The other cluster's pods are replaced and an own service goes while an agent is down.

        Afterwards only the new pods are asked, and the service is gone from the kernel; a socket that was connected to
        one of the old pods is told so.
        """
        one, two = self.one, self.two
        old, before = self.pod_addresses(two), set(one.service_ids("node1"))
        frontend = one.frontend("echo")
        one.apply("spare.yaml")
        wait_for("one frontend more", lambda: len(one.service_ids("node1")) == len(before) + 1)
        held = HeldSocket(one, one.frontend("echo", "who"), two.name)
        one.kill("mesh-agent", "node1")
        one.remove("service/spare")
        two.remove("deployment/echo")
        self.deploy(two)
        new = self.pod_addresses(two)
        self.assertEqual((len(new), new & old), (2, set()))
        one.start("mesh-agent", "node1")
        one.meshctl("status", "--cluster", one.name, "--wait")
        self.assert_follows(one, self.both)
        self.assertEqual(one.addresses("echo"), self.pod_addresses(one) | new, "the old pods' addresses are gone")
        asked = {row["server"].split(":")[0] for row in one.ask(frontend, 100) if row["cluster"] == two.name}
        self.assertEqual(asked, new)
        self.assertEqual(set(one.service_ids("node1")), before)
        # Ended by the agent: a send finds it disconnected. One that nobody ended gets EHOSTUNREACH or silence.
        self.assertIn(held.fate(), ("ECONNABORTED", "EDESTADDRREQ"))

    def test_agent_restarted_while_the_remotes_file_is_bad(self):
        """The remote's file breaks while an agent is down: its pods go on serving until the file is good or gone."""
        one, two = self.one, self.two
        file = one.folder / "clustermesh" / two.name
        good, frontend = file.read_text(), one.frontend("echo")
        for bad in ("endpoints: [", good.replace("endpoints:", "endpoint:")):
            with self.subTest(bad=bad), Loop(one, frontend) as loop:
                one.kill("mesh-agent", "node1")
                file.write_text(bad)
                one.start("mesh-agent", "node1")
                wait_for("the file's error", lambda: self.status_of_node1()["config_errors"])
                wait_for("the own cluster", lambda: self.status_of_node1()["local"]["state"] == "ready")
                # The own cluster is followed meanwhile: all that a flush does has happened.
                self.deploy(one, replicas=3)
                wait_for("an own pod more", lambda: len(self.asked(one, frontend)[one.name]) == 3)
                self.assertEqual(len(self.asked(one, frontend)[two.name]), 2)
                self.assertFalse(self.status_of_node1()["synced"])
                self.assertEqual(one.health("mesh-agent-node1"), 200, "what is a remote's is no reason to restart it")
                file.write_text(good)
                one.meshctl("status", "--cluster", one.name, "--wait")
                self.deploy(one)
                self.assert_follows(one, self.both)
                self.assertTrue(self.status_of_node1()["synced"])
            self.assertEqual(loop.errors, [])

    def test_route_of_another_program_is_named_and_nobody_is_kept_from_serving(self):
        """A route that the agent cannot set: named by status, tried again, and no reason to restart the agent."""
        one, two = self.one, self.two
        on_node = lambda *words: subprocess.run(one.exec_command("node1", *words), capture_output=True, text=True,
                                                check=True).stdout
        prefix = next(r["dst"] for r in json.loads(on_node("ip", "-j", "route")) if r["dst"].startswith("10.92."))
        one.kill("mesh-agent", "node1")
        on_node("ip", "route", "del", prefix)
        on_node("ip", "route", "add", prefix, "dev", "lo")
        self.addCleanup(lambda: subprocess.run(one.exec_command("node1", "ip", "route", "del", prefix, "dev", "lo"),
                                               capture_output=True))
        one.start("mesh-agent", "node1")
        words = f"route to {prefix}: another program has a route to it"
        wait_for("the failure in status", lambda: words in one.run("status", "--cluster", one.name).stdout)
        status = self.status_of_node1()
        self.assertEqual((status["ready"], status["serving"], status["datapath"]["last_error"]), (False, True, ""))
        self.assertEqual(one.health("mesh-agent-node1"), 200)
        self.assertEqual(one.run("status", "--cluster", one.name, "--wait", "--timeout", "1").returncode, 3)
        on_node("ip", "route", "del", prefix, "dev", "lo")
        one.meshctl("status", "--cluster", one.name, "--wait")
        self.assert_follows(one, self.both)

    def status_of_node1(self):
        return self.one.ask_daemon("mesh-agent-node1")

    def asked(self, cluster, frontend):
        """The pods that answer, by cluster."""
        servers = {self.one.name: set(), self.two.name: set()}
        for row in cluster.ask(frontend, 60):
            servers[row["cluster"]].add(row["server"])
        return servers

    def pod_addresses(self, cluster):
        return {ip for pod in cluster.pods("echo").values() for ip in pod["ips"] if ":" not in ip}

    def test_proxy_killed_and_restarted(self):
        """Of either kind of store: stale, ready again by itself, nothing lost meanwhile, what changed arrives."""
        for remote, watcher in ((self.one, self.two), (self.two, self.one)):
            with self.subTest(etcd=remote.etcd):
                self.check_proxy_restart(remote, watcher)

    def check_proxy_restart(self, remote, watcher):
        for cluster in (remote, watcher):
            cluster.apply("spare.yaml")
        watcher.wait_used("spare", self.both)
        before = remote.ask_daemon("mesh-proxy")

        def wait_own_agents():
            """They lost their etcd as well, and each comes back in its own time."""
            remote.meshctl("status", "--cluster", remote.name, "--wait")

        with Loop(watcher, watcher.frontend("echo")) as loop:
            remote.kill("mesh-proxy")
            watcher.wait_remote(remote, "stale")
            self.assertEqual(watcher.used("echo"), self.both, "what was known stays in use")
            self.assert_answers(watcher, self.both)
            remote.start("mesh-proxy")
            watcher.wait_remote(remote, "ready")
            self.assertEqual(watcher.used("echo"), self.both)
            wait_own_agents()
        self.assertEqual(loop.errors, [])
        self.check_revisions(remote, before)

        # A second time, and the cluster changes meanwhile: one pod fewer, and a service goes.
        remote.kill("mesh-proxy")
        watcher.wait_remote(remote, "stale")
        self.deploy(remote, replicas=1)
        remote.remove("service/spare")
        self.assertEqual(watcher.used("spare"), self.both)
        remote.start("mesh-proxy")
        watcher.wait_remote(remote, "ready")
        wait_own_agents()
        for cluster in (watcher, remote):
            self.assert_follows(cluster, {watcher.name: 2, remote.name: 1})
        watcher.wait_used("spare", {watcher.name: 2})
        self.check_revisions(remote, before)
        self.deploy(remote)
        for cluster in (remote, watcher):
            cluster.wait_used("echo", self.both)
        watcher.remove("service/spare")

    def check_revisions(self, remote, before):
        """An own store goes on counting where it was; a mirror shows its upstream's revision."""
        def upstream():
            header = json.loads(remote.etcdctl("get", "cilium/.heartbeat", "-w", "json").stdout)["header"]
            return header["revision"]
        now = wait_for("the proxy shows its store's revision",
                       lambda: (lambda s: s if s["revision"] == upstream() else None)(remote.ask_daemon("mesh-proxy")))
        self.assertGreaterEqual(now["revision"], before["revision"])
        if remote.etcd == "embedded":
            self.assertEqual(now["etcd_cluster_id"], before["etcd_cluster_id"])

    def test_etcd_killed_and_restarted_under_its_proxy(self):
        """The proxy keeps serving what it knows and says so, then catches up; nobody else notices."""
        one, two = self.one, self.two
        states = one.remotes(two.name)
        with Loop(one, one.frontend("echo")) as loop:
            two.kill("etcd")
            wait_for("the proxy says that it is stale", lambda: two.ask_daemon("mesh-proxy")["upstream"]["stale"])
            self.assertTrue(two.ask_daemon("mesh-proxy")["upstream"]["last_failure"])
            served = two.etcdctl("get", f"cilium/state/nodes/v1/{two.name}/", "--prefix", "--keys-only", role="remote",
                                 endpoint=two.remote_endpoint()).stdout.split()
            self.assertEqual(served, [f"cilium/state/nodes/v1/{two.name}/node{n}" for n in (1, 2)])
            self.assertEqual(one.used("echo"), self.both)
            self.assert_answers(two, self.both)
        self.assertEqual(loop.errors, [])
        self.deploy(two, replicas=1)
        two.start("etcd")
        wait_for("the proxy follows etcd again", lambda: not two.ask_daemon("mesh-proxy")["upstream"]["stale"])
        for cluster in (one, two):
            self.assert_follows(cluster, {one.name: 2, two.name: 1})
        self.deploy(two)
        for cluster in (one, two):
            self.assert_follows(cluster, self.both)
        self.assertEqual([r["failures"] for r in one.remotes(two.name)], [r["failures"] for r in states],
                         "the connection to the proxy never broke")

    # -- configuration

    def test_disconnect_and_connect(self):
        """A remote's backends and state go with its small secret, and come back with it."""
        one, two = self.one, self.two
        with Loop(one, one.frontend("echo")) as loop:
            one.meshctl("clustermesh", "disconnect", "--cluster", one.name, "--from", two.name)
            wait_for("no remotes", lambda: not one.remotes(two.name) and not two.remotes(one.name))
            self.assert_follows(one, self.only_one)
            self.assert_follows(two, self.only_two)
            self.assertEqual(one.addresses("echo") & two.addresses("echo"), set())
            one.meshctl("clustermesh", "connect", "--cluster", one.name, "--to", two.name)
            # Both first: an answer finds its way back only where the asking side is known.
            for cluster, other in ((one, two), (two, one)):
                cluster.wait_remote(other, "ready")
            for cluster in (one, two):
                self.assert_follows(cluster, self.both)
        self.assertEqual(loop.errors, [])

    def test_bad_config_is_named_and_the_last_good_one_stays(self):
        """A remote's file that makes no sense: one error that names file and field; nothing else changes."""
        one, two = self.one, self.two
        file = one.folder / "clustermesh" / two.name
        good = file.read_text()
        revision = one.remotes(two.name)[0]["revision"]
        for bad, words in ((good.replace("endpoints:", "endpoint:"), "expected at least one"),
                           (good.replace("https://", "ftp://"), "ftp://"),
                           ("endpoints: [", "not YAML"),
                           (good.replace("cert-file:", "cert-file: [a, b] #"), "cert-file")):
            with self.subTest(bad=bad):
                file.write_text(bad)
                errors = wait_for("an error in status", lambda: [
                    e["error"] for node in one.json("status")["nodes"] for e in node["status"]["config_errors"]
                    if words in e["error"]])
                for error in errors:
                    self.assertIn(str(file), error)
                    self.assertNotIn("\n", error)
                status = one.run("status", "--cluster", one.name)
                self.assertEqual(status.returncode, 3)
                self.assertIn(errors[0], status.stdout)
                self.assertEqual(one.remote_states(two.name), {"ready"})
                self.assert_answers(one, self.both)
        # The view is followed on, not only kept.
        self.deploy(two, replicas=1)
        self.assert_follows(one, {one.name: 2, two.name: 1})
        # Up to which everything is known: kinds without a change are told so with the next probe.
        wait_for("a newer revision", lambda: one.remotes(two.name)[0]["revision"] > revision)
        file.write_text(good)
        one.meshctl("status", "--cluster", one.name, "--wait")
        self.deploy(two)
        self.assert_follows(one, self.both)

    # -- remotes that mean ill

    def test_hostile_remote_is_refused_entry_by_entry(self):
        """What a remote may not say is refused, counted and named; nothing else feels it."""
        one, two = self.one, self.two
        prefix = f"cilium/state/services/v1/{two.name}/shop"
        echo = two.etcdctl("get", f"{prefix}/echo", "--print-value-only").stdout
        foreign_service = dict(json.loads(echo), name="evil", cluster=one.name, clusterID=one.id)
        node = json.loads(two.etcdctl("get", f"cilium/state/nodes/v1/{two.name}/node1", "--print-value-only").stdout)
        ip = json.loads(two.etcdctl("get", "cilium/state/ip/v1/default/", "--prefix", "--print-value-only",
                                    "--limit=1").stdout)
        own_services = [s["name"] for s in one.json("service", "list")]
        before = one.remotes(two.name)
        # Under another cluster's name nobody looks.
        two.etcdctl("put", f"cilium/state/services/v1/{one.name}/shop/echo", echo)
        two.etcdctl("put", f"cilium/state/nodes/v1/{one.name}/evil", json.dumps(dict(node, Cluster=one.name)))
        for reason, key, value in (
                ("foreign", f"{prefix}/evil", json.dumps(foreign_service)),
                ("foreign", "cilium/state/ip/v1/default/10.92.77.7",
                 json.dumps(dict(ip, IP="10.92.77.7", ID=(one.id << 16) + 77))),
                ("foreign", f"cilium/state/nodes/v1/{two.name}/evil",
                 json.dumps(dict(node, Name="evil", Cluster=one.name, ClusterID=one.id))),
                ("value", f"{prefix}/junk", '{"name": "junk", "cluster'),
                ("value", f"cilium/state/nodes/v1/{two.name}/junk", "\x01")):
            with self.subTest(reason=reason, key=key):
                count = self.refused(reason)
                two.etcdctl("put", key, value)
                wait_for(f"{key} refused on each node", lambda: [
                    (r["last_key"], r["count"] > c) for r, c in zip(self.refusals(reason), count)] == [(key, True)] * 2)
                self.assertTrue(all(r["last_detail"] for r in self.refusals(reason)))
        self.assertEqual([s["name"] for s in one.json("service", "list")], own_services)
        self.assert_follows(one, self.both)
        for was, now in zip(before, one.remotes(two.name)):
            self.assertEqual((now["state"], now["failures"], now["objects"]),
                             ("ready", was["failures"], was["objects"]))
        for key in (f"{prefix}/evil", f"{prefix}/junk", "cilium/state/ip/v1/default/10.92.77.7",
                    f"cilium/state/nodes/v1/{two.name}/junk", f"cilium/state/nodes/v1/{two.name}/evil"):
            two.etcdctl("del", key)
        for kind in ("services", "nodes"):
            two.etcdctl("del", "--prefix", f"cilium/state/{kind}/v1/{one.name}/")

    def refusals(self, reason):
        return [r for remote in self.one.remotes(self.two.name) for r in remote["refused"] if r["reason"] == reason]

    def refused(self, reason):
        return [sum(r["count"] for r in remote["refused"] if r["reason"] == reason)
                for remote in self.one.remotes(self.two.name)]

    def test_remotes_only_read_the_mesh_of_an_own_store(self):
        """With the certificate that connect hands out, nothing can be written and nothing else read.

        Here with mesh-proxy's own store, where a write would have somewhere to go; mesh_proxy_test does a mirror.
        """
        one, two = self.one, self.two
        ask = lambda *words, **more: two.etcdctl(*words, role="remote", endpoint=one.remote_endpoint(), check=False,
                                                 **more)
        allowed = ask("get", f"cilium/state/services/v1/{one.name}/", "--prefix", "--keys-only")
        self.assertIn("shop/echo", allowed.stdout, allowed.stderr)
        revision = one.ask_daemon("mesh-proxy")["revision"]
        everything = one.etcdctl("get", "", "--prefix").stdout
        for words in (["put", "cilium/state/x", "y"], ["put", "other", "y"],
                      ["del", "cilium/state/", "--prefix"], ["lease", "grant", "60"], ["compaction", "2"],
                      ["get", "", "--prefix"], ["get", "mesh/", "--prefix"], ["get", "cilium/", "--prefix"],
                      ["get", f"cilium/cluster-config/{two.name}"], ["user", "list"], ["member", "list"], ["defrag"]):
            with self.subTest(words=words):
                self.assert_denied(ask(*words))
        self.assert_denied(ask("txn", input="\nput cilium/state/x y\n\n\n"))
        self.assert_denied(ask("txn", input="\n\ndel cilium/state/x\n\n"))
        self.assertEqual(one.etcdctl("get", "", "--prefix").stdout, everything)
        self.assertEqual(one.ask_daemon("mesh-proxy")["revision"], revision)
        self.assert_denied(two.etcdctl("get", "cilium/state/", "--prefix", role="remote",
                                       endpoint=one.writer_endpoint(), check=False))

    def assert_denied(self, done):
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stderr + done.stdout, "permission denied|PermissionDenied")

    def test_deleted_cluster_is_only_a_stale_remote(self):
        """The other cluster goes with everything: what is left of it here is a remote that is stale."""
        one, two = self.one, self.two
        self.deploy(one, annotations=annotated("service.cilium.io/affinity: local"))
        one.wait_used("echo", self.only_one)
        pids = {d["name"] + d["node"]: d["pid"] for d in one.daemons()}
        with Loop(one, one.frontend("echo")) as loop:
            two.delete()
            self.assertEqual(two.leftovers(), [])
            one.wait_remote(two, "stale")
            self.assert_answers(one, self.only_one)
            # Its own state goes on changing.
            self.deploy(one, replicas=3, annotations=annotated("service.cilium.io/affinity: local"))
            one.wait_used("echo", {one.name: 3})
        self.assertEqual(loop.errors, [])
        self.assertEqual({d["name"] + d["node"]: d["pid"] for d in one.daemons()}, pids)
        for pid in pids.values():
            os.kill(pid, 0)
        status = one.json("status")
        self.assertEqual({node["status"]["local"]["state"] for node in status["nodes"]}, {"ready"})
        # Its secret taken away, it is forgotten.
        one.meshctl("clustermesh", "disconnect", "--cluster", one.name, "--from", two.name)
        wait_for("no remotes", lambda: not one.remotes(two.name))
        one.meshctl("status", "--cluster", one.name, "--wait")
        self.deploy(one)
        self.assert_follows(one, self.only_one)


if __name__ == "__main__":
    sys.exit(run_cases(MeshTest))
