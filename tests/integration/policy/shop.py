"""A namespace with a server and two kinds of clients, and what a client does."""

SPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
PODS = """
apiVersion: v1
kind: Pod
metadata: {name: good, namespace: shop, labels: {app: good}}
spec: {nodeName: node1, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bad, namespace: shop, labels: {app: bad}}
spec: {nodeName: node2, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec: {nodeName: node1, containers: [{name: c, command: [mesh-echo], ports: [{name: http, containerPort: 8080}]}]}
"""

# One request to an address: says "answer", or what became of it.
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 8080), timeout=float(sys.argv[2])) as s:
        s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print("answer" if s.recv(1) else "closed")
except OSError as e:
    print(type(e).__name__)
"""
