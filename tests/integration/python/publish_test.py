"""Workloads that register themselves, with mesh-operator and etcd as processes: the package and examples/python/vm_backend.py."""
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import warnings

import libmesh
import pytest
from clusters import DEADLINE, cluster_config, ip, remote_service, wait_for
from libmesh import PublicationState, WorkloadBackend

EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples/python/vm_backend.py"
OPERATOR = os.environ.get("MESH_OPERATOR") or shutil.which("mesh-operator")
pytestmark = pytest.mark.skipif(OPERATOR is None, reason="no mesh-operator: set MESH_OPERATOR")

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.11.0.10, ports: [{name: http, port: 80}]}
"""
ECHO = WorkloadBackend("shop/echo", 8080, "http")


@pytest.fixture
def operator(world, tmp_path):
    """An operator of cluster1 with service shop/echo, which has a backend in cluster2 only."""
    world.own.clear()
    world.remote.clear()
    world.remote.put({**cluster_config("cluster2", 2), **remote_service("cluster2", 2, "echo", "10.2.0.1"), **ip("10.2.0.1", 131_073)})
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/echo.yaml").write_text(MANIFEST)
    with open(tmp_path / "operator.log", "wb") as log:
        process = subprocess.Popen([OPERATOR, "--cluster-name", "cluster1", "--cluster-id", "1", "--etcd-config",
                                    world.write_files()[0], "--manifests", str(tmp_path / "manifests"), "--status-socket",
                                    str(tmp_path / "operator.sock")], stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()
    print((tmp_path / "operator.log").read_text())


@pytest.fixture
def mesh(operator, world):
    with libmesh.Mesh(**world.options()) as mesh:
        mesh.wait_ready(60)
        wait_for("the service", lambda: addresses(mesh) == ["10.2.0.1"])
        yield mesh


def addresses(mesh):
    try:
        return sorted(b.address for b in mesh.backends("shop/echo") if b.selected)
    except libmesh.NotFound:
        return None


class TestPublication:
    def test_as_long_as_it_is_open(self, mesh, world):
        with mesh.publish(name="vm-1", ips=["10.1.7.1"], namespace="shop", labels={"app": "echo"}, backends=[ECHO]) as publication:
            publication.wait(DEADLINE)
            assert (publication.state, publication.reason) == (PublicationState.PUBLISHED, "")
            wait_for("the backend", lambda: addresses(mesh) == ["10.1.7.1", "10.2.0.1"])
            vm = wait_for("its ip", lambda: next((i for i in mesh.ips() if i.prefix == "10.1.7.1/32"), None))
            assert (vm.cluster, vm.k8s_namespace, vm.k8s_pod_name) == ("cluster1", "shop", "vm-1")
            (identity,) = [i for i in mesh.identities() if i.id == vm.identity]
            assert "k8s:app=echo" in identity.labels
            # It says something else: another address, no service.
            publication.update(ips=["10.1.7.2"], backends=[])
            publication.wait(DEADLINE)
            wait_for("the other address", lambda: addresses(mesh) == ["10.2.0.1"] and any(
                i.prefix == "10.1.7.2/32" for i in mesh.ips()))
            assert publication.workload.labels == {"app": "echo"} and publication.workload.ips == ["10.1.7.2"]
            with pytest.raises(libmesh.InvalidArgument, match="name"):
                publication.update(name="vm-2")
            assert publication.workload.name == "vm-1"
            assert list(world.own.keys("mesh/local/workloads/")) == ["mesh/local/workloads/v1/vm-1"]
        assert publication.state == PublicationState.CLOSED
        assert not world.own.keys("mesh/local/workloads/"), "it has left when close() returns"
        wait_for("its end", lambda: not any(i.prefix == "10.1.7.2/32" for i in mesh.ips()))
        for use in (publication.wait, lambda: publication.update(zone="z")):
            with pytest.raises(libmesh.Cancelled, match="publication of vm-1: it is closed"):
                use()

    def test_with_its_mesh(self, mesh, world):
        with libmesh.Mesh(**world.options()) as other:
            publication = other.publish(name="vm-1", ips=["10.1.7.1"], backends=[ECHO])
            publication.wait(DEADLINE)
            wait_for("the backend", lambda: addresses(mesh) == ["10.1.7.1", "10.2.0.1"])
        wait_for("its end", lambda: addresses(mesh) == ["10.2.0.1"])
        with pytest.raises(libmesh.Cancelled):
            publication.wait(0)
        publication.close()

    @pytest.mark.parametrize("options, told", [
        ({"name": "Not_A_Label"}, "name"), ({"ips": []}, "ips"), ({"ips": ["127.0.0.1"]}, "ips"), ({"ips": ["x"]}, "ips"),
        ({"lease_ttl": 1}, "lease_ttl"), ({"backends": [WorkloadBackend("echo", 80)]}, "backends"),
        ({"backends": [WorkloadBackend("shop/echo", 70000)]}, "port"), ({"labels": {"": "x"}}, "labels"),
        ({"zone": "a\0b"}, "zone")])
    def test_mistakes(self, mesh, options, told):
        with pytest.raises(libmesh.InvalidArgument, match=told):
            mesh.publish(**{"name": "vm-1", "ips": ["10.1.7.1"], **options})

    def test_refused_forgotten_and_not_in_time(self, mesh, world, operator):
        with mesh.publish(name="vm-1", ips=["10.1.7.1"]) as first:
            first.wait(DEADLINE)
            with libmesh.Mesh(**world.options()) as other, other.publish(name="vm-2", ips=["10.1.7.1"]) as second:
                with pytest.raises(libmesh.Conflict, match="10.1.7.1"):
                    second.wait(DEADLINE)
                assert second.state == PublicationState.REFUSED and "10.1.7.1" in second.reason
                first.close()
                wait_for("what stood against it to go", lambda: second.state == PublicationState.PUBLISHED)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            forgotten = mesh.publish(name="vm-3", ips=["10.1.7.3"])
            forgotten.wait(DEADLINE)
            del forgotten
            gc.collect()
        assert [str(w.message).split(":")[0] for w in caught] == ["unclosed <Publication of vm-3>"]
        assert not world.own.keys("mesh/local/workloads/")
        operator.kill()
        operator.wait()
        with mesh.publish(name="vm-4", ips=["10.1.7.4"]) as publication:
            with pytest.raises(libmesh.Timeout):
                publication.wait(0.3)
            assert publication.state == PublicationState.PENDING and publication.reason


class Vm:
    """The example, with a command that would run forever."""

    def __init__(self, world, tmp_path, *more, command=("sleep", "1000000")):
        self.log = tmp_path / "vm.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(EXAMPLE), "--cluster-name", "cluster1", "--cluster-id", "1", "--etcd-config", world.write_files()[0],
                 "--name", "vm-1", "--namespace", "shop", "--ip", "10.1.7.1", "--backend", "shop/echo:8080:http", "--label", "app=echo",
                 *more, "--", *command], stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.kill()
        self.process.wait()
        if kind is not None:
            print(self.log.read_text())


class TestExample:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_it_leaves_cleanly(self, mesh, world, tmp_path, how):
        with Vm(world, tmp_path, command=["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 1000000"]) as vm:
            wait_for("the backend", lambda: addresses(mesh) == ["10.1.7.1", "10.2.0.1"])
            wait_for("what it says", lambda: "vm-1: published" in vm.log.read_text())
            served = int((tmp_path / "pid").read_text())
            vm.process.send_signal(how)
            assert vm.process.wait(DEADLINE) == (0 if how == signal.SIGTERM else 130)
            assert not world.own.keys("mesh/local/workloads/"), "it left, its lease did not end"
            wait_for("the other cluster's only", lambda: addresses(mesh) == ["10.2.0.1"])
            with pytest.raises(ProcessLookupError):
                os.kill(served, 0)

    def test_it_ends_with_what_serves(self, mesh, world, tmp_path):
        with Vm(world, tmp_path, command=["sh", "-c", f"while ! [ -e {tmp_path}/stop ]; do sleep 0.1; done; exit 7"]) as vm:
            wait_for("the backend", lambda: addresses(mesh) == ["10.1.7.1", "10.2.0.1"])
            (tmp_path / "stop").touch()
            assert vm.process.wait(DEADLINE) == 7
            wait_for("the other cluster's only", lambda: addresses(mesh) == ["10.2.0.1"])

    def test_killed_its_lease_ends(self, mesh, world, tmp_path):
        with Vm(world, tmp_path, "--lease-ttl", "2", command=["sleep", "30"]) as vm:
            wait_for("the backend", lambda: addresses(mesh) == ["10.1.7.1", "10.2.0.1"])
            vm.process.kill()
            wait_for("the other cluster's only", lambda: addresses(mesh) == ["10.2.0.1"])

    def test_a_service_that_is_not_there_yet(self, mesh, world, tmp_path):
        with Vm(world, tmp_path, "--backend", "shop/later:9090") as vm:
            wait_for("what is missing", lambda: "shop/later" in vm.log.read_text())

    def test_mistakes(self, world, tmp_path):
        run = lambda *words: subprocess.run([sys.executable, str(EXAMPLE), "--cluster-name", "cluster1", "--cluster-id", "1", "--etcd-config",
                                             world.write_files()[0], "--name", "vm-1", *words], capture_output=True, text=True, timeout=DEADLINE)
        for words, code, told in ((("--ip", "10.1.7.1", "--backend", "echo:1"), 2, "expected NAMESPACE/NAME:PORT"),
                                  (("--ip", "localhost", "--backend", "shop/echo:1"), 1, "localhost"),
                                  (("--ip", "10.1.7.1", "--backend", "shop/echo:1", "--", "/does/not/exist"), 1, "/does/not/exist")):
            done = run(*words)
            assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (code, True, False), done
