"""scripts/bench connects: connections through services."""
import json
import os
import pathlib
import shutil
import statistics
import subprocess

from common import cgroup2_root, goal, Skipped, table


class Connects:
    """A server with ten addresses and clients beside it: one with our programs on its cgroup, others with nftables."""

    NFT = """table ip bench {
  map services { type ipv4_addr . inet_proto . inet_service : verdict; %(elements)s }
  chain endpoints {
    meta l4proto tcp dnat ip addr . port to numgen random mod 10 map { %(backends)s };
  }
  chain out { type nat hook output priority -100; policy accept;
%(rules)s
  }
}
"""

    def __init__(self, bin_dir, cgroup):
        self.client = bin_dir / "connect_client"
        self.prefix = f"mc{os.getpid()}"
        self.cgroup, self.pin = cgroup / f"mesh-{self.prefix}", f"mesh-{self.prefix}"
        self.server = None

    def run(self, *command, stdin=None):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, input=stdin, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ip(self, netns, words):
        self.run("ip", "-n", f"{self.prefix}-{netns}", *words.split())

    def within(self, netns, *command, stdin=None):
        # Not by ip netns exec, which hides the host's cgroups and BPF file system.
        return self.run("nsenter", f"--net=/run/netns/{self.prefix}-{netns}", *command, stdin=stdin)

    def open(self, clients):
        self.cgroup.mkdir()
        self.run("ip", "netns", "add", f"{self.prefix}-server")
        self.ip("server", "link set lo up")
        for n in range(1, 11):
            self.ip("server", f"addr add 10.10.0.{n}/32 dev lo")
        for n, name in enumerate(clients, 1):
            self.run("ip", "netns", "add", f"{self.prefix}-{name}")
            self.ip(name, "link set lo up")
            self.ip("server", f"link add c{n} type veth peer name eth0 netns {self.prefix}-{name}")
            for netns, device, last in (("server", f"c{n}", 1), (name, "eth0", 2)):
                self.ip(netns, f"link set {device} up")
                self.ip(netns, f"addr add 172.31.{n}.{last}/24 dev {device}")
            self.ip(name, f"route add default via 172.31.{n}.1")
            # Connections end with a reset; what conntrack keeps of them must not add up.
            self.within(name, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_close=1")
        self.server = subprocess.Popen(["ip", "netns", "exec", f"{self.prefix}-server", self.client, "serve"],
                                       stdout=subprocess.PIPE, text=True)
        if self.server.stdout.readline() != "ready\n":
            raise RuntimeError("the server did not come up")

    def addresses(self, services):
        return [f"10.96.{n >> 8 & 255}.{n & 255}" for n in range(1, services + 1)]

    def nft(self, netns, services, mapped):
        backends = ", ".join(f"{n} : 10.10.0.{n + 1} . 8080" for n in range(10))
        elements = ", ".join(f"{a} . tcp . 80 : goto endpoints" for a in self.addresses(services))
        rules = "\n".join(["ip daddr . ip protocol . th dport vmap @services"] if mapped else
                          [f"ip daddr {a} tcp dport 80 goto endpoints" for a in self.addresses(services)])
        self.within(netns, "nft", "-f", "-", stdin="flush ruleset\n" + self.NFT % {
            "elements": f"elements = {{ {elements} }};" if mapped else "", "backends": backends, "rules": rules})

    def ipvs(self, netns, services):
        lines = []
        for address in self.addresses(services):
            lines.append(f"-A -t {address}:80 -s rr")
            lines += [f"-a -t {address}:80 -r 10.10.0.{n}:8080 -m" for n in range(1, 11)]
        self.within(netns, "ipvsadm", "-C")
        self.within(netns, "ipvsadm", "-R", stdin="\n".join(lines) + "\n")

    def ours(self, mode, services=1, **more):
        where = {"cgroup": self.cgroup, "pin": self.pin, "services": services, **more}
        return self.within("plain", self.client, mode, *(f"--{name}={value}" for name, value in where.items()))

    def close(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        if self.cgroup.exists():
            subprocess.run([self.client, "teardown", f"--cgroup={self.cgroup}", f"--pin={self.pin}"], capture_output=True)
            self.cgroup.rmdir()
        for netns in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
            if netns.startswith(self.prefix + "-"):
                subprocess.run(["ip", "netns", "delete", netns], capture_output=True)


def connects(bin_dir, folder):
    """New connections a second: to a backend by its address, through our services, through nftables and IPVS."""
    cgroup = cgroup2_root()
    if os.geteuid() != 0 or cgroup is None:
        raise Skipped("needs root and a cgroup v2 hierarchy, for BPF programs in a cgroup of their own")
    if not shutil.which("nft"):
        raise Skipped("needs nft (Debian package nftables)")
    rounds, seconds, counts = 7, 0.3, (1, 1_000, 10_000)
    has_ipvs = pathlib.Path("/proc/net/ip_vs").exists() and shutil.which("ipvsadm")
    peers = ["nft-map", "nft-rules"] + (["ipvs"] if has_ipvs else [])
    if not has_ipvs:
        print("  NOTE: IPVS is not measured: this kernel has none (CONFIG_IP_VS), or ipvsadm is not installed")
    place, result, rows, costs = Connects(bin_dir, cgroup), {}, [], {}
    try:
        place.open(["plain", *peers])
        for services in counts:
            place.ours("program", services)
            for peer in peers:
                if peer == "ipvs":
                    place.ipvs(peer, services)
                else:
                    place.nft(peer, services, peer == "nft-map")
            ways = {("", "direct"): lambda: place.within("plain", place.client, "direct", f"--seconds={seconds}")}
            # To one of them, in the middle, and to any of them: the latter misses the CPU's caches.
            for which, few in (("one", {"from": services // 2, "services": 1}), ("any", {"services": services})):
                if services == 1 and which == "any":
                    continue
                ways[which, "libmesh"] = lambda few=few: place.ours("services", seconds=seconds, **few)
                words = [f"--{name}={value}" for name, value in few.items()] + [f"--seconds={seconds}"]
                for p in peers:
                    ways[which, p] = lambda p=p, words=words: place.within(p, place.client, "services", *words)
            runs = {way: [] for way in ways}
            for _ in range(rounds):  # in turn
                for way, measure in ways.items():
                    runs[way].append(float(measure()))
            of = result[services] = {"connects_per_second": {" ".join(way): r for way, r in runs.items()}}
            of["over_direct"] = {" ".join(way): statistics.median(a / b for a, b in zip(r, runs["", "direct"]))
                                 for way, r in runs.items()}
            # The kernel's run time statistics: what the programs themselves cost.
            of["program_ns"] = {"one": json.loads(place.ours("cost", 1, seconds=1, **{"from": services // 2})),
                                "any": json.loads(place.ours("cost", services, seconds=1))}
            for (which, name), r in runs.items():
                beside = runs[which, "libmesh"] if which else runs["one", "libmesh"]
                rows.append([f"{services:,}", name, which, f"{statistics.median(r):,.0f}",
                             f"{of['over_direct'][f'{which} {name}']:.3f}",
                             f"{statistics.median(a / b for a, b in zip(beside, r)):.2f}"])
    finally:
        place.close()
    print(f"\n  TCP connects through global services of 10 backends in 2 clusters, {rounds} rounds of {seconds} s in turn, "
          "medians")
    table(["services", "way", "to which", "connects/s", "x direct", "libmesh x this"], rows)
    print("\n  ns per run of each program (kernel.bpf_stats_enabled; with the statistics' own clock), best of 10")
    columns = [(n, which) for n in counts for which in ("one", "any") if n > 1 or which == "one"]
    names = sorted({name for n in counts for cost in result[n]["program_ns"].values() for name in cost})
    table(["program", *(f"{which} of {n:,}" for n, which in columns)],
          [[name, *(f"{result[n]['program_ns'][which][name]['ns']:.0f}" if name in result[n]["program_ns"][which] else ""
                    for n, which in columns)] for name in names])
    first, last = (result[n]["over_direct"]["one libmesh"] for n in (counts[0], counts[-1]))
    goal(f"to one of 10,000 services as many connects, beside direct ones, as to the only one ({last:.3f} and {first:.3f}), "
         "within 5%", last >= 0.95 * first)
    return result
