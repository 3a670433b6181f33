"""scripts/bench size: the library's bytes, with and without the parts that CMake options leave out."""
import pathlib
import subprocess

from common import ROOT, table

LEFT_OUT = ("MESH_BUILD_DAEMONS", "MESH_BUILD_TESTS", "MESH_BUILD_BENCHMARKS", "MESH_BUILD_FUZZ")
VARIANTS = {"without BPF": ("MESH_WITH_BPF",), "without BPF and Kubernetes": ("MESH_WITH_BPF", "MESH_WITH_KUBERNETES")}


def stripped(library, folder, name):
    to = pathlib.Path(folder) / name
    subprocess.run(["strip", "--strip-unneeded", "-o", to, library], check=True)
    sections = subprocess.run(["size", "-A", to], check=True, capture_output=True, text=True).stdout
    of = {line.split()[0]: int(line.split()[1]) for line in sections.splitlines() if line.startswith(".")}
    return {"bytes": to.stat().st_size, "text": of.get(".text", 0), "rodata": of.get(".rodata", 0)}


def size(bin_dir, folder):
    """libmesh.so stripped; the variants are built in build/bench."""
    sizes = {"all": stripped(bin_dir.parent / "lib" / "libmesh.so", folder, "all")}
    for name, options in VARIANTS.items():
        build = ROOT / "build" / "bench" / name.replace(" ", "-")
        off = [f"-D{option}=OFF" for option in (*LEFT_OUT, *options)]
        for command in (["cmake", "--preset", "release", "-B", build, *off], ["cmake", "--build", build, "--target", "mesh_shared"]):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{name}: {(done.stdout + done.stderr)[-2000:]}")
        sizes[name] = stripped(build / "lib" / "libmesh.so", folder, name)
    print("\n  libmesh.so, stripped")
    table(["", "MiB", "x all", "code MiB", "constants MiB"],
          [[name, f"{s['bytes'] / 2**20:.2f}", f"{s['bytes'] / sizes['all']['bytes']:.2f}", f"{s['text'] / 2**20:.2f}",
            f"{s['rodata'] / 2**20:.2f}"] for name, s in sizes.items()])
    return sizes
