#!/usr/bin/env python3
"""dns_test.py PROXY [CASE ...]: the DNS proxy between dnsmasq and dig, without root on the loopback device, and with root
in network namespaces with TPROXY. Exit code 77 = skipped, with the reason on standard error.
"""
import json
import os
import pathlib
import queue
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

PROXY = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin/dns_test_proxy").resolve())
PATIENCE = 30  # seconds, for anything to happen
MANY, HUGE = 60, 200  # addresses of many.example.com and huge.example.com


def need(*programs):
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        print(f"SKIPPED: needs {', '.join(missing)}", file=sys.stderr)
        sys.exit(77)


def free_port(kind=socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Child:
    """A program whose lines of output can be waited for; it ends with the test."""

    def __init__(self, *command):
        self.lines, self.seen = queue.Queue(), []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def wait_for(self, matches):
        """The first line, also of those that came already, that matches."""
        for line in self.seen:
            if matches(line):
                return line
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                line = self.lines.get(timeout=1)
            except queue.Empty:
                continue
            if line is None:
                break
            self.seen.append(line)
            if matches(line):
                return line
        raise AssertionError("did not come; got:\n" + "\n".join(self.seen))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(PATIENCE)
        self.process.stdout.close()


class Proxy(Child):
    def __init__(self, *flags, before=(), allow=("**.example.com",)):
        allowed = [flag for pattern in allow for flag in ("--allow", pattern)]
        super().__init__(*before, PROXY, *flags, *allowed)
        self.port = int(self.wait_for(lambda line: line.isdigit()))

    def event(self, **fields):
        def matches(line):
            if not line.startswith("{"):
                return False
            event = json.loads(line)
            return all(event.get(k) == v for k, v in fields.items())
        return json.loads(self.wait_for(matches))


def start_dnsmasq(folder, addresses, port, before=()):
    hosts = folder / "hosts"
    hosts.write_text("".join(f"10.1.0.{i} many.example.com\n" for i in range(1, MANY + 1)) +
                     "".join(f"10.2.0.{i} huge.example.com\n" for i in range(1, HUGE + 1)))
    command = [shutil.which("dnsmasq") or "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
               "--no-resolv", "--no-hosts",
               f"--addn-hosts={hosts}", f"--port={port}", "--bind-interfaces", f"--pid-file={folder}/pid",
               "--host-record=api.example.com,10.0.0.1,fd00::1,30", "--cname=www.example.com,api.example.com,20",
               "--srv-host=_http._tcp.example.com,api.example.com,80", "--host-record=evil.com,10.6.6.6",
               "--local=/example.com/", "--local-ttl=60", "--edns-packet-max=4096", "--log-queries=extra", "--log-facility=-",
               f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', '')}",
               *(f"--listen-address={a}" for a in addresses)]
    child = Child(*before, *command)
    child.wait_for(lambda line: "started, version" in line)
    # It reads its files after it says so.
    child.wait_for(lambda line: "read " in line and "hosts" in line)
    return child


def dig(*arguments, before=()):
    done = subprocess.run([*before, "dig", "+time=10", "+tries=1", *map(str, arguments)], capture_output=True, text=True,
                          timeout=PATIENCE)
    return done.stdout


def status(text):
    return re.search(r"status: (\w+)", text).group(1)


def question(name, kind=1, identity=None):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    identity = random.randrange(65536) if identity is None else identity
    return struct.pack("!6H", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


class OnLoopback(unittest.TestCase):
    """Not transparent, no root: all queries are for one server."""

    @classmethod
    def setUpClass(cls):
        need("dig")
        if not (shutil.which("dnsmasq") or os.path.exists("/usr/sbin/dnsmasq")):
            need("dnsmasq")
        cls.folder = tempfile.TemporaryDirectory()
        cls.dns_port = free_port()
        cls.server = start_dnsmasq(pathlib.Path(cls.folder.name), ["127.0.0.1", "::1"], cls.dns_port)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def proxy(self, *flags, server="127.0.0.1", port=None, **more):
        one = Proxy("--server", server, "--server-port", str(port or self.dns_port), *flags, **more)
        self.addCleanup(one.stop)
        return one

    def test_udp(self):
        proxy = self.proxy()
        text = dig("@127.0.0.1", "-p", proxy.port, "API.example.com")
        self.assertRegex(text, r"API\.example\.com\.\s+30\s+IN\s+A\s+10\.0\.0\.1")
        event = proxy.event(name="api.example.com")
        self.assertEqual(event["verdict"], "answered")
        self.assertEqual(event["addresses"], ["10.0.0.1"])
        self.assertEqual(event["ttl"], 30)
        self.assertEqual(event["protocol"], "UDP")

    def test_an_alias_is_followed(self):
        proxy = self.proxy("--learn-milliseconds", "3")
        self.assertIn("10.0.0.1", dig("@127.0.0.1", "-p", proxy.port, "www.example.com"))
        self.assertIn("fd00::1", dig("@127.0.0.1", "-p", proxy.port, "www.example.com", "AAAA"))
        event = proxy.event(name="www.example.com", query_type="A")
        self.assertEqual(event["addresses"], ["10.0.0.1"])
        self.assertEqual(event["ttl"], 20)
        self.assertEqual(proxy.event(query_type="AAAA")["addresses"], ["fd00::1"])

    def test_other_types_pass(self):
        proxy = self.proxy()
        self.assertIn("80 api.example.com", dig("@127.0.0.1", "-p", proxy.port, "_http._tcp.example.com", "SRV"))
        self.assertEqual(status(dig("@127.0.0.1", "-p", proxy.port, "none.example.com")), "NXDOMAIN")
        self.assertNotIn("addresses", proxy.event(name="none.example.com", rcode="NXDOMAIN"))

    def test_denied(self):
        proxy = self.proxy()
        text = dig("@127.0.0.1", "-p", proxy.port, "evil.com")
        self.assertEqual(status(text), "REFUSED")
        self.assertIn("EDE: 18 (Prohibited)", text)
        self.assertEqual(proxy.event(name="evil.com")["verdict"], "denied")
        self.assertEqual(status(dig("+tcp", "@127.0.0.1", "-p", proxy.port, "evil.com")), "REFUSED")
        self.assertFalse([line for line in self.server.seen if "evil.com" in line])

    def test_tcp_with_several_queries(self):
        proxy = self.proxy()
        text = dig("+tcp", "+keepopen", "@127.0.0.1", "-p", proxy.port, "api.example.com", "www.example.com",
                   "evil.com", "many.example.com")
        self.assertEqual(re.findall(r"status: (\w+)", text), ["NOERROR", "NOERROR", "REFUSED", "NOERROR"])
        ports = {proxy.event(name=name)["client"] for name in ("api.example.com", "www.example.com", "evil.com")}
        self.assertEqual(len(ports), 1)

    def test_ipv6(self):
        proxy = self.proxy("--listen", "::1", server="::1")
        for flags in ([], ["+tcp"]):
            self.assertIn("10.0.0.1", dig("@::1", "-p", proxy.port, *flags, "api.example.com"))
        self.assertTrue(proxy.event(protocol="TCP")["client"].startswith("[::1]:"))

    def test_a_truncated_answer_passes_and_tcp_has_all(self):
        proxy = self.proxy()
        text = dig("+noedns", "+ignore", "@127.0.0.1", "-p", proxy.port, "many.example.com")
        self.assertRegex(text, r"flags:[^;]* tc")
        text = dig("+noedns", "@127.0.0.1", "-p", proxy.port, "many.example.com")
        self.assertEqual(len(re.findall(r"\sA\s+10\.1\.0\.", text)), MANY)
        self.assertEqual(len(proxy.event(protocol="TCP")["addresses"]), MANY)

    def test_a_large_answer(self):
        proxy = self.proxy()
        text = dig("+bufsize=4096", "+ignore", "@127.0.0.1", "-p", proxy.port, "huge.example.com")
        self.assertEqual(len(re.findall(r"\sA\s+10\.2\.0\.", text)), HUGE)

    def test_the_case_of_letters_is_the_clients(self):
        proxy = self.proxy()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(PATIENCE)
            for name in ("aPi.eXamPle.cOM", "eViL.cOm"):
                query = question(name)
                s.sendto(query, ("127.0.0.1", proxy.port))
                answer = s.recv(65535)
                self.assertEqual(answer[:2], query[:2])
                self.assertEqual(answer[12:len(query)], query[12:])

    def test_many_at_once(self):
        proxy = self.proxy("--quiet")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(PATIENCE)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            missing = set()
            for identity in range(100):
                s.sendto(question("api.example.com", 1, identity), ("127.0.0.1", proxy.port))
                missing.add(identity)
            while missing:
                answer = s.recv(65535)
                self.assertEqual(answer[3] & 15, 0)
                missing.discard(struct.unpack("!H", answer[:2])[0])

    def test_no_server(self):
        proxy = self.proxy(port=free_port())
        self.assertEqual(status(dig("@127.0.0.1", "-p", proxy.port, "api.example.com")), "SERVFAIL")
        self.assertEqual(proxy.event()["verdict"], "failed")


def run(*command, **more):
    subprocess.run(command, check=True, **more)


# In the client's namespace, through the C library and its resolv.conf.
RESOLVE = "import socket, sys; print(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80)}))"


class InNamespaces(unittest.TestCase):
    """client — node — server: the node's TPROXY rules lead what the client sends to port 53 to the proxy."""

    CLIENT, SERVER = ("10.201.1.2", "fd21:1::2"), ("10.201.2.2", "fd21:2::2")
    NODE = (("10.201.1.1", "fd21:1::1"), ("10.201.2.1", "fd21:2::1"))

    @classmethod
    def setUpClass(cls):
        need("dig", "ip", "nft")
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root for network namespaces")
        cls.folder = tempfile.TemporaryDirectory()
        tag = f"dnsproxy{os.getpid()}"
        cls.names = {role: f"{tag}-{role}" for role in ("client", "node", "server")}
        cls.addClassCleanup(cls.remove)
        for name in cls.names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for i, (role, own, nodes) in enumerate((("client", cls.CLIENT, cls.NODE[0]), ("server", cls.SERVER, cls.NODE[1]))):
            run("ip", "-n", cls.names["node"], "link", "add", role, "type", "veth", "peer", "name", "eth0", "netns",
                cls.names[role])
            for name, device, addresses in ((cls.names[role], "eth0", own), (cls.names["node"], role, nodes)):
                run("ip", "-n", name, "addr", "add", addresses[0] + "/24", "dev", device)
                run("ip", "-n", name, "addr", "add", addresses[1] + "/64", "dev", device, "nodad")
                run("ip", "-n", name, "link", "set", device, "up")
            for gateway in nodes:
                run("ip", "-n", cls.names[role], "route", "add", "default", "via", gateway)
        on_node = cls.inside("node")
        for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            run(*on_node, "sysctl", "-qw", f"net.{setting}=1")
        for setting in ("all", "default", "client", "server"):
            run(*on_node, "sysctl", "-qw", f"net.ipv4.conf.{setting}.rp_filter=0")
        for family in ("-4", "-6"):
            run("ip", family, "-n", cls.names["node"], "rule", "add", "fwmark", "1", "lookup", "100")
            run("ip", family, "-n", cls.names["node"], "route", "add", "local", "default", "dev", "lo", "table", "100")
        etc = pathlib.Path("/etc/netns") / cls.names["client"]
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {cls.SERVER[0]}\noptions attempts:1 timeout:10\n")
        (etc / "nsswitch.conf").write_text("hosts: dns\n")
        cls.server = start_dnsmasq(pathlib.Path(cls.folder.name), cls.SERVER, 53, cls.inside("server"))

    @classmethod
    def remove(cls):
        if hasattr(cls, "server"):
            cls.server.stop()
        shutil.rmtree(pathlib.Path("/etc/netns") / cls.names["client"], ignore_errors=True)
        try:
            pathlib.Path("/etc/netns").rmdir()
        except OSError:
            pass  # others have theirs there
        for name in cls.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        cls.folder.cleanup()

    @classmethod
    def inside(cls, role):
        return ["ip", "netns", "exec", cls.names[role]]

    def proxy(self, *flags, **more):
        one = Proxy("--listen", "0.0.0.0", "::", "--transparent", *flags, before=self.inside("node"), **more)
        self.addCleanup(one.stop)
        rules = f"""
        table inet dns {{
          chain prerouting {{
            type filter hook prerouting priority mangle; policy accept;
            iifname "server" socket transparent 1 meta mark set 1 accept
            iifname "client" meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport 53 tproxy ip to :{one.port} meta mark set 1
            iifname "client" meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport 53 tproxy ip6 to :{one.port} meta mark set 1
          }}
        }}"""
        run(*self.inside("node"), "nft", "-f", "-", input=rules, text=True)
        self.addCleanup(run, *self.inside("node"), "nft", "delete", "table", "inet", "dns")
        return one

    def dig(self, *arguments):
        return dig(*arguments, before=self.inside("client"))

    def check(self, proxy, sources):
        for server, client, source in zip(self.SERVER, self.CLIENT, sources):
            for flags in ([], ["+tcp"]):
                name = f"n{random.randrange(1 << 60)}.example.com"
                self.assertEqual(status(self.dig("@" + server, *flags, name)), "NXDOMAIN")
                event = proxy.event(name=name)
                self.assertEqual(event["server"], f"[{server}]:53" if ":" in server else f"{server}:53")
                self.assertIn(client, event["client"])
                # "dnsmasq: <number> <client>/<port> query[A] <name> from <client>"
                asked = self.server.wait_for(lambda line: f"query[A] {name}" in line)
                self.assertRegex(asked, rf"from {re.escape(source)}$")
            self.assertIn("10.0.0.1", self.dig("@" + server, "api.example.com"))
            self.assertEqual(status(self.dig("@" + server, "evil.com")), "REFUSED")
            self.assertEqual(status(self.dig("@" + server, "+tcp", "evil.com")), "REFUSED")
        self.assertFalse([line for line in self.server.seen if "evil.com" in line])

    def test_queries_leave_from_the_node(self):
        self.check(self.proxy(), self.NODE[1])

    def test_queries_leave_from_the_client(self):
        self.check(self.proxy("--from-client"), self.CLIENT)

    def test_answers_larger_than_a_packet(self):
        self.proxy()
        for server in self.SERVER:
            text = self.dig("+bufsize=4096", "+ignore", "@" + server, "huge.example.com")
            self.assertEqual(len(re.findall(r"\sA\s+10\.2\.0\.", text)), HUGE, text)

    def test_the_c_library_resolves(self):
        proxy = self.proxy("--learn-milliseconds", "5")
        done = subprocess.run([*self.inside("client"), sys.executable, "-c", RESOLVE, "www.example.com"],
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.stdout.strip(), "['10.0.0.1', 'fd00::1']", done.stderr)
        self.assertEqual(proxy.event(query_type="AAAA")["addresses"], ["fd00::1"])

    def test_the_proxys_own_port_makes_no_circle(self):
        proxy = self.proxy()
        text = self.dig("@" + self.NODE[0][0], "-p", proxy.port, "+time=1", "api.example.com")
        self.assertNotIn("status:", text)
        self.dig("@" + self.NODE[0][0], "-p", proxy.port, "+time=1", "+tcp", "api.example.com")
        self.assertIn("10.0.0.1", self.dig("@" + self.SERVER[0], "www.example.com"))
        proxy.event(name="www.example.com")
        self.assertFalse([line for line in proxy.seen if '"api.example.com"' in line])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
