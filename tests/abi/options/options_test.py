#!/usr/bin/env python3
"""options_test.py SOURCE WORK CXX LIBMESH: parts of libmesh are left out by CMake options, and what is left builds and
says so. Configures the combinations; compiles the smallest one (the objects are those of the build that ran before, for
whoever has ccache), runs a program against it, and prints what both libraries weigh."""
import os
import pathlib
import shutil
import subprocess
import sys

source, work, cxx, full = sys.argv[1:5]
work = pathlib.Path(work)
failures = []
SMALL = {"MESH_BUILD_TESTS": "OFF", "MESH_BUILD_BENCHMARKS": "OFF", "MESH_BUILD_PYTHON": "OFF"}
PROGRAM = pathlib.Path(__file__).parent / "open_bpf.cpp"


def check(ok, what):
    print(("ok   " if ok else "FAIL ") + what)
    if not ok:
        failures.append(what)
    return ok


def configure(name, options):
    """The folder beside our own build's, so that relative paths, which ccache compares, are the same."""
    folder = work / name
    flags = [f"-DCMAKE_{language}_FLAGS_RELEASE=-O2 -g1" for language in ("C", "CXX")]
    flags += [f"-D{key}={value}" for key, value in {**SMALL, **options}.items()]
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(["cmake", "-S", source, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                           f"-DCMAKE_CXX_COMPILER={cxx}", *flags], capture_output=True, text=True)
    return folder, done


def targets(folder):
    out = subprocess.run(["ninja", "-C", folder, "-t", "targets", "all"], check=True, capture_output=True, text=True)
    return {line.split(":")[0] for line in out.stdout.splitlines()}


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def needed(library):
    return run("readelf", "-d", library).stdout


def stripped_size(library):
    copy = work / "stripped.so"
    subprocess.run(["strip", "-o", copy, library], check=True)
    size = copy.stat().st_size
    copy.unlink()
    return size


def combinations():
    folder, done = configure("option-no-kubernetes", {"MESH_WITH_KUBERNETES": "OFF"})
    if check(done.returncode == 0, "MESH_WITH_KUBERNETES=OFF configures"):
        has = targets(folder)
        check("mesh-agent" in has and "mesh-proxy" in has, "it has mesh-agent and mesh-proxy")
        check("mesh-operator" not in has and "meshctl" not in has, "it has no mesh-operator and no meshctl")
    shutil.rmtree(folder)
    folder, done = configure("option-no-bpf", {"MESH_WITH_BPF": "OFF", "MESH_BPF_CLANG": "/nonexistent"})
    if check(done.returncode == 0, "MESH_WITH_BPF=OFF configures, without clang"):
        check("mesh-operator" in targets(folder), "it has mesh-operator")
    shutil.rmtree(folder)
    folder, done = configure("option-refused", {"MESH_WITH_KUBERNETES": "OFF", "MESH_BUILD_TESTS": "ON"})
    check(done.returncode != 0 and "MESH_BUILD_TESTS=ON needs MESH_WITH_KUBERNETES=ON" in done.stderr,
          "tests without Kubernetes are refused in one sentence")
    shutil.rmtree(folder)


def smallest():
    folder, done = configure("option-smallest", {"MESH_WITH_BPF": "OFF", "MESH_WITH_KUBERNETES": "OFF",
                                                 "MESH_BUILD_DAEMONS": "OFF"})
    if not check(done.returncode == 0, "the smallest combination configures"):
        print(done.stderr)
        return
    environment = {**os.environ, "CCACHE_BASEDIR": source, "CCACHE_NOHASHDIR": "1"}
    done = subprocess.run(["cmake", "--build", folder, "--target", "mesh_shared", "-j", str(os.cpu_count())],
                          capture_output=True, text=True, env=environment)
    if not check(done.returncode == 0, "the smallest combination builds"):
        print(done.stdout[-8000:])
        return
    library = folder / "lib" / "libmesh.so"
    check("libbpf" in needed(full), "the full library needs libbpf")
    check("libbpf" not in needed(library), "the smallest one does not")
    check(" bpf_" not in run("nm", "-D", "--undefined-only", library).stdout, "and refers to nothing of it")
    check(not any(name.startswith("mesh-") for name in targets(folder)), "it has no daemon")
    program = folder / "open_bpf"
    done = run(cxx, "-std=c++20", f"-I{source}/libmesh/include", f"-I{folder}/include", PROGRAM, "-o", program, library,
               f"-Wl,-rpath,{library.parent}")
    if check(done.returncode == 0, "a program links it"):
        done = run(program)
        print("     " + done.stdout.strip())
        check(done.returncode == 0 and "MESH_WITH_BPF=OFF" in done.stdout, "and is told that there is no BPF")
    else:
        print(done.stderr)
    sizes = stripped_size(full), stripped_size(library)
    print(f"stripped: libmesh.so {sizes[0] / 1e6:.2f} MB; without BPF and Kubernetes {sizes[1] / 1e6:.2f} MB")
    check(sizes[1] < sizes[0], "the smallest library is smaller")
    shutil.rmtree(folder)


combinations()
if shutil.which("ccache"):
    smallest()
else:
    print("NOT COMPILED: there is no ccache, and the smallest combination would take minutes")
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
