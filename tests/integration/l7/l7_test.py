#!/usr/bin/env python3
"""l7_test.py L7_PROXY: the HTTP policy proxy between real clients and servers, without privileges."""
import codecs
import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from servers import PATIENCE, EchoServer, Nginx, Proxy, RawServer, read_all, read_until, until

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "build/release/bin/l7_proxy"
CORPUS = pathlib.Path(__file__).resolve().parents[2] / "unit/serve/l7/requests"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def corpus(name):
    for line in (CORPUS / name).read_text().splitlines():
        if line and not line.startswith("#"):
            status, case, text = line.split(" ", 2)
            yield int(status), case, codecs.decode(text, "unicode_escape").encode("latin-1")


def answering(server, connection):
    """Answers each head that comes with OK."""
    data = b""
    while part := connection.recv(65536):
        server.received += part
        data += part
        while b"\r\n\r\n" in data:
            data = data.split(b"\r\n\r\n", 1)[1]
            connection.sendall(OK)


class L7Test(unittest.TestCase):
    def proxy(self, upstream, *args, rules=None):
        proxy = Proxy(PROGRAM, upstream, *args, rules=rules)
        self.addCleanup(proxy.stop)
        return proxy

    def server(self, kind, *args):
        server = kind(*args)
        self.addCleanup(server.stop)
        return server

    def curl(self, *args, check=True):
        done = subprocess.run(["curl", "-sS", "--max-time", str(PATIENCE), *map(str, args)], capture_output=True)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout

    # --- requests ---

    def test_smuggling_corpus_reaches_nobody(self):
        server = self.server(RawServer)
        proxy = self.proxy(server.port)
        cases = list(corpus("refused.txt"))
        for status, case, data in cases:
            with self.subTest(case), proxy.connect() as c:
                c.sendall(data)
                reply, reset = read_all(c)
                self.assertFalse(reset)
                self.assertTrue(reply.startswith(b"HTTP/1.1 %d " % status), reply)
                self.assertEqual(reply.count(b"HTTP/1.1 "), 1)
        self.assertEqual((server.received, server.accepted), (b"", 0))
        self.assertEqual(proxy.stats()["refused"], len(cases))

    def test_smuggling_corpus_behind_a_good_request(self):
        server = self.server(RawServer, answering)
        proxy = self.proxy(server.port)
        good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
        for n, (status, case, data) in enumerate(corpus("refused.txt"), 1):
            with self.subTest(case), proxy.connect() as c:
                c.sendall(good + data)
                reply, _ = read_all(c)
                self.assertTrue(reply.startswith(OK + b"HTTP/1.1 %d " % status), reply)
                self.assertEqual(server.received, n * good)

    def test_http_client_keeps_its_connection(self):
        proxy = self.proxy(self.server(EchoServer).port)
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
        self.addCleanup(client.close)
        for method, path, body in (("GET", "/a?b", None), ("POST", "/b", b"x" * 100_000), ("GET", "/chunked", None),
                                   ("PUT", "/c", iter([b"abc", b"def"])), ("DELETE", "/d", None), ("HEAD", "/e", None),
                                   ("GET", "/none", None), ("GET", "/f", None)):
            client.request(method, path, body, headers={"X-Own": "1"})
            answer = client.getresponse()
            text = answer.read()
            self.assertEqual(answer.status, 204 if path == "/none" else 200)
            if method == "HEAD" or path == "/none":
                self.assertEqual(text, b"")
                continue
            said = json.loads(text)
            self.assertEqual((said["method"], said["path"]), (method, path))
            self.assertEqual(said["body"], 100_000 if path == "/b" else 6 if path == "/c" else 0)
        self.assertEqual(proxy.stats()["accepted"], 1)
        lines = proxy.lines(8)
        self.assertEqual([line["path"] for line in lines][:3], ["/a?b", "/b", "/chunked"])
        self.assertEqual(lines[0]["source"], {"ip": "127.0.0.1", "port": client.sock.getsockname()[1], "identity": 1001})
        self.assertGreater(lines[1]["request_bytes"], 100_000)

    def test_http_1_0_and_half_close(self):
        proxy = self.proxy(self.server(EchoServer).port)
        for request in (b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
            with proxy.connect() as c:
                c.sendall(request)
                self.assertIn(b'"path": "/x"', read_all(c)[0])
        with proxy.connect() as c:
            c.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            c.shutdown(socket.SHUT_WR)
            self.assertIn(b'"path": "/x"', read_all(c)[0])

    def test_curl_expect_continue(self):
        proxy = self.proxy(self.server(EchoServer).port, rules=[{"method": "PUT", "path": "/yes"}])
        said = json.loads(self.curl("-H", "Expect: 100-continue", "-T", CORPUS / "refused.txt",
                                    f"http://127.0.0.1:{proxy.port}/yes"))
        self.assertEqual(said["body"], (CORPUS / "refused.txt").stat().st_size)
        out = self.curl("-i", "-H", "Expect: 100-continue", "-T", CORPUS / "refused.txt",
                        f"http://127.0.0.1:{proxy.port}/no")
        self.assertTrue(out.startswith(b"HTTP/1.1 403 Forbidden\r\n"), out)

    def test_pipelined_requests_in_order_with_denied_ones_between(self):
        server = self.server(RawServer, answering)
        proxy = self.proxy(server.port, rules=[{"path": "/yes/.*"}])
        with proxy.connect() as c:
            c.sendall(b"".join(b"GET /%s/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (b"no" if n % 3 == 0 else b"yes", n)
                               for n in range(300)))
            c.shutdown(socket.SHUT_WR)
            reply, _ = read_all(c)
        statuses = [int(part[:3]) for part in reply.split(b"HTTP/1.1 ")[1:]]
        self.assertEqual(statuses, [403 if n % 3 == 0 else 200 for n in range(300)])
        self.assertNotIn(b"/no/", server.received)
        self.assertEqual(server.received.count(b"/yes/"), 200)

    # --- large bodies ---

    def test_large_files_both_ways_through_nginx(self):
        nginx = self.server(Nginx)
        proxy = self.proxy(nginx.port)
        data = os.urandom(8 << 20)
        nginx.file("large", data)
        url = f"http://127.0.0.1:{proxy.port}"
        self.assertEqual(hashlib.sha256(self.curl(f"{url}/large")).digest(), hashlib.sha256(data).digest())
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            for header in (("-H", "Transfer-Encoding: chunked"), ()):
                self.curl("--fail", *header, "-T", file.name, f"{url}/upload/x")
                self.assertEqual((nginx.folder / "html/upload/x").read_bytes(), data)

    def test_client_that_does_not_read_holds_the_server_back(self):
        sent = []

        def endless(_, connection):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            connection.settimeout(2)
            try:
                while True:
                    sent.append(connection.send(b"x" * 65536))
            except TimeoutError:
                sent.append(None)
        server = self.server(RawServer, endless)
        proxy = self.proxy(server.port)
        with proxy.connect() as c:
            c.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            until("the server to be held back", lambda: sent and sent[-1] is None)
            status = pathlib.Path(f"/proc/{proxy.process.pid}/status").read_text()
            peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
            self.assertLess(sum(n for n in sent if n), 200 << 20)
            self.assertLess(peak, 100 << 10)

    # --- policy ---

    def test_policy_of_established_connections_changes(self):
        proxy = self.proxy(self.server(EchoServer).port, rules=[{"method": "GET", "path": "/a"}])
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
        self.addCleanup(client.close)

        def status(path):
            client.request("GET", path)
            answer = client.getresponse()
            answer.read()
            return answer.status, answer.getheader("x-mesh-reason")
        self.assertEqual(status("/a"), (200, None))
        self.assertEqual(status("/b"), (403, "policy"))
        proxy.change_rules([{"method": "GET", "path": "/b"}])
        self.assertEqual(status("/a"), (403, "policy"))
        self.assertEqual(status("/b"), (200, None))
        proxy.set_rules(None)
        proxy.rules.write_text('{"rules": null}')
        proxy.process.send_signal(signal.SIGHUP)
        proxy.process.stdout.readline()
        self.assertEqual(status("/b"), (403, "no policy for this connection"))
        proxy.change_rules(None)
        self.assertEqual(status("/anything"), (200, None))
        self.assertEqual(proxy.stats()["accepted"], 1)
        self.assertEqual([line["verdict"] for line in proxy.lines(6)],
                         ["forwarded", "denied", "denied", "forwarded", "denied", "forwarded"])

    def test_headers_are_changed(self):
        proxy = self.proxy(self.server(EchoServer).port, rules=[{"headerMatches": [
            {"name": "X-Env", "value": "prod", "mismatch": "REPLACE"}, {"name": "X-Del", "value": "1", "mismatch": "DELETE"}]}])
        said = json.loads(self.curl("-H", "x-env: test", "-H", "x-del: 2", f"http://127.0.0.1:{proxy.port}/"))
        names = {name.lower(): value for name, value in said["headers"]}
        self.assertEqual(names["x-env"], "prod")
        self.assertNotIn("x-del", names)

    # --- tunnels ---

    def test_websocket(self):
        def chat(server, connection):
            server.received += read_until(connection, b"\r\n\r\n")
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := connection.recv(65536):
                connection.sendall(data[::-1])
            connection.sendall(b"bye")
        server = self.server(RawServer, chat)
        proxy = self.proxy(server.port, rules=[{"path": "/chat"}])
        upgrade = b"GET /%s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        with proxy.connect() as c:
            c.sendall(upgrade % b"chat")
            self.assertIn(b" 101 ", read_until(c, b"\r\n\r\n"))
            c.sendall(b"\x81\x03abc")
            self.assertEqual(read_until(c, b"\x81"), b"cba\x03\x81")
            c.shutdown(socket.SHUT_WR)
            self.assertEqual(read_all(c), (b"bye", False))
        with proxy.connect() as c:
            c.sendall(upgrade % b"other")
            self.assertIn(b" 403 ", read_until(c, b"\r\n\r\n"))
        self.assertEqual(server.accepted, 1)

    def test_h2c_upgrade_is_taken_out(self):
        proxy = self.proxy(self.server(EchoServer).port)
        said = json.loads(self.curl("--http2", f"http://127.0.0.1:{proxy.port}/x"))
        names = {name.lower() for name, _ in said["headers"]}
        self.assertFalse(names & {"upgrade", "http2-settings", "connection"}, names)

    # --- HTTP/2 ---

    def test_h2c(self):
        nginx = self.server(Nginx)
        nginx.file("a", b"hello")
        data = os.urandom(4 << 20)
        nginx.file("large", data)
        proxy = self.proxy(nginx.port2, rules=[{"path": "/a|/large"}, {"method": "PUT", "path": "/upload/.*"}])
        url = f"http://127.0.0.1:{proxy.port}"
        h2 = "--http2-prior-knowledge"
        self.assertEqual(self.curl(h2, f"{url}/a"), b"hello")
        self.assertEqual(self.curl(h2, f"{url}/large"), data)
        out = self.curl("-i", h2, f"{url}/b")
        self.assertTrue(out.startswith(b"HTTP/2 403 "), out)
        self.assertTrue(out.endswith(b"x-mesh-reason: policy\r\n\r\nAccess denied\r\n"), out)
        out = self.curl("-i", h2, "--path-as-is", f"{url}/a/../b")
        self.assertTrue(out.startswith(b"HTTP/2 403 "), out)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.curl(h2, "--fail", "-T", file.name, f"{url}/upload/y")
            self.assertEqual((nginx.folder / "html/upload/y").read_bytes(), data)
            # curl 7.88 gives up a reset upload, though the whole answer came before the reset.
            out = subprocess.run(["nghttp", "-v", "-d", file.name, f"{url}/no"], capture_output=True).stdout
            self.assertIn(b":status: 403", out)
            self.assertLess(out.index(b"recv DATA frame"), out.index(b"recv RST_STREAM frame"))
            self.assertIn(b"error_code=NO_ERROR", out)
        out = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "20", f"{url}/a"], capture_output=True, text=True,
                             check=True).stdout
        self.assertIn("2000 succeeded, 0 failed", out)
        self.assertIn({"GET"}, [{line["method"]} for line in proxy.lines(10) if line["protocol"] == "HTTP/2"])

    def test_grpc(self):
        try:
            import grpc
        except ImportError:
            self.skipTest("python3-grpcio is not installed")
        same = lambda data: data
        def unary(request, context):
            if request == b"fail":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as told")
            context.set_trailing_metadata((("x-trailer", "yes"),))
            return request[::-1]
        def talk(requests, _):
            for request in requests:
                yield request[::-1]
        class Handler(grpc.GenericRpcHandler):
            def service(self, call):
                if call.method.endswith("/Unary"):
                    return grpc.unary_unary_rpc_method_handler(unary, same, same)
                return grpc.stream_stream_rpc_method_handler(talk, same, same)
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        proxy = self.proxy(port, rules=[{"method": "POST", "path": "/t.Test/(Unary|Talk)"}])
        with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            call = channel.unary_unary("/t.Test/Unary", same, same)
            reply, info = call.with_call(b"abc", timeout=PATIENCE)
            self.assertEqual(reply, b"cba")
            self.assertIn(("x-trailer", "yes"), [tuple(pair) for pair in info.trailing_metadata()])
            self.assertEqual(call(b"x" * 3_000_000, timeout=PATIENCE), b"x" * 3_000_000)
            with self.assertRaises(grpc.RpcError) as failure:
                call(b"fail", timeout=PATIENCE)
            self.assertEqual(failure.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            with self.assertRaises(grpc.RpcError) as failure:
                channel.unary_unary("/t.Test/Other", same, same)(b"abc", timeout=PATIENCE)
            self.assertEqual(failure.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
            self.assertEqual(failure.exception.details(), "Access denied")
            answers = channel.stream_stream("/t.Test/Talk", same, same)(iter([b"ab", b"cd", b"e" * 100_000]), timeout=PATIENCE)
            self.assertEqual(list(answers), [b"ba", b"dc", b"e" * 100_000])

    # --- limits ---

    def test_slow_loris(self):
        server = self.server(RawServer)
        proxy = self.proxy(server.port, "--header-ms", 300)
        with proxy.connect() as c:
            c.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
            stop = threading.Event()

            def drip():
                while not stop.wait(0.05):
                    try:
                        c.sendall(b"X: y\r\n")
                    except OSError:
                        return
            dripping = threading.Thread(target=drip)
            dripping.start()
            reply, _ = read_all(c)
            stop.set()
            dripping.join()
        self.assertTrue(reply.startswith(b"HTTP/1.1 408 "), reply)
        self.assertEqual(server.received, b"")

    def test_slow_bodies_and_idle_connections_end(self):
        server = self.server(RawServer)
        proxy = self.proxy(server.port, "--body-ms", 300, "--idle-ms", 2000)
        with proxy.connect() as c:
            c.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            self.assertTrue(read_all(c)[0].startswith(b"HTTP/1.1 408 "))
        with proxy.connect() as c:
            self.assertEqual(read_all(c)[0], b"")
        until("all to be gone", lambda: proxy.stats()["connections"] == 0)

    def test_connections_are_limited(self):
        server = self.server(RawServer, answering)
        proxy = self.proxy(server.port, "--max-connections-per-client", 2)
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        held = [proxy.connect() for _ in range(2)]
        for c in held:
            c.sendall(request)
            read_until(c, b"ok")
        with self.assertRaises((ConnectionResetError, BrokenPipeError, AssertionError)):
            with proxy.connect() as c:
                c.sendall(request)
                read_until(c, b"ok")
        self.assertEqual(proxy.stats()["refused_limit"], 1)
        held.pop().close()
        until("a place", lambda: proxy.stats()["connections"] == 1)
        with proxy.connect() as c:
            c.sendall(request)
            read_until(c, b"ok")
        held.pop().close()

    # --- servers that fail ---

    def test_servers_that_fail(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        proxy = self.proxy(port)
        for extra in ((), ("--http2-prior-knowledge",)):
            out = self.curl("-i", *extra, f"http://127.0.0.1:{proxy.port}/")
            self.assertRegex(out, rb"^HTTP/[12.]+ 503 ")
            self.assertIn(b"x-mesh-reason: the server cannot be reached", out)
        self.assertEqual([line["verdict"] for line in proxy.lines(2)], ["error", "error"])

    def test_server_that_does_not_accept(self):
        # A full queue of connections: further ones are neither accepted nor refused.
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting = [socket.socket() for _ in range(8)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            proxy = self.proxy(full.getsockname()[1], "--connect-ms", 300)
            out = self.curl("-i", f"http://127.0.0.1:{proxy.port}/")
            for one in waiting:
                one.close()
        self.assertTrue(out.startswith(b"HTTP/1.1 504 "), out)

    def test_half_sent_responses_are_reset(self):
        def half(_, connection):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        proxy = self.proxy(self.server(RawServer, half).port)
        with proxy.connect() as c:
            c.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            _, reset = read_all(c)
        self.assertTrue(reset)
        self.assertEqual(proxy.lines(1)[0]["verdict"], "error")

    # --- the rest ---

    def test_access_log_is_bounded_and_has_no_secrets(self):
        proxy = self.proxy(self.server(EchoServer).port, "--access-log-bytes", 20_000)
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
        self.addCleanup(client.close)
        for n in range(300):
            client.request("POST", f"/{n}", b"topsecret", headers={"Authorization": "topsecret", "Cookie": "topsecret"})
            client.getresponse().read()
        old = proxy.folder / "access.log.1"
        until("the last line", lambda: '"path":"/299"' in (proxy.log.read_text() if proxy.log.exists() else ""))
        text = proxy.log.read_text() + old.read_text()
        self.assertNotIn("topsecret", text)
        self.assertLess(proxy.log.stat().st_size, 60_000)
        for line in text.splitlines():
            self.assertEqual(json.loads(line)["status"], 200)

    def test_stop_finishes_what_is_in_flight(self):
        go = threading.Event()

        def slow(server, connection):
            server.received += connection.recv(65536)
            go.wait(PATIENCE)
            connection.sendall(OK)
            connection.recv(65536)
        server = self.server(RawServer, slow)
        proxy = self.proxy(server.port, "--grace-ms", PATIENCE * 1000)
        with proxy.connect() as busy, proxy.connect() as idle:
            busy.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            until("the request", lambda: server.received)
            proxy.process.send_signal(signal.SIGTERM)
            self.assertEqual(read_all(idle), (b"", False))
            with self.assertRaises(ConnectionRefusedError):
                proxy.connect()
            go.set()
            self.assertEqual(read_all(busy), (OK, False))
        self.assertEqual(proxy.process.wait(PATIENCE), 0)

    def test_ipv6(self):
        proxy = self.proxy(self.server(EchoServer).port, "--listen", "[::1]:0", rules=[{"path": "/yes"}])
        with socket.create_connection(("::1", proxy.port), timeout=PATIENCE) as c:
            c.sendall(b"GET /yes HTTP/1.1\r\nHost: [::1]\r\n\r\nGET /no HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
            reply, _ = read_all(c)
        self.assertIn(b'"path": "/yes"', reply)
        self.assertTrue(reply.endswith(b"Access denied\r\n"), reply)
        self.assertEqual([line["source"]["ip"] for line in proxy.lines(2)], ["::1", "::1"])

    def test_several_loops(self):
        proxy = self.proxy(self.server(Nginx).port, "--loops", 4)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: self.curl("-o", "/dev/null", "-w", "%{http_code}",
                                                        f"http://127.0.0.1:{proxy.port}/none"), range(40)))
        self.assertEqual(results, [b"404"] * 40)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
