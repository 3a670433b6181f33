"""Servers behind the proxy, and the proxy itself, for l7_test.py. Ports are the kernel's choice."""
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

PATIENCE = 30


def until(what, condition):
    """Waits for a condition, long."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


class Proxy:
    def __init__(self, program, upstream, *args, rules=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="l7-test-"))
        self.rules = self.folder / "rules.json"
        self.log = self.folder / "access.log"
        self.set_rules(rules)
        self.process = subprocess.Popen(
            [program, "--upstream", f"127.0.0.1:{upstream}", "--rules", self.rules, "--access-log", self.log,
             *map(str, args)], stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]

    def set_rules(self, rules):
        """None: everything passes."""
        self.rules.write_text(json.dumps({} if rules is None else {"rules": rules}))

    def change_rules(self, rules):
        self.set_rules(rules)
        self.process.send_signal(signal.SIGHUP)
        assert json.loads(self.process.stdout.readline()) == {"read": True}

    def stats(self):
        self.process.send_signal(signal.SIGUSR1)
        return json.loads(self.process.stdout.readline())

    def lines(self, count):
        """The access log's lines, when there are so many."""
        def enough():
            text = self.log.read_text() if self.log.exists() else ""
            return text.splitlines() if text.count("\n") >= count else None
        return [json.loads(line) for line in until(f"{count} lines", enough)]

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_all(connection):
    """Until its end; a reset counts as one, and is told."""
    data, reset = b"", False
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        reset = True
    return data, reset


def read_until(connection, mark):
    data = b""
    while mark not in data:
        part = connection.recv(65536)
        if not part:
            raise AssertionError(f"the connection ended after {data!r}")
        data += part
    return data


class RawServer:
    """Each connection is handled by `serve(connection)` on a thread; `received` has all bytes that came."""

    def __init__(self, serve=None):
        self.serve = serve
        self.received = b""
        self.accepted = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self.run, args=(connection,), daemon=True).start()

    def run(self, connection):
        with connection:
            try:
                if self.serve:
                    self.serve(self, connection)
                else:
                    while data := connection.recv(65536):
                        self.received += data
            except OSError:
                pass

    def stop(self):
        self.socket.close()


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it got."""
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return data

    def answer(self):
        body = self.body()
        if self.path == "/none":
            self.send_response(204)
            self.end_headers()
            return
        reply = json.dumps({"method": self.command, "path": self.path, "headers": self.headers.items(),
                            "body": len(body)}).encode()
        self.send_response(200)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for byte in reply:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
            self.wfile.write(b"0\r\nX-Trailer: yes\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


class EchoServer:
    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Nginx:
    """A real nginx with files, HTTP/1.1 on `port`, HTTP/2 with prior knowledge on `port2`."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="l7-nginx-"))
        os.chmod(self.folder, 0o755)
        (self.folder / "html").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.port, self.port2 = one.getsockname()[1], two.getsockname()[1]
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; worker_processes 1; error_log stderr error; pid {self.folder}/pid;
events {{ worker_connections 1024; }}
http {{ access_log off; {paths}
  server {{ listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.port2} http2; root {self.folder}/html;
    location /upload {{ dav_methods PUT; create_full_put_path on; client_max_body_size 100m; }} }} }}
""")
        self.process = subprocess.Popen(["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf"],
                                        stderr=subprocess.PIPE)
        until("nginx", lambda: self.up() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError(self.process.stderr.read().decode())

    def up(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def file(self, name, data):
        (self.folder / "html" / name).write_bytes(data)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)
