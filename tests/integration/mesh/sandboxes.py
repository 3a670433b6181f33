"""Sandboxed clusters as a test sees them: meshctl, etcdctl, the daemons' status and requests from pods."""
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

MANIFESTS = pathlib.Path(__file__).parent / "manifests"
DEADLINE = 20  # seconds until something that must happen counts as not happening

# Both run inside a client pod. One new connection (or socket) per request, one line of JSON per answer.
ASK = """
import http.client, json, socket, sys, threading, time
kind, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
stop = threading.Event()
if count == 0:
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()

def over_tcp():
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", "/")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()

def over_udp():
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(b"who", (host, port))
        data, sender = s.recvfrom(65536)
        return dict(json.loads(data), sender=sender[0])

ask = over_udp if kind == "UDP" else over_tcp
n = 0
while not stop.is_set() and (count == 0 or n < count):
    n += 1
    at = time.monotonic()
    try:
        print(json.dumps(dict(ask(), at=at, took=time.monotonic() - at)), flush=True)
    except Exception as e:
        print(json.dumps({"at": at, "error": f"{type(e).__name__}: {e}"}), flush=True)
    if count == 0:
        time.sleep(0.002)
"""


def delete_clusters(root, *clusters):
    """Ends the clusters and their folder; fails if they left something on the machine."""
    left = []
    for cluster in clusters:
        cluster.delete()
    for cluster in clusters:
        left += cluster.leftovers()
    shutil.rmtree(root, ignore_errors=True)
    if left:
        raise AssertionError(f"left behind: {left}")


def failed(test):
    """Whether the test that tearDown is for has failed. Python 3.11's outcome.success does not tell by then."""
    result = test._outcome.result
    return any(getattr(case, "test_case", case) is test for case, _ in result.failures + result.errors)


def wait_for(what, condition, seconds=DEADLINE):
    """Returns the condition's first true value; fails naming what was waited for and the last thing seen."""
    end = time.monotonic() + seconds
    seen = None
    while time.monotonic() < end:
        try:
            seen = condition()
            if seen:
                return seen
        except (subprocess.CalledProcessError, json.JSONDecodeError, KeyError, IndexError) as error:
            seen = getattr(error, "stderr", None) or repr(error)
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s; last seen: {seen!r}")


# A connected UDP socket to a pod of the wanted cluster: says so, and after a line of input what became of it.
HOLD = """
import errno, json, socket, sys
wanted, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
while True:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((host, port))
    s.send(b"who")
    if json.loads(s.recv(65536))["cluster"] == wanted:
        break
print("connected", flush=True)
sys.stdin.readline()
for _ in range(20):
    try:
        s.settimeout(0.5)
        s.send(b"who")
        s.recv(65536)
        word = "answered"
    except TimeoutError:
        word = "silence"
    except OSError as e:
        word = errno.errorcode[e.errno]
        break
print(word, flush=True)
"""


class HeldSocket:
    """A connected UDP socket of a pod to one backend of a service that is of the wanted cluster."""

    def __init__(self, cluster, frontend, wanted, pod="shop/client"):
        command = cluster.exec_command(pod, "/usr/bin/python3", "-u", "-c", HOLD, wanted, frontend["address"],
                                       str(frontend["port"]))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if (line := self.process.stdout.readline()) != "connected\n":
            raise AssertionError(f"no socket to {wanted}: {line!r}")

    def fate(self):
        """What became of it: "answered", "silence" or the name of the error."""
        return self.process.communicate("\n", timeout=60)[0].strip()


class Loop:
    """Requests one after the other from a pod until the block ends; `rows` are the answers by then."""

    def __init__(self, cluster, frontend, pod="shop/client"):
        self.command = cluster.exec_command(pod, *ask_command(frontend, 0))
        self.rows = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # Read while it runs: a full pipe would stop the requests.
        self.reader = threading.Thread(target=lambda: self.rows.extend(map(json.loads, self.process.stdout)),
                                       daemon=True)
        self.reader.start()
        try:
            wait_for("the first request", lambda: self.rows)
        except AssertionError:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_):
        end = time.monotonic()
        self.process.stdin.close()
        self.reader.join(DEADLINE)
        code = self.process.wait(DEADLINE)
        last = self.rows[-1]["at"]
        # 3 s = a request's own timeout
        if code != 0 or last < end - 4:
            raise AssertionError(f"the loop ended by itself, exit code {code}, {end - last:.1f} s before it was to")

    @property
    def errors(self):
        return [row for row in self.rows if "error" in row]


def ask_command(frontend, count):
    return ["/usr/bin/python3", "-u", "-c", ASK, frontend["protocol"], frontend["address"], str(frontend["port"]),
            str(count)]


class Cluster:
    """A sandbox: `meshctl` and what is known of it by its name."""

    def __init__(self, bin_dir, root, name, cluster_id, etcd, inherit=None):
        self.bin, self.root, self.name, self.etcd = pathlib.Path(bin_dir), pathlib.Path(root), name, etcd
        self.id, self.inherit = cluster_id, inherit
        self.folder = self.root / name

    # -- life

    def create(self, *more):
        block = 90 + self.id
        inherit = ["--inherit-ca", self.inherit.name] if self.inherit else []
        self.meshctl("sandbox", "create", "--name", self.name, "--cluster-id", str(self.id), "--nodes", "2",
                     "--pod-cidr", f"10.{block}.0.0/16,fd00:{block}::/48", "--service-cidr",
                     f"10.{block + 50}.0.0/16,fd00:{block + 50}::/112", "--etcd", self.etcd, *inherit, *more)

    def delete(self):
        # Standard output is the test's own.
        subprocess.run([*self.base(), "sandbox", "delete", self.name, "--ignore-not-found"], stdout=sys.stderr, timeout=60)

    def kill(self, daemon, node=None):
        self.meshctl("sandbox", "kill", "--cluster", self.name, daemon, *(["--node", node] if node else []))

    def start(self, daemon, node=None):
        self.meshctl("sandbox", "start", "--cluster", self.name, daemon, *(["--node", node] if node else []))

    # -- commands

    def base(self):
        return [str(self.bin / "meshctl"), "--root", str(self.root)]

    def run(self, *words, input=None, timeout=60):
        return subprocess.run([*self.base(), *words], capture_output=True, text=True, input=input, timeout=timeout)

    def meshctl(self, *words, input=None):
        done = self.run(*words, input=input)
        if done.returncode != 0:
            raise AssertionError(f"meshctl {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *words):
        """Output of a command of meshctl, also of one that says by its exit code that not all is ready."""
        return json.loads(self.run(*words, "--cluster", self.name, "-o", "json").stdout)

    def apply(self, manifest, **fields):
        """Applies manifests/<manifest> with %(field)s filled in."""
        text = (MANIFESTS / manifest).read_text() % fields
        self.meshctl("sandbox", "apply", "--cluster", self.name, "-f", "-", input=text)

    def remove(self, *objects):
        self.meshctl("sandbox", "remove", "--cluster", self.name, "-n", "shop", *objects)

    def exec_command(self, where, *command):
        at = ["--node", where] if "/" not in where else [where]
        return [*self.base(), "sandbox", "exec", "--cluster", self.name, *at, "--", *command]

    # -- requests

    def ask(self, frontend, count=40, pod="shop/client"):
        """That many requests from a pod to a frontend; the answers in order."""
        done = subprocess.run(self.exec_command(pod, *ask_command(frontend, count)), capture_output=True, text=True,
                              timeout=180, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def who(self, frontend, count=40, pod="shop/client"):
        """How many answers came from which cluster; those that did not come are counted by their error."""
        return collections.Counter(row.get("cluster") or f"error: {row.get('error')}"
                                   for row in self.ask(frontend, count, pod))

    def pods(self, prefix):
        return {row["name"]: row for row in self.json("sandbox", "pods") if row["name"].startswith(prefix)}

    # -- state

    def service(self, name):
        return self.json("service", "get", f"shop/{name}")

    def frontends(self, name):
        """Frontends by port name and family: ("http", 4)."""
        return {(f["port_name"], 6 if ":" in f["address"] else 4): f for f in self.service(name)["frontends"]}

    def frontend(self, name, port="http", family=4):
        return self.frontends(name)[port, family]

    def used(self, name, port="http", family=4):
        """How many backends of which cluster the frontend uses on all nodes."""
        return dict(collections.Counter(b["cluster"] for b in self.frontend(name, port, family)["backends"]
                                        if b["selected"]))

    def addresses(self, name, port="http", family=4):
        """All backends that any node knows of, used or not."""
        return {b["address"] for b in self.frontend(name, port, family)["backends"]}

    def remotes(self, name):
        """The remote of that name as each node sees it."""
        return [r for r in self.json("clustermesh", "status")["remotes"] if r["name"] == name]

    def remote_states(self, name):
        return {r["state"] for r in self.remotes(name)}

    def wait_remote(self, other, state):
        wait_for(f"{self.name} sees {other.name} as {state}",
                 lambda: self.remote_states(other.name) == {state} and len(self.remotes(other.name)) == 2)

    def wait_used(self, name, expected, **frontend):
        seen = {}

        def uses():
            seen["now"] = self.used(name, **frontend)
            return seen["now"] == expected
        try:
            wait_for(f"{self.name}: {name} uses {expected}", uses)
        except AssertionError as error:
            raise AssertionError(f"{error}\nit uses {seen.get('now')}: {self.service(name)}") from None

    def ask_daemon(self, label, path="/v1/status"):
        done = subprocess.run(["curl", "-sSm5", "--unix-socket", self.folder / "run" / f"{label}.sock",
                               f"http://daemon{path}"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def health(self, label):
        """The status code of a daemon's /healthz."""
        done = subprocess.run(["curl", "-sSm5", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket",
                               self.folder / "run" / f"{label}.sock", "http://daemon/healthz"],
                              capture_output=True, text=True, check=True)
        return int(done.stdout)

    def service_ids(self, node):
        """Frontend → service id as the kernel's map of the node holds them."""
        pin = f"/sys/fs/bpf/mesh-{self.name}_{node}/maps/frontends"
        rows = json.loads(subprocess.run(["bpftool", "-j", "map", "dump", "pinned", pin], capture_output=True,
                                         text=True, check=True).stdout)
        return {tuple(row["key"]): tuple(row["value"]) for row in rows}

    # -- etcd

    def daemons(self):
        return json.loads((self.folder / "state.json").read_text())["daemons"]

    def writer_endpoint(self):
        """Where the cluster's operator writes."""
        return (self.folder / "etc" / "admin-etcd.yaml").read_text().splitlines()[1].removeprefix("- ")

    def remote_endpoint(self):
        """Where other clusters read."""
        argv = next(d["argv"] for d in self.daemons() if d["name"] == "mesh-proxy")
        return "https://" + argv[argv.index("--listen-remote") + 1]

    def etcdctl(self, *words, role="admin", endpoint=None, input=None, check=True):
        """etcdctl on node1 with one of the cluster's certificates, at the cluster's etcd unless told otherwise."""
        pki = self.folder / "pki"
        done = subprocess.run(
            self.exec_command("node1", "env", "ETCDCTL_API=3", "etcdctl",
                              f"--endpoints={endpoint or self.writer_endpoint()}", f"--cacert={pki / 'ca.crt'}",
                              f"--cert={pki / role}.crt", f"--key={pki / role}.key", "--dial-timeout=2s",
                              "--command-timeout=5s", *words),
            capture_output=True, text=True, input=input, timeout=30)
        if check and done.returncode != 0:
            raise AssertionError(f"etcdctl {words}: {done.stdout}{done.stderr}")
        return done

    # -- what is left of it

    def print_logs(self, lines=15):
        for log in sorted((self.folder / "logs").glob("*.log")):
            if not log.name.startswith("pod."):
                text = log.read_text(errors="replace").splitlines()[-lines:]
                print(f"--- {self.name} {log.name}", *text, sep="\n", file=sys.stderr)

    def leftovers(self):
        prefixes = (f"mesh-{self.name}.", f"mesh-{self.name}_")
        places = [pathlib.Path("/run/netns"), pathlib.Path("/sys/fs/bpf"), pathlib.Path("/sys/fs/cgroup"),
                  pathlib.Path("/sys/fs/cgroup/unified")]
        found = [str(p) for place in places if place.exists() for p in place.iterdir() if p.name.startswith(prefixes)]
        return found + ([str(self.folder)] if self.folder.exists() else [])


def missing_needs(*programs):
    """Why tests that also need these programs cannot run on this machine, or None."""
    if os.geteuid() != 0:
        return "root: network namespaces and BPF programs of the real kernel"
    with open("/proc/self/mounts") as mounts:
        if not any(line.split()[2] == "cgroup2" for line in mounts):
            return "cgroup v2 mounted"
    for program in ("etcd", "etcdctl", "bpftool", "curl", "openssl", *programs):
        if subprocess.run(["which", program], capture_output=True).returncode != 0:
            return f"the program {program}"
    return None


def run_cases(test_case, *programs, seconds=280):
    """The cases of a class, or those whose names hold a word of the command line; returns the exit code, 77 = skipped.

    `seconds` are less than ctest's timeout of it.
    """
    if (missing := missing_needs(*programs)) is not None:
        print(f"SKIPPED: {test_case.__name__} needs {missing}", file=sys.stderr)
        return 77
    # An interrupted run removes its clusters as well; the alarm comes before ctest's timeout, which could not be caught.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    signal.alarm(seconds)
    cases = [name for name in vars(test_case) if name.startswith("test_")]
    wanted = [c for c in cases if not sys.argv[2:] or any(word in c for word in sys.argv[2:])]
    suite = unittest.TestSuite(test_case(name) for name in wanted)
    try:
        return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1
    finally:
        test_case.doClassCleanups()
