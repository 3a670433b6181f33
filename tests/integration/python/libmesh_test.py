"""The Python package as its users have it: two clusters, real etcds, TLS."""
import asyncio
import gc
import ipaddress
import logging
import os
import pathlib
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings

import libmesh
import pytest
from clusters import DEADLINE, ip, own_service, remote_service, wait_for
from libmesh import EventKind, Objects

ROOT = pathlib.Path(__file__).resolve().parents[3]


def until(watch, condition):
    """Reads until an event meets the condition."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            batch = watch.next_batch(1)
        except libmesh.Timeout:
            continue
        for event in batch:
            if condition(event):
                return event
    raise AssertionError("the event did not come")


def is_ip(event, prefix):
    return event.type == Objects.IPS and event.object.prefix == prefix


def is_snapshot_end(event):
    return event.kind == EventKind.SNAPSHOT_END


class TestReading:
    def test_everything(self, mesh):
        assert [(n.cluster, n.name, n.addresses, n.labels, n.pod_cidrs) for n in mesh.nodes()] == [
            ("cluster1", "node-a", (("InternalIP", "192.168.0.1"),), {"zone": "z1"}, ("10.1.0.0/16",)),
            ("cluster2", "node-b", (("InternalIP", "192.168.0.2"),), {"zone": "z1"}, ("10.2.0.0/16",))]
        (echo,) = mesh.services()
        assert (echo.namespace, echo.name, echo.global_, echo.shared, echo.affinity) == ("shop", "echo", True, True, "none")
        (frontend,) = echo.frontends
        assert (frontend.address, frontend.port, frontend.protocol, frontend.port_name, frontend.node_port) == (
            "10.11.0.10", 80, "TCP", "http", False)
        assert [(b.address, b.port, b.cluster, b.state, b.selected) for b in frontend.backends] == [
            ("10.1.0.1", 8080, "cluster1", "active", True), ("10.2.0.1", 8080, "cluster2", "active", True)]
        assert {i.prefix: (i.cluster, i.cluster_id, i.identity, i.k8s_pod_name) for i in mesh.ips()} == {
            "10.1.0.1/32": ("cluster1", 1, 65_537, "echo-1"), "10.2.0.1/32": ("cluster2", 2, 131_073, "echo-1")}
        (identity,) = mesh.identities()
        assert identity == libmesh.Identity("cluster1", 1, 65_537, (
            "k8s:app=echo", "k8s:io.cilium.k8s.policy.cluster=cluster1"))
        own, remote = mesh.clusters()
        assert (own.name, own.own, own.id, own.services) == ("cluster1", True, 1, 1)
        assert (remote.name, remote.state, remote.ready, remote.connected, remote.ips) == ("cluster2", "ready", True, True, 1)
        assert remote.last_proof_of_life < DEADLINE
        assert mesh.ready
        assert [r["name"] for r in mesh.status()["remotes"]] == ["cluster2"]

    def test_questions(self, mesh):
        pod = mesh.lookup("10.2.0.1")
        assert pod == mesh.lookup(ipaddress.ip_address("10.2.0.1"))
        assert (pod.prefix, pod.host, pod.k8s_namespace) == ("10.2.0.1/32", "192.168.0.2", "shop")
        assert [b.address for b in mesh.backends("shop/echo")] == ["10.1.0.1", "10.2.0.1"]
        assert mesh.service("shop/echo") == mesh.services()[0]
        batch = mesh.list(Objects.NODES | Objects.IPS)
        assert [e.type for e in batch] == [Objects.NODES] * 2 + [Objects.IPS] * 2
        assert batch[-1].object == batch[3].object and [e.object for e in batch[1:3]] == [batch[1].object, batch[2].object]
        with pytest.raises(IndexError):
            batch[4]

    def test_values_are_plain(self, mesh):
        service = mesh.service("shop/echo")
        assert hash(service) == hash(mesh.service("shop/echo"))
        assert len({mesh.nodes()[0], mesh.nodes()[0]}) == 1
        assert pickle.loads(pickle.dumps(service)) == service
        with pytest.raises(AttributeError):
            service.name = "other"

    def test_a_batch_outlives_its_mesh(self, world):
        with libmesh.Mesh(**world.options()) as mesh:
            mesh.wait_ready(60)
            event = mesh.list(Objects.IPS)[0]
        gc.collect()
        assert event.object.prefix == "10.1.0.1/32"

    def test_100_000_ips_at_once(self, world):
        count = 100_000
        addresses = [f"10.{64 + n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(count)]
        values = {}
        for n, address in enumerate(addresses):
            values.update(ip(address, 131_072 + n % 60_000, pod=f"pod-{n}", host="192.168.0.2"))
        world.remote.put(values)
        with libmesh.Mesh(**world.options()) as mesh:
            mesh.wait_ready(60)
            raw = mesh.read_ips(numpy=False)
            records = list(struct.iter_unpack(libmesh.IP_RECORD_FORMAT, raw))
            assert len(records) == count + 2
            v4 = b"\0" * 10 + b"\xff\xff"
            first = (v4 + bytes([10, 1, 0, 1]), v4 + bytes([192, 168, 0, 1]), 65_537, 1, 32, 4, 0)
            assert records[0] == first
            assert [str(ipaddress.ip_address(r[0][12:])) for r in records[2:]] == addresses
            numpy = pytest.importorskip("numpy")
            array = mesh.read_ips()
            assert array.dtype == libmesh.ip_record_dtype() and array.tobytes()[:48] == bytes(raw[:48])
            assert (array["identity"][2:] == 131_072 + numpy.arange(count) % 60_000).all()
            assert (array["cluster_id"][1:] == 2).all()
            assert array["address"][-1].tobytes() == records[-1][0]
            # As objects, too: a list that large needs many blocks.
            assert len(mesh.list(Objects.IPS)) == count + 2


class TestErrors:
    def test_each_code_has_its_exception(self):
        header = (ROOT / "libmesh/include/mesh/mesh.h").read_text()
        codes = [-int(line.split("(-")[1].split(")")[0]) for line in header.splitlines() if "#define MESH_ERR_" in line]
        assert codes
        kinds = {type(libmesh.errors.make_error(code, "")) for code in codes}
        assert len(kinds) == len(codes) and libmesh.MeshError not in kinds
        unknown = libmesh.errors.make_error(-99, "what")
        assert (type(unknown), unknown.code, unknown.message, str(unknown)) == (libmesh.MeshError, -99, "what", "unknown: what")

    def test_what_is_not_there(self, mesh):
        with pytest.raises(libmesh.NotFound, match="10.9.0.1") as caught:
            mesh.lookup("10.9.0.1")
        assert isinstance(caught.value, LookupError) and caught.value.code == -2 and caught.value.name == "not_found"
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), again.code, again.message) == (libmesh.NotFound, -2, caught.value.message)
        with pytest.raises(libmesh.NotFound):
            mesh.service("shop/none")
        for bad in ("", "/", "shop", "shop/", "/echo", "shop/e\0cho"):
            with pytest.raises(libmesh.InvalidArgument):
                mesh.backends(bad)
        with pytest.raises(ValueError):
            mesh.lookup("10.2.0")
        with pytest.raises(libmesh.InvalidArgument):
            mesh.watch(Objects(0x40000000))
        with pytest.raises(libmesh.InvalidArgument):
            mesh.list(Objects(0))

    @pytest.mark.parametrize("option, value, told", [
        ("cluster_name", "Not_A_Name", "cluster_name"), ("cluster_id", 0, "cluster_id"), ("cluster_id", -1, "cluster_id"),
        ("cluster_id", 1 << 40, "cluster_id"), ("node_name", "", "node_name"), ("node_name", "a\0b", "node_name"),
        ("max_connected_clusters", 7, "max_connected_clusters"), ("sync_timeout", 5000, "sync_timeout"),
        ("etcd_config", "/also/given", "etcd_config"), ("etcd", libmesh.Etcd(["nowhere"]), "endpoints"),
        ("etcd", libmesh.Etcd(["https://127.0.0.1:1"], ca_pem="x-very-secret-x"), "ca_pem"),
        ("remote_files", {"cluster3": "endpoints: []"}, "cluster3"), ("remote_files", {"Not_A_Name": b"endpoints: []"}, "Not_A_Name"),
        ("clustermesh_config", pathlib.Path("/does/not/exist"), None)])
    def test_options(self, world, option, value, told):
        if told is None:  # a folder that may come later
            libmesh.Mesh(**world.options(**{option: value})).close()
            return
        with pytest.raises(libmesh.InvalidArgument, match=told) as caught:
            libmesh.Mesh(**world.options(**{option: value}))
        assert "very-secret" not in str(caught.value)

    def test_a_key_is_never_shown(self, world):
        assert "BEGIN" not in repr(world.options()["etcd"])

    def test_not_ready_in_time(self, world):
        nobody = libmesh.Etcd(["http://127.0.0.1:1"])
        with libmesh.Mesh(**world.options(etcd=nobody)) as mesh:
            assert not mesh.ready
            with pytest.raises(TimeoutError, match="status"):
                mesh.wait_ready(0.2)
            assert mesh.clusters()[0].state == "connecting"


class TestWatch:
    def test_a_snapshot_and_then_each_change(self, world, mesh):
        held = {}
        with mesh.watch(Objects.IPS) as watch:
            for event in watch:
                if event.kind == EventKind.SNAPSHOT_BEGIN:
                    held.clear()
                elif event.kind == EventKind.SNAPSHOT_END:
                    assert set(held) == {("cluster1", "10.1.0.1/32"), ("cluster2", "10.2.0.1/32")}
                    world.remote.put(ip("10.2.0.9", 131_080))
                elif event.kind == EventKind.UPSERT:
                    held[event.object.cluster, event.object.prefix] = event.object
                    if event.object.prefix == "10.2.0.9/32":
                        assert event.object.identity == 131_080 and event.sequence > 0
                        world.remote.delete("cilium/state/ip/v1/default/10.2.0.9")
                elif event.kind == EventKind.DELETE:
                    assert (event.object.cluster, event.object.prefix) == ("cluster2", "10.2.0.9/32")
                    del held[event.object.cluster, event.object.prefix]
                    break
        assert watch.closed and len(held) == 2
        assert list(watch) == []

    def test_batches_and_timeouts(self, world, mesh):
        with mesh.watch(Objects.IPS) as watch:
            until(watch, is_snapshot_end)
            with pytest.raises(libmesh.Timeout):
                watch.next_batch(0)
            world.own.put(ip("10.1.0.2", 65_537))
            for batch in watch.batches():
                if any(is_ip(event, "10.1.0.2/32") for event in batch):
                    break

    def test_its_descriptor_can_be_polled(self, world, mesh):
        import selectors

        with mesh.watch(Objects.IPS) as watch, selectors.DefaultSelector() as selector:
            until(watch, is_snapshot_end)
            selector.register(watch, selectors.EVENT_READ)
            assert selector.select(0) == []
            world.own.put(ip("10.1.0.3", 65_537))
            assert selector.select(DEADLINE)
            until(watch, lambda event: is_ip(event, "10.1.0.3/32"))

    def test_no_event_is_lost_between_two_loops(self, mesh):
        with mesh.watch(Objects.NODES) as watch:
            seen = [next(watch).kind for _ in range(2)]
            for event in watch:
                seen.append(event.kind)
                if is_snapshot_end(event):
                    break
        assert seen == [EventKind.SNAPSHOT_BEGIN, EventKind.UPSERT, EventKind.UPSERT, EventKind.SNAPSHOT_END]

    def test_callback(self, world, mesh):
        seen, came = [], threading.Event()

        def on_batch(batch):
            # It may ask the mesh.
            assert mesh.lookup("10.1.0.1").identity == 65_537
            for event in batch:
                seen.append(event.object and event.object.prefix)
                if seen[-1] == "10.1.0.4/32":
                    came.set()

        with mesh.on_events(on_batch, Objects.IPS) as subscription:
            wait_for("the snapshot", lambda: len(seen) >= 4)
            world.own.put(ip("10.1.0.4", 65_537))
            assert came.wait(DEADLINE)
        assert subscription.closed
        count = len(seen)
        world.own.put(ip("10.1.0.5", 65_537))
        wait_for("the ip", lambda: "10.1.0.5/32" in [i.prefix for i in mesh.ips()])
        assert len(seen) == count

    def test_a_callback_that_fails_and_one_that_closes(self, mesh, caplog):
        def fail(batch):
            raise RuntimeError("on purpose")

        with mesh.on_events(fail) as subscription:
            wait_for("the end", lambda: subscription.closed)
        assert "on purpose" in caplog.text
        ended = threading.Event()

        def close_all(batch):
            mesh.close()
            ended.set()

        with mesh.on_events(close_all) as subscription:
            assert ended.wait(DEADLINE)
            wait_for("the end", lambda: subscription.closed)

    def test_who_is_too_slow_gets_a_new_snapshot(self, world, mesh):
        with mesh.watch(Objects.IPS, max_queued_bytes=4096) as watch:
            until(watch, is_snapshot_end)
            for n in range(20):
                world.own.put(dict(item for k in range(50) for item in ip(f"10.1.{n + 1}.{k}", 65_537).items()))
            wait_for("the last ip", lambda: "10.1.20.49/32" in [i.prefix for i in mesh.ips()])
            held = set()

            def is_second_snapshot(event):
                if event.kind == EventKind.SNAPSHOT_BEGIN:
                    held.clear()
                elif event.object is not None:
                    held.add(event.object.prefix)
                return is_snapshot_end(event)

            until(watch, is_second_snapshot)
            assert len(held) == 1002

    def test_a_service_fails_over_between_clusters(self, world, mesh):
        def selected(event):
            service = event.object
            if service is None or not service.frontends:
                return None
            return [b.address for b in service.backends if b.selected]

        with mesh.watch(Objects.SERVICES) as watch:
            until(watch, lambda event: selected(event) == ["10.1.0.1", "10.2.0.1"])
            world.own.put(own_service("echo"))
            until(watch, lambda event: selected(event) == ["10.2.0.1"])
            assert [b.cluster for b in mesh.backends("shop/echo")] == ["cluster2"]
            world.own.put(own_service("echo", "10.1.0.7", affinity="local"))
            until(watch, lambda event: selected(event) == ["10.1.0.7"])
            (unused,) = [b for b in mesh.backends("shop/echo") if not b.selected]
            assert unused.cluster == "cluster2" and unused.reason
            world.remote.put(remote_service("cluster2", 2, "echo", "10.2.0.8"))
            world.own.put(own_service("echo", affinity="local"))
            until(watch, lambda event: selected(event) == ["10.2.0.8"])
            world.own.delete("mesh/local/services/v1/shop/echo")
            gone = until(watch, lambda event: event.kind == EventKind.DELETE)
            assert (gone.object.namespace, gone.object.name) == ("shop", "echo")

    def test_a_remote_that_goes_away(self, world):
        with libmesh.Mesh(**world.options()) as mesh:
            mesh.wait_ready(60)
            with mesh.watch(Objects.CLUSTERS) as watch:
                until(watch, is_snapshot_end)
                world.remote.kill()
                try:
                    until(watch, lambda e: e.object and e.object.name == "cluster2" and e.object.state == "stale")
                    assert not mesh.clusters()[1].connected
                    assert mesh.lookup("10.2.0.1"), "what is known stays"
                finally:
                    world.remote.start()
                until(watch, lambda e: e.object and e.object.name == "cluster2" and e.object.ready)


class TestAsyncio:
    def test_async_for(self, world, mesh):
        async def main():
            others = 0

            async def other():
                nonlocal others
                while True:
                    others += 1
                    await asyncio.sleep(0.001)

            task = asyncio.create_task(other())
            async with mesh.watch(Objects.IPS) as watch:
                async for event in watch:
                    if is_snapshot_end(event):
                        before = others
                        asyncio.get_running_loop().call_later(0.01, world.own.put, ip("10.1.0.2", 65_537))
                    if is_ip(event, "10.1.0.2/32"):
                        break
            assert others > before, "the loop goes on meanwhile"
            async with mesh.watch(Objects.NODES) as watch:
                async for batch in watch.batches():
                    if any(map(is_snapshot_end, batch)):
                        break
            task.cancel()

        asyncio.run(asyncio.wait_for(main(), DEADLINE))

    def test_cancelled_and_closed(self, mesh):
        async def read(watch, seen):
            async for event in watch:
                seen.append(event.kind)

        async def reading():
            """A watch and a task that has read its snapshot and waits for more."""
            watch, seen = mesh.watch(Objects.NODES), []
            task = asyncio.create_task(read(watch, seen))
            while len(seen) < 4 or not watch._awaited:
                await asyncio.sleep(0.001)
            return watch, task

        async def main():
            watch, task = await reading()
            with pytest.raises(RuntimeError, match="one task"):
                await read(watch, [])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # It goes on for another, until it is closed by another thread, by another task, or with its mesh.
            task = asyncio.create_task(read(watch, []))
            threading.Thread(target=watch.close).start()
            await task
            watch, task = await reading()
            watch.close()
            await task
            watch, task = await reading()
            mesh.close()
            await task
            assert watch.closed

        asyncio.run(asyncio.wait_for(main(), DEADLINE))

    def test_many_watches_in_one_loop(self, world, mesh):
        async def find(n):
            async with mesh.watch(Objects.IPS) as watch:
                async for event in watch:
                    if is_ip(event, f"10.1.7.{n}/32"):
                        return n

        async def main():
            tasks = [asyncio.create_task(find(n)) for n in range(20)]
            await asyncio.sleep(0.01)
            await asyncio.to_thread(world.own.put, dict(
                item for n in range(20) for item in ip(f"10.1.7.{n}", 65_537).items()))
            assert await asyncio.gather(*tasks) == list(range(20))

        asyncio.run(asyncio.wait_for(main(), DEADLINE))


class TestLife:
    def test_use_after_close(self, world):
        mesh = libmesh.Mesh(**world.options())
        watch = mesh.watch()
        mesh.close()
        mesh.close()
        for use in (mesh.nodes, mesh.status, mesh.read_ips, mesh.watch, mesh.wait_ready, lambda: mesh.lookup("10.1.0.1")):
            with pytest.raises(libmesh.Cancelled, match="mesh of cluster1: it is closed"):
                use()
        assert mesh.closed and not watch.closed
        with pytest.raises(libmesh.Cancelled):
            for _ in range(10):
                watch.next_batch(DEADLINE)
        watch.close()
        watch.close()
        with pytest.raises(libmesh.Cancelled, match="watch: it is closed"):
            watch.fileno()

    def test_what_is_forgotten_is_closed_with_a_warning(self, world, monkeypatch):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mesh = libmesh.Mesh(**world.options(log=lambda *_: None))
            watch = mesh.watch()
            descriptors = len(os.listdir("/proc/self/fd"))
            del watch, mesh
            gc.collect()
        assert [str(w.message).split(":")[0].split(" at ")[0] for w in caught] == [
            "unclosed <libmesh.watch.Watch object", "unclosed <Mesh of cluster1>"]
        assert {w.category for w in caught} == {ResourceWarning}
        assert len(os.listdir("/proc/self/fd")) < descriptors
        # With -W error, too, where Python shows what __del__ raises.
        before = len(os.listdir("/proc/self/fd"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
            subscription = libmesh.Mesh(**world.options()).on_events(lambda batch: None)
            del subscription
            libmesh.Mesh(**world.options(log=lambda *_: None)).watch()
            gc.collect()
        wait_for("all to be closed", lambda: len(os.listdir("/proc/self/fd")) == before)

    def test_close_from_other_threads(self, world):
        for _ in range(5):
            mesh = libmesh.Mesh(**world.options())
            watch = mesh.watch()
            answers = []

            def use(function):
                try:
                    while True:
                        function()
                except libmesh.MeshError as error:
                    answers.append(type(error))

            uses = [lambda: watch.next_batch(), lambda: mesh.ips(), lambda: mesh.read_ips(),
                    lambda: mesh.lookup("10.1.0.1") if mesh.ready else None, mesh.status,
                    lambda: mesh.watch(Objects.NODES).close()]
            threads = [threading.Thread(target=use, args=(function,)) for function in uses]
            waiting = threading.Thread(target=use, args=(lambda: mesh.wait_ready(),))
            for thread in threads:
                thread.start()
            mesh.wait_ready(DEADLINE)
            waiting.start()
            mesh.close()
            watch.close()
            for thread in (*threads, waiting):
                thread.join(DEADLINE)
                assert not thread.is_alive()
            assert set(answers) == {libmesh.Cancelled}, answers

    def test_the_gil_is_released(self, world):
        nobody = libmesh.Etcd(["http://127.0.0.1:1"])
        with libmesh.Mesh(**world.options(etcd=nobody)) as mesh:
            done = threading.Event()
            waiter = threading.Thread(target=lambda: (pytest.raises(libmesh.Cancelled, mesh.wait_ready), done.set()))
            waiter.start()
            for _ in range(1000):
                mesh.clusters()
            assert not done.is_set()
            mesh.close()
            assert done.wait(DEADLINE)
            waiter.join()

    @pytest.mark.parametrize("wait", ["watch", "wait_ready"])
    def test_ctrl_c(self, world, wait):
        options = world.options()
        if wait == "wait_ready":
            options["etcd"] = libmesh.Etcd(["http://127.0.0.1:1"])
        interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        with libmesh.Mesh(**options) as mesh, mesh.watch() as watch:
            if wait == "watch":
                mesh.wait_ready(DEADLINE)
            with pytest.raises(KeyboardInterrupt):
                interrupt.start()
                if wait == "watch":
                    for _ in watch:
                        pass
                else:
                    mesh.wait_ready()
            interrupt.join()

    def test_fork(self, mesh):
        watch = mesh.watch()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            told = []
            for use in (mesh.nodes, watch.next_batch, lambda: next(watch)):
                try:
                    use()
                except libmesh.InvalidArgument as error:
                    told.append("after fork()" in str(error))
            mesh.close()
            watch.close()
            del mesh, watch
            gc.collect()
            os.write(writer, repr(told).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as answer:
            assert answer.read() == "[True, True, True]"
        assert os.waitpid(child, 0)[1] == 0
        assert mesh.nodes(), "the parent's goes on"
        watch.close()

    def test_the_program_may_end_with_all_open(self, world):
        etcd, folder = world.write_files()
        done = subprocess.run([sys.executable, "-c", f"""
import threading, libmesh
mesh = libmesh.Mesh(cluster_name="cluster1", cluster_id=1, node_name="node-a", etcd_config={etcd!r},
                      clustermesh_config={folder!r}, log=lambda *_: None)
mesh.wait_ready(60)
subscription = mesh.on_events(lambda batch: None)
watch = mesh.watch()
threading.Thread(target=lambda: [None for _ in watch], daemon=True).start()
print(len(mesh.clusters()))
"""], capture_output=True, text=True, timeout=DEADLINE * 2)
        assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")

    def test_nothing_leaks(self, world, mesh):
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        def handles():
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

        def once():
            with libmesh.Mesh(**world.options(log=lambda *_: None)) as other, other.watch() as watch:
                watch.next_batch(DEADLINE)
                other.clusters()
            for _ in range(100):
                mesh.list(Objects.ALL)
                mesh.read_ips()
                with pytest.raises(libmesh.NotFound):
                    mesh.lookup("10.9.0.1")
            with mesh.watch() as watch:
                until(watch, is_snapshot_end)
            with mesh.on_events(lambda batch: None):
                pass

        for _ in range(10):
            once()
        gc.collect()
        before = handles()
        memory = resident()
        for _ in range(50):
            once()
        gc.collect()
        wait_for("descriptors and threads as before", lambda: handles() == before)
        # 5,000 batches kept would be 20 MB, 50 meshes far more.
        grown = resident() - memory
        print("grown", grown)
        assert grown < 8 << 20


class TestLog:
    def test_function_and_logger(self, world, caplog):
        lines = []
        with libmesh.Mesh(**world.options(log=lambda *line: lines.append(line))) as mesh:
            mesh.wait_ready(60)
        assert (logging.INFO, "clusters") in [line[:2] for line in lines if line[2].endswith("ready")], lines
        caplog.set_level(logging.INFO, "mesh")
        with libmesh.Mesh(**world.options(log=logging.getLogger("mesh"))) as mesh:
            mesh.wait_ready(60)
        assert [m for m in caplog.messages if m.startswith("clusters: ") and m.endswith("ready")]

    def test_it_may_fail_block_and_use_the_mesh(self, world, caplog):
        used = threading.Event()

        def log(level, subsystem, text):
            if not used.is_set() and box:
                box[0].wait_ready(DEADLINE)
                box[0].clusters()
                used.set()
            raise RuntimeError("on purpose")

        box = []
        with libmesh.Mesh(**world.options(log=log)) as mesh:
            box.append(mesh)
            mesh.wait_ready(60)
            world.remote.put(ip("999.1.1.1", 1))  # told as refused
            assert used.wait(DEADLINE)
        assert "on purpose" in caplog.text

    def test_the_log_may_close_the_mesh(self, world):
        ended = threading.Event()

        def log(level, subsystem, text):
            if box and not ended.is_set():
                box[0].close()
                ended.set()

        box = []
        mesh = libmesh.Mesh(**world.options(log=log))
        box.append(mesh)
        # Something to tell, should it have been quicker than this.
        world.own.put(ip("999.1.1.2", 1))
        assert ended.wait(DEADLINE)
        wait_for("the log's end", lambda: not [t for t in threading.enumerate() if t.name == "libmesh-log"])


class TestPackage:
    def test_declarations_are_those_of_the_header(self):
        symbols = (ROOT / "tests/abi/symbols").read_text().split()
        names = [name for name in symbols if name.startswith("mesh_")]
        assert names
        assert not [name for name in names if not hasattr(libmesh._native.lib, name)]

    def test_the_header_is_read_and_not_guessed(self):
        sys.path.insert(0, str(ROOT / "bindings/python"))
        try:
            import mesh_build
        finally:
            sys.path.pop(0)
        text = mesh_build.declarations(
            "/* a */ #include <x.h>\n#define MESH_A 7u\n#define MESH_B(x) x\n#define MESH_C \\\n  { 0 }\n#ifdef __cplusplus\n"
            "extern \"C\" {\n#else\nint c;\n#endif\n#ifndef X\n__attribute__((format(printf, 1, 2))) MESH_API int f(void); // no\n"
            "#endif\n")
        assert text.split() == ["#define", "MESH_A", "...", "int", "c;", "int", "f(void);"]
        with pytest.raises(ValueError, match="pragma"):
            mesh_build.declarations("#pragma once")

    @pytest.mark.skipif(shutil.which("mypy") is None, reason="no mypy on this machine")
    def test_types(self, tmp_path):
        user = tmp_path / "user.py"
        user.write_text("import libmesh\n"
                        "def f(mesh: libmesh.Mesh) -> list[str]:\n"
                        "    for event in mesh.watch(libmesh.Objects.IPS):\n"
                        "        if isinstance(event.object, libmesh.Ip):\n"
                        "            return [event.object.prefix]\n"
                        "    return [b.address for b in mesh.backends('shop/echo')]\n")
        done = subprocess.run(["mypy", "--strict", "--cache-dir", str(tmp_path), str(ROOT / "bindings/python/src"), str(user)],
                              cwd=ROOT / "bindings/python", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
