#!/usr/bin/env python3
"""Both ends of requests that never pause, run inside pods until standard input ends; a line of JSON per event.

http_loop.py serve PORT: a server that tells the head of everything that reaches it, before it answers.
http_loop.py ask ADDRESS PORT NAME PATH...: requests for each path, over one connection and over new ones, at once.
"""
import http.client
import json
import socket
import sys
import threading
import time

# For each path, and the seconds until each gives a request up: one that gets no answer waits, and there is to be no gap
# around the agent's start.
SENDERS = {"kept": 1, "new 1": 0.7, "new 2": 1, "new 3": 1.3}
PAUSE_SECONDS = 0.1
lock = threading.Lock()
stop = threading.Event()


def tell(**row):
    with lock:
        print(json.dumps(row), flush=True)


def read_head(connection, data):
    """One request's head and what follows it; without an end if the connection has none."""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data, b""
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def answer(connection):
    rest = b""
    with connection:
        try:
            while True:
                head, rest = read_head(connection, rest)
                if not head:
                    return
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                tell(at=time.monotonic(), first=first, headers=headers)
                body = f"reached {headers.get('x-id')}".encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except OSError:
            pass


def serve(port):
    listener = socket.create_server(("", int(port)), backlog=512)
    tell(listening=True)
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def ask(address, port, name, kind, path):
    connection, n = None, 0
    while not stop.is_set():
        n += 1
        row = {"id": f"{name} {kind} {path} {n}", "kind": kind.split()[0], "path": path, "began": time.monotonic()}
        try:
            connection = connection or http.client.HTTPConnection(address, int(port), timeout=SENDERS[kind])
            connection.request("GET", path, headers={"X-Id": row["id"]})
            row["port"] = connection.sock.getsockname()[1]
            response = connection.getresponse()
            body = response.read().decode("latin-1")
            row.update(status=response.status, body=body)
        except (OSError, http.client.HTTPException) as error:
            row["error"] = f"{type(error).__name__}: {error}"
        if connection and (kind != "kept" or "error" in row):
            connection.close()
            connection = None
        tell(**row, ended=time.monotonic())
        stop.wait(PAUSE_SECONDS)


def main():
    if sys.argv[1] == "serve":
        threading.Thread(target=serve, args=sys.argv[2:], daemon=True).start()
        sys.stdin.read()
        lock.acquire()  # nobody is amid a line when this ends
    else:
        address, port, name, *paths = sys.argv[2:]
        for path in paths:
            for kind in SENDERS:
                threading.Thread(target=ask, args=(address, port, name, kind, path)).start()
        sys.stdin.read()
        stop.set()


main()
