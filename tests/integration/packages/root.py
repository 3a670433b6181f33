"""A Debian that has nothing: made by debootstrap once, kept as an archive, unpacked for each run. What is mounted in it is
mounted in namespaces of the process that runs in it, and goes with that process."""
import pathlib
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

SUITE = "bookworm"


class Unreachable(Exception):
    """Packages of Debian cannot be had; nothing is said of ours."""


def run(*command, **options):
    options.setdefault("timeout", 600)
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def mirror():
    """Where this machine has its packages from."""
    asked = run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages",
                "Origin: Debian")
    found = next(iter(asked.stdout.split()), "http://deb.debian.org/debian").rstrip("/")
    try:
        urllib.request.urlopen(f"{found}/dists/{SUITE}/Release", timeout=20).close()
    except (urllib.error.URLError, OSError) as e:
        raise Unreachable(f"{found}: {e}") from e
    return found


def in_mount_namespace(*command, **options):
    return run("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", *command, **options)


class Root:
    def __init__(self, cache):
        self.cache = pathlib.Path(cache)
        self.archives = self.cache / "archives"
        self.archives.mkdir(parents=True, exist_ok=True)
        self.base = self.cache / f"{SUITE}.tar"
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="mesh-packages-"))
        self.path.chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove(self.path)

    @staticmethod
    def remove(path):
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        if any(mount.startswith(str(path)) for mount in mounts):
            raise RuntimeError(f"{path} is left: something is still mounted there")
        shutil.rmtree(path)

    def unpack(self):
        if not self.base.exists():
            self.bootstrap(mirror())
        done = run("tar", "-C", self.path, "-xf", self.base)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        (self.path / "var/cache/apt/archives/partial").mkdir(parents=True)
        for package in self.archives.glob("*.deb"):
            shutil.copy(package, self.path / "var/cache/apt/archives")
        shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
        policy = self.path / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def bootstrap(self, uri):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="mesh-debootstrap-"))
        try:
            done = in_mount_namespace("debootstrap", "--variant=minbase", f"--cache-dir={self.archives.resolve()}", SUITE,
                                      folder, uri)
            if done.returncode != 0:
                raise Unreachable(f"debootstrap: {done.stdout[-2000:]}{done.stderr}")
            proxies = run("apt-config", "dump", "--no-empty", "Acquire::http").stdout
            (folder / "etc/apt/apt.conf.d/99host").write_text(proxies)
            shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
            done = in_mount_namespace(f"--mount-proc={folder}/proc", "chroot", folder, "apt-get", "update", "-q")
            if done.returncode != 0:
                raise Unreachable(f"apt-get update: {done.stdout}{done.stderr}")
            part = self.base.with_suffix(".part")
            done = run("tar", "-C", folder, "--exclude=./var/cache/apt", "--exclude=./proc/*", "--exclude=./dev/*", "-cf", part, ".")
            if done.returncode != 0:
                raise RuntimeError(done.stderr)
            part.rename(self.base)
        finally:
            self.remove(folder)

    def run(self, *command, **options):
        """In the root, with a /proc and the host's network."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        return in_mount_namespace(f"--mount-proc={self.path}/proc", "chroot", self.path, *command, env=environment, **options)

    def install(self, packages):
        """By apt, with what they depend on."""
        done = self.run("sh", "-c", f"apt-get install -y -q --no-install-recommends {packages}")
        self.keep_archives()
        if done.returncode != 0 and "Failed to fetch" in done.stdout + done.stderr:
            # The archive may name packages that the mirror has no more: another run makes a new one.
            self.base.unlink()
            raise Unreachable(done.stderr)
        return done

    def keep_archives(self):
        for package in (self.path / "var/cache/apt/archives").glob("*.deb"):
            if not (self.archives / package.name).exists():
                shutil.copy(package, self.archives)
