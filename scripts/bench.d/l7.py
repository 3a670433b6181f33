"""The HTTP policy proxy beside nginx and haproxy as plain reverse proxies, in turn on the same core; server and load have the other.

Requests per second of the proxy's CPU come from a load that keeps it busy, the added latency from one that does not."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time

from common import goal, Skipped, table

PROXY_CPU, LOAD_CPU = 0, 1
BODY = "x" * 1024


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def nginx_paths(folder):
    return "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


class Ways:
    """Starts each way to the server when it is measured, and stops it after."""

    def __init__(self, bin_dir, folder):
        self.bin, self.folder = bin_dir, pathlib.Path(folder)
        os.chmod(self.folder, 0o755)
        self.server, self.server2 = free_port(), free_port()
        self.upstream = None

    def open(self):
        config = self.folder / "server.conf"
        config.write_text(f"""daemon off; worker_processes 1; error_log stderr error; pid {self.folder}/server.pid;
events {{ worker_connections 4096; }}
http {{ access_log off; {nginx_paths(self.folder)} keepalive_requests 1000000000;
  server {{ listen 127.0.0.1:{self.server}; listen 127.0.0.1:{self.server2} http2; location / {{ return 200 "{BODY}"; }} }} }}
""")
        self.upstream = self.start(LOAD_CPU, self.server, "nginx", "-p", self.folder, "-c", config)

    def start(self, cpu, port, *command):
        log = open(self.folder / f"{pathlib.Path(str(command[0])).name}.log", "a")
        process = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, command)], stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{command[0]} did not come up: {pathlib.Path(log.name).read_text()[-1000:]}")

    def nginx(self, port, log):
        config = self.folder / "nginx.conf"
        access = f"access_log {self.folder}/nginx.access combined buffer=32k flush=1s" if log else "access_log off"
        config.write_text(f"""daemon off; worker_processes 1; error_log stderr error; pid {self.folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{ {access}; {nginx_paths(self.folder)} keepalive_requests 1000000000;
  upstream u {{ server 127.0.0.1:{self.server}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; }} }} }}
""")
        return ["nginx", "-p", self.folder, "-c", config]

    def haproxy(self, port, http2):
        config = self.folder / "haproxy.conf"
        proto = " proto h2" if http2 else ""
        config.write_text(f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}{proto}
  default_backend b
backend b
  server s 127.0.0.1:{self.server2 if http2 else self.server}{proto}
""")
        return ["haproxy", "-db", "-f", config]

    def ours(self, port, http2, rules, log):
        file = self.folder / "rules.json"
        file.write_text(json.dumps({"rules": rules}))
        return [self.bin / "l7_proxy", "--listen", f"127.0.0.1:{port}", "--upstream",
                f"127.0.0.1:{self.server2 if http2 else self.server}", "--rules", file, "--recent", 0,
                *(["--access-log", self.folder / "ours.access"] if log else [])]

    def run(self, command, measure):
        """measure(port, pid or None)"""
        if command is None:
            return measure(None, None)
        port = free_port()
        process = self.start(PROXY_CPU, port, *command(port))
        try:
            return measure(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self):
        if self.upstream:
            self.upstream.terminate()
            self.upstream.wait()


def cpu_seconds(pid):
    """Of a process and its children."""
    pids, total = [pid], 0
    while pids:
        one = pids.pop()
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
        for task in pathlib.Path(f"/proc/{one}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
    return total / os.sysconf("SC_CLK_TCK")


def micros(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def wrk(port, connections, seconds):
    out = subprocess.run(["taskset", "-c", str(LOAD_CPU), "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s",
                          "--latency", f"http://127.0.0.1:{port}/api/v1/items?page=2"], capture_output=True, text=True,
                         check=True, timeout=seconds + 60).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"wrk: {out}")
    latency = {p: micros(re.search(rf"^\s+{p}%\s+(\S+)", out, re.M).group(1)) for p in (50, 99)}
    return int(re.search(r"(\d+) requests in", out).group(1)), latency


def h2load(port, connections, seconds):
    out = subprocess.run(["taskset", "-c", str(LOAD_CPU), "h2load", "-c", str(connections), "-m", "16", "-D", str(seconds),
                          f"http://127.0.0.1:{port}/api/v1/items?page=2"], capture_output=True, text=True, check=True,
                         timeout=seconds + 60).stdout
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", out).groups()
    if int(counts[2]):
        raise RuntimeError(f"h2load: {out}")
    return int(counts[1]), None


RULES = [{"method": "GET", "path": "/api/v[0-9]+/items.*"}]
MANY = [{"method": "GET|HEAD", "path": f"/service{n}/[a-z]+/.*", "host": "127\\.0\\.0\\.1:[0-9]+"} for n in range(49)] + RULES


def l7(bin_dir, folder):
    missing = [name for name in ("nginx", "haproxy", "wrk", "h2load") if not shutil.which(name)]
    if missing or (os.cpu_count() or 1) < 2:
        raise Skipped(f"needs two CPUs and {', '.join(missing) or 'nothing else'}")
    seconds, rounds = int(os.environ.get("MESH_BENCH_SECONDS", "3")), int(os.environ.get("MESH_BENCH_ROUNDS", "3"))
    ways = Ways(bin_dir, folder)
    http1 = {"direct": None,
             "nginx": lambda port: ways.nginx(port, False),
             "haproxy": lambda port: ways.haproxy(port, False),
             "ours, 1 rule": lambda port: ways.ours(port, False, RULES, False),
             "ours, 50 rules, the last allows": lambda port: ways.ours(port, False, MANY, False),
             "nginx, access log": lambda port: ways.nginx(port, True),
             "ours, 1 rule, access log": lambda port: ways.ours(port, False, RULES, True)}
    http2 = {"direct": None,
             "haproxy": lambda port: ways.haproxy(port, True),
             "ours, 1 rule": lambda port: ways.ours(port, True, RULES, False)}
    samples = {"http1": {name: [] for name in http1}, "http2": {name: [] for name in http2}}

    def loaded(load, server):
        def measure(port, pid):
            target = port or server
            load(target, 64 if load is wrk else 8, 1)
            cpu = cpu_seconds(pid) if pid else 0
            begin = time.monotonic()
            requests, _ = load(target, 64 if load is wrk else 8, seconds)
            sample = {"per_second": requests / (time.monotonic() - begin)}
            if pid:
                sample["per_cpu_second"] = requests / max(cpu_seconds(pid) - cpu, 0.01)
            if load is wrk:
                _, latency = wrk(target, 4, seconds)
                sample.update(p50_us=latency[50], p99_us=latency[99])
            return sample
        return measure
    try:
        ways.open()
        for _ in range(rounds):
            for name, command in http1.items():
                samples["http1"][name].append(ways.run(command, loaded(wrk, ways.server)))
            for name, command in http2.items():
                samples["http2"][name].append(ways.run(command, loaded(h2load, ways.server2)))
    finally:
        ways.close()
    medians = {kind: {name: {key: statistics.median(one[key] for one in of) for key in of[0]} for name, of in by_name.items()}
               for kind, by_name in samples.items()}
    one, two = medians["http1"], medians["http2"]
    base = one["nginx"]["per_cpu_second"]
    print(f"\n  HTTP/1.1, keep-alive, 1 KiB answers; medians of {rounds} rounds of {seconds} s; one core each for the proxy and for "
          "load and server")
    table(["proxy", "requests/s", "requests/CPU s", "x nginx", "added p50 us", "added p99 us"],
          [[name, f"{m['per_second']:,.0f}", f"{m.get('per_cpu_second', 0):,.0f}" if "per_cpu_second" in m else "",
            f"{m['per_cpu_second'] / base:.2f}" if "per_cpu_second" in m else "",
            f"{m['p50_us'] - one['direct']['p50_us']:.0f}", f"{m['p99_us'] - one['direct']['p99_us']:.0f}"]
           for name, m in one.items()])
    print("\n  HTTP/2 on both sides, 8 connections of 16 streams")
    table(["proxy", "requests/s", "requests/CPU s", "x haproxy"],
          [[name, f"{m['per_second']:,.0f}", f"{m['per_cpu_second']:,.0f}" if "per_cpu_second" in m else "",
            f"{m['per_cpu_second'] / two['haproxy']['per_cpu_second']:.2f}" if "per_cpu_second" in m else ""]
           for name, m in two.items()])
    ratio = one["ours, 1 rule"]["per_cpu_second"] / base
    goal(f"requests per CPU second at least nginx's ({ratio:.2f} times)", ratio >= 1)
    return {"medians": medians, "samples": samples}
