"""runner.py, inside a pod or a node: requests as asked for. A line of JSON in, {"timeout": seconds, "probes": [...]}, all of
them run at once; a line out with [outcome, who answered] of each.

Outcomes: "ok", "drop" (nothing came within the time), "403" (refused by an L7 proxy), "refused" (likewise, of a name),
"status <n>", or the error's name.
"""
import concurrent.futures
import errno
import http.client
import json
import os
import socket
import struct
import sys
import time


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def over_http(probe, timeout):
    connection = http.client.HTTPConnection(probe["host"], probe["port"], timeout=timeout)
    try:
        connection.request(probe["method"], probe["path"], headers={"Host": "web.test", **probe["headers"]})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status == 200:
        return ["ok", who(body)]
    return ["403" if response.status == 403 else f"status {response.status}", None]


def who(body):
    answer = json.loads(body)
    return f'{answer["cluster"]}/{answer["pod"]}'


def over_udp(probe, timeout):
    with socket.socket(family_of(probe["host"]), socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        s.connect((probe["host"], probe["port"]))
        s.send(b"who")
        return ["ok", who(s.recv(65536))]


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def over_icmp(probe, timeout):
    v6 = family_of(probe["host"]) == socket.AF_INET6
    protocol, request, reply = (socket.IPPROTO_ICMPV6, 128, 129) if v6 else (socket.IPPROTO_ICMP, 8, 0)
    token = os.urandom(16)
    number = int.from_bytes(token[:2], "big")
    message = struct.pack("!BBHHH", request, 0, 0, number, 1) + token
    if not v6:
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    with socket.socket(family_of(probe["host"]), socket.SOCK_RAW, protocol) as s:
        s.connect((probe["host"], 0))
        s.send(message)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            s.settimeout(left)
            data = s.recv(65536)
            if not v6:
                data = data[(data[0] & 15) * 4:]
            # A raw socket hears the answers to all others.
            if data[0] == reply and data[8:24] == token:
                return ["ok", None]
    raise TimeoutError


def over_dns(probe, timeout):
    number = os.urandom(2)
    name = b"".join(bytes([len(part)]) + part.encode() for part in probe["name"].split(".")) + b"\0"
    query = number + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", probe["type"], 1)
    with socket.socket(family_of(probe["host"]), socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        s.connect((probe["host"], probe["port"]))
        s.send(query)
        data = s.recv(65536)
    if data[:2] != number:
        return ["another query's answer", None]
    code = data[3] & 15
    return [{0: "ok", 5: "refused"}.get(code, f"rcode {code}"), None]


KINDS = {"http": over_http, "udp": over_udp, "icmp": over_icmp, "dns": over_dns}


def run(probe, timeout):
    try:
        return KINDS[probe["kind"]](probe, timeout)
    except TimeoutError:
        return ["drop", None]
    except OSError as error:
        # ENOBUFS: a packet of the node's own to its pod, dropped at the pod's device.
        silent = error.errno in (errno.ETIMEDOUT, errno.ENOBUFS)
        return ["drop" if silent else errno.errorcode.get(error.errno, repr(error)), None]
    except Exception as error:  # whatever it was, the test is told
        return [f"{type(error).__name__}: {error}", None]


def main():
    with concurrent.futures.ThreadPoolExecutor(max_workers=256) as pool:
        for line in sys.stdin:
            job = json.loads(line)
            outcomes = list(pool.map(lambda probe: run(probe, job["timeout"]), job["probes"]))
            print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
