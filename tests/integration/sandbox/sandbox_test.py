#!/usr/bin/env python3
"""sandbox_test.py BIN: meshctl's sandboxes without their daemons, on the real kernel.

Pods reach one another, exec and the objects' life work as told, and nothing of a sandbox is left after delete, however
the commands before ended. Exit code 77 = skipped, with the reason on standard error.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest

import yaml

BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin").resolve()
NETNS = pathlib.Path("/run/netns")
PINS = pathlib.Path("/sys/fs/bpf")

ECHO = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: shop
  annotations: {service.cilium.io/global: "true"}
spec:
  selector: {app: echo}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: http, port: 80, targetPort: web}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: shop}
spec:
  replicas: %d
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: echo
        command: [mesh-echo, --port, "8080"]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: web}}
"""
CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node1, containers: [{name: c, command: [sleep, infinity]}]}
"""


def cgroup_root():
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return pathlib.Path(fields[1])
    return None


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


class SandboxTest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="mesh-sandbox-")
        self.name = f"t{os.getpid()}"
        self.names = [self.name]

    def tearDown(self):
        for name in self.names:
            self.meshctl("sandbox", "delete", name, check=None)
            self.assert_nothing_left(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def meshctl(self, *args, check=0, input=None, bin_dir=BIN):
        done = subprocess.run([bin_dir / "meshctl", "--root", self.root, *args], capture_output=True, text=True,
                              timeout=120, input=input)
        if check is not None:
            self.assertEqual(done.returncode, check, f"meshctl {args}\n{done.stdout}{done.stderr}")
        return done

    def create(self, name=None, *args, check=0, **kwargs):
        name = name or self.name
        if name not in self.names:
            self.names.append(name)
        return self.meshctl("sandbox", "create", "--name", name, "--cluster-id", str(len(self.names)),
                            "--pod-cidr", "10.90.0.0/16,fd00:90::/48", "--service-cidr",
                            "10.91.0.0/16,fd00:91::/112", "--nodes", "2", "--no-daemons", *args, check=check, **kwargs)

    def apply(self, text, check=0):
        return self.meshctl("sandbox", "apply", "--cluster", self.name, "-f", "-", input=text, check=check)

    def exec(self, pod, *command, check=0):
        return self.meshctl("sandbox", "exec", "--cluster", self.name, pod, "--", *command, check=check).stdout

    def pods(self):
        rows = json.loads(self.meshctl("sandbox", "pods", "--cluster", self.name, "-o", "json").stdout)
        return {row["name"]: row for row in rows}

    def manifests(self, kind):
        folder = pathlib.Path(self.root, self.name, "manifests")
        return {d["metadata"]["name"]: d
                for d in (yaml.safe_load(f.read_text()) for f in folder.glob("*.yaml")) if d["kind"] == kind}

    def leftovers(self, name):
        prefixes = (f"mesh-{name}.", f"mesh-{name}_")
        found = [str(p) for base in (NETNS, cgroup_root(), PINS) if base.exists()
                 for p in base.iterdir() if p.name.startswith(prefixes)]
        folder = pathlib.Path(self.root, name)
        if folder.exists():
            found.append(str(folder))
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if (f"--cluster\0{name}\0".encode() in words and self.root.encode() in words) or \
                        f"MESH_CLUSTER={name}\0".encode() in words:
                    found.append(f"process {process.name}: {words[:200]}")
        return found

    def assert_nothing_left(self, name):
        self.assertEqual(self.leftovers(name), [])
        # The underlay goes with its last node; other sandboxes may be on this machine.
        if not any(p.name.startswith("mesh-") and "." in p.name for p in NETNS.iterdir()):
            self.assertFalse((NETNS / "mesh-underlay").exists())

    def test_pods_of_a_node_reach_one_another(self):
        self.create()
        self.apply(ECHO % 2 + "---" + CLIENT)
        pods = self.pods()
        self.assertEqual(len(pods), 3)
        self.assertTrue(all(p["ready"] for p in pods.values()), pods)
        near = next(p for p in pods.values() if p["node"] == "node1" and p["name"].startswith("echo"))
        self.assertEqual({p["node"] for p in pods.values()}, {"node1", "node2"})
        self.exec("shop/client", "ping", "-c1", "-W2", near["ips"][0])
        self.exec("shop/client", "ping", "-c1", "-W2", near["ips"][1])
        for ip in near["ips"]:
            host = f"[{ip}]" if ":" in ip else ip
            answer = json.loads(self.exec("shop/client", "curl", "-gsm5", f"http://{host}:8080/"))
            self.assertEqual((answer["cluster"], answer["node"], answer["pod"]),
                             (self.name, "node1", near["name"]))
            self.assertIn(pods["client"]["ips"][":" in ip], answer["client"])

    def test_exec_is_in_the_pods_namespace_and_cgroup(self):
        self.create()
        self.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---" + CLIENT)
        out = self.exec("shop/client", "cat", "/proc/self/cgroup")
        self.assertIn(f"0::/mesh-{self.name}.node1/pod.shop.client\n", out)
        self.assertTrue(cgroup_root().joinpath("cgroup.procs").exists())
        self.exec("shop/client", "test", "-e", str(cgroup_root() / f"mesh-{self.name}.node1"))
        self.assertEqual(os.stat(NETNS / f"mesh-{self.name}.node1.shop.client").st_ino,
                         int(self.exec("shop/client", "stat", "-Lc", "%i", "/proc/self/ns/net")))
        self.exec("shop/client", "sh", "-c", "exit 7", check=7)
        self.assertIn("fd00:90::", self.exec("shop/client", "ip", "-6", "address", "show", "eth0"))
        node = self.meshctl("sandbox", "exec", "--cluster", self.name, "--node", "node2", "--", "ip", "route")
        self.assertIn("172.18.0.0/15", node.stdout)
        self.meshctl("sandbox", "exec", "--cluster", self.name, "shop/none", "--", "true", check=1)
        self.meshctl("sandbox", "exec", "--cluster", self.name, "shop/client", check=2)

    def test_json_is_all_there_is_on_standard_output(self):
        made = json.loads(self.create(None, "-o", "json").stdout)
        listed = json.loads(self.meshctl("sandbox", "list", "-o", "json").stdout)
        self.assertEqual([made], [sandbox for sandbox in listed if sandbox["name"] == self.name])
        self.assertEqual((made["complete"], made["nodes"], made["etcd"]), (True, 2, "none"))
        space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---" + CLIENT
        applied = json.loads(self.meshctl("sandbox", "apply", "--cluster", self.name, "-f", "-", "-o", "json",
                                          input=space).stdout)
        client = {"kind": "Pod", "namespace": "shop", "name": "client"}
        self.assertEqual(applied, [{"kind": "Namespace", "namespace": "", "name": "shop", "change": "created"},
                                   client | {"change": "created"}])
        remove = ("sandbox", "remove", "--cluster", self.name, "-n", "shop", "-o", "json", "pod/client")
        self.assertEqual(json.loads(self.meshctl(*remove).stdout), [client | {"change": "removed"}])
        again = self.meshctl(*remove, check=1)
        self.assertEqual(again.stdout, "")
        self.assertIn("no Pod shop/client", again.stderr)
        self.assertEqual(self.create(None, "-o", "json", check=1).stdout, "")
        authority = json.loads(self.meshctl("ca", "init", "--dir", f"{self.root}/.ca", "-o", "json").stdout)
        end = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in",
                              authority["certificate"]], capture_output=True, text=True, check=True).stdout
        self.assertEqual(end.strip(), "notAfter=" + authority["not_after"].replace("T", " "))
        delete = ("sandbox", "delete", self.name, "--ignore-not-found", "-o", "json")
        for deleted in (True, False):
            self.assertEqual(json.loads(self.meshctl(*delete).stdout), {"name": self.name, "deleted": deleted})

    def test_manifests_follow_the_pods(self):
        self.create()
        self.apply(ECHO % 3)
        service = self.manifests("Service")["echo"]
        self.assertTrue(service["spec"]["clusterIP"].startswith("10.91."))
        self.assertEqual(service["spec"]["ipFamilies"], ["IPv4", "IPv6"])
        self.assertEqual(set(self.manifests("Node")), {"node1", "node2"})
        slices = self.manifests("EndpointSlice")
        self.assertEqual(len(slices["echo-ipv4-1"]["endpoints"]), 3)
        self.assertEqual(len(slices["echo-ipv6-1"]["endpoints"]), 3)
        self.assertEqual(slices["echo-ipv4-1"]["ports"], [{"name": "http", "protocol": "TCP", "port": 8080}])
        again = self.apply(ECHO % 3).stdout
        self.assertEqual([line.split()[-1] for line in again.splitlines()], ["unchanged"] * 3)
        self.assertEqual(self.manifests("Service")["echo"], service)
        self.apply(ECHO % 1)
        self.assertEqual(len(self.pods()), 1)
        self.assertEqual(len(self.manifests("EndpointSlice")["echo-ipv4-1"]["endpoints"]), 1)
        self.assertEqual(self.manifests("Service")["echo"]["spec"]["clusterIP"], service["spec"]["clusterIP"])
        self.meshctl("sandbox", "remove", "--cluster", self.name, "-n", "shop", "deployment/echo")
        self.assertEqual(self.pods(), {})
        self.assertIn("echo", self.manifests("Service"))
        self.assertEqual(self.manifests("EndpointSlice")["echo-ipv4-1"]["endpoints"], [])
        self.meshctl("sandbox", "remove", "--cluster", self.name, "-n", "shop", "deployment/echo", check=1)
        self.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---" + CLIENT)
        removed = self.meshctl("sandbox", "remove", "--cluster", self.name, "namespace/shop").stdout
        self.assertIn("Pod shop/client removed", removed)
        self.assertIn("Service shop/echo removed", removed)
        self.assertEqual(list(self.manifests("Namespace")), ["default"])
        self.assertEqual([p.name for p in NETNS.iterdir() if ".shop." in p.name and self.name in p.name], [])

    def test_a_pods_end_is_noted(self):
        self.create()
        self.apply(ECHO % 2)
        victim = sorted(self.pods())[0]
        group = cgroup_root() / f"mesh-{self.name}.{self.pods()[victim]['node']}" / f"pod.shop.{victim}"
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        self.assertTrue(wait_for(lambda: self.pods()[victim]["phase"] == "Failed"))
        self.assertEqual(self.pods()[victim]["exit_code"], 137)
        self.assertEqual(self.manifests("Pod")[victim]["status"]["phase"], "Failed")
        self.assertEqual(len(self.manifests("EndpointSlice")["echo-ipv4-1"]["endpoints"]), 1)
        self.apply(ECHO % 2)
        self.assertTrue(all(p["ready"] for p in self.pods().values()))
        done = "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\nspec: {containers: [{command: [\"true\"]}]}\n"
        self.apply(done)
        self.assertTrue(wait_for(lambda: self.pods()["job"]["phase"] == "Succeeded"))

    def test_a_request_in_flight_outlives_its_pod_being_asked_to_stop(self):
        self.create()
        self.apply(ECHO % 1 + "---" + CLIENT)
        pods = self.pods()
        echo = next(p for p in pods.values() if p["name"].startswith("echo"))
        client = "node1" if echo["node"] == "node1" else None
        if client is None:
            self.apply(CLIENT.replace("client", "near").replace("node1", echo["node"]))
        where = "shop/client" if client else "shop/near"
        slow = subprocess.Popen([BIN / "meshctl", "--root", self.root, "sandbox", "exec", "--cluster", self.name, where,
                                 "--", "curl", "-sm20", f"http://{echo['ips'][0]}:8080/?delay=1500"],
                                stdout=subprocess.PIPE, text=True)
        group = cgroup_root() / f"mesh-{self.name}.{echo['node']}"
        pid = (group / f"pod.shop.{echo['name']}" / "cgroup.procs").read_text().split()[0]

        def connected():
            # /proc/<pid>/net/tcp6: local port 8080 = 1F90, state 01 = established
            return any(fields[1].endswith(":1F90") and fields[3] == "01" for fields in
                       (line.split() for line in pathlib.Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]))
        self.assertTrue(wait_for(connected))
        self.meshctl("sandbox", "remove", "--cluster", self.name, "-n", "shop", "deployment/echo")
        out, _ = slow.communicate(timeout=30)
        self.assertEqual(json.loads(out)["pod"], echo["name"])

    def test_bad_input_names_what_is_wrong_and_changes_nothing(self):
        self.create()
        before = pathlib.Path(self.root, self.name, "state.json").read_text()
        for text, words in (
                ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}", "command"),
                (CLIENT, "namespace shop"),
                (CLIENT.replace("node1", "node9").replace("shop", "default"), "node9"),
                ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 1.2.3.4, ports: [{port: 1}]}",
                 "1.2.3.4"),
                ("a: [", "-:"), ("kind: Job\napiVersion: batch/v1\nmetadata: {name: j}", "Job")):
            done = self.apply(text, check=None)
            self.assertIn(done.returncode, (1, 2), text)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertEqual(pathlib.Path(self.root, self.name, "state.json").read_text(), before)
        self.assertIn("exists", self.create(check=1).stderr)
        self.assertIn("no sandbox named", self.meshctl("sandbox", "apply", "--cluster", "nosuch", "-f", "-",
                                                       input=CLIENT, check=1).stderr)
        for args in (("--pod-cidr", "10.1.0.0/33"), ("--pod-cidr", "172.18.0.0/16"), ("--cluster-id", "0"),
                     ("--nodes", "0"), ("--name", "A_b"), ("--service-cidr", "10.1.0.0/20")):
            flags = {"--name": "x1", "--cluster-id": "1", "--pod-cidr": "10.1.0.0/16", "--service-cidr": "10.2.0.0/16"}
            flags.update([args])
            done = self.meshctl("sandbox", "create", "--no-daemons", *(w for f in flags.items() for w in f), check=2)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assert_nothing_left("x1")
        missing = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{command: [no-such-program]}]}"
        self.assertIn("no-such-program", self.apply(missing, check=1).stderr)
        self.assertEqual(self.pods()["p"]["phase"], "Failed")
        dies = "apiVersion: v1\nkind: Pod\nmetadata: {name: q}\nspec: {containers: [{command: [sh, -c, 'echo broken; " \
               "exit 3'], readinessProbe: {tcpSocket: {port: 1}}}]}"
        self.assertIn("broken", self.apply(dies, check=1).stderr)

    def test_connecting_needs_a_common_ca_and_writes_one_small_secret(self):
        self.create()
        other, stranger = self.name + "b", self.name + "c"
        self.names.append(other)
        for name, cidr, ca in ((other, "10.92.0.0/16", ["--inherit-ca", self.name]), (stranger, "10.94.0.0/16", [])):
            if name not in self.names:
                self.names.append(name)
            self.meshctl("sandbox", "create", "--name", name, "--cluster-id", str(10 + len(self.names)), "--pod-cidr",
                         cidr, "--service-cidr", "10.91.0.0/16", "--no-daemons", *ca)
        connected = self.meshctl("clustermesh", "connect", "--cluster", self.name, "--to", other, "-o", "json").stdout
        self.assertEqual(json.loads(connected), [{"cluster": self.name, "remote": other, "connected": True},
                                                 {"cluster": other, "remote": self.name, "connected": True}])
        folder = pathlib.Path(self.root, self.name, "clustermesh")
        self.assertEqual({p.name for p in folder.iterdir()},
                         {other} | {f"{other}.etcd-client{s}" for s in ("-ca.crt", ".crt", ".key")})
        secret = yaml.safe_load((folder / other).read_text())
        self.assertRegex(secret["endpoints"][0], r"^https://172\.1[89]\.\d+\.1:2379$")
        self.assertEqual(stat.S_IMODE(os.stat(secret["key-file"]).st_mode), 0o600)
        check = subprocess.run(["openssl", "verify", "-purpose", "sslclient", "-CAfile",
                                pathlib.Path(self.root, other, "pki", "ca.crt"), secret["cert-file"]])
        self.assertEqual(check.returncode, 0)
        subject = subprocess.run(["openssl", "x509", "-noout", "-subject", "-in", secret["cert-file"]],
                                 capture_output=True, text=True).stdout
        self.assertIn(f"CN = remote-{self.name}", subject)
        self.assertTrue(pathlib.Path(self.root, other, "clustermesh", self.name).exists())
        refused = self.meshctl("clustermesh", "connect", "--cluster", self.name, "--to", stranger, check=1).stderr
        self.assertIn("--inherit-ca", refused)
        self.assertEqual(stranger in {p.name for p in folder.iterdir()}, False)
        self.meshctl("clustermesh", "connect", "--cluster", self.name, "--to", self.name, check=2)
        self.meshctl("clustermesh", "disconnect", "--cluster", self.name, "--from", other)
        self.assertEqual(list(folder.iterdir()), [])
        self.meshctl("clustermesh", "disconnect", "--cluster", self.name, "--from", other, check=1)
        keys = [p for p in pathlib.Path(self.root).rglob("*.key") if stat.S_IMODE(p.stat().st_mode) != 0o600]
        self.assertEqual(keys, [])

    def test_delete_takes_nothing_of_a_sandbox_of_a_longer_name(self):
        self.create()
        longer = self.name + "-x"
        self.names.append(longer)
        self.meshctl("sandbox", "create", "--name", longer, "--cluster-id", "9", "--pod-cidr", "10.92.0.0/16",
                     "--service-cidr", "10.93.0.0/16", "--no-daemons")
        self.meshctl("sandbox", "delete", self.name)
        self.assert_nothing_left(self.name)
        self.meshctl("sandbox", "exec", "--cluster", longer, "--node", "node1", "--", "ping", "-c1", "-W2",
                     json.loads(self.meshctl("sandbox", "exec", "--cluster", longer, "--node", "node1", "--", "ip", "-4",
                                             "-j", "address", "show", "eth0").stdout)[0]["addr_info"][0]["local"])

    def test_delete_without_or_with_a_broken_state_file(self):
        for spoil in (lambda folder: shutil.rmtree(folder),
                      lambda folder: (folder / "state.json").write_text('{"name": "'),
                      lambda folder: (folder / "state.json").unlink()):
            self.create()
            self.apply(ECHO % 2)
            if os.path.ismount(PINS):
                (PINS / f"mesh-{self.name}_node1" / "maps").mkdir(parents=True)
            spoil(pathlib.Path(self.root, self.name))
            self.assertIn(self.name, self.meshctl("sandbox", "list").stdout)
            self.create(check=1)
            self.meshctl("sandbox", "delete", self.name)
            self.assert_nothing_left(self.name)
        self.meshctl("sandbox", "delete", self.name, check=1)
        self.meshctl("sandbox", "delete", self.name, "--ignore-not-found")

    def killed(self, milliseconds, *args, input=None):
        """Runs meshctl and ends it with SIGKILL after that long; whether it was still running."""
        process = subprocess.Popen([BIN / "meshctl", "--root", self.root, *args], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write((input or "").encode())
            process.stdin.close()
        time.sleep(milliseconds / 1000)
        running = process.poll() is None
        process.kill()
        process.wait()
        return running

    def test_nothing_is_left_after_a_kill_half_way(self):
        create = ["sandbox", "create", "--name", self.name, "--cluster-id", "1", "--pod-cidr", "10.90.0.0/16",
                  "--service-cidr", "10.91.0.0/16", "--nodes", "4", "--no-daemons"]
        cut = 0
        for delay in (2, 5, 10, 20, 40, 60, 80, 120, 200):
            cut += self.killed(delay, *create)
            self.meshctl("sandbox", "delete", self.name, "--ignore-not-found")
            self.assert_nothing_left(self.name)
        self.assertGreater(cut, 0)
        cut = 0
        for delay in (5, 10, 20, 40, 80, 120):
            self.create()
            cut += self.killed(delay, "sandbox", "apply", "--cluster", self.name, "-f", "-", input=ECHO % 6)
            # Finishing it is one way out, deleting the other.
            if delay in (10, 40):
                self.apply(ECHO % 6)
                self.assertEqual(sum(p["ready"] for p in self.pods().values()), 6)
            cut += self.killed(delay, "sandbox", "delete", self.name)
            self.meshctl("sandbox", "delete", self.name, "--ignore-not-found")
            self.assert_nothing_left(self.name)
        self.assertGreater(cut, 0)

    def test_an_underlay_that_was_being_made_is_made_again(self):
        underlay = NETNS / "mesh-underlay"
        if underlay.exists() and os.path.ismount(underlay):
            self.skipTest("SKIPPED: other sandboxes are on this machine")
        underlay.touch()
        self.create()
        self.meshctl("sandbox", "delete", self.name)
        NETNS.joinpath("mesh-underlay").touch()
        self.meshctl("sandbox", "delete", self.name, check=1)
        self.create()

    def test_a_daemon_that_dies_at_start_is_told_with_its_last_words(self):
        programs = pathlib.Path(self.root, "bin")
        programs.mkdir()
        shutil.copy(BIN / "meshctl", programs)
        for name in ("mesh-proxy", "mesh-operator", "mesh-agent"):
            (programs / name).write_text("#!/bin/sh\necho cannot listen: taken >&2\nexit 1\n")
            (programs / name).chmod(0o755)
        done = self.meshctl("sandbox", "create", "--name", self.name, "--cluster-id", "1", "--pod-cidr", "10.90.0.0/16",
                            "--service-cidr", "10.91.0.0/16", check=1, bin_dir=programs)
        self.assertIn("mesh-proxy on node1 ended at start", done.stderr)
        self.assertIn("cannot listen: taken", done.stderr)
        self.assert_nothing_left(self.name)


def main():
    if os.geteuid() != 0:
        print("SKIPPED: sandbox_test needs root: network namespaces and cgroups", file=sys.stderr)
        return 77
    if cgroup_root() is None:
        print("SKIPPED: sandbox_test needs cgroup v2 mounted", file=sys.stderr)
        return 77
    return 0 if unittest.main(argv=[sys.argv[0], *sys.argv[2:]], exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
