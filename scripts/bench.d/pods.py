"""scripts/bench pods: TCP between pods of two nodes."""
import json
import os
import pathlib
import statistics
import subprocess

from common import goal, Skipped, table


class Ways:
    """Pairs of pods on two nodes, each pair behind another way: ours, and the kernel's own routing and VXLAN."""

    MTU = {"native": 1500, "tunnel": 1450}

    def __init__(self, bin_dir, folder):
        self.bin, self.folder = bin_dir, folder
        self.prefix = f"mb{os.getpid()}"
        self.sandboxes, self.servers = [], []

    def run(self, *command):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ip(self, netns, words):
        self.run("ip", "-n", f"{self.prefix}-{netns}", *words.split())

    def ours(self, mode, number):
        """A sandbox of two nodes with a pod on each."""
        name = f"{self.prefix}{mode[0]}"
        self.sandboxes.append(name)
        meshctl = [self.bin / "meshctl", "--root", self.folder]
        self.run(*meshctl, "sandbox", "create", "--name", name, "--cluster-id", number, "--nodes", 2, "--routing", mode,
                 "--pod-cidr", f"10.{200 + number}.0.0/16", "--service-cidr", f"10.{210 + number}.0.0/16")
        pods = "".join(f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: p{n}, namespace: default}}
spec:
  nodeName: node{n}
  containers: [{{name: p, image: sandbox, command: [sleep, infinity]}}]
""" for n in (1, 2))
        manifest = pathlib.Path(self.folder) / f"{mode}.yaml"
        manifest.write_text(pods)
        self.run(*meshctl, "sandbox", "apply", "--cluster", name, "-f", manifest)
        listed = json.loads(self.run(*meshctl, "sandbox", "pods", "--cluster", name, "-o", "json"))
        target = next(pod["ips"][0] for pod in listed if pod["name"] == "p2")
        self.run(*meshctl, "status", "--cluster", name, "--wait")
        return self.pair(f"mesh-{name}.node1.default.p1", f"mesh-{name}.node2.default.p2", target)

    def kernels(self, mode):
        """The same wires with plain routes, or a plain VXLAN device, and none of our programs."""
        at = mode[0]
        for netns in (f"{at}hub", f"{at}n1", f"{at}n2", f"{at}p1", f"{at}p2"):
            self.run("ip", "netns", "add", f"{self.prefix}-{netns}")
            self.ip(netns, "link set lo up")
        self.ip(f"{at}hub", "link add br0 type bridge")
        self.ip(f"{at}hub", "link set br0 up")
        for n in (1, 2):
            node, pod, other = f"{at}n{n}", f"{at}p{n}", 3 - n
            self.ip(f"{at}hub", f"link add v{n} mtu 1500 type veth peer name eth0 mtu 1500 netns {self.prefix}-{node}")
            self.ip(f"{at}hub", f"link set v{n} master br0 up")
            self.ip(node, "link set eth0 up")
            self.ip(node, f"addr add 10.231.0.{n}/24 dev eth0")
            self.run("ip", "netns", "exec", f"{self.prefix}-{node}", "sysctl", "-qw", "net.ipv4.ip_forward=1",
                     "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
            mtu = self.MTU[mode]
            self.ip(node, f"link add pod mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.prefix}-{pod}")
            self.ip(node, "link set pod up")
            self.ip(node, f"addr add 10.232.{n}.1/24 dev pod")
            self.ip(pod, "link set eth0 up")
            self.ip(pod, f"addr add 10.232.{n}.2/24 dev eth0")
            self.ip(pod, f"route add default via 10.232.{n}.1")
            if mode == "native":
                self.ip(node, f"route add 10.232.{other}.0/24 via 10.231.0.{other}")
            else:
                self.ip(node, f"link add vx mtu {mtu} type vxlan id 42 dstport 4789 dev eth0 remote 10.231.0.{other}")
                self.ip(node, "link set vx up")
                self.ip(node, f"addr add 10.233.0.{n}/24 dev vx")
                self.ip(node, f"route add 10.232.{other}.0/24 via 10.233.0.{other}")
        return self.pair(f"{self.prefix}-{at}p1", f"{self.prefix}-{at}p2", "10.232.2.2")

    def pair(self, client, server, target):
        traffic = self.bin / "pod_traffic"
        process = subprocess.Popen(["ip", "netns", "exec", server, traffic, "serve"], stdout=subprocess.PIPE, text=True)
        self.servers.append(process)
        process.stdout.readline()

        def measure(what, seconds, cpus):
            # Its threads for the next connections have those of the thread that accepts.
            for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)
            return float(self.run("ip", "netns", "exec", client, "taskset", "-c", ",".join(map(str, sorted(cpus))), traffic,
                                  what, target, seconds))
        return measure

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()
        for name in self.sandboxes:
            subprocess.run([self.bin / "meshctl", "--root", self.folder, "sandbox", "delete", name,
                            "--ignore-not-found"], capture_output=True)
        for netns in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
            if netns.startswith(self.prefix + "-"):
                subprocess.run(["ip", "netns", "delete", netns], capture_output=True)


def pods(bin_dir, folder):
    """Pod to pod between two nodes: ours against the kernel's own, in turn; medians of the pairs' ratios."""
    if os.geteuid() != 0:
        raise Skipped("needs root: network namespaces and BPF")
    result, rows = {}, []
    ways = Ways(bin_dir, folder)
    all_cpus = os.sched_getaffinity(0)
    one_cpu = {max(all_cpus)}
    kinds = (("bulk", "TCP throughput", all_cpus, 9, 0.8), ("bulk one", "..., both ends on one CPU", one_cpu, 9, 0.5),
             ("rr", "TCP request/response", all_cpus, 13, 0.3), ("rr one", "..., both ends on one CPU", one_cpu, 13, 0.3),
             ("crr", "TCP connect/request/response", all_cpus, 13, 0.3))
    try:
        for number, mode in enumerate(("native", "tunnel"), 1):
            mine, peer = ways.ours(mode, number), ways.kernels(mode)
            for kind, label, cpus, rounds, seconds in kinds:
                what = kind.split()[0]
                # One after the other; who is first takes turns.
                pairs = [(mine(what, seconds, cpus), peer(what, seconds, cpus)) if n % 2 == 0 else
                         (peer(what, seconds, cpus), mine(what, seconds, cpus))[::-1] for n in range(rounds)]
                if what == "bulk":
                    ratios, best = [a / b for a, b in pairs], max
                    show = lambda v: f"{v * 8 / 1e9:.2f} Gbit/s"
                else:
                    ratios, best = [b / a for a, b in pairs], min
                    show = lambda v: f"{v / 1e3:.2f} us"
                bests = [best(p[i] for p in pairs) for i in (0, 1)]
                of_bests = bests[0] / bests[1] if what == "bulk" else bests[1] / bests[0]
                rows.append([f"{mode}: {label}", *map(show, bests), f"{of_bests:.3f}", f"{statistics.median(ratios):.3f}"])
                result[f"{mode} {kind}"] = {"ours": [p[0] for p in pairs], "peer": [p[1] for p in pairs],
                                            "ratio": statistics.median(ratios), "ratio_of_bests": of_bests}
        print("\n  pod to pod, two nodes, cubic, in turn; peer: the kernel's routing or VXLAN alone; the best round of each "
              "(times: of\n  the median requests) and how they compare, and the median of the pairs")
        table(["", "ours", "kernel alone", "speed x peer", "median of pairs"], rows)
        ratio = {name: r["ratio"] for name, r in result.items()}
        for mode, name in (("native", "plain veth routing"), ("tunnel", "the kernel's VXLAN")):
            goal(f"{mode}: 95% of the throughput of {name} ({ratio[f'{mode} bulk']:.2f}; by one CPU "
                 f"{ratio[f'{mode} bulk one']:.2f})", ratio[f"{mode} bulk"] >= 0.95)
            goal(f"{mode}: at most 5% more latency ({1 / ratio[f'{mode} rr'] - 1:+.1%}; by one CPU "
                 f"{1 / ratio[f'{mode} rr one'] - 1:+.1%}; with connect {1 / ratio[f'{mode} crr'] - 1:+.1%})",
                 ratio[f"{mode} rr"] >= 1 / 1.05)
        return result
    finally:
        ways.close()
