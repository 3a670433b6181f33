"""scripts/bench dns: queries through the DNS policy proxy."""
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import time

from common import Processes, Skipped, table


def dns(bin_dir, folder):
    """Queries by UDP through the DNS policy proxy, dnsmasq and unbound as forwarders without a cache, in turn."""
    for program in ("dnsmasq", "unbound"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            raise Skipped(f"needs {program}")
    rounds, seconds, windows = int(os.environ.get("ROUNDS", 5)), 3, [1, 100]
    processes = Processes(folder)
    runs = {}

    def udp_port():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    def start(way, port, server):
        if way == "libmesh":
            return processes.start(way, bin_dir / "dns_test_proxy", "--quiet", "--port", port, "--server", "127.0.0.1",
                                   "--server-port", server, "--allow", "**.bench.example", cpu=0)
        if way == "dnsmasq":
            return processes.start(way, "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
                                   "--no-hosts", f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces",
                                   f"--server=127.0.0.1#{server}", "--cache-size=0", "--dns-forward-max=10000",
                                   f"--pid-file={folder}/dnsmasq.pid", "--user=root", cpu=0)
        config = pathlib.Path(folder) / "unbound.conf"
        config.write_text(f"""server:
  interface: 127.0.0.1@{port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/unbound.pid"
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  do-not-query-localhost: no
  module-config: "iterator"
  outgoing-range: 4096
  num-queries-per-thread: 4096
  so-rcvbuf: 4m
  edns-buffer-size: 1232
  local-zone: "example." nodefault
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{server}
  forward-no-cache: yes
remote-control:
  control-enable: no
""")
        return processes.start(way, "/usr/sbin/unbound", "-d", "-p", "-c", config, cpu=0)

    def wait_for(process, port, way):
        # A name that is not of the benchmark: refused, failed or not answered by the server, which is not there yet.
        query = bytes([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 120, 0, 0, 1, 0, 1])
        end = time.monotonic() + 20
        while time.monotonic() < end and process.poll() is None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(0.2)
                s.connect(("127.0.0.1", port))
                try:
                    s.send(query)
                    s.recv(512)
                    return
                except ConnectionRefusedError:
                    time.sleep(0.05)
                except TimeoutError:
                    return  # it listens
        raise RuntimeError(f"{way} did not come up:\n{(pathlib.Path(folder) / f'{way}.log').read_text()[-2000:]}")

    try:
        for _ in range(rounds):
            for way in ("direct", "libmesh", "dnsmasq", "unbound"):
                server, port = udp_port(), udp_port()
                process = None
                if way == "direct":
                    port = server
                else:
                    process = start(way, port, server)
                    wait_for(process, port, way)
                for window in windows:
                    done = subprocess.run(["taskset", "-c", "1", bin_dir / "dns_client", "--forwarder", str(port), "--server",
                                           str(server), "--pid", str(process.pid if process else 0), "--window",
                                           str(window), "--seconds", str(seconds)], capture_output=True, text=True,
                                          timeout=120)
                    if done.returncode != 0:
                        raise RuntimeError(f"{way}: {done.stderr}")
                    runs.setdefault(window, {}).setdefault(way, []).append(json.loads(done.stdout))
                if process:
                    processes.stop(process)
    finally:
        processes.stop_all()
    result = {}
    for window, of in runs.items():
        medians = {way: {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]}
                   for way, all_runs in of.items()}
        result[window] = {"medians": medians, "runs": of}
        print(f"\n  {window} queries under way, {rounds} rounds of {seconds} s in turn, the forwarder on one core")
        table(["", "queries/s", "queries/CPU s", "x dnsmasq", "x unbound", "p50 us", "p99 us", "lost"],
              [[way, f"{m['queries_per_second']:.0f}", f"{m['queries_per_cpu_second']:.0f}" if way != "direct" else "",
                *(f"{m['queries_per_cpu_second'] / max(1, medians[peer]['queries_per_cpu_second']):.2f}"
                  if way != "direct" else "" for peer in ("dnsmasq", "unbound")),
                f"{m['p50_us']:.0f}", f"{m['p99_us']:.0f}", f"{m['lost']:.0f}"] for way, m in medians.items()])
    return result
