#!/usr/bin/env python3
"""cni_test.py BIN: mesh-cni as a container runtime calls it, on the real kernel.

A namespace is the node and others are containers; the JSON protocol is spoken as the CNI specification says. Exit code
77 = skipped, with the reason on standard error.
"""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
import sandboxes  # noqa: E402
from sandboxes import wait_for  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/bin").resolve()
PLUGINS = pathlib.Path("/usr/lib/cni")  # of Debian's containernetworking-plugins
NETNS = pathlib.Path("/run/netns")

# Allocates with host-local and then hangs, as a plugin that waits for a server does.
SLOW_IPAM = """#!/bin/sh
%s/host-local || exit 1
if [ "$CNI_COMMAND" = ADD ]; then echo $$ > %s; exec sleep 600; fi
"""


# Seconds. A kernel that is busy removing namespaces makes others wait for a minute.
LONGEST = 200


def run(*words, check=True):
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Runtime:
    """What calls the plugin: a folder, a node's namespace, and containers with theirs."""

    def __init__(self, node, folder):
        self.node, self.folder = node, pathlib.Path(folder)
        self.endpoints = self.folder / "endpoints"
        self.containers = []

    def container(self, name):
        """Makes a container's namespace and returns its id."""
        full = f"mcni{os.getpid()}-{name}"
        run("ip", "netns", "add", full)
        self.containers.append(full)
        return full

    def remove_container(self, container):
        run("ip", "netns", "delete", container)
        self.containers.remove(container)

    def config(self, ipam=None, **fields):
        local = {"type": "mesh-local", "subnets": ["10.77.1.0/24", "fd00:77:1::/64"],
                 "dataDir": str(self.folder / "ipam")}
        return {"cniVersion": "1.0.0", "name": "mesh", "type": "mesh-cni", "endpointsDir": str(self.endpoints),
                "ipam": ipam or local, **fields}

    def host_local(self):
        return {"type": "host-local", "dataDir": str(self.folder / "host-local"),
                "ranges": [[{"subnet": "10.77.2.0/24"}], [{"subnet": "fd00:77:2::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.0.2.0/24"}]}

    def start(self, command, container, config, **variables):
        environment = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": container,
                       "CNI_NETNS": str(NETNS / container), "CNI_IFNAME": "eth0",
                       "CNI_PATH": f"{self.folder}:{PLUGINS}", **variables}
        text = config if isinstance(config, str) else json.dumps(config)
        with tempfile.TemporaryFile("w+") as given:
            given.write(text)
            given.seek(0)
            # nsenter becomes the plugin, so that a signal to the process reaches it.
            return subprocess.Popen(["nsenter", f"--net={NETNS / self.node}", BIN / "mesh-cni"], stdin=given,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def call(self, command, container, config, **variables):
        """@return exit code and what was printed, parsed"""
        process = self.start(command, container, config, **variables)
        out, err = process.communicate(timeout=LONGEST)
        if err:
            raise AssertionError(f"{command}: on standard error: {err}")
        return process.returncode, json.loads(out) if out else None

    def good(self, command, container, config, **variables):
        code, answer = self.call(command, container, config, **variables)
        if code != 0:
            raise AssertionError(f"{command} {container}: {answer}")
        return answer

    def add(self, container, config=None, pod=None, **variables):
        if pod:
            variables["CNI_ARGS"] = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}"
        return self.good("ADD", container, config or self.config(), **variables)

    def links(self):
        rows = json.loads(run("ip", "-n", self.node, "-j", "link").stdout)
        return {row["ifname"] for row in rows if row["ifname"].startswith("lxc")}

    def files(self):
        return {p.name for p in self.endpoints.iterdir()} if self.endpoints.exists() else set()

    def held(self, folder="ipam/mesh"):
        """Addresses that are given."""
        path = self.folder / folder
        if not path.exists():
            return set()
        return {p.name for p in path.iterdir() if not p.name.startswith("last") and p.name != "lock"}

    def routes(self):
        text = run("ip", "-n", self.node, "route").stdout + run("ip", "-n", self.node, "-6", "route").stdout
        return [line for line in text.splitlines() if line.startswith(("10.77.", "fd00:77:"))]

    def left(self):
        return {"links": self.links(), "files": self.files(), "routes": self.routes(),
                "addresses": self.held() | self.held("host-local/mesh")}

    def close(self):
        for container in list(self.containers):
            self.remove_container(container)


def addresses(result):
    return [ip["address"].split("/")[0] for ip in result["ips"]]


def ping(container, address):
    run("ip", "netns", "exec", container, "ping", "-c1", "-W5", address)


class CniTest(unittest.TestCase):
    NOTHING = {"links": set(), "files": set(), "routes": [], "addresses": set()}

    def setUp(self):
        self.node = f"mcni{os.getpid()}"
        self.folder = tempfile.mkdtemp(prefix="mesh-cni-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(run, "ip", "netns", "delete", self.node, check=False)
        run("ip", "netns", "add", self.node)
        run("ip", "-n", self.node, "link", "set", "lo", "up")
        run("ip", "netns", "exec", self.node, "sysctl", "-qw", "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0")
        self.runtime = Runtime(self.node, self.folder)
        self.addCleanup(self.runtime.close)

    def assert_nothing_left(self):
        self.assertEqual(self.runtime.left(), self.NOTHING)

    def assert_error(self, call, code, *words):
        exit_code, answer = call
        self.assertEqual((exit_code, answer["code"]), (1, code), answer)
        self.assertIn("cniVersion", answer)
        for word in words:
            self.assertIn(word, answer["msg"])

    def test_pods_reach_one_another(self):
        a, b = self.runtime.container("a"), self.runtime.container("b")
        first, second = self.runtime.add(a, pod="a"), self.runtime.add(b, pod="b")
        self.assertEqual(addresses(first), ["10.77.1.2", "fd00:77:1::2"])
        self.assertEqual(addresses(second), ["10.77.1.3", "fd00:77:1::3"])
        self.assertEqual([i["name"] for i in first["interfaces"]][1], "eth0")
        self.assertEqual(first["interfaces"][1]["sandbox"], str(NETNS / a))
        self.assertEqual({ip["interface"] for ip in first["ips"]}, {1})
        self.assertEqual(first["routes"], [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}])
        for address in addresses(second):
            ping(a, address)
        link = json.loads(run("ip", "-n", a, "-j", "link", "show", "eth0").stdout)[0]
        self.assertEqual((link["mtu"], link["address"]), (1450, first["interfaces"][1]["mac"]))
        endpoint = json.loads((self.runtime.endpoints / "shop.a.json").read_text())
        self.assertEqual(endpoint["ips"], addresses(first))
        self.assertEqual((endpoint["containerID"], endpoint["netns"], endpoint["podDevice"], endpoint["device"]),
                         (a, str(NETNS / a), "eth0", first["interfaces"][0]["name"]))
        self.runtime.good("DEL", a, self.runtime.config(), CNI_ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a")
        ping(b, addresses(second)[0])
        # The runtime may not know of the pod any more, nor have its namespace.
        self.runtime.remove_container(b)
        self.assertIsNone(self.runtime.good("DEL", b, self.runtime.config(), CNI_NETNS=""))
        self.assert_nothing_left()

    def test_del_twice_and_an_address_of_its_own_for_the_next(self):
        a = self.runtime.container("a")
        config = self.runtime.config()
        first = self.runtime.add(a)
        self.assertEqual(self.runtime.files(), {f"{a}.eth0.json"})
        for _ in range(2):
            self.runtime.good("DEL", a, config)
            self.assert_nothing_left()
        second = self.runtime.add(a)
        self.assertNotEqual(addresses(first), addresses(second))
        self.assert_error(self.runtime.call("ADD", a, config), 100, "eth0", "expected DEL")
        self.runtime.good("CHECK", a, dict(config, prevResult=second))
        self.runtime.good("DEL", a, config)
        self.assert_nothing_left()

    def test_versions_of_results(self):
        a = self.runtime.container("a")
        for version, old in (("0.3.1", True), ("0.4.0", True), ("1.0.0", False)):
            config = self.runtime.config(cniVersion=version)
            result = self.runtime.add(a, config)
            self.assertEqual(result["cniVersion"], version)
            self.assertEqual([ip.get("version") for ip in result["ips"]], ["4", "6"] if old else [None, None])
            check = self.runtime.call("CHECK", a, dict(config, prevResult=result))
            if version == "0.3.1":
                self.assert_error(check, 1, "CHECK")
            else:
                self.assertEqual(check, (0, None))
            self.runtime.good("DEL", a, dict(config, prevResult=result))
        code, answer = self.runtime.call("VERSION", "", {"cniVersion": "1.0.0"})
        self.assertEqual((code, answer), (0, {"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}))

    def test_check_names_what_is_missing(self):
        a = self.runtime.container("a")
        result = self.runtime.add(a, pod="a")
        args = {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"}
        config = self.runtime.config(prevResult=result)
        device = result["interfaces"][0]["name"]

        def check():
            return self.runtime.call("CHECK", a, config, **args)
        self.assertEqual(check(), (0, None))
        breaks = [
            ("default route of IPv4 on eth0", ["-n", a, "route", "delete", "default"],
             ["-n", a, "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink"]),
            ("route to fd00:77:1::2", ["-n", self.node, "-6", "route", "delete", "fd00:77:1::2"],
             ["-n", self.node, "-6", "route", "add", "fd00:77:1::2", "dev", device]),
            ("eth0 has no address fd00:77:1::2", ["-n", a, "address", "delete", "fd00:77:1::2/128", "dev", "eth0"],
             ["-n", a, "address", "add", "fd00:77:1::2/128", "dev", "eth0", "nodad"]),
            (f"{device} is down", ["-n", self.node, "link", "set", device, "down"], None)]
        for what, spoil, repair in breaks:
            run("ip", *spoil)
            self.assert_error(check(), 102, what)
            if repair:
                run("ip", *repair)
                self.assertEqual(check(), (0, None), what)
        # What goes down loses its routes.
        run("ip", "-n", self.node, "link", "set", device, "up")
        run("ip", "-n", self.node, "route", "replace", "10.77.1.2", "dev", device)
        run("ip", "-n", self.node, "-6", "route", "replace", "fd00:77:1::2", "dev", device)
        self.assertEqual(check(), (0, None))
        held = self.runtime.folder / "ipam/mesh/10.77.1.2"
        held.rename(held.with_name("away"))
        self.assert_error(check(), 102, "ipam", "10.77.1.2")
        held.with_name("away").rename(held)
        (self.runtime.endpoints / "shop.a.json").unlink()
        self.assert_error(check(), 102, "endpointsDir", "shop.a.json")
        self.runtime.good("DEL", a, config, **args)
        self.assert_nothing_left()

    def test_delegated_ipam(self):
        a, b = self.runtime.container("a"), self.runtime.container("b")
        config = self.runtime.config(self.runtime.host_local())
        first, second = self.runtime.add(a, config), self.runtime.add(b, config)
        self.assertEqual(addresses(first), ["10.77.2.2", "fd00:77:2::2"])
        self.assertIn({"dst": "192.0.2.0/24", "gw": "169.254.1.1"}, first["routes"])
        self.assertIn("192.0.2.0/24 via 169.254.1.1", run("ip", "-n", a, "route").stdout)
        self.assertEqual(self.runtime.held("host-local/mesh"), {*addresses(first), *addresses(second)})
        for address in addresses(second):
            ping(a, address)
        checked = dict(config, prevResult=first)
        self.runtime.good("CHECK", a, checked)
        run("ip", "-n", a, "route", "delete", "192.0.2.0/24")
        self.assert_error(self.runtime.call("CHECK", a, checked), 102, "192.0.2.0/24")
        shutil.move(self.runtime.folder / "host-local", self.runtime.folder / "gone")
        run("ip", "-n", a, "route", "add", "192.0.2.0/24", "via", "169.254.1.1", "dev", "eth0", "onlink")
        exit_code, answer = self.runtime.call("CHECK", a, checked)
        self.assertEqual(exit_code, 1)
        self.assertIn("plugin host-local, CHECK", answer["msg"])
        shutil.rmtree(self.runtime.folder / "host-local", ignore_errors=True)
        shutil.move(self.runtime.folder / "gone", self.runtime.folder / "host-local")
        for container in (a, b):
            self.runtime.good("DEL", container, config)
        self.assert_nothing_left()
        # Its own error comes through.
        bad = self.runtime.config(dict(self.runtime.host_local(), ranges=[[{"subnet": "nonsense"}]]))
        exit_code, answer = self.runtime.call("ADD", a, bad)
        self.assertEqual(exit_code, 1)
        self.assertIn("plugin host-local, ADD: ", answer["msg"])
        self.assert_error(self.runtime.call("ADD", a, self.runtime.config({"type": "no-such"})), 4, "CNI_PATH",
                          "no-such")
        self.assert_nothing_left()

    def test_what_is_wrong_has_a_code_and_a_name(self):
        a = self.runtime.container("a")
        good = self.runtime.config()
        for code, config, words in [(1, dict(good, cniVersion="0.2.0"), ["cniVersion", "0.3.1, 0.4.0, 1.0.0"]),
                                    (2, dict(good, ipMasq=True), ["ipMasq"]),
                                    (6, "{not json", ["JSON object"]),
                                    (7, dict(good, mtu=99), ["mtu", "1280"]),
                                    (7, dict(good, ipam={}), ["ipam.type"]),
                                    (7, dict(good, ipam={"type": "mesh-local"}), ["ipam.subnets"]),
                                    (7, dict(good, name=""), ["name"])]:
            self.assert_error(self.runtime.call("ADD", a, config), code, *words)
        for variables in ({"CNI_CONTAINERID": ""}, {"CNI_IFNAME": "no/device"}, {"CNI_COMMAND": "UP"},
                          {"CNI_NETNS": ""}, {"CNI_ARGS": "K8S_POD_NAME"}):
            self.assert_error(self.runtime.call("ADD", a, good, **variables), 4, *variables)
        self.assert_error(self.runtime.call("ADD", a, good, CNI_NETNS="/run/netns/mcni-none"), 3, "CNI_NETNS")
        self.assert_error(self.runtime.call("ADD", a, good, CNI_NETNS=str(NETNS / self.node)), 4, "the node's")
        self.assert_error(self.runtime.call("CHECK", a, good), 7, "prevResult")
        small = dict(good, ipam=dict(good["ipam"], subnets=["10.77.9.0/30"]))
        b = self.runtime.container("b")
        self.runtime.add(b, small)
        self.assert_error(self.runtime.call("ADD", a, small), 101, "10.77.9.0/30")
        self.runtime.good("DEL", b, small)
        self.assert_nothing_left()
        for words in (["--help"], []):
            usage = subprocess.run([BIN / "mesh-cni", *words], capture_output=True, text=True, timeout=60, env={})
            self.assertEqual(usage.returncode, 0 if words else 2)
            self.assertIn('"type": "mesh-cni"', usage.stdout or usage.stderr)

    def test_what_failed_is_undone(self):
        a = self.runtime.container("a")
        nobody = {"agentSocket": str(self.runtime.folder / "no.sock"), "agentTimeoutSeconds": 1}
        for ipam in (None, self.runtime.host_local()):
            self.assert_error(self.runtime.call("ADD", a, self.runtime.config(ipam, **nobody)), 11, "agentSocket",
                              f"{a}.eth0 is not attached after 1 s", "no.sock")
            self.assert_nothing_left()
        # The pod has an eth0 of another plugin.
        run("ip", "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        self.assert_error(self.runtime.call("ADD", a, self.runtime.config()), 100)
        self.assert_nothing_left()
        run("ip", "-n", a, "link", "show", "eth0")
        not_waited = self.runtime.config(**dict(nobody, agentTimeoutSeconds=0))
        self.runtime.add(a, not_waited, CNI_IFNAME="net1")
        self.runtime.good("DEL", a, not_waited, CNI_IFNAME="net1")
        self.assert_nothing_left()

    def test_a_pods_next_container_outlives_the_last_ones_del(self):
        old, new = self.runtime.container("old"), self.runtime.container("new")
        self.runtime.add(old, pod="echo-0")
        result = self.runtime.add(new, pod="echo-0")
        args = {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=echo-0"}
        self.runtime.good("DEL", old, self.runtime.config(), **args)
        self.runtime.good("CHECK", new, self.runtime.config(prevResult=result), **args)
        self.assertEqual(self.runtime.held(), set(addresses(result)))
        self.runtime.good("DEL", new, self.runtime.config(), **args)
        self.assert_nothing_left()

    def test_calls_at_the_same_time(self):
        names = [self.runtime.container(f"p{i}") for i in range(8)]
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            results = dict(zip(names, pool.map(self.runtime.add, names)))
        given = [address for result in results.values() for address in addresses(result)]
        self.assertEqual(len(set(given)), 16, given)
        self.assertEqual(self.runtime.held(), set(given))
        for name, result in results.items():
            self.runtime.good("CHECK", name, self.runtime.config(prevResult=result))
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self.runtime.good("DEL", name, self.runtime.config()), names))
        self.assert_nothing_left()

    def test_an_add_that_is_killed_leaves_nothing_after_del(self):
        a = self.runtime.container("a")
        # All is made, and the agent never says so.
        path = str(self.runtime.folder / "silent.sock")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(path)
            silent.listen()
            process = self.runtime.start("ADD", a, self.runtime.config(agentSocket=path, agentTimeoutSeconds=300))
            wait_for("the endpoint's file", self.runtime.files)
            process.kill()
            process.communicate(timeout=LONGEST)
        self.assertTrue(all(self.runtime.left().values()), self.runtime.left())
        self.runtime.good("DEL", a, self.runtime.config())
        self.assert_nothing_left()
        # The delegated plugin has given addresses, and nobody knows of it.
        mark = self.runtime.folder / "mark"
        slow = self.runtime.folder / "slow-ipam"
        slow.write_text(SLOW_IPAM % (PLUGINS, mark))
        slow.chmod(0o755)
        config = self.runtime.config(dict(self.runtime.host_local(), type="slow-ipam"))
        process = self.runtime.start("ADD", a, config)
        wait_for("the plugin", lambda: mark.exists() and mark.read_text().strip())
        plugin = int(mark.read_text())
        self.addCleanup(lambda: running(plugin) and os.kill(plugin, signal.SIGKILL))
        process.kill()
        process.communicate(timeout=LONGEST)
        self.assertEqual(len(self.runtime.held("host-local/mesh")), 2)
        wait_for("the plugin ends with its caller", lambda: not running(plugin))
        self.runtime.good("DEL", a, config)
        self.assert_nothing_left()

    def test_an_add_that_is_killed_anywhere_leaves_nothing_after_del(self):
        a = self.runtime.container("a")
        for step in range(16):
            process = self.runtime.start("ADD", a, self.runtime.config())
            # Wherever it is by then: what is asserted holds everywhere.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=step * 0.003)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=LONGEST)
            self.runtime.good("DEL", a, self.runtime.config())
            self.assert_nothing_left()
        self.runtime.add(a)
        self.runtime.good("DEL", a, self.runtime.config())


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class AgentTest(unittest.TestCase):
    """With a running agent: that of a sandbox's node."""

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="mesh-cni-")
        self.cluster = sandboxes.Cluster(BIN, self.root, f"k{os.getpid()}", 41, "embedded")
        self.runtime = None
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(self.cluster.delete)
        self.cluster.create()
        argv = next(d["argv"] for d in self.cluster.daemons() if d["name"] == "mesh-agent" and d["node"] == "node1")
        self.socket = argv[argv.index("--status-socket") + 1]
        self.runtime = Runtime(f"mesh-{self.cluster.name}.node1", self.root + "/cni")
        self.addCleanup(self.runtime.close)
        self.runtime.endpoints = pathlib.Path(argv[argv.index("--endpoints") + 1])
        os.mkdir(self.root + "/cni")
        # The upper half of the node's block; the sandbox gives from its lower end.
        self.ipam = {"type": "mesh-local", "subnets": ["10.131.1.128/25", "fd00:131:0:1:8000::/65"],
                     "dataDir": self.root + "/cni/ipam"}

    def listed(self):
        rows = json.loads(self.cluster.meshctl("endpoint", "list", "--socket", self.socket, "-o", "json"))
        return {(row["namespace"], row["pod"]): row for row in rows}

    def test_the_agent_attaches_what_the_plugin_adds(self):
        config = self.runtime.config(self.ipam, agentSocket=self.socket)
        a, b = self.runtime.container("a"), self.runtime.container("b")
        first, second = self.runtime.add(a, config, pod="a"), self.runtime.add(b, config, pod="b")
        # The answer came after the agent was ready: no wait here.
        for result, pod in ((first, "a"), (second, "b")):
            row = self.listed()["shop", pod]
            self.assertTrue(row["attached"], row)
            self.assertEqual((row["ips"], row["device"]), (addresses(result), result["interfaces"][0]["name"]))
        table = self.cluster.meshctl("endpoint", "list", "--socket", self.socket)
        self.assertRegex(table, rf"shop +a +{addresses(first)[0]},\S+ .* ready")
        for address in addresses(second):
            ping(a, address)
        self.cluster.meshctl("sandbox", "apply", "--cluster", self.cluster.name, "-f", "-", input=SANDBOX_POD)
        for address in self.cluster.pods("near")["near"]["ips"]:
            ping(a, address)
        args = {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"}
        self.runtime.good("CHECK", a, dict(config, prevResult=first), **args)
        self.runtime.good("DEL", a, config, **args)
        wait_for("the agent forgets the pod", lambda: ("shop", "a") not in self.listed())
        # Pods come while no agent runs, and the next one finds them; who waits for it is told.
        self.cluster.kill("mesh-agent", "node1")
        code, answer = self.runtime.call("ADD", a, dict(config, agentTimeoutSeconds=1), **args)
        self.assertEqual((code, answer["code"]), (1, 11), answer)
        again = self.runtime.add(a, dict(config, agentTimeoutSeconds=0), pod="a")
        self.cluster.start("mesh-agent", "node1")
        wait_for("the agent attaches it", lambda: self.listed()["shop", "a"]["attached"])
        # Locked until the new agent knows its own cluster, and with it the policies.
        wait_for("it has its policy", lambda: self.listed()["shop", "a"]["policy"]["state"] == "ready")
        for address in addresses(again):
            ping(b, address)
        for container in (a, b):
            self.runtime.good("DEL", container, config)
        self.assertEqual(self.runtime.held(), set())


SANDBOX_POD = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: shop}
spec: {nodeName: node1, containers: [{name: c, command: [sleep, infinity]}]}
"""


def missing_needs():
    if not (PLUGINS / "host-local").exists():
        return f"{PLUGINS}/host-local (package containernetworking-plugins)"
    return sandboxes.missing_needs()


if __name__ == "__main__":
    if reason := missing_needs():
        print(f"SKIPPED integration/cni: needs {reason}", file=sys.stderr)
        sys.exit(77)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
