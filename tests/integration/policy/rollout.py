"""Policies and switches of policy in the clusters: applied as a user does it, and waited for until every node enforces them."""
import pathlib
import sys

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mesh"))
from sandboxes import wait_for  # noqa: E402

PATIENCE = 60  # seconds


class Rollout:
    def __init__(self, world, options):
        self.world, self.options = world, options
        self.applied = {}

    def set_options(self, options):
        """Restarts the agents if they have others."""
        if options == self.options:
            return
        flags = ["--enable-policy", options["enforcement"], "--policy-default-local-cluster",
                 str(options["default_local_cluster"]).lower()] + ["--policy-audit-mode"] * options["audit"]
        for cluster in self.world.clusters.values():
            self.world.set_flags(cluster, flags)
        for cluster in self.world.clusters.values():
            cluster.meshctl("status", "--cluster", cluster.name, "--wait")
        self.options = options
        for letter in self.world.clusters:
            self.wait(letter, set())

    def apply(self, documents):
        for letter, text in documents.items():
            if text:
                self.sandbox("apply", letter, text)
                self.applied[letter] = text
        for letter, text in self.applied.items():
            self.wait(letter, keys_of(text))

    def remove_all(self):
        removed, self.applied = self.applied, {}
        for letter, text in removed.items():
            self.sandbox("remove", letter, text)
        for letter in removed:
            self.wait(letter, set())

    def sandbox(self, word, letter, text):
        cluster = self.world.clusters[letter]
        cluster.meshctl("sandbox", word, "--cluster", cluster.name, "-f", "-", input=text)

    def wait(self, letter, keys):
        """Until each node has exactly these policies, and all its pods' rows."""
        cluster = self.world.clusters[letter]
        for node in ("node1", "node2"):
            seen = {}

            def realised():
                seen["now"] = cluster.ask_daemon(f"mesh-agent-{node}", "/v1/policy")
                status = seen["now"]
                return (status["synced"] and not status["errors"] and not status["counts"]["waiting"]
                        and status["realised_revision"] == status["revision"]
                        and {(p["kind"], p["namespace"], p["name"]) for p in status["policies"]} == keys)
            try:
                wait_for("", realised, PATIENCE)
            except AssertionError:
                raise AssertionError(f"{cluster.name}, {node}: not these policies within {PATIENCE} s: {sorted(keys)}; "
                                     f"last status: {seen.get('now')}") from None


def keys_of(text):
    """(kind, namespace, name) of the documents."""
    keys = set()
    for document in yaml.safe_load_all(text):
        clusterwide = document["kind"] == "CiliumClusterwideNetworkPolicy"
        keys.add((document["kind"], "" if clusterwide else document["metadata"].get("namespace", "default"),
                  document["metadata"]["name"]))
    return keys
