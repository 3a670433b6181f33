#!/usr/bin/env python3
"""make_next_layout.py BPF OUT: the sources of bpf/ as if the layouts of the maps had changed.

OUT gets all of BPF with raised layout versions and a new field at the front of some structs, and old_structs.h with
these structs as they are today, named old_<name>. For tests of the migration from today's layout to the next.
"""
import pathlib
import re
import shutil
import sys

# What gets a field, of which type: a size that the maps and the alignment of what follows allow.
CHANGED = {"mesh_ipcache_entry": "__u32", "mesh_endpoint": "__u32", "mesh_nat": "__u32",
           "mesh_service": "__u64", "mesh_backend": "__u64"}


def substituted(pattern, replacement, text):
    text, count = re.subn(pattern, replacement, text, flags=re.M)
    if count != 1:
        sys.exit(f"make_next_layout: expected {pattern!r} once in layout.h, found {count}")
    return text


def main():
    source, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for file in [*source.glob("*.c"), *source.glob("*.h")]:
        shutil.copy(file, out)
    layout = (source / "layout.h").read_text()
    for name in ("MESH_LAYOUT_VERSION", "MESH_PODS_LAYOUT_VERSION"):
        layout = substituted(rf"^#define {name} (\d+)$", lambda m: f"#define {name} {int(m[1]) + 1}", layout)
    old = ["#pragma once\n"]
    for name, kind in CHANGED.items():
        body = re.search(rf"^struct {name} {{$.*?^}};$", layout, re.M | re.S)
        old.append(body[0].replace(f"struct {name} ", f"struct old_{name} ") + "\n")
        layout = substituted(rf"^struct {name} {{$", f"struct {name} {{\n    {kind} next_layout_field;", layout)
        layout = re.sub(rf"^MESH_ASSERT_(SIZE|OFFSET)\({name},.*\n", "", layout, flags=re.M)
    (out / "layout.h").write_text(layout)
    (out / "old_structs.h").write_text("\n".join(old))


if __name__ == "__main__":
    main()
