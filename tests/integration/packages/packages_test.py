#!/usr/bin/env python3
"""packages_test.py SOURCE BUILD CC: makes the Debian packages, has lintian judge them, and installs them into a Debian that
has nothing else: all libraries are found there, the daemons run as their units say and make a mesh, a program in C is
built against libmesh-dev, and what is purged leaves nothing behind."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
from root import Root, Unreachable, run

source, build, cc = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
here = pathlib.Path(__file__).parent
cache = build.parent / "package-root"
NAMES = ["libmesh-dev", "libmesh1", "mesh-agent", "mesh-operator", "mesh-proxy", "meshctl"]
if (build / "python/libmesh").exists():
    NAMES.append("python3-libmesh")
failures = []


def check(ok, what, more=""):
    print(("ok   " if ok else "FAIL ") + what, flush=True)
    if not ok:
        print(more)
        failures.append(what)
    return ok


def make(folder, *names):
    done = run(source / "packaging/make_packages", build, folder, *names)
    if done.returncode != 0:
        raise RuntimeError(f"make_packages: {done.stdout}{done.stderr}")
    return sorted(pathlib.Path(folder).glob("*.deb"))


def check_sbom(folder):
    for name in NAMES:
        file = folder / f"usr/share/doc/{name}/sbom.cdx.json"
        bom = json.loads(file.read_text())
        references = [component["bom-ref"] for component in bom["components"]]
        good = (bom["bomFormat"] == "CycloneDX" and bom["specVersion"] == "1.5" and bom["metadata"]["component"]["name"] == name
                and re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bom["serialNumber"])
                and all(c["type"] == "library" and c["version"] and re.match(r"pkg:deb/debian/[a-z0-9.+%-]+@\S+\?arch=", c["purl"])
                        and c["scope"] in ("required", "excluded") for c in bom["components"])
                and len(set(references)) == len(references) and bom["dependencies"][0]["dependsOn"] == references)
        check(good, f"{name}: its SBOM is CycloneDX")
        required = {c["name"] for c in bom["components"] if c["scope"] == "required"}
        depends = run("dpkg-deb", "-f", next(packages.glob(f"{name}_*.deb")), "Depends").stdout
        # A name that a package provides is its own with something behind it.
        absent = [library for library in re.findall(r"(lib[a-z0-9.+-]+)", depends) if library not in NAMES
                  and not required & {library, library.rpartition("-")[0]}]
        check(not absent, f"{name}: what it depends on is in its SBOM", " ".join(absent))


def check_installed(root):
    missing = root.run("sh", "-c", "ldd /usr/bin/mesh* /usr/lib/*/libmesh.so.1 | grep 'not found'").stdout
    check(not missing, "all libraries are found", missing)
    version = re.search(r"^CMAKE_PROJECT_VERSION:\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.M).group(1)
    for program in sorted((root.path / "usr/bin").glob("mesh*")):
        said = root.run(program.name, "--version").stdout.strip()
        check(said == f"{program.name} {version}", f"{program.name} --version: {said}")
    if "python3-libmesh" in NAMES:
        said = root.run("python3", "-c", "import libmesh; print(libmesh.__version__)")
        check(said.stdout.strip() == version, f"Python imports libmesh {said.stdout.strip()}", said.stderr)
    check_sbom(root.path)


def check_program(root):
    """The host's compiler; headers, libraries and pkg-config files of the root."""
    lib = next((root.path / "usr/lib").glob("*/pkgconfig/libmesh.pc")).parent
    flags = run("pkg-config", "--cflags", "--libs", "libmesh", env={**os.environ, "PKG_CONFIG_LIBDIR": str(lib)}).stdout.split()
    done = run(cc, "-std=c99", source / "examples/link/lookup.c", *flags, f"-Wl,-rpath-link,{lib.parent}", "-o",
               root.path / "usr/local/bin/lookup")
    check(done.returncode == 0, "a C program is built with libmesh-dev", done.stderr)
    said = root.run("/usr/local/bin/lookup").stdout
    check(said.startswith("libmesh 0."), f"and runs: {said.splitlines()[:1]}")


def check_services(root):
    done = run("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--net",
               sys.executable, here / "services.py", root.path, f"mesh-packages-{os.getpid()}", timeout=400)
    print(done.stdout + done.stderr, end="")
    check(done.returncode == 0, "the daemons make a mesh")


def check_upgrade(root):
    """What people wrote stays, over an upgrade and until it is purged."""
    file = root.path / "etc/libmesh/mesh-proxy.env"
    file.write_text(file.read_text() + "# mine\n")
    mine = file.read_text()
    done = root.run("sh", "-c", "dpkg -i /debs/mesh-proxy_*.deb </dev/null")
    check(done.returncode == 0 and file.read_text() == mine, "an upgrade keeps what was written to mesh-proxy.env", done.stderr)
    done = root.run("apt-get", "remove", "-y", "-q", "mesh-proxy")
    check(done.returncode == 0 and file.exists(), "removal keeps it", done.stderr)


def ours(root):
    found = root.run("find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/debs", "-o", "-path", "/tmp", "-o", "-path",
                     "/run", ")", "-prune", "-o", "-name", "*mesh*", "-print")
    return set(found.stdout.split())


def check_purge(root, before):
    for left in ("manifests2", "manifests/echo.yaml", "mesh-proxy", "mesh-operator", "clustermesh", "etcd.yaml"):
        path = root.path / "etc/libmesh" / left   # what this test wrote there, as people would
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (root.path / "usr/local/bin/lookup").unlink()
    done = root.run("apt-get", "purge", "-y", "-q", *NAMES)
    check(done.returncode == 0, "the packages are purged", done.stdout + done.stderr)
    left = ours(root) - before
    check(not left, "and leave nothing", "\n".join(sorted(left)))


def in_root(root):
    (root.path / "debs").mkdir()
    for package in packages.glob("*.deb"):
        shutil.copy(package, root.path / "debs")
    before = ours(root)
    done = root.install("/debs/*.deb")
    if not check(done.returncode == 0, "apt installs the packages and what they depend on", done.stdout + done.stderr):
        return
    check_installed(root)
    check_program(root)
    check_services(root)
    check_upgrade(root)
    check_purge(root, before)


def try_in_root():
    """@return why it could not be, None if it was done"""
    with Root(cache) as root:
        old = root.base.exists()
        try:
            root.unpack()
            in_root(root)
        except Unreachable as e:
            e.old_base = old
            return e
    return None


def lintian():
    done = run("lintian", "--allow-root", "--fail-on", "error,warning", *packages.glob("*.deb"))
    check(done.returncode == 0, "lintian has nothing to say", done.stdout + done.stderr)


def main():
    made = make(packages)
    check([file.name.split("_")[0] for file in made] == NAMES, "all packages are made")
    if shutil.which("lintian"):
        judged = pool.submit(lintian)
    else:
        judged = pool.submit(lambda: print("NOT CHECKED: there is no lintian"))
    skipped = try_in_root()
    if skipped and skipped.old_base:
        skipped = try_in_root()
    judged.result()
    if skipped:
        print(f"SKIPPED: no Debian root to install into: {skipped}")
        return 1 if failures else 77
    again = make(packages / "again", "meshctl")
    same = again[0].read_bytes() == next(packages.glob("meshctl_*.deb")).read_bytes()
    check(same, "the same build packed again is the same file")
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("SKIPPED: needs root to make and enter a Debian root")
        sys.exit(77)
    for tool in ("debootstrap", "unshare", "etcd", "dpkg-shlibdeps"):
        if not shutil.which(tool):
            print(f"SKIPPED: needs {tool}")
            sys.exit(77)
    # Whatever is committed meanwhile, the packages of one run have one time.
    os.environ["SOURCE_DATE_EPOCH"] = "1767225600"
    os.environ["MESH_DEB_COMPRESSION"] = "gzip"
    packages = cache / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sys.exit(main())
