#!/usr/bin/env python3
"""abi_test.py LIBRARY LAYOUT-PROGRAM: compares what the library exports, and how mesh/mesh.h lays its structs out, with the
stored lists beside this file."""
import pathlib
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
failures = []


def compare(what, stored, found, hint):
    for name in sorted(set(stored) - set(found)):
        failures.append(f"{what}: {name} is gone or changed: programs that use it break")
    for name in sorted(set(found) - set(stored)):
        failures.append(f"{what}: {name} is new: {hint}")


def main():
    library, layout = sys.argv[1:3]
    exported = subprocess.run(["nm", "-D", "--defined-only", "-C", library], check=True, capture_output=True,
                              text=True).stdout.splitlines()
    names = [line.split(" ", 2)[2].split("@")[0] for line in exported]
    functions = [n for n in names if n.startswith("mesh_")]
    foreign = [n for n in names if not n.startswith(("mesh_", "mesh::", "LIBMESH_"))]
    compare("function", (here / "symbols").read_text().split(), functions, "add it to tests/abi/symbols")
    for name in foreign:
        failures.append(f"symbol of a library below is exported: {name}")
    found = subprocess.run([layout], check=True, capture_output=True, text=True).stdout.splitlines()
    compare("layout", (here / "layout").read_text().splitlines(), found,
            "if it only grew at its end, tests/abi/layout takes it, and MESH_ABI_VERSION is raised")
    soname = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    if "SONAME" not in soname or "libmesh.so." not in soname:
        failures.append("the library has no versioned SONAME")
    for failure in failures:
        print(failure)
    print(f"{len(functions)} functions, {len(found)} fields, {len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
