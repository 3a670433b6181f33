"""Ways in which parts of a sandboxed cluster die, and clients that see it. Also used by benchmarks/failover."""
import json
import os
import pathlib
import signal
import subprocess

# Holds a connection to one pod of a service, and says what becomes of it. Each line of output is one word or a number.
# wait: nothing is sent any more, an error is waited for. ask: a request is sent that is answered after `delay` ms.
HOLD = """
import errno, http.client, json, sys, time
what, pod, host, port, delay = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
for _ in range(1000):
    c = http.client.HTTPConnection(host, port, timeout=3)
    try:
        c.request("GET", "/")
        if json.loads(c.getresponse().read())["server"].rpartition(":")[0] == pod:
            break
    except OSError:
        pass
    c.close()
else:
    sys.exit("no connection to " + pod)
c.sock.settimeout(None)
if what == "ask":
    c.request("GET", "/?delay=%d" % delay)
print("connected", flush=True)
try:
    if what == "ask":
        word = json.loads(c.getresponse().read())["server"].rpartition(":")[0]
    else:
        word = "data" if c.sock.recv(1) else "closed"
except OSError as e:
    word = errno.errorcode.get(e.errno, type(e).__name__)
print(word, time.monotonic(), flush=True)
"""


class HeldConnection:
    """A TCP connection of a pod to one pod of a service, chosen by its address: names repeat between clusters."""

    def __init__(self, cluster, frontend, pod, what="wait", delay=0, client="shop/client"):
        command = cluster.exec_command(client, "/usr/bin/python3", "-u", "-c", HOLD, what, pod["ips"][0],
                                       frontend["address"], str(frontend["port"]), str(delay))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if (line := self.process.stdout.readline()) != "connected\n":
            raise AssertionError(f"no connection to {pod['name']}: {line!r}")

    def fate(self, seconds):
        """What became of it and when (monotonic), or None while nothing did."""
        try:
            out, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        word, at = out.split()
        return word, float(at)

    def close(self):
        self.process.kill()
        self.process.communicate()


def cgroup_root():
    with open("/proc/self/mounts") as mounts:
        return next(pathlib.Path(line.split()[1]) for line in mounts if line.split()[2] == "cgroup2")


def processes(folder):
    """All of a cgroup and those below."""
    found = []
    for file in folder.rglob("cgroup.procs"):
        try:
            found += [int(pid) for pid in file.read_text().split()]
        except OSError:
            pass
    return found


def signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def pod_cgroup(cluster, pod):
    return cgroup_root() / f"mesh-{cluster.name}.{pod['node']}" / f"pod.shop.{pod['name']}"


def signal_pod(cluster, pod, number):
    signal_all(processes(pod_cgroup(cluster, pod)), number)


def pod_link(cluster, pod, state):
    """The pod's end of its link: down loses all that comes, silently."""
    set_links(f"mesh-{cluster.name}.{pod['node']}.shop.{pod['name']}", "", state)


def set_links(netns, prefix, state):
    links = json.loads(subprocess.run(["ip", "-n", netns, "-j", "link"], capture_output=True, text=True,
                                      check=True).stdout)
    for link in links:
        if link["ifname"] != "lo" and link["ifname"].startswith(prefix):
            subprocess.run(["ip", "-n", netns, "link", "set", link["ifname"], state], check=True)


def underlay_port(cluster, node):
    """The bridge's end of a node's wire: of the device with the route to the underlay's /15."""
    netns = f"mesh-{cluster.name}.{node}"
    show = lambda where, *words: json.loads(subprocess.run(["ip", "-n", where, "-j", *words], capture_output=True,
                                                           text=True, check=True).stdout)
    device = next(r["dev"] for r in show(netns, "route") if r["dst"].endswith("/15"))
    index = next(link["link_index"] for link in show(netns, "link") if link["ifname"] == device)
    return next(link["ifname"] for link in show("mesh-underlay", "link") if link["ifindex"] == index)


def set_wire(cluster, node, state):
    subprocess.run(["ip", "-n", "mesh-underlay", "link", "set", underlay_port(cluster, node), state], check=True)


def kill_node(cluster, node):
    """As by its power switch: the wire first, so that nobody hears of the rest."""
    set_wire(cluster, node, "down")
    folder = cgroup_root() / f"mesh-{cluster.name}.{node}"
    # Supervisors would tell the cluster of the pods' ends, which a node that is gone does not.
    signal_all(processes(folder / "supervisors"), signal.SIGKILL)
    signal_all(processes(folder), signal.SIGKILL)


def set_agent_flags(cluster, flags):
    """Restarts the agents with these flags besides what the sandbox gives them: {flag: value}."""
    cluster.kill("mesh-agent")
    file = cluster.folder / "state.json"
    state = json.loads(file.read_text())
    for daemon in state["daemons"]:
        if daemon["name"] != "mesh-agent":
            continue
        for flag, value in flags.items():
            argv = daemon["argv"]
            if flag in argv:
                argv[argv.index(flag) + 1] = value
            else:
                argv += [flag, value]
    file.write_text(json.dumps(state))
    cluster.start("mesh-agent")
