#!/usr/bin/env python3
"""One end of a measurement between two pods; run in their network namespaces.

traffic.py serve              answers on port 9100 (bulk: reads) and 9101 (ping-pong: echoes a byte)
traffic.py bulk HOST SECONDS  prints bytes per second sent
traffic.py rr HOST SECONDS    prints one-byte request/responses per second
"""
import socket
import sys
import threading
import time

BULK, RR = 9100, 9101


def make(host):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    # The default may be bbr, which without the fq qdisc is noisy.
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def serve():
    def drain(c):
        buffer = bytearray(1 << 20)
        while c.recv_into(buffer):
            pass

    def echo(c):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := c.recv(1):
            c.sendall(data)

    def accept(port, handle):
        with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
            while True:
                threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, args=(BULK, drain), daemon=True).start()
    threading.Thread(target=accept, args=(RR, echo), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def bulk(host, seconds):
    with make(host) as s:
        s.connect((host, BULK))
        data, sent = bytes(1 << 20), 0
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            sent += s.send(data)
        print(sent / (now - begin))


def rr(host, seconds):
    with make(host) as s:
        s.connect((host, RR))
        count, begin = 0, time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            s.send(b"x")
            s.recv(1)
            count += 1
        print(count / (now - begin))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        {"bulk": bulk, "rr": rr}[sys.argv[1]](sys.argv[2], float(sys.argv[3]))
