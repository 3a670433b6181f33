#!/usr/bin/env python3
"""echo_test.py MESH_ECHO: what it answers, and how it stops. Ports are the kernel's choice."""
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import unittest

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "build/dev/bin/mesh-echo"


class EchoTest(unittest.TestCase):
    def start(self, *args):
        process = subprocess.Popen([PROGRAM, "--port", "0", "--cluster", "c", "--node", "n", "--pod", "p", *args],
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        port = int(re.search(r"port (\d+)", process.stderr.readline()).group(1))
        return process, port

    def test_answers_on_both_families_and_keeps_the_connection(self):
        _, port = self.start()
        for host in ("127.0.0.1", "::1"):
            client = http.client.HTTPConnection(host, port, timeout=10)
            for method, body in (("GET", None), ("POST", "x" * 1000), ("GET", None)):
                client.request(method, "/a?b", body)
                answer = client.getresponse()
                self.assertEqual(answer.status, 200)
                who = json.load(answer)
                self.assertEqual((who["cluster"], who["node"], who["pod"], who["path"]), ("c", "n", "p", "/a?b"))
                own = client.sock.getsockname()
                self.assertEqual(who["client"], f"[{own[0]}]:{own[1]}" if ":" in host else f"{own[0]}:{own[1]}")
            client.request("HEAD", "/")
            self.assertEqual(client.getresponse().read(), b"")
            client.request("DELETE", "/")
            self.assertEqual(client.getresponse().status, 405)
            client.close()

    def test_pipelined_requests_and_a_closing_client(self):
        _, port = self.start()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nConnection: close\r\n\r\n")
            data = b""
            while part := s.recv(4096):
                data += part
        self.assertEqual(data.count(b"HTTP/1.1 200"), 2)
        self.assertIn(b'"/2"', data)

    def test_what_is_no_http_is_refused(self):
        _, port = self.start()
        for text in (b"hello\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                     b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                     b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
                s.sendall(text)
                self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 400"), text)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            # A header without an end: the connection is closed, with or without a reset.
            try:
                s.sendall(b"x" * 20000)
                self.assertEqual(s.recv(1), b"")
            except ConnectionError:
                pass
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/")
        self.assertEqual(client.getresponse().status, 200)
        client.close()

    def test_datagrams(self):
        _, port = self.start("--udp")
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                s.sendto(b"x", (host, port))
                self.assertEqual(json.loads(s.recv(4096))["protocol"], "UDP")

    def test_stop_finishes_what_is_in_flight_and_takes_nothing_new(self):
        process, port = self.start()
        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        idle.request("GET", "/")
        idle.getresponse().read()
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        slow.request("GET", "/?delay=1000")
        idle.request("GET", "/")
        idle.getresponse().read()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(idle.sock.recv(1), b"")
        with self.assertRaises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        answer = slow.getresponse()
        self.assertEqual((answer.status, answer.getheader("Connection")), (200, "close"))
        self.assertEqual(json.load(answer)["pod"], "p")
        self.assertEqual(process.wait(timeout=20), 0)
        idle.close()
        slow.close()

    def test_shutdown_delay_takes_connections_and_says_unhealthy(self):
        process, port = self.start("--shutdown-delay", "60000")
        process.send_signal(signal.SIGTERM)
        process.stderr.readline()
        for path, status in (("/", 200), ("/healthz", 503)):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request("GET", path)
            answer = client.getresponse()
            self.assertEqual((answer.status, answer.getheader("Connection")), (status, "close"))
            client.close()

    def test_taken_port_is_told(self):
        _, port = self.start()
        done = subprocess.run([PROGRAM, "--port", str(port)], capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"port {port}", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
