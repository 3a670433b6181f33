"""name_server.py ZONE, on an outside host: answers DNS queries over UDP, port 53. ZONE is JSON: the first label of a name to
its addresses; whatever stands behind that label, so that each case has names that nobody has asked for yet."""
import ipaddress
import json
import socket
import struct
import sys

TTL = 3600


def answer(query, zone):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind, = struct.unpack("!H", query[at + 1:at + 3])
    addresses = zone.get(labels[0].lower())
    found = [a for a in map(ipaddress.ip_address, addresses or []) if (kind, a.version) in ((1, 4), (28, 6))]
    flags = 0x8580 if addresses is not None else 0x8583
    records = b"".join(struct.pack("!HHHIH", 0xc00c, kind, 1, TTL, len(a.packed)) + a.packed for a in found)
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + query[12:at + 5] + records


def main():
    zone = json.loads(sys.argv[1])
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", 53))
    print("listening", flush=True)
    while True:
        query, sender = s.recvfrom(4096)
        try:
            s.sendto(answer(query, zone), sender)
        except (IndexError, struct.error, UnicodeDecodeError):
            pass  # no query


if __name__ == "__main__":
    main()
