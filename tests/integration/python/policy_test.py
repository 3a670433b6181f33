"""Explanations and remote files that change, by a process that is no node."""
import json

import libmesh
import pytest
from clusters import identity, ip, wait_for

CLUSTER = "k8s:io.cilium.k8s.policy.cluster="


def policy(client):
    """Pods app=client of any cluster may ask pods app=web for port 80."""
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{
                "fromEndpoints": [{"matchLabels": {"app": client}, "matchExpressions": [
                    {"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]}}


@pytest.fixture
def mesh(world):
    shop = "k8s:io.kubernetes.pod.namespace=shop"
    world.own.put({**identity(65_537, f"k8s:app=web;{CLUSTER}cluster1;{shop};"),
                   "mesh/local/policies/v1/CiliumNetworkPolicy/shop/web": json.dumps(
                       {"file": "shop.yaml", "document": 1, "policy": policy("client")})})
    world.remote.put({**identity(131_073, f"k8s:app=client;{CLUSTER}cluster2;{shop};"), **ip("10.2.0.1", 131_073)})
    with libmesh.Mesh(**world.options()) as mesh:
        mesh.wait_ready(60)
        wait_for("the identities", lambda: len(mesh.identities()) == 2)
        wait_for("the policy", lambda: mesh.explain("10.2.0.1", "10.1.0.1", "80/TCP")["ingress"]["enforced"])
        yield mesh


def test_explain(mesh):
    allowed = mesh.explain("cluster2/shop/echo-1", "10.1.0.1", "80/TCP", http="GET /a", headers=["X-Test: 1"])
    assert (allowed["verdict"], allowed["source"]["cluster"]) == ("allowed", "cluster2")
    (rule,) = allowed["ingress"]["decided"]
    assert (rule["kind"], rule["name"], rule["action"], rule["line"]) == ("CiliumNetworkPolicy", "web", "allow", 1), rule
    assert mesh.explain("10.2.0.1", "10.1.0.1", "81/TCP")["verdict"] == "denied"
    with pytest.raises(libmesh.InvalidArgument, match="nonsense"):
        mesh.explain("10.2.0.1", "10.1.0.1", "nonsense")
    with pytest.raises(libmesh.NotFound):
        mesh.explain("cluster2/shop/nobody", "10.1.0.1", "80/TCP")


def test_policy_diff(mesh):
    assert "shop/echo-1" in json.dumps(mesh.policy_diff(json.dumps(policy("somebody"))))
    assert "shop/echo-1" not in json.dumps(mesh.policy_diff(json.dumps(policy("client"))))
    with pytest.raises(libmesh.InvalidArgument):
        mesh.policy_diff("kind: Nonsense", prune=True)


def test_not_before_the_own_cluster_is_known(world):
    with libmesh.Mesh(**world.options(etcd=libmesh.Etcd(["http://127.0.0.1:1"]))) as mesh:
        with pytest.raises(libmesh.Unavailable):
            mesh.explain("world", "world", "80/TCP")


def test_remote_files_change(mesh, world):
    with pytest.raises(libmesh.InvalidArgument, match="cluster2"):
        mesh.set_remote_files({"cluster2": "endpoints: []"})
    assert [c.name for c in mesh.clusters()] == ["cluster1", "cluster2"]
    mesh.set_remote_files({})
    wait_for("cluster2 to be gone", lambda: [c.name for c in mesh.clusters()] == ["cluster1"] and len(mesh.ips()) == 1)
    assert [b.cluster for b in mesh.backends("shop/echo")] == ["cluster1"]
    mesh.set_remote_files(world.remote_files())
    mesh.wait_ready(60)
    wait_for("cluster2 again", lambda: len(mesh.backends("shop/echo")) == 2)


def test_metrics(mesh):
    assert "# TYPE" in mesh.metrics()
