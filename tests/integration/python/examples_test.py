"""examples/python, each with the real thing: haproxy, nginx, promtool, a terminal."""
import http.server
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings

import pytest
from clusters import DEADLINE, cluster_config, free_port, identity, ip, own_service, remote_service, wait_for

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "examples/python"


def get(url):
    """@return the body, or the code, or None without an answer"""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Program:
    """An example that runs; its output in a file."""

    def __init__(self, folder, name, *arguments):
        self.log = pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([sys.executable, str(EXAMPLES / name), *arguments], stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.kill()
        self.process.wait()
        if kind is not None:
            print(self.output())

    def output(self):
        return self.log.read_text()

    def wait_for_output(self, text, count=1):
        wait_for(f"{text!r} in the output", lambda: self.output().count(text) >= count or self.check_alive())

    def check_alive(self):
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.output()}"

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


class Backend:
    """A web server that answers with its name."""

    def __init__(self, name):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def flags(world):
    etcd, folder = world.write_files()
    return ["--cluster-name", "cluster1", "--cluster-id", "1", "--etcd-config", etcd, "--clustermesh-config", folder]


@pytest.fixture
def backends(world):
    """shop/echo at 127.0.0.1, one in each cluster."""
    one, two = Backend("one"), Backend("two")
    world.own.put(own_service("echo", ("127.0.0.1", one.port)))
    world.remote.put(remote_service("cluster2", 2, "echo", "127.0.0.1", port=two.port))
    yield one, two
    one.close()
    two.close()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
class TestEach:
    def test_help_and_mistakes(self, name, tmp_path):
        run = lambda *words: subprocess.run([sys.executable, str(EXAMPLES / name), *words], capture_output=True, text=True,
                                            timeout=DEADLINE)
        helped = run("--help")
        assert helped.returncode == 0 and f"{name} --cluster-name cluster1" in helped.stdout
        assert run().returncode == 2
        required = {"haproxy_upstreams.py": ["--output", str(tmp_path / "out")],
                    "vm_backend.py": ["--name", "vm", "--ip", "10.9.0.1", "--backend", "shop/echo:80"]}.get(name, [])
        wrong = run("--cluster-name", "cluster1", "--cluster-id", "1", "--etcd-config", "/does/not/exist.yaml", *required)
        assert wrong.returncode == 1 and wrong.stderr.startswith(
            f"{name}: not_found: etcd_config: /does/not/exist.yaml: "), wrong
        assert wrong.stderr.count("\n") == 1


class TestUpstreams:
    HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend all
    bind 127.0.0.1:{port}
    default_backend shop_echo_80
"""
    NGINX = """
daemon off;
error_log {folder}/nginx.log;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/mesh.cfg;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://shop_echo_80; }} }}
}}
"""

    @pytest.mark.parametrize("kind", ["haproxy", "nginx"])
    def test_a_backend_fails_over_to_the_other_cluster(self, world, flags, backends, tmp_path, kind):
        if shutil.which(kind) is None:
            pytest.skip(f"no {kind} on this machine")
        port, main, output = free_port(), tmp_path / "main.cfg", tmp_path / "mesh.cfg"
        main.write_text((self.HAPROXY if kind == "haproxy" else self.NGINX).format(port=port, folder=tmp_path))
        pid = tmp_path / f"{kind}.pid"
        if kind == "haproxy":
            server = ["haproxy", "-W", "-db", "-f", str(main), "-f", str(output)]
            more = ["--check", f"haproxy -c -f {main} -f {{file}}", "--reload", f"! [ -e {pid} ] || kill -USR2 $(cat {pid})"]
        else:
            server = ["nginx", "-c", str(main)]
            more = ["--reload", f"! [ -e {pid} ] || nginx -s reload -c {main}"]
        url = f"http://127.0.0.1:{port}/"
        with Program(tmp_path, "haproxy_upstreams.py", *flags, "--service", "shop/echo", "--format", kind, "--output", str(output),
                     "--min-interval", "0.1", *more) as program:
            program.wait_for_output("written")
            with open(tmp_path / "server.log", "wb") as log:
                process = subprocess.Popen(server, stdout=log, stderr=log)
            try:
                wait_for(kind, lambda: get(url) in ("one", "two"))
                if kind == "haproxy":  # nginx writes its own
                    pid.write_text(str(process.pid))
                wait_for("both", lambda: {get(url) for _ in range(10)} == {"one", "two"})
                # Both in the file, too: an older nginx may still answer. It may have been written before all was known.
                wait_for("both in the file", lambda: str(backends[0].port) in output.read_text())
                before, writes = output.read_text(), program.output().count("written")

                # What changes nothing for it is no reason to reload.
                world.own.put(own_service("other", "10.1.0.9"))
                world.own.put(own_service("echo"))
                program.wait_for_output("written", writes + 1)
                wait_for("the other cluster's only", lambda: {get(url) for _ in range(10)} == {"two"})
                assert program.output().count("written") == writes + 1
                world.own.put(own_service("echo", ("127.0.0.1", backends[0].port)))
                program.wait_for_output("written", writes + 2)
                wait_for("both again", lambda: {get(url) for _ in range(10)} == {"one", "two"})
                assert output.read_text() == before
                assert "weight" in before and "cluster2" in before
                world.own.delete("mesh/local/services/v1/shop/echo")
                if kind == "haproxy":
                    # Its other file asks for a backend that is gone: what would not start is not installed.
                    program.wait_for_output("unable to find required default_backend: 'shop_echo_80'")
                    assert get(url) in ("one", "two")
                world.own.put(own_service("echo"))
                world.remote.delete("cilium/state/services/v1/cluster2/shop/echo")
                wait_for("none", lambda: get(url) in (502, 503))
                assert not output.with_suffix(".cfg.new").exists()
            except BaseException:
                print((tmp_path / "server.log").read_text(), output.read_text())
                raise
            finally:
                process.kill() if kind == "haproxy" else process.terminate()
                process.wait(DEADLINE)
            assert program.terminate() == 0

    def test_what_the_check_refuses_is_not_installed(self, world, flags, backends, tmp_path):
        output, reloaded = tmp_path / "mesh.cfg", tmp_path / "reloaded"
        output.write_text("the good one\n")
        with Program(tmp_path, "haproxy_upstreams.py", *flags, "--output", str(output), "--check", "echo no good; exit 3; cat {file}",
                     "--reload", f"touch {reloaded}") as program:
            program.wait_for_output("exit 3\nno good")
        assert output.read_text() == "the good one\n"
        assert os.listdir(tmp_path).count("reloaded") == 0 and not output.with_suffix(".cfg.new").exists()


class TestPrometheus:
    def test_targets(self, world, flags, tmp_path):
        world.remote.put({**identity(131_073, "k8s:app=echo;k8s:app.kubernetes.io/part-of=shop;"
                                                      "k8s:io.cilium.k8s.policy.cluster=cluster2;"),
                          **ip("10.2.0.2", 131_073, pod=""), **ip("fd00::2:1", 131_073, pod="six", namespace="other")})
        with Program(tmp_path, "prometheus_http_sd.py", *flags, "--listen", "127.0.0.1:0") as program:
            program.wait_for_output("/targets\n")
            url = program.output().strip()
            wait_for("all clusters", lambda: get(url) not in (None, 503))
            with urllib.request.urlopen(url + "?port=9100", timeout=10) as answer:
                assert answer.headers["Content-Type"] == "application/json"
                groups = json.load(answer)
            assert [group["targets"] for group in groups] == [["10.1.0.1:9100"], ["10.2.0.1:9100"], ["[fd00::2:1]:9100"]]
            assert groups[1]["labels"] == {
                "__meta_mesh_cluster": "cluster2", "__meta_mesh_namespace": "shop", "__meta_mesh_pod": "echo-1",
                "__meta_mesh_node": "192.168.0.2", "__meta_mesh_identity": "131073", "__meta_mesh_label_app": "echo",
                "__meta_mesh_label_app_kubernetes_io_part_of": "shop",
                "__meta_mesh_label_io_cilium_k8s_policy_cluster": "cluster2"}
            assert [g["targets"] for g in json.loads(get(url + "?cluster=cluster1&namespace=shop"))] == [["10.1.0.1:8080"]]
            assert json.loads(get(url + "?namespace=none")) == []
            assert (get(url + "x"), get(url + "?port=0"), get(url + "?prot=1")) == (404, 400, 400)

            if shutil.which("promtool"):
                config = tmp_path / "prometheus.yml"
                config.write_text(f"""
scrape_configs:
  - job_name: mesh
    http_sd_configs: [{{url: "{url}?port=9100"}}]
    relabel_configs: [{{source_labels: [__meta_mesh_cluster], target_label: cluster}}]
""")
                done = subprocess.run(["promtool", "check", "service-discovery", "--timeout=5s", str(config), "mesh"],
                                      capture_output=True, text=True, timeout=DEADLINE)
                found = json.loads(done.stdout)
                assert {(t["labels"]["instance"], t["labels"]["cluster"]) for t in found} == {
                    ("10.1.0.1:9100", "cluster1"), ("10.2.0.1:9100", "cluster2"), ("[fd00::2:1]:9100", "cluster2")}

            else:
                warnings.warn("SKIPPED: what Prometheus makes of the answers, as there is no promtool", stacklevel=1)

            # What is known of a remote stays while it is away.
            world.remote.kill()
            try:
                assert len(json.loads(get(url))) == 3
            finally:
                world.remote.start()
            assert program.terminate() == 0

    def test_not_before_all_is_known(self, world, flags, tmp_path):
        world.remote.kill()
        try:
            with Program(tmp_path, "prometheus_http_sd.py", *flags, "--listen", "127.0.0.1:0") as program:
                program.wait_for_output("/targets\n")
                assert get(program.output().strip()) == 503
        finally:
            world.remote.start()


class TestTop:
    def test_once(self, world, flags):
        done = subprocess.run([sys.executable, str(EXAMPLES / "mesh_top.py"), *flags, "--once"], capture_output=True, text=True,
                              timeout=DEADLINE)
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, ""), done
        assert [line.split()[:4] for line in lines[:3]] == [["CLUSTER", "ID", "STATE", "BEHIND"],
                                                            ["cluster1", "(own)", "1", "ready"], ["cluster2", "2", "ready", "-"]]
        assert lines[-2].split() == ["shop/echo", "none", "1/1", "1/1"]
        assert "\x1b" not in done.stdout

    def test_each_change(self, world, flags, tmp_path):
        world.own.put(cluster_config("cluster1", 1))
        with Program(tmp_path, "mesh_top.py", *flags) as program:
            program.wait_for_output("1/1       1/1")
            world.own.put(own_service("echo"))
            program.wait_for_output("-         1/1")
            assert "\x1b" not in program.output()
            assert program.terminate() == 0

    def test_on_a_terminal(self, world, flags):
        child, terminal = pty.fork()
        if child == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, str(EXAMPLES / "mesh_top.py"), *flags])
        seen = bytearray()

        def drawn(text):
            while select.select([terminal], [], [], 0)[0]:
                try:
                    seen.extend(os.read(terminal, 65536))
                except OSError:
                    return True  # it has ended
            return text in seen

        try:
            import fcntl
            import struct
            import termios
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
            wait_for("both clusters in green", lambda: drawn(b"\x1b[32mcluster2"))
            world.remote.kill()
            try:
                wait_for("a red one", lambda: drawn(b"\x1b[31mcluster2"))
            finally:
                world.remote.start()
            os.write(terminal, b"\x03")
            wait_for("the screen as it was", lambda: drawn(b"\x1b[?1049l"))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
            child = 0
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            os.close(terminal)
