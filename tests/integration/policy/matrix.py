"""The matrix of requests, the same for every case: who asks whom for what, what the reference evaluator expects of each, and
what came of it."""
import collections
import dataclasses
import json
import subprocess

from world import FAMILIES

QUICK, PATIENT, ROUNDS = 1.0, 10.0, 3  # seconds for an answer: at first, when it is missed; how often it may be missed
NAMES = ("good", "other")  # DNS names, in front of the case's own zone, of out/node1 and out/node2


def http(method="GET", path="/public", port=8080, **headers):
    label = f"{method} {path} :{port}" + "".join(f" [{k}: {v}]" for k, v in headers.items())
    return label, {"kind": "http", "method": method, "path": path, "port": port,
                   "headers": {k.replace("_", "-"): v for k, v in headers.items()}}


UDP = ("udp :8080", {"kind": "udp", "port": 8080})
ICMP = ("icmp", {"kind": "icmp", "port": 0})
TO_SERVER = [http(), http("POST"), http(path="/private"), http(X_Token="secret"), http(port=8081), http(port=9005), UDP, ICMP]
TO_OTHERS = [http(), http(port=8081), UDP, ICMP]
TO_SERVICE = [http(port=80), ("udp :53", {"kind": "udp", "port": 53})]


@dataclasses.dataclass
class Cell:
    source: object
    target: object  # the Place that would answer
    family: int
    label: str
    probe: dict
    via: str = ""  # the service that is asked in the target's place
    words: tuple = ()  # what the reference says of the source's egress and the target's ingress
    expected: frozenset = frozenset()

    @property
    def name(self):
        where = f"{self.via} ({self.target.name})" if self.via else self.target.name
        return f"{self.source.name} > {where}, IPv{self.family}, {self.label}"

    @property
    def port(self):
        """What the policy sees: a service's is that of its backend."""
        if self.via:
            return 8080
        return {4: 8, 6: 128}[self.family] if self.probe["kind"] == "icmp" else self.probe["port"]

    @property
    def protocol(self):
        kinds = {"http": "TCP", "udp": "UDP", "dns": "UDP", "icmp": "ICMP" if self.family == 4 else "ICMPv6"}
        return kinds[self.probe["kind"]]


class Matrix:
    def __init__(self, world, reference):
        self.world, self.reference = world, reference
        self.cells = list(self.make_cells())

    # -- who asks whom for what

    def make_cells(self):
        places = self.world.places
        sources = [places[name] for name in self.world.runners]
        servers = [p for p in places.values() if p.pod in ("shop/web", "ops/db")]
        nodes = [places[f"{letter}/node1"] for letter in self.world.letters]
        outside = [places["out/node1"], places["out/node2"]]
        for source in sources:
            for family in FAMILIES:
                for target in servers:
                    probes = TO_SERVER if target.pod == "shop/web" else TO_OTHERS
                    if not source.pod and target.pod != "shop/web":
                        continue
                    yield from self.cells_of(source, target, family, probes)
                if not source.pod:
                    continue
                for target in nodes + outside:
                    # A node answers its own pods' datagrams from the address next to them, not from the one asked.
                    own = (source.letter, source.node) == (target.letter, target.node)
                    yield from self.cells_of(source, target, family, [p for p in TO_OTHERS if not (own and p is UDP)])
                for letter in self.world.letters:
                    yield from self.cells_of(source, places[f"{letter}/shop/web"], family, TO_SERVICE, f"web-{letter}")

    def cells_of(self, source, target, family, probes, via=""):
        host = target.addresses[family]
        if via:
            host = self.world.clusters[source.letter].frontend(via, "http", family)["address"]
        for label, probe in probes:
            yield Cell(source, target, family, label, {**probe, "host": host}, via)

    def name_cells(self, zone):
        """What pods ask the DNS server outside: before all other requests, since these may depend on the answers."""
        server = self.world.places["out/node1"]
        for source in self.world.places.values():
            if source.name not in self.world.runners or not source.pod:
                continue
            for family, kind in ((4, 1), (6, 28)):
                for name in NAMES:
                    probe = {"kind": "dns", "host": server.addresses[4], "port": 53, "name": f"{name}.{zone}", "type": kind}
                    yield Cell(source, server, 4, f"dns {'A' if kind == 1 else 'AAAA'} {name}.{zone}", probe)

    # -- what is expected

    def expect(self, cells, views, learnt):
        """Asks the reference. `views`: {letter: {"options", "policies"}}; `learnt`: {node: names that its pods looked up}."""
        questions = {letter: {**view, "services": self.services(letter), "identities": {}, "checks": []}
                     for letter, view in views.items()}
        asked = collections.defaultdict(list)

        def check(letter, cell, direction, subject, peer, names=()):
            question = questions[letter]
            peer_name = f"{peer.name} from {subject.name}, IPv{cell.family}"
            question["identities"][subject.name] = subject.identity(cell.family, subject)
            question["identities"][peer_name] = peer.identity(cell.family, subject)
            one = {"subject": subject.name, "peer": peer_name, "direction": direction, "protocol": cell.protocol,
                   "port": cell.port, "names": list(names)}
            if cell.probe["kind"] == "http":
                one["http"] = {"method": cell.probe["method"], "path": cell.probe["path"], "host": "web.test",
                               "headers": cell.probe["headers"]}
            elif cell.probe["kind"] == "dns":
                one["dns"] = cell.probe["name"]
            question["checks"].append(one)
            asked[letter].append((cell, direction))
        for cell in cells:
            cell.words = {"egress": "allow", "ingress": "allow"}
            if cell.source.pod:
                node = f"{cell.source.letter}/{cell.source.node}"
                names = [name for name, place, family in learnt.get(node, ())
                         if place == cell.target.name and family == cell.family]
                check(cell.source.letter, cell, "egress", cell.source, cell.target, names)
            if cell.target.pod:
                check(cell.target.letter, cell, "ingress", cell.target, cell.source)
        done = subprocess.run([self.reference], input=json.dumps(list(questions.values())), capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"the reference evaluator: {done.stderr}")
        for letter, words in zip(questions, json.loads(done.stdout)):
            for (cell, direction), word in zip(asked[letter], words, strict=True):
                cell.words[direction] = word
        for cell in cells:
            audit = lambda letter: letter in views and views[letter]["options"]["audit"]
            cell.expected = outcomes_of(pass_audited(cell.words["egress"], audit(cell.source.letter)),
                                        pass_audited(cell.words["ingress"], audit(cell.target.letter)), cell.probe["kind"])

    def services(self, letter):
        """Of the cluster, as its manifests say."""
        outside = self.world.places["out/node1"].addresses[4]
        return [{"name": f"web-{of}", "namespace": "shop", "selector": {"app": "web" if of == letter else f"web-of-{of}"},
                 "backends": []} for of in self.world.letters] + [
            {"name": "outside", "namespace": "shop", "selector": {}, "backends": [outside]}]

    # -- what comes of it

    def run(self, cells):
        """Returns [(cell, outcome)] of those that are not as expected. What is missed is asked for again, patiently: a loaded
        machine may be late, but nothing that is to be denied may ever be answered."""
        wrong, left, timeout = [], list(cells), QUICK
        counts = collections.Counter()
        for _ in range(1 + ROUNDS):
            late = []
            for cell, (outcome, who) in self.ask(left, timeout):
                if outcome == "ok" and who not in (None, self.answer_of(cell.target)):
                    wrong.append((cell, f"ok, answered by {who}"))
                elif outcome in cell.expected:
                    counts[outcome] += 1
                elif outcome == "drop":
                    late.append((cell, outcome))
                else:
                    wrong.append((cell, outcome))
            left, timeout = [cell for cell, _ in late], PATIENT
            if not left or len(left) > len(cells) // 2:  # that is no matter of patience
                break
        return wrong + late, counts

    def ask(self, cells, timeout):
        by_source = collections.defaultdict(list)
        for cell in cells:
            by_source[cell.source.name].append(cell)
        outcomes = self.world.ask({name: [c.probe for c in some] for name, some in by_source.items()}, timeout)
        for name, some in by_source.items():
            yield from zip(some, outcomes[name], strict=True)

    def answer_of(self, place):
        cluster = self.world.cluster_of(place).name
        return f"{cluster}/{place.pod.split('/')[1] if place.pod else place.node}"


def pass_audited(word, audit):
    return "allow" if audit and word in ("deny", "drop") else word


def outcomes_of(egress, ingress, kind):
    """What a request may come to."""
    silent = ("deny", "drop")
    if egress in silent:
        return frozenset({"drop"})
    if egress == "l7-deny":
        return frozenset({"refused" if kind == "dns" else "403"})
    if ingress in silent:
        # The source's proxy has taken the connection, and finds nobody.
        return frozenset({"drop"} | ({"status 502", "status 503", "status 504"} if egress == "l7-allow" else set()))
    return frozenset({"403" if ingress == "l7-deny" else "ok"})


def describe(wrong, limit=40):
    lines = [f"  {cell.name}: {outcome}, expected {' or '.join(sorted(cell.expected))}"
             f" (egress {cell.words['egress']}, ingress {cell.words['ingress']})" for cell, outcome in wrong[:limit]]
    if len(wrong) > limit:
        lines.append(f"  ... and {len(wrong) - limit} more")
    return "\n".join(lines)
