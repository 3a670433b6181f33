#!/usr/bin/env python3
"""Checks that each module of libmesh includes only what design allows: itself, the foundations, and
what stands left of it in the data flow. The table below is the one place that says so."""
import pathlib
import re
import sys

# In the order of the data flow. A module may include itself and the modules named here.
FOUNDATIONS = ["base", "runtime", "model", "rpc", "pki"]
ALLOWED = {
    "base": [],
    "runtime": ["base"],
    "model": ["base"],
    "rpc": ["base", "runtime"],
    "pki": ["base", "runtime", "model"],
    "sources/etcd": FOUNDATIONS,
    "sources/kubernetes": FOUNDATIONS,
    "sources/config": FOUNDATIONS + ["sources/etcd"],   # a file's text → the client's options
    "sources/health": FOUNDATIONS,
    "state/store": FOUNDATIONS,
    "state/tables": FOUNDATIONS,
    "state/clusters": FOUNDATIONS + ["sources/etcd", "sources/config", "state/tables"],
    "compile/services": FOUNDATIONS + ["state/tables", "compile/routes"],   # addresses that nobody can have
    "compile/identities": FOUNDATIONS + ["state/tables"],
    "compile/policy": FOUNDATIONS + ["state/tables"],
    "compile/routes": FOUNDATIONS + ["state/tables"],
    "compile/ipcache": FOUNDATIONS + ["state/tables", "compile/routes"],   # routes settle the CIDRs
    "compile/encryption": FOUNDATIONS + ["state/tables", "compile/routes"],
    "observe": FOUNDATIONS + ["state/tables", "state/clusters", "compile/services"],
    "datapath": FOUNDATIONS,
    "serve/etcd": FOUNDATIONS + ["sources/etcd", "sources/config", "state/store"],   # the file of roles
    "serve/status": FOUNDATIONS,
    "serve/l7": FOUNDATIONS,
    "serve/dns": FOUNDATIONS,
    "attach": FOUNDATIONS + ["sources/config", "datapath", "serve/status"],
    "publish": FOUNDATIONS + ["sources/etcd", "sources/config", "state/tables", "compile/identities"],
    "reflect": FOUNDATIONS + ["sources/etcd", "sources/config", "publish"],
    "engine": None,   # all but capi and sandbox
    "sandbox": FOUNDATIONS + ["sources/config", "sources/etcd", "datapath", "attach", "serve/status"],
    "capi": None,
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def module_of(path: str):
    """The longest module name that is a leading part of the path, or None."""
    names = [m for m in ALLOWED if path == m or path.startswith(m + "/")]
    return max(names, key=len) if names else None


def main() -> int:
    root = pathlib.Path(__file__).resolve().parents[2]
    src = root / "libmesh" / "src"
    failures = []
    for file in sorted(src.rglob("*")):
        if file.suffix not in (".hpp", ".cpp", ".h", ".c"):
            continue
        here = file.relative_to(src).as_posix()
        module = module_of(here)
        if module is None:
            failures.append(f"{here}: in no module of tests/lint/include_direction.py")
            continue
        for target in INCLUDE.findall(file.read_text()):
            other = module_of(target)
            if other is None or other == module:
                continue
            allowed = ALLOWED[module]
            if allowed is None:
                forbidden = {"engine": ("capi", "sandbox"), "capi": ("sandbox",)}[module]
                ok = other not in forbidden
            else:
                ok = other in allowed
            if not ok:
                failures.append(f"{here}: includes \"{target}\", but {module} may not include {other}")
    for failure in failures:
        print(failure)
    print(f"{len(failures)} violations")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
