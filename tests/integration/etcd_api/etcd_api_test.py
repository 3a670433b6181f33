#!/usr/bin/env python3
"""Runs one script of etcdctl and of hand-made requests against a real etcd and against the embedded server, and compares what they
print and how they exit. Both start empty on ports that the kernel chose, and are ended by this test.

What differs by nature is replaced by a word before comparing: ids of cluster and member, raft numbers,
lease ids, remaining seconds, sizes, ports. Revisions, keys, values, versions, counts, order, errors and
exit codes must be equal."""
import argparse
import contextlib
import difflib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ENVIRONMENT = {**os.environ, "ETCDCTL_API": "3"}
for name in list(ENVIRONMENT):
    if name.startswith("ETCDCTL_") and name != "ETCDCTL_API":
        del ENVIRONMENT[name]


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class Server:
    """A running server; endpoint is what etcdctl is given."""

    def __init__(self, name, process, port):
        self.name, self.process, self.endpoint = name, process, f"127.0.0.1:{port}"
        self.watchers = {}
        self.leases = {}

    def stop(self):
        for watcher in self.watchers.values():
            watcher.stop()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ctl(self, arguments, stdin=None):
        command = ["etcdctl", f"--endpoints={self.endpoint}", "--command-timeout=10s", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True,
                              env=ENVIRONMENT, timeout=30)
        return done.returncode, done.stdout, done.stderr


class Watcher:
    """An etcdctl watch in the background."""

    def __init__(self, server, arguments):
        self.lines = []
        self.process = subprocess.Popen(
            ["etcdctl", f"--endpoints={server.endpoint}", "watch", *arguments], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=ENVIRONMENT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text):
        wait_until(lambda: any(text in line for line in self.lines), f"'{text}' of a watch")
        return "\n".join(self.lines)

    def wait_exit(self):
        self.process.wait(20)
        self.reader.join(5)
        return "\n".join(self.lines)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


def start_etcd(directory):
    client, peer = free_ports(2)
    log = open(os.path.join(directory, "etcd.log"), "w")
    process = subprocess.Popen(
        ["etcd", "--name", "default", "--data-dir", os.path.join(directory, "etcd"),
         "--listen-client-urls", f"http://127.0.0.1:{client}",
         "--advertise-client-urls", f"http://127.0.0.1:{client}",
         "--listen-peer-urls", f"http://127.0.0.1:{peer}",
         "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
         "--initial-cluster", f"default=http://127.0.0.1:{peer}"],
        stdout=log, stderr=log)
    server = Server("etcd", process, client)
    wait_until(lambda: server.ctl(["endpoint", "health"])[0] == 0, "etcd to be healthy")
    return server


def start_embedded(program, arguments):
    process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line.startswith("listening "):
        raise RuntimeError(f"{program} did not start: {line!r}")
    return Server("embedded", process, int(line.split()[1]))


# --- Making outputs comparable ------------------------------------------------------------------------

# JSON fields that differ by nature, and the word that stands for them. A revision stays.
NATURAL = {"cluster_id": "C", "member_id": "M", "raft_term": "T", "raftTerm": "T", "leader": "M",
           "raftIndex": "R", "raftAppliedIndex": "R", "Endpoint": "E", "took": "t", "ts": "t", "target": "T", "endpoint": "E"}

# Left out: a store in memory has none.
SIZES = {"dbSize", "dbSizeInUse"}


def clean_json(value, lease_ids, key=None):
    if isinstance(value, dict):
        return {k: clean_json(v, lease_ids, k) for k, v in value.items() if k not in SIZES}
    if isinstance(value, list):
        return [clean_json(v, lease_ids, key) for v in value]
    if key in NATURAL:
        return NATURAL[key]
    if key == "ttl" and isinstance(value, int) and value > 0:
        return "seconds"
    if isinstance(value, int) and value in lease_ids:
        return lease_ids[value]
    if key == "ID" and isinstance(value, int) and value > 2**40:
        return "M"
    if key in ("clientURLs", "peerURLs"):
        return re.sub(r":\d+", ":PORT", value)
    return value


def clean(text, server):
    lease_ids = {int(v, 16): name for name, v in server.leases.items()}
    lines = []
    for line in text.splitlines():
        if line.startswith(("{", "[")):
            try:
                lines.append(json.dumps(clean_json(json.loads(line), lease_ids)))
                continue
            except ValueError:
                pass
        for name, lease in server.leases.items():
            line = re.sub(rf"\b0*{lease}\b", name, line)
            line = re.sub(rf"\b{int(lease, 16)}\b", name, line)
        line = re.sub(r'^"(ClusterID|MemberID|RaftTerm)" : \d+', r'"\1"', line)
        line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line)
        line = re.sub(r"took = [\d.µnm]+s", "took = t", line)
        line = re.sub(r"remaining\(\d+s\)", "remaining(s)", line)
        line = re.sub(r"\b[0-9a-f]{12,16}\b", "ID", line)
        lines.append(line)
    return "\n".join(lines)


def clean_watch(text, server):
    """Events one a line: how many come in one answer is a matter of time."""
    lines = []
    for line in clean(text, server).splitlines():
        if line.startswith("{"):
            lines += [json.dumps(event) for event in json.loads(line)["Events"]]
        else:
            lines.append(line)
    return "\n".join(lines)


def clean_status(text, _server):
    """Of the endpoint's status in words: all but ids, sizes and raft numbers."""
    fields = [f.strip() for f in text.strip().split(",")]
    # endpoint, ID, version, size, is leader, is learner, term, index, applied index, errors
    return ", ".join([fields[2], *fields[4:6], fields[9]])


# --- The script ---------------------------------------------------------------------------------------

class RawCalls:
    """Requests that etcdctl does not send, as Protobuf texts, through the program etcd_raw_call."""
    PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                         "../../../libmesh/src/model/etcdpb")
    program = None
    SERVICES = {"Range": "KV", "Put": "KV", "DeleteRange": "KV", "Txn": "KV", "Compact": "KV",
                "LeaseGrant": "Lease", "LeaseRevoke": "Lease", "LeaseLeases": "Lease",
                "Watch": "Watch"}
    MESSAGES = {"Compact": "Compaction"}

    @classmethod
    def protoc(cls, how, message, data):
        return subprocess.run(["protoc", "-I", cls.PROTO, f"--{how}=mesh.etcdpb.{message}",
                               "etcd.proto"], input=data, capture_output=True, check=True).stdout

    @classmethod
    def call(cls, server, method, requests, answers):
        message = cls.MESSAGES.get(method, method)
        lines = [cls.protoc("encode", message + "Request", r.encode()).hex() for r in requests]
        done = subprocess.run(
            [cls.program, server.endpoint.split(":")[1],
             f"/etcdserverpb.{cls.SERVICES[method]}/{method}", str(answers)],
            input="".join(line + "\n" for line in lines), capture_output=True, text=True,
            timeout=30, check=True)
        texts = []
        for line in done.stdout.splitlines():
            if line.startswith("status "):
                texts.append(line)
                continue
            text = cls.protoc("decode", message + "Response", bytes.fromhex(line)).decode()
            text = re.sub(r"\s+", " ", text)
            text = re.sub(r"(cluster_id|member_id|raft_term): \d+ ?", "", text)
            if "compact_revision" in text:  # etcd fills no header there
                text = re.sub(r"header \{[^}]*\} ", "", text)
            texts.append(text)
        return "\n".join(texts)


class Script:
    """Steps are run on each server in turn; each yields a title and a comparable text."""

    def __init__(self):
        self.steps = []

    def raw(self, method, *requests, answers=0):
        """A call with hand-made requests; answers as of etcd_raw_call."""
        def step(server):
            return RawCalls.call(server, method, requests, answers)
        self.steps.append((f"{method} {' | '.join(requests)}", step))

    def ctl(self, *arguments, stdin=None, cleaner=clean, sort=False):
        def step(server):
            given = [server.leases.get(a[1:-1], a) if a.startswith("<") else a for a in arguments]
            given = [re.sub(r"=<(\w+)>$", lambda m: "=" + server.leases[m.group(1)], a)
                     for a in given]
            code, out, err = server.ctl(given, stdin)
            out = cleaner(out, server)
            if sort:
                out = "\n".join(sorted(out.splitlines()))
            return f"exit {code}\n{out}\n{clean(err, server)}"
        self.steps.append(("etcdctl " + " ".join(arguments), step))

    def grant(self, name, ttl, *arguments):
        """Grants a lease and remembers its id under a name."""
        def step(server):
            code, out, err = server.ctl(["lease", "grant", str(ttl), *arguments])
            found = re.search(r"lease ([0-9a-f]+) granted", out) or \
                re.search(r"lease already exists", err)
            if found is None:
                return f"exit {code}\n{clean(out, server)}\n{clean(err, server)}"
            if found.groups():
                server.leases[name] = found.group(1)
            return f"exit {code}\n{clean(out, server)}\n{clean(err, server)}"
        self.steps.append((f"etcdctl lease grant {ttl} (as {name})", step))

    def watch(self, name, *arguments):
        def step(server):
            server.watchers[name] = Watcher(server, list(arguments))
            return ""
        self.steps.append((f"etcdctl watch {' '.join(arguments)} (as {name})", step))

    def seen(self, name, last):
        """What the watch has printed once the text `last` was among it."""
        def step(server):
            text = clean_watch(server.watchers[name].wait_for(last), server)
            # How often put_until_seen() had to put depends on the machine.
            return re.sub(r"((?:PUT\n[^\n]*\nestablished\n))+", r"\1", text)
        self.steps.append((f"watch {name} up to {last}", step))

    def ended(self, name):
        def step(server):
            text = server.watchers[name].wait_exit()
            return f"exit {server.watchers[name].process.returncode}\n{clean(text, server)}"
        self.steps.append((f"watch {name} to its end", step))

    def gone(self, key):
        """Waits until a key is there no more."""
        def step(server):
            wait_until(lambda: server.ctl(["get", key])[1] == "", f"{key} to go")
            return ""
        self.steps.append((f"until {key} is gone", step))

    def put_until_seen(self, name, key, value):
        """A live watch of etcdctl does not tell when it is established: puts until it is seen. The
        puts would make revisions differ, so this is done once, on a key whose history is compacted."""
        def step(server):
            def attempt():
                server.ctl(["put", key, value])
                return any(value in line for line in server.watchers[name].lines)
            wait_until(attempt, f"watch {name} to be established")
            return ""
        self.steps.append((f"until watch {name} sees {key}", step))


def ranges(s):
    for key, value in [("a", "1"), ("b", "2"), ("b/x", "3"), ("b/y", "4"), ("c", "5")]:
        s.ctl("put", key, value)
    s.ctl("put", "b", "0")                                            # revision 7
    s.ctl("put", "empty", "")
    for output in ("simple", "json", "fields"):
        s.ctl("get", "a", "-w", output)
        s.ctl("get", "b", "--prefix", "-w", output)
    s.ctl("get", "", "--prefix")
    s.ctl("get", "", "--from-key", "--keys-only")
    s.ctl("get", "a", "c")
    s.ctl("get", "c", "a", "-w", "json")
    s.ctl("get", "b", "--prefix", "--print-value-only")
    s.ctl("get", "b", "--prefix", "--keys-only", "-w", "json")
    s.ctl("get", "b", "--rev=3")
    s.ctl("get", "b", "--rev=2", "-w", "json")
    s.ctl("get", "b", "--rev=99")
    s.ctl("get", "nothing")
    s.ctl("get", "nothing", "-w", "json")
    s.ctl("get", "", "--prefix", "--limit=2", "-w", "json")
    s.ctl("get", "", "--prefix", "--limit=6", "-w", "json")
    s.ctl("get", "a")
    s.ctl("get", "a", "--consistency=s")
    for order in ("ASCEND", "DESCEND"):
        for target in ("KEY", "VERSION", "CREATE", "MODIFY", "VALUE"):
            s.ctl("get", "", "--prefix", f"--order={order}", f"--sort-by={target}",
                  "--keys-only")
    s.ctl("get", "", "--prefix", "--sort-by=VALUE", "--limit=3", "-w", "json")
    s.ctl("get", "", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1", "-w", "json")
    s.ctl("get", "", "--prefix", "--count-only", "-w", "json")
    s.ctl("get", "")


def writes(s):
    s.ctl("put", "a", "new", "--prev-kv")
    s.ctl("put", "fresh", "v", "--prev-kv", "-w", "json")
    s.ctl("put", "a", "json", "--prev-kv", "-w", "json")
    s.ctl("put", "a", "--ignore-value")
    s.ctl("put", "a", "--ignore-value", "v")
    s.ctl("put", "missing", "--ignore-value")
    s.ctl("put", "missing", "v", "--ignore-lease")
    s.ctl("put", "a", "v", "--lease=7b")
    s.ctl("put", "", "v")
    s.ctl("get", "a", "-w", "json")
    s.ctl("del", "fresh")
    s.ctl("del", "fresh")
    s.ctl("del", "b/", "--prefix", "--prev-kv")
    s.ctl("put", "d1", "x")
    s.ctl("put", "d2", "x")
    s.ctl("del", "d1", "d3", "--prev-kv", "-w", "json")
    s.ctl("del", "zz", "--from-key", "-w", "json")
    s.ctl("del", "")
    s.ctl("put", "fresh", "again")
    s.ctl("get", "fresh", "-w", "json")


def transactions(s):
    def txn(compares, success, failure, *arguments):
        s.ctl("txn", *arguments, stdin=f"{compares}\n\n{success}\n\n{failure}\n\n")
    txn('ver("a") > "0"', 'put t1 yes\nget t1\nget a', 'put t1 no')
    txn('ver("a") > "0"', 'put t1 yes\nget t1\nget a', 'put t1 no', "-w", "json")
    txn('value("a") = "nope"', 'put t1 yes', 'put t1 no\ndel t2\nget t1', "-w", "json")
    txn('mod("a") < "3"\ncreate("a") = "2"', 'del a', 'get a')
    txn('ver("missing") = "0"', 'put once 1', '', "-w", "json")
    txn('ver("missing") = "0"', 'del nothing', '', "-w", "json")
    txn('value("missing") = ""', 'put wrong 1', 'get a')
    txn('', 'put d x\nput d y', '')
    txn('', 'put d x\ndel d', '')
    txn('', 'del d\nput d x', '')
    txn('', 'get a --rev=3\nput d z', '', "-w", "json")
    txn('', 'get a --rev=9999\nput d z', '')
    txn('', 'put d v --lease=7b', '')
    txn('', 'get a --prefix --order=DESCEND\ndel b --prefix --prev-kv', '', "-w", "json")
    s.ctl("get", "", "--prefix", "-w", "json")


def watches(s):
    s.watch("all", "", "--prefix", "--rev=1")
    s.watch("one", "a", "--rev=2", "--prev-kv")
    s.watch("prefix", "b", "--prefix", "--rev=3", "--prev-kv", "-w", "json")
    s.watch("range", "a", "c", "--rev=5")
    s.watch("from", "d", "zzzz", "--rev=1")
    s.ctl("put", "a", "end-of-a")
    s.ctl("put", "b", "end-of-b")
    s.ctl("put", "zzz", "end-of-all")
    s.seen("all", "end-of-all")
    s.seen("one", "end-of-a")
    s.seen("prefix", "ZW5kLW9mLWI=")
    s.seen("range", "end-of-b")
    s.seen("from", "end-of-all")
    s.ctl("put", "a", "live")
    s.ctl("del", "a")
    s.ctl("put", "zzz", "live-end")
    s.seen("all", "live-end")
    s.watch("empty", "b", "a", "--rev=1")
    s.ended("empty")


def leases(s):
    s.ctl("lease", "list")
    s.grant("L1", 300)
    s.grant("L2", 1)
    s.grant("L3", 9000000001)
    s.ctl("lease", "grant", "0")
    s.ctl("put", "k2", "v", "--lease=<L1>")
    s.ctl("put", "k1", "v", "--lease=<L1>")
    s.ctl("put", "k3", "v")
    s.ctl("get", "k1", "-w", "json")
    s.ctl("lease", "timetolive", "<L1>")
    s.ctl("lease", "timetolive", "<L1>", "-w", "json")
    s.ctl("lease", "timetolive", "7b")
    s.ctl("lease", "timetolive", "7b", "--keys", "-w", "json")
    s.ctl("lease", "keep-alive", "--once", "<L1>")
    s.ctl("lease", "keep-alive", "--once", "7b")
    s.ctl("lease", "keep-alive", "--once", "<L1>", "-w", "json")
    s.ctl("put", "k1", "w", "--ignore-lease")
    s.ctl("put", "k2", "--ignore-value")
    s.ctl("lease", "timetolive", "<L1>", "--keys")
    s.ctl("lease", "revoke", "7b")
    s.ctl("lease", "revoke", "<L1>")
    s.ctl("lease", "timetolive", "<L1>", "--keys")
    s.ctl("get", "k", "--prefix", "-w", "json")
    s.grant("L4", 2)
    s.ctl("put", "short", "lived", "--lease=<L4>")
    s.gone("short")
    s.ctl("get", "short", "-w", "json")
    s.ctl("lease", "keep-alive", "--once", "<L4>")


def compaction(s):
    s.ctl("compact", "99999")
    s.ctl("compact", "5")
    s.ctl("compact", "5")
    s.ctl("compact", "4")
    s.ctl("get", "a", "--rev=4")
    s.ctl("get", "", "--prefix", "--rev=5")
    s.ctl("get", "b", "--rev=6")
    s.watch("compacted", "a", "--rev=3")
    s.ended("compacted")
    s.watch("at", "c", "--rev=5")
    s.ctl("put", "c", "after-compaction")
    s.seen("at", "after-compaction")
    s.ctl("compaction", "20", "--physical")
    s.ctl("get", "", "--prefix", "-w", "json")


def cluster(s):
    s.ctl("endpoint", "health")
    s.ctl("endpoint", "health", "-w", "json")
    s.ctl("endpoint", "status", cleaner=clean_status)
    s.ctl("endpoint", "status", "-w", "json")
    s.ctl("member", "list")
    s.ctl("member", "list", "-w", "json")
    s.ctl("alarm", "list")
    s.ctl("alarm", "list", "-w", "json")
    s.ctl("alarm", "disarm")
    s.ctl("defrag")
    s.ctl("get", "a", "--user=root:secret")


def live(s):
    s.watch("live", "live", "--prefix")
    s.put_until_seen("live", "live/1", "established")
    s.ctl("del", "live/1")
    s.seen("live", "DELETE")


def raw_first(s):
    """Before anything is written or compacted; takes no revision."""
    s.raw("Txn", 'success { request_range { key: "a" revision: -1 } }')
    s.raw("Txn", 'success { request_range { key: "a" revision: -2 } }')
    s.raw("Watch", 'create_request { key: "a" start_revision: -4 }', answers=2)
    s.raw("Watch", 'create_request { key: "b" range_end: "a" }', 'create_request { key: "a" }',
          'create_request { key: "a" watch_id: -7 }', 'create_request { key: "a" watch_id: -7 }',
          'create_request { key: "a" start_revision: -1 }', 'create_request { key: "a" }',
          'create_request { key: "a" watch_id: -1 }', answers=7)
    for revision in (-1, 0, 0):
        s.raw("Compact", f"revision: {revision}")
    s.raw("Txn", 'success { request_range { key: "a" revision: -1 } }')
    s.raw("Range", 'key: "a" revision: -5')
    for lease, ttl in ((5, 300), (3, 500), (9, 100), (7, 400)):
        s.raw("LeaseGrant", f"ID: {lease} TTL: {ttl}")
    s.raw("LeaseLeases", "")
    for lease in (5, 3, 9, 7):
        s.raw("LeaseRevoke", f"ID: {lease}")
    s.raw("Put", 'key: "zz" ignore_value: true lease: 99')
    s.raw("Put", 'key: "zz" ignore_lease: true')
    s.raw("Txn", 'success { request_put { key: "zz" ignore_value: true lease: 99 } }')


def raw_last(s):
    put, delete = 'request_put { key: "z" value: "1" }', 'request_delete_range { key: "z" }'
    absent = 'compare { key: "z" target: VERSION result: EQUAL version: 0 }'
    present = 'compare { key: "z" target: VERSION result: GREATER version: 0 }'
    siblings = (f"success {{ request_txn {{ {absent} success {{ {put} }} }} }} "
                f"success {{ request_txn {{ {present} success {{ {delete} }} }} }}")
    for _ in range(3):
        s.raw("Txn", siblings)
        s.raw("Range", 'key: "z"')

    def nested(*ops):
        return "request_txn { " + " ".join(f"success {{ {op} }}" for op in ops) + " }"

    for ops in ((nested(delete), nested(put)), (put, nested(delete)), (delete, nested(put)),
                (nested(put), nested(put)), (nested(put, delete),), (put, put), (delete, put),
                ('request_delete_range { key: "a" range_end: "zz" }', put),
                ('request_delete_range { key: "zz" range_end: "a" }', put),
                ('request_delete_range { key: "zzz" range_end: "\\000" }', put),
                (delete, 'request_delete_range { key: "y" range_end: "zz" }')):
        s.raw("Txn", " ".join(f"success {{ {op} }}" for op in ops))
    s.raw("Txn", f"success {{ request_txn {{ success {{ {put} }} failure {{ {delete} }} }} }}")
    s.raw("Txn", 'success { request_range { key: "a" revision: -3 } }')
    s.raw("Txn", 'success { request_range { key: "a" revision: 3 } }')
    s.raw("Compact", "revision: 0")
    s.raw("Watch", 'create_request { key: "a" start_revision: -4 }', answers=2)
    s.raw("Watch", 'create_request { key: "a" start_revision: 2 }', answers=2)


# --- Beyond what etcdctl compares -----------------------------------------------------------------------

def check_read_only(program):
    """A server that lets in reads of one prefix only; the texts are those of etcd with auth on."""
    server = start_embedded(program, ["--read-only", "public/"])
    failures = []

    def expect(arguments, code, text):
        got, out, err = server.ctl(arguments)
        if got != code or text not in out + err:
            failures.append(f"{arguments}: expected exit {code} and {text!r}, got {got} {out!r} {err!r}")
    denied = "etcdserver: permission denied"
    try:
        expect(["get", "public/", "--prefix"], 0, "")
        expect(["get", "public/a"], 0, "")
        for arguments in (["get", "private"], ["get", "", "--prefix"], ["get", "public/", "--from-key"],
                          ["get", "public/a", "q"], ["put", "public/a", "v"],
                          ["del", "public/a"], ["compact", "1"], ["lease", "grant", "5"],
                          ["lease", "list"], ["endpoint", "status"], ["defrag"], ["alarm", "list"],
                          ["member", "list"], ["auth", "enable"], ["user", "list"],
                          ["snapshot", "save", "/nonexistent/x"], ["move-leader", "1"]):
            got, out, err = server.ctl(arguments)
            if got == 0 or ("permission denied" not in out + err and "snapshot" not in arguments):
                failures.append(f"{arguments}: expected {denied!r}, got {got} {out!r} {err!r}")
        got, out, err = server.ctl(["txn"], stdin='\n\nput public/a v\n\n\n\n')
        if denied not in err:
            failures.append(f"a writing txn: expected {denied!r}, got {got} {out!r} {err!r}")
        watcher = Watcher(server, ["private"])
        if "permission denied" not in watcher.wait_exit():
            failures.append(f"watch private: expected {denied!r}, got {watcher.lines}")
    finally:
        server.stop()
    return failures


def check_reopen(program, directory):
    """What was acknowledged is there after kill -9 of the server."""
    data = os.path.join(directory, "reopen")
    server = start_embedded(program, ["--data", data])
    failures = []
    try:
        code, out, _ = server.ctl(["lease", "grant", "600"])
        lease = re.search(r"lease ([0-9a-f]+)", out).group(1)
        server.ctl(["put", "a", "1", f"--lease={lease}"])
        server.ctl(["put", "b", "2"])
        server.ctl(["del", "b"])
        before = server.ctl(["get", "", "--prefix", "-w", "json"])
    finally:
        server.process.kill()
        server.process.wait()
    server = start_embedded(program, ["--data", data])
    try:
        after = server.ctl(["get", "", "--prefix", "-w", "json"])
        if before != after:
            failures.append(f"after kill -9: {after}, before it {before}")
        ttl = server.ctl(["lease", "timetolive", lease, "--keys"])[1]
        if "granted with TTL(600s)" not in ttl or "[a]" not in ttl:
            failures.append(f"the lease after kill -9: {ttl}")
    finally:
        server.stop()
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--raw-call", required=True)
    parser.add_argument("--backend", choices=("memory", "lmdb"), default="memory")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    RawCalls.program = options.raw_call
    for tool in ("etcd", "etcdctl", "protoc"):
        if shutil.which(tool) is None:
            print(f"SKIPPED: {tool} is not installed")
            return 77

    script = Script()
    for part in (raw_first, ranges, writes, transactions, watches, leases, compaction, cluster,
                 raw_last, live):
        part(script)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="etcd_api.") as directory, contextlib.ExitStack() as stack:
        real = start_etcd(directory)
        stack.callback(real.stop)
        data = ["--data", os.path.join(directory, "embedded")] if options.backend == "lmdb" else []
        ours = start_embedded(options.server, data)
        stack.callback(ours.stop)
        for title, step in script.steps:
            expected, got = step(real), step(ours)
            if options.verbose:
                print(f"--- {title}\n{expected}")
            if expected == got:
                continue
            failed += 1
            print(f"DIFFERENT: {title}")
            print("\n".join(difflib.unified_diff(expected.splitlines(), got.splitlines(), "etcd",
                                                 "embedded", lineterm="")))
        extra = check_read_only(options.server)
        if options.backend == "lmdb":
            extra += check_reopen(options.server, directory)
        for failure in extra:
            print("WRONG:", failure)
        failed += len(extra)
    print(f"{len(script.steps)} steps, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
