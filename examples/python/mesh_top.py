#!/usr/bin/env python3
"""Draws the mesh in the terminal: its clusters, how fresh what is known of them is, and the global services.

    mesh_top.py --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml --clustermesh-config clustermesh/
    mesh_top.py ... --once | less                 # waits until all is read, then one picture, without colours

On a terminal the picture is drawn again as things change, and each second for the ages; Ctrl-C ends it. Elsewhere a picture is
printed for each change.
"""
import argparse
import contextlib
import os
import sys
import time

from libmesh import Objects, Timeout, cli

COLOURS = {"ready": "32", "syncing": "33", "connecting": "33", "stale": "31", "disabled": "90"}


def age(seconds):
    if seconds is None:
        return "never"
    return f"{seconds:.1f}s" if seconds < 60 else f"{seconds / 60:.0f}m" if seconds < 3600 else f"{seconds / 3600:.0f}h"


def table(rows):
    # What a remote says may not steer the terminal.
    rows = [["".join(c if c.isprintable() else "?" for c in str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]


def shares(service):
    """cluster → [backends that new connections may go to, all]."""
    count = {}
    for backend in service.backends:
        of = count.setdefault(backend.cluster, [0, 0])
        of[0] += backend.selected
        of[1] += 1
    return count


def picture(mesh, ages=True):
    """Lines, and of those of clusters the state."""
    objects = [event.object for event in mesh.list(Objects.CLUSTERS | Objects.SERVICES)]
    clusters = [o for o in objects if hasattr(o, "own")]
    services = [o for o in objects if hasattr(o, "frontends")]
    rows = [("CLUSTER", "ID", "STATE", "BEHIND", "ALIVE", "NODES", "IPS", "SERVICES", "LAST FAILURE")]
    for c in clusters:
        behind = f"{c.lag_revisions} revisions" if c.lag_revisions else "-"
        rows.append((c.name + (" (own)" if c.own else ""), c.id, c.state, behind, age(c.last_proof_of_life) if ages else "-",
                     c.nodes, c.ips, c.services, "" if c.ready else c.last_failure))
    head, *lines = table(rows)
    out = [(head, None), *zip(lines, (c.state for c in clusters)), ("", None)]
    names = [c.name for c in clusters]
    listed = [s for s in services if s.global_]
    rows = [("GLOBAL SERVICE", "AFFINITY", *names, "")]
    for s in listed:
        of = shares(s)
        used = sum(u for u, _ in of.values())
        rows.append((f"{s.namespace}/{s.name}", s.affinity, *("{}/{}".format(*of[n]) if n in of else "-" for n in names),
                     "" if used else "no backend"))
    out += [(line, None) for line in table(rows)]
    out.append((f"{len(listed)} global of {len(services)} services; in use / all backends, by cluster", None))
    return out


def draw(lines):
    """On a terminal: in place, cut to its size."""
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    out = ["\x1b[H"]
    for line, state in lines[:rows - 1]:
        text = line[:columns]
        out.append((f"\x1b[{COLOURS.get(state, '0')}m{text}\x1b[0m" if state else text) + "\x1b[K\n")
    sys.stdout.write("".join(out) + "\x1b[J")
    sys.stdout.flush()


@contextlib.contextmanager
def screen():
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def show_each_change(mesh, watch):
    last = None
    while True:
        # Ages change without an event; they alone are no reason for another picture.
        lines = [line for line, _ in picture(mesh, ages=False)]
        if lines != last:
            print(time.strftime("%H:%M:%S"), *lines, sep="\n", flush=True)
            last = lines
        watch.next_batch()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="one picture, when all is read")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="of --once (default: %(default)s)")
    cli.add_arguments(parser)
    arguments = parser.parse_args()
    with cli.open_mesh(arguments) as mesh:
        if arguments.once:
            try:
                mesh.wait_ready(arguments.timeout)
            finally:
                print(*(line for line, _ in picture(mesh)), sep="\n")
            return
        with mesh.watch(Objects.CLUSTERS | Objects.SERVICES) as watch:
            if not sys.stdout.isatty():
                show_each_change(mesh, watch)
            with screen():
                while True:
                    draw(picture(mesh))
                    with contextlib.suppress(Timeout):
                        watch.next_batch(1.0)
                        time.sleep(0.1)  # many changes, one picture
                        while True:
                            watch.next_batch(0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
