"""scripts/bench scale: a large mesh, from its announcement to the kernel."""
import json
import os
import pathlib
import shutil
import subprocess
import time

from common import cgroup2_root, goal, memory_of, NetnsProcesses, output_of, Skipped, start_etcd, start_proxy, table, Tls


def maps_of(pid):
    """The BPF maps that a process holds: name → (id, bytes, entries that there is room for)."""
    names = {m["id"]: m.get("name", "") for m in json.loads(subprocess.run(["bpftool", "-j", "map", "show"],
                                                                         capture_output=True, text=True, check=True).stdout)}
    maps = {}
    for file in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if "map_id" in fields:
            number = int(fields["map_id"])
            maps[names.get(number) or f"id {number}"] = (number, int(fields["memlock"]), int(fields["max_entries"]))
    return maps


class Scale:
    """A node in a network namespace of its own, and beside it the etcds and proxies of all clusters."""

    def __init__(self, bin_dir, folder, cgroup, clusters):
        self.bin, self.folder, self.clusters = bin_dir, pathlib.Path(folder), clusters
        self.name = f"mesh-bs{os.getpid()}"
        self.cgroup, self.pins = cgroup / self.name, pathlib.Path("/sys/fs/bpf") / self.name
        self.processes = NetnsProcesses(folder, self.name)
        self.agent = None

    def ip(self, words):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    def open(self):
        self.cgroup.mkdir()
        self.ip(f"netns add {self.name}")
        self.ip(f"-n {self.name} link set lo up")
        self.ip(f"-n {self.name} link add eth0 type veth peer name eth1")
        for words in ("link set eth0 up", "link set eth1 up", "addr add 172.16.0.1/16 dev eth0"):
            self.ip(f"-n {self.name} {words}")
        tls = Tls(self.folder)
        server, remote = tls.issue("server"), tls.issue("remote-cluster1")
        self.etcds, remotes = [], self.folder / "remotes"
        remotes.mkdir()
        for cluster in range(1, self.clusters + 1):
            _, port = start_etcd(self.processes, self.folder)
            self.etcds.append(port)
            config = self.folder / f"etcd{cluster}.yaml"
            config.write_text(f"endpoints:\n- http://127.0.0.1:{port}\n")
            if cluster == 1:
                continue
            _, port, _ = start_proxy(self.processes, self.bin, tls, server, f"cluster{cluster}", cluster, "--etcd-config",
                                     config)
            (remotes / f"cluster{cluster}").write_text(
                f"endpoints:\n- https://127.0.0.1:{port}\ntrusted-ca-file: {tls.ca}\ncert-file: {remote[0]}\n"
                f"key-file: {remote[1]}\n")

    def start_agent(self):
        self.agent = self.processes.start(
            "mesh-agent", self.bin / "mesh-agent", "--cluster-name", "cluster1", "--cluster-id", 1, "--node-name", "node-0",
            "--etcd-config", self.folder / "etcd1.yaml", "--clustermesh-config", self.folder / "remotes", "--datapath", "bpf",
            "--cgroup", self.cgroup, "--bpf-pin", self.name, "--routing-mode", "tunnel", "--log-level", "warn",
            "--status-socket", self.folder / "agent.sock")

    def stop_agent(self, forget):
        self.processes.stop(self.agent)
        self.agent = None
        if forget:
            for pins in (self.pins, pathlib.Path(f"{self.pins}_pods")):
                shutil.rmtree(pins, ignore_errors=True)

    def status(self):
        done = subprocess.run(["curl", "-sSm5", "--unix-socket", self.folder / "agent.sock", "http://agent/v1/status"],
                              capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_status(self, what, condition):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if (status := self.status()) and condition(status):
                return status
            time.sleep(0.01)
        raise RuntimeError(f"{what}: not within 60 s: {(self.folder / 'mesh-agent.log').read_text()[-2000:]}")

    def client(self, mode, words):
        return [*self.processes.enter, self.bin / "scale_client", mode, *words]

    def close(self):
        self.processes.stop_all()
        for pins in (self.pins, pathlib.Path(f"{self.pins}_pods")):
            shutil.rmtree(pins, ignore_errors=True)
        if self.cgroup.exists():
            self.cgroup.rmdir()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)


def scale(bin_dir, folder):
    """200 nodes x 4 clusters into real etcds and proxies, and a node that follows; other sizes by the environment:
    SCALE="--nodes 500 --pods 100 --services 5000"."""
    cgroup = cgroup2_root()
    if os.geteuid() != 0 or cgroup is None:
        raise Skipped("needs root and a cgroup v2 hierarchy: the datapath of the kernel")
    size = os.environ.get("SCALE", "").split()
    clusters = int(size[size.index("--clusters") + 1]) if "--clusters" in size else 4
    place, result = Scale(bin_dir, folder, cgroup, clusters), {}
    maps = ["--maps", place.pins]
    try:
        place.open()
        etcds = [word for port in place.etcds for word in ("--etcd", f"127.0.0.1:{port}")]
        subprocess.run(list(map(str, place.client("open", [*etcds, "--clusters", clusters]))), check=True, capture_output=True)
        place.start_agent()
        place.wait_status("an agent that follows", lambda status: status["ready"] and status["synced"])
        followed = result["followed"] = output_of("followed", place.client("run", [*etcds, *maps, *size]))
        place.wait_status("ready", lambda status: status["ready"] and status["synced"])
        result["maps"] = maps_of(place.agent.pid)
        result["agent_mib"] = {"now": memory_of(place.agent.pid, "VmRSS:"), "peak": memory_of(place.agent.pid, "VmHWM:")}
        occupancy = place.status()["pods"]
        cold = []
        for forget in (True, False):
            place.stop_agent(forget)
            begin = time.monotonic()
            waiting = subprocess.Popen(list(map(str, place.client("wait", [*maps, *size]))), stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            waiting.stderr.readline()
            begin = time.monotonic()
            place.start_agent()
            out, errors = waiting.communicate(timeout=180)
            if waiting.returncode != 0:
                raise RuntimeError(errors)
            place.wait_status("ready", lambda status: status["ready"] and status["synced"])
            cold.append({"program_seconds": json.loads(out)["program_seconds"], "ready_seconds": time.monotonic() - begin})
        result["cold"], result["restarted"] = cold
    finally:
        place.close()
    announced, programmed = followed["announce_seconds"], followed["program_seconds"]
    print(f"\n  {clusters} clusters, {followed['keys']:,} keys ({followed['bytes'] / 1e6:.1f} MB) in their etcds; "
          f"{occupancy['ipcache']:,} rows in the ipcache, {followed['rows']:,} of them looked for, services with all backends "
          "among them")
    table(["until the last row is in the kernel", "seconds", "x announcing", "rows/s"],
          [["all keys put into the etcds (the peer)", f"{announced:.2f}", "1.00", ""],
           ["from the first key, with an agent that follows", f"{programmed:.2f}", f"{programmed / announced:.2f}",
            f"{followed['rows'] / programmed:,.0f}"],
           ["from the start of an agent, all announced", f"{result['cold']['program_seconds']:.2f}",
            f"{result['cold']['program_seconds'] / announced:.2f}",
            f"{followed['rows'] / result['cold']['program_seconds']:,.0f}"],
           ["agent restarted, its rows adopted: until ready", f"{result['restarted']['ready_seconds']:.2f}",
            f"{result['restarted']['ready_seconds'] / announced:.2f}", ""]])
    rows = sorted(result["maps"].items(), key=lambda item: -item[1][1])
    print(f"\n  memory: agent {result['agent_mib']['now']:.1f} MiB (peak {result['agent_mib']['peak']:.1f}); its maps "
          f"{sum(m[1] for m in result['maps'].values()) / 2**20:.1f} MiB")
    table(["map", "MiB", "room for entries"], [[name, f"{m[1] / 2**20:.2f}", f"{m[2]:,}"] for name, m in rows if m[1] >= 1 << 14])
    used = result["maps"]["ipcache"][1] / max(occupancy["ipcache"], 1)
    print(f"  ipcache: {used:.0f} bytes of memory for each of its rows of 48")
    goal(f"the last row within a second of the last key ({programmed - announced:.2f} s)", programmed - announced <= 1)
