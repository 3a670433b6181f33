"""The clusters of the policy suite: pods and nodes that ask, all that can be asked, and who they are to policy."""
import itertools
import json
import pathlib
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import Cluster, wait_for  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PODS = ("shop/web", "ops/db", "shop/client", "ops/client")
ASKING_HOSTS = ("a/node1", "a/node2", "b/node1", "out/node1")
FAMILIES = (4, 6)
WORLD = {4: "reserved:world-ipv4=", 6: "reserved:world-ipv6="}


def manifest(name, **fields):
    return (HERE / "manifests" / name).read_text() % fields


def addresses_of(netns):
    """The addresses of a node on its wire, by family."""
    links = json.loads(subprocess.run(["ip", "-n", netns, "-j", "address", "show", "eth0"], capture_output=True, text=True,
                                      check=True).stdout)
    return {6 if ":" in a["local"] else 4: a["local"] for a in links[0]["addr_info"] if a["scope"] == "global"}


class Place:
    """Who asks or is asked: a pod ("a/shop/web"), a node ("a/node1") or a host outside ("out/node1")."""

    def __init__(self, letter, name, node, addresses, pod=None):
        self.letter, self.node, self.addresses, self.pod = letter, node, addresses, pod
        self.name = f"{letter}/{name}"
        self.labels = None  # of a pod: as the cluster's etcd has them
        self.ports = []

    @property
    def outside(self):
        return self.letter == "out"

    def identity(self, family, to):
        """Who this is, over that family, to policies of pods on the node of `to`."""
        if self.pod:
            return {"labels": self.labels, "ports": self.ports}
        if self.outside:
            return {"labels": [WORLD[family]], "cidr": f"{self.addresses[family]}/{32 if family == 4 else 128}"}
        here = (self.letter, self.node) == (to.letter, to.node)
        return {"labels": ["reserved:host=" if here else "reserved:remote-node="]}


class Runner:
    """runner.py in a place, for as long as the suite runs."""

    def __init__(self, cluster, where):
        command = cluster.exec_command(where, "/usr/bin/python3", "-u", str(HERE / "runner.py"))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, probes, timeout):
        self.process.stdin.write(json.dumps({"timeout": timeout, "probes": probes}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.communicate()


class World:
    def __init__(self, bin_dir, root, prefix, letters, routing):
        self.letters = letters
        self.clusters = {}
        for number, letter in enumerate(letters):
            self.clusters[letter] = Cluster(bin_dir, root, prefix + letter, 41 + number, "embedded",
                                            inherit=self.clusters.get("a"))
        self.out = Cluster(bin_dir, root, prefix + "o", 41 + len(letters), "embedded")
        self.routing = routing
        self.places, self.runners, self.background = {}, {}, []
        self.own_flags, self.argv = {}, {}

    # -- life

    def create(self):
        for cluster in self.clusters.values():
            cluster.create("--routing", self.routing)
        self.out.create("--no-daemons")
        self.find_outside()
        # To the first of the hosts outside, which have routes to the pods, these are known by their own addresses; to the
        # second by their nodes'.
        first = self.places["out/node1"].addresses
        for cluster in self.clusters.values():
            self.own_flags[cluster.name] = ["--non-masquerade-cidr", f"{first[4]}/32", "--non-masquerade-cidr",
                                            f"{first[6]}/128"]
            self.set_flags(cluster, [])
        for one, other in itertools.combinations(self.clusters.values(), 2):
            one.meshctl("clustermesh", "connect", "--cluster", one.name, "--to", other.name)
        for letter, cluster in self.clusters.items():
            cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=manifest("pods.yaml"))
        self.find_places()
        for letter, cluster in self.clusters.items():
            for of in self.letters:
                text = manifest("service.yaml", letter=of, app="web" if of == letter else f"web-of-{of}")
                cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=text)
            text = manifest("outside.yaml", address=self.places["out/node1"].addresses[4])
            cluster.meshctl("sandbox", "apply", "--cluster", cluster.name, "-f", "-", input=text)
        for cluster in self.clusters.values():
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        self.serve()
        self.find_identities()
        for name, place in self.places.items():
            cluster = self.cluster_of(place)
            if place.name in ASKING_HOSTS or place.pod in ("shop/client", "ops/client"):
                self.runners[name] = Runner(cluster, place.pod or place.node)
        self.route_outside()
        for cluster in self.clusters.values():
            for letter in self.letters:
                for family in FAMILIES:
                    wait_for(f"{cluster.name}: web-{letter} has its backend",
                             lambda: cluster.used(f"web-{letter}", "http", family) == {self.clusters[letter].name: 1})

    def set_flags(self, cluster, flags):
        """Restarts the cluster's agents with these flags besides what the sandbox and the suite give them."""
        cluster.kill("mesh-agent")
        file = cluster.folder / "state.json"
        state = json.loads(file.read_text())
        for daemon in state["daemons"]:
            if daemon["name"] == "mesh-agent":
                given = self.argv.setdefault((cluster.name, daemon["node"]), list(daemon["argv"]))
                daemon["argv"] = given + self.own_flags[cluster.name] + flags
        file.write_text(json.dumps(state))
        cluster.start("mesh-agent")

    def delete(self):
        for runner in self.runners.values():
            runner.close()
        for process in self.background:
            process.kill()
            process.communicate()
        for cluster in (*self.clusters.values(), self.out):
            cluster.delete()
        return [name for cluster in (*self.clusters.values(), self.out) for name in cluster.leftovers()]

    def cluster_of(self, place):
        return self.out if place.outside else self.clusters[place.letter]

    # -- what there is

    def find_places(self):
        for letter, cluster in self.clusters.items():
            pods = {f'{row["namespace"]}/{row["name"]}': row for row in cluster.json("sandbox", "pods")}
            for pod in PODS:
                ips = {6 if ":" in ip else 4: ip for ip in pods[pod]["ips"]}
                self.add(Place(letter, pod, pods[pod]["node"], ips, pod))
            for node in ("node1", "node2"):
                self.add(Place(letter, node, node, addresses_of(f"mesh-{cluster.name}.{node}")))

    def find_outside(self):
        for node in ("node1", "node2"):
            self.add(Place("out", node, node, addresses_of(f"mesh-{self.out.name}.{node}")))

    def add(self, place):
        self.places[place.name] = place

    def find_identities(self):
        """Labels and named ports of the pods as their clusters have published them."""
        for place in self.places.values():
            if not place.pod:
                continue
            cluster = self.clusters[place.letter]
            read = lambda key: cluster.etcdctl("get", key, "--print-value-only").stdout.rstrip("\n")
            record = wait_for(f"{place.name} is published", lambda: json.loads(
                read(f"cilium/state/ip/v1/default/{place.addresses[4]}")))
            text = read(f"cilium/state/identities/v1/id/{record['ID']}")
            place.labels = [label for label in text.split(";") if label]
            place.identity_number = record["ID"]
            if place.pod in ("shop/web", "ops/db"):
                place.ports = [{"name": "front", "protocol": "TCP", "port": 8080},
                               {"name": "alt", "protocol": "TCP", "port": 8081},
                               {"name": "who", "protocol": "UDP", "port": 8080}]

    def serve(self):
        """What answers on nodes and outside."""
        for place in self.places.values():
            if place.pod:
                continue
            cluster = self.cluster_of(place)
            name = cluster.name
            for port, more in ((8080, ["--udp"]), (8081, [])):
                self.start(cluster, place.node, "mesh-echo", "--port", str(port), "--cluster", name, "--pod", place.node,
                           *more)
        good, other = (list(self.places[f"out/{node}"].addresses.values()) for node in ("node1", "node2"))
        server = self.start(self.out, "node1", "/usr/bin/python3", "-u", str(HERE / "name_server.py"),
                            json.dumps({"good": good, "other": other}))
        if (line := server.stdout.readline()) != "listening\n":
            raise AssertionError(f"no DNS server: {line!r}")

    def start(self, cluster, node, *command):
        process = subprocess.Popen(cluster.exec_command(node, *command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)
        self.background.append(process)
        return process

    def route_outside(self):
        """The first host outside finds the pods at their nodes."""
        for place in self.places.values():
            if not place.pod:
                continue
            node = self.places[f"{place.letter}/{place.node}"]
            for family in FAMILIES:
                subprocess.run(["ip", "-n", f"mesh-{self.out.name}.node1", "route", "replace", place.addresses[family],
                                "via", node.addresses[family]], check=True)

    # -- requests

    def ask(self, by_source, timeout):
        """{source: [probe]} → {source: [[outcome, who]]}, all sources at once."""
        outcomes = {}

        def one(source, probes):
            outcomes[source] = self.runners[source].run(probes, timeout)
        threads = [threading.Thread(target=one, args=item) for item in by_source.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        missing = set(by_source) - set(outcomes)
        if missing:
            raise AssertionError(f"no answer from the runners of {sorted(missing)}")
        return outcomes
