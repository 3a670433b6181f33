#!/usr/bin/env python3
"""encryption_test.py BIN [CASE ...]: WireGuard between the nodes of two clusters, strict, on the real kernel.

All cases share the pair of clusters and leave it as they found it. What is on the wire is captured on the underlay that
all nodes are plugged into. Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, Loop, failed, run_cases, wait_for  # noqa: E402

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
MARKER, CONTROL = "secret-of-a-pod-4711", "plain-control-4712"
WIREGUARD, VXLAN = "udp/51871", "udp/8472"
LAYOUT = pathlib.Path(__file__).resolve().parents[3] / "bpf" / "layout.h"
PLAINTEXT = int(re.search(r"#define MESH_DROP_PLAINTEXT (\d+)U", LAYOUT.read_text()).group(1))

# In the underlay's namespace, on all its devices: what goes between the given addresses, by protocol and port, and how
# often each of the given words is in it. Ends with its standard input.
CAPTURE = """
import collections, ipaddress, json, select, socket, sys
words, nodes = [w.encode() for w in sys.argv[1].split(",")], set(sys.argv[2].split(","))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
flows, seen = collections.Counter(), collections.Counter()
print("ready", flush=True)
while True:
    ready = select.select([s, sys.stdin], [], [])[0]
    if s not in ready:
        break
    frame = s.recv(65536)
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\\x08\\x00":
        proto, sides, rest = packet[9], (packet[12:16], packet[16:20]), packet[(packet[0] & 15) * 4:]
    elif kind == b"\\x86\\xdd":
        proto, sides, rest = packet[6], (packet[8:24], packet[24:40]), packet[40:]
    else:
        continue
    if not {str(ipaddress.ip_address(side)) for side in sides} <= nodes:
        continue
    port = int.from_bytes(rest[2:4], "big")
    flows[{6: "tcp", 17: "udp"}.get(proto, str(proto)) + ("/" + str(port) if proto in (6, 17) else "")] += 1
    for word in words:
        seen[word.decode()] += word in frame
print(json.dumps({"flows": flows, "seen": seen}))
"""

# In a client's pod: says a word to a server, by UDP and in the first bytes of a TCP connection, which must take them.
SAY = """
import socket, sys
host, port, word = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(3)
    s.sendto(word, (host, port))
    s.recv(65536)
with socket.create_connection((host, port), 3) as s:
    s.sendall(b"GET /" + word + b" HTTP/1.0\\r\\n\\r\\n")
    assert s.recv(10)
"""

# In the underlay's namespace: puts a frame on the wire as it is.
SEND_FRAME = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("mesh0", 0))
s.send(bytes.fromhex(sys.argv[1]))
"""


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


def ipv4_udp(source, destination, port, payload):
    packed = [bytes(map(int, address.split("."))) for address in (source, destination)]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, *packed)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


def vxlan(identity, packet):
    return struct.pack("!II", 0x08000000, identity << 8) + b"\x02" * 6 + b"\x04" * 6 + b"\x08\x00" + packet


class Capture:
    """What goes between the nodes of the clusters until the block ends."""

    def __init__(self, clusters):
        nodes = [address for cluster in clusters for address in node_addresses(cluster)]
        self.command = ["ip", "netns", "exec", "mesh-underlay", "/usr/bin/python3", "-c", CAPTURE,
                        f"{MARKER},{CONTROL}", ",".join(nodes)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if (line := self.process.stdout.readline()) != "ready\n":
            raise AssertionError(f"no capture: {line!r}")
        return self

    def __exit__(self, *_):
        answer = json.loads(self.process.communicate("end\n", timeout=30)[0])
        self.flows, self.seen = answer["flows"], answer["seen"]


def addresses_of(cluster, node):
    rows = json.loads(on_node(cluster, node, "ip", "-j", "addr", "show", "dev", "eth0"))
    return [a["local"] for a in rows[0]["addr_info"] if a["scope"] == "global"]


def node_addresses(cluster):
    return [address for node in ("node1", "node2") for address in addresses_of(cluster, node)]


def on_node(cluster, node, *words):
    done = subprocess.run(cluster.exec_command(node, *words), capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {done.stderr}")
    return done.stdout


def encryption(cluster):
    """/v1/encryption of each node."""
    return {row["on"]: row for row in cluster.json("encrypt", "status")}


def wireguard_processes(cluster):
    """wireguard-go of a cluster's nodes, by device."""
    devices = {row["device"] for row in encryption(cluster).values()}
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"wireguard-go") and words[2].decode() in devices:
            found[words[2].decode()] = int(path.parent.name)
    return found


def wait_encrypted(*clusters):
    """Every node has every other as a peer, its key is published, and nobody speaks in plain."""
    others = 2 * len(clusters) - 1

    def all_up():
        rows = [row for cluster in clusters for row in encryption(cluster).values()]
        return len(rows) == 2 * len(clusters) and all(
            r["up"] and r["published"] and len(r["peers"]) == others and not r["nodes_without_key"] for r in rows)
    wait_for("all nodes are each other's peers", all_up)


class EncryptionTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="mesh-enc-")
        one = Cluster(BIN, cls.root, f"w{os.getpid()}a", 1, "embedded")
        two = Cluster(BIN, cls.root, f"w{os.getpid()}b", 2, "embedded", inherit=one)
        cls.one, cls.two, cls.devices = one, two, set()
        cls.addClassCleanup(cls.clean)
        for cluster in (one, two):
            cluster.create("--encryption", "wireguard", "--encryption-strict")
        one.meshctl("clustermesh", "connect", "--cluster", one.name, "--to", two.name)
        for cluster in (one, two):
            cluster.apply("echo.yaml", replicas=2, annotations='service.cilium.io/global: "true"',
                          port=8080 + cluster.id)
            cluster.apply("client.yaml")
        for cluster in (one, two):
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")

    @classmethod
    def clean(cls):
        clusters = (cls.one, cls.two)
        for cluster in clusters:
            cluster.delete()
        left = [name for cluster in clusters for name in cluster.leftovers()]
        left += [f"{d}.sock" for d in cls.devices if pathlib.Path(f"/var/run/wireguard/{d}.sock").exists()]
        shutil.rmtree(cls.root, ignore_errors=True)
        if left:
            raise AssertionError(f"left behind: {left}")

    def setUp(self):
        for cluster in (self.one, self.two):
            cluster.start("mesh-agent")
        wait_encrypted(self.one, self.two)
        for cluster in (self.one, self.two):
            self.devices.update(row["device"] for row in encryption(cluster).values())
            cluster.wait_used("echo", {self.one.name: 2, self.two.name: 2})

    def tearDown(self):
        if failed(self):
            for cluster in (self.one, self.two):
                cluster.print_logs()

    def servers(self, cluster):
        return [(pod["node"], ip, 8080 + cluster.id) for pod in cluster.pods("echo").values() for ip in pod["ips"]]

    def say(self, cluster, ip, port, word=MARKER):
        return subprocess.run(cluster.exec_command("shop/client", "/usr/bin/python3", "-c", SAY, ip, str(port), word),
                              capture_output=True, text=True, timeout=30)

    def drops(self, cluster, node):
        """Packets that the programs of a node dropped for being plain, whether its agent runs or not."""
        pin = f"/sys/fs/bpf/mesh-{cluster.name}_{node}_pods/maps/drops"
        rows = json.loads(subprocess.run(["bpftool", "-j", "map", "lookup", "pinned", pin, "key", str(PLAINTEXT), "0", "0", "0"],
                                         capture_output=True, text=True, check=True).stdout)
        return sum(int.from_bytes(bytes(int(b, 16) for b in row["value"][:8]), "little") for row in rows["values"])

    # -- what is on the wire

    def test_nothing_of_pods_is_plain(self):
        """Pods to pods of other nodes and clusters and through services: on the wire there is only WireGuard."""
        one, two = self.one, self.two
        listener = subprocess.Popen(two.exec_command("node1", "/usr/bin/python3", "-c", (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9999));"
            "print('ready', flush=True); s.recv(999)")), stdout=subprocess.PIPE, text=True)
        self.assertEqual(listener.stdout.readline(), "ready\n")
        drops = [self.drops(cluster, node) for cluster in (one, two) for node in ("node1", "node2")]
        with Capture((one, two)) as capture:
            for here, there in ((one, two), (two, one)):
                for _, ip, port in self.servers(there) + self.servers(here):
                    done = self.say(here, ip, port)
                    self.assertEqual(done.returncode, 0, (ip, done.stderr))
                self.assertEqual(set(here.who(here.frontend("echo"), 30)), {one.name, two.name})
            # What is not of pods goes as it is, so a word can be seen here at all.
            on_node(one, "node1", "/usr/bin/python3", "-c",
                    "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto("
                    f"b'{CONTROL}', ('{addresses_of(two, 'node1')[0]}', 9999))")
            self.assertEqual(listener.wait(10), 0)
        listener.stdout.close()
        self.assertGreater(capture.seen[CONTROL], 0)
        self.assertEqual(capture.seen[MARKER], 0, capture.flows)
        self.assertNotIn(VXLAN, capture.flows)
        self.assertGreater(capture.flows[WIREGUARD], 20)
        # Beside it only etcd's clients, over TLS, and the control.
        plain = {flow for flow in capture.flows if flow.startswith("udp/")}
        self.assertEqual(plain, {WIREGUARD, "udp/9999"}, capture.flows)
        self.assertEqual(drops, [self.drops(cluster, node) for cluster in (one, two) for node in ("node1", "node2")])

    def test_the_identity_arrives(self):
        """At the destination's node, the packet is told with the identity that the other cluster gave its source."""
        one, two = self.one, self.two
        client = next(iter(one.pods("client").values()))
        identity = next(e["identity"] for e in one.json("endpoint", "list") if e["pod"] == client["name"])
        self.assertEqual(identity >> 16, one.id)
        _, ip, port = self.servers(two)[0]
        command = [*two.base(), "monitor", "--cluster", two.name, "--peer-cluster", one.name, "-o", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as monitor:
            monitor.stderr.readline()  # it watches
            self.assertEqual(self.say(one, ip, port).returncode, 0)
            event = json.loads(monitor.stdout.readline())
            monitor.terminate()
        self.assertEqual((event["kind"], event["point"], event["source"]["identity"]),
                         ("trace", "from-overlay", identity), event)

    # -- changes under load

    def both_loops(self):
        return Loop(self.one, self.one.frontend("echo")), Loop(self.two, self.two.frontend("echo"))

    def test_keys_are_rotated_under_load(self):
        """Each node of both clusters gets another key, one after the other: no request fails."""
        one, two = self.one, self.two
        before = {row["public_key"] for cluster in (one, two) for row in encryption(cluster).values()}
        first, second = self.both_loops()
        with first, second:
            for cluster in (one, two):
                for node in ("node1", "node2"):
                    cluster.meshctl("encrypt", "rotate-key", "--cluster", cluster.name, "--node", node)
                    wait_encrypted(one, two)
            for cluster in (one, two):
                self.assertEqual(set(cluster.who(cluster.frontend("echo"), 30)), {one.name, two.name})
        self.assertEqual((first.errors, second.errors), ([], []))
        rows = {(cluster.name, node): row for cluster in (one, two) for node, row in encryption(cluster).items()}
        after = {row["public_key"] for row in rows.values()}
        self.assertEqual((len(after), after & before), (4, set()))
        for (cluster, node), row in rows.items():
            self.assertEqual({p["public_key"] for p in row["peers"]}, after - {row["public_key"]}, (cluster, node))
        for cluster in (one, two):
            for key in (cluster.folder / "pki").glob("wireguard-*.key"):
                self.assertEqual(key.stat().st_mode & 0o777, 0o600)
                self.assertEqual((key.parent / (key.name + ".pub")).read_text().strip() in after, True)
                secret = key.read_text().strip()
                for log in (cluster.folder / "logs").iterdir():
                    self.assertNotIn(secret, log.read_text(errors="replace"))

    def test_agents_killed_under_load(self):
        """kill -9 of all agents and their restart: wireguard-go runs on and is adopted, no request fails."""
        one, two = self.one, self.two
        processes = {**wireguard_processes(one), **wireguard_processes(two)}
        self.assertEqual(len(processes), 4)
        first, second = self.both_loops()
        with first, second:
            for cluster in (one, two):
                cluster.kill("mesh-agent")
            _, ip, port = self.servers(two)[0]
            self.assertEqual(self.say(one, ip, port).returncode, 0)
            for cluster in (one, two):
                cluster.start("mesh-agent")
                cluster.meshctl("status", "--cluster", cluster.name, "--wait")
            wait_encrypted(one, two)
            self.assertEqual(self.say(one, ip, port).returncode, 0)
        self.assertEqual((first.errors, second.errors), ([], []))
        self.assertEqual({**wireguard_processes(one), **wireguard_processes(two)}, processes)
        for cluster in (one, two):
            self.assertEqual({row["device_starts"] for row in encryption(cluster).values()}, {0})

    def test_wireguard_go_killed(self):
        """The process behind the device dies: the agent starts another, with all peers and routes."""
        one, two = self.one, self.two
        row = encryption(one)["node1"]
        os.kill(wireguard_processes(one)[row["device"]], 9)
        wait_for("another one", lambda: encryption(one)["node1"]["device_starts"] == row["device_starts"] + 1)
        wait_encrypted(one, two)
        _, ip, port = self.servers(two)[0]
        wait_for("requests pass again", lambda: self.say(one, ip, port).returncode == 0)

    def test_a_device_that_was_down_for_a_moment(self):
        """Its routes went with that: the agent sets them again though the device looks as it did."""
        one, two = self.one, self.two
        _, ip, port = self.servers(two)[0]
        device = encryption(one)["node1"]["device"]
        on_node(one, "node1", "sh", "-c", f"ip link set {device} down && ip link set {device} up")
        wait_for("requests pass again", lambda: self.say(one, ip, port).returncode == 0)

    # -- strict

    def test_without_the_device_nothing_leaves(self):
        """A node whose WireGuard device is down, with nobody to mend it: its pods' packets are dropped, not sent."""
        one, two = self.one, self.two
        _, ip, port = self.servers(two)[0]
        self.assertEqual(self.say(one, ip, port).returncode, 0)
        device, before = encryption(one)["node1"]["device"], self.drops(one, "node1")
        one.kill("mesh-agent", "node1")
        on_node(one, "node1", "ip", "link", "set", device, "down")
        with Capture((one, two)) as capture:
            self.assertNotEqual(self.say(one, ip, port).returncode, 0)
        self.assertEqual(capture.seen[MARKER], 0)
        self.assertNotIn(VXLAN, capture.flows)
        self.assertGreater(self.drops(one, "node1"), before)
        one.start("mesh-agent", "node1")
        wait_encrypted(one, two)
        wait_for("requests pass again", lambda: self.say(one, ip, port).returncode == 0)
        drops = one.ask_daemon("mesh-agent-node1")["pods"]["drops"]
        self.assertGreater(drops["plaintext"], before)

    def test_an_injected_plain_packet_is_dropped(self):
        """A tunnel's packet from a peer's address that did not come through WireGuard: dropped and counted."""
        one, two = self.one, self.two
        node, ip, port = next(s for s in self.servers(one) if ":" not in s[1])
        client = next(iter(two.pods("client").values()))
        identity = next(e["identity"] for e in two.json("endpoint", "list") if e["pod"] == client["name"])
        macs = [bytes.fromhex(json.loads(on_node(c, n, "ip", "-j", "link", "show", "eth0"))[0]["address"].replace(":", ""))
                for c, n in ((one, node), (two, client["node"]))]

        def inject(packet):
            subprocess.run(["ip", "netns", "exec", "mesh-underlay", "/usr/bin/python3", "-c", SEND_FRAME,
                            (macs[0] + macs[1] + b"\x08\x00" + packet).hex()], check=True)
        inner = ipv4_udp(client["ips"][0], ip, port, MARKER.encode())
        outer = ipv4_udp(addresses_of(two, client["node"])[0], addresses_of(one, node)[0], 8472,
                         vxlan(identity, inner))
        before = self.drops(one, node)
        inject(outer)
        wait_for("the drop", lambda: self.drops(one, node) == before + 1)
        # Likewise what looks like a pod's own packet.
        inject(inner)
        wait_for("the second drop", lambda: self.drops(one, node) == before + 2)

    # -- what is refused

    def test_ipsec_is_refused(self):
        done = self.one.run("sandbox", "create", "--name", "w-none", "--cluster-id", "3", "--pod-cidr", "10.99.0.0/17",
                            "--service-cidr", "10.99.128.0/17", "--encryption", "ipsec")
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no IPsec here", done.stderr)
        agent = subprocess.run([BIN / "mesh-agent", "--cluster-name", "c", "--cluster-id", "3", "--node-name", "n",
                                "--etcd-config", "/nonexistent", "--encryption", "ipsec", "--datapath", "bpf"],
                               capture_output=True, text=True, timeout=30)
        self.assertEqual(agent.returncode, 2, agent.stderr)
        self.assertIn("there is no IPsec here", agent.stderr)


if __name__ == "__main__":
    sys.exit(run_cases(EncryptionTest, "wireguard-go"))
