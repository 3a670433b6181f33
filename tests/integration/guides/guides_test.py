#!/usr/bin/env python3
"""guides_test.py SOURCE BIN GUIDE|commands: runs what a guide tells its reader to run, in the order in which it says so.

Of docs/GUIDE.md: blocks ```sh run in one bash session, in an empty folder that has the repository's examples; blocks of
another language whose first line is a comment with a file's name are written to that file; a block ```text after a ```sh
block is what that shows: its lines must come in this order, "..." stands for anything, runs of spaces count as one.
```sh needs=X runs only where there is X (root, python, packages, installed: the library), and the test says what it did
not run. ```sh again is tried again until it works and shows that, as a reader would: what goes before takes a moment to
get there. Names of clusters, ports and folders of the machine are replaced by ones of this test's own.

`commands` looks at the commands that README.md, CONTRIBUTING.md and the guides mention anywhere: do program, subcommand and flags
exist? Exit code 77 = nothing could be run.
"""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 240  # for one block, on a slow machine


class Block:
    def __init__(self, line, info, text):
        words = info.split()
        self.line, self.text = line, text
        self.language = words[0] if words else ""
        self.again = "again" in words
        self.needs = [need for word in words if word.startswith("needs=") for need in word[6:].split(",")]
        name = re.match(r"(?://|#|/\*|<!--)\s*([\w./-]+\.\w+)\s*(?:\*/|-->)?$", text.splitlines()[0] if text else "")
        self.file = name.group(1) if name and self.language not in ("sh", "text") else None


def blocks_of(text):
    found, begin, info, lines = [], None, "", []
    for number, line in enumerate(text.splitlines(), 1):
        if begin is None and line.startswith("```"):
            begin, info, lines = number, line[3:], []
        elif begin is not None and line.startswith("```"):
            found.append(Block(begin, info, "\n".join(lines)))
            begin = None
        elif begin is not None:
            lines.append(line)
    if begin is not None:
        raise SystemExit(f"line {begin}: a block without an end")
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def has_cgroup2():
    return any(line.split()[2] == "cgroup2" for line in pathlib.Path("/proc/mounts").read_text().splitlines())


class Session:
    """One bash, fed a block at a time; what it starts in the background lives until the guide's end."""

    def __init__(self, folder, environment):
        self.folder, self.count = folder, 0
        self.control, write = os.pipe()
        os.set_inheritable(write, True)
        self.bash = subprocess.Popen(["bash", "--norc"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, text=True, env={**environment, "GUIDE_DONE": str(write)},
                                     pass_fds=[write], start_new_session=True)
        os.close(write)
        self.bash.stdin.write("set -Euo pipefail; trap 'failed=$?' ERR\n")

    def run(self, commands):
        """(exit code of what failed, or 0; output)."""
        self.count += 1
        script, output = (self.folder / f".block-{self.count}.{end}" for end in ("sh", "out"))
        script.write_text(commands + "\n")
        self.bash.stdin.write(f'failed=0; . "{script}" >"{output}" 2>&1 </dev/null; eval "echo \\$failed >&$GUIDE_DONE"\n')
        self.bash.stdin.flush()
        answer = b""
        signal.alarm(SECONDS)
        try:
            while not answer.endswith(b"\n"):
                part = os.read(self.control, 16)
                if not part:
                    return 1, output.read_text() + "\n(bash ended)"
                answer += part
        except TimeoutError:
            return 1, output.read_text() + f"\n(no end within {SECONDS} s)"
        finally:
            signal.alarm(0)
        return int(answer), output.read_text()

    def close(self):
        for end in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.bash.pid, end)
                self.bash.wait(20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                pass
        self.bash.wait()
        os.close(self.control)


def missing_line(expected, output):
    """The first line of what a guide shows that the output does not have, in order; None if it has all."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    at = 0
    for line in expected.splitlines():
        line = " ".join(line.split())
        if line in ("", "..."):
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("...")) + "$")
        while at < len(lines) and not pattern.match(lines[at]):
            at += 1
        if at == len(lines):
            return line
        at += 1
    return None


class Guide:
    def __init__(self, source, bin_dir, name):
        self.source, self.bin, self.name = source, bin_dir, name
        self.path = source / "docs" / f"{name}.md"
        self.python = bin_dir.parent / "python"
        # Names of no other test, nor of a reader who follows the guide on this machine.
        self.clusters = {f"cluster{n}": f"g{os.getpid() % 100000}{'ab'[n - 1]}" for n in (1, 2)}
        self.ports = {str(port): str(free_port()) for port in (2379, 2380)}

    def have(self):
        have = set()
        if os.geteuid() == 0 and has_cgroup2():
            have.add("root")
        if (self.python / "libmesh").is_dir():
            have.add("python")
        if pathlib.Path("/usr/bin/mesh-agent").exists():
            have.add("packages")
        return have

    def install(self, prefix):
        """The library as its users have it, if it is built; what tells compilers where."""
        build = self.bin.parent
        if not all((build / "lib" / name).exists() for name in ("libmesh.so", "libmesh.a")):
            return {}
        for component in ("libmesh1", "libmesh-dev"):
            subprocess.run(["cmake", "--install", build, "--prefix", prefix, "--component", component], check=True,
                           capture_output=True)
        lib = next(prefix.rglob("libmesh.so")).parent
        return {"PKG_CONFIG_PATH": str(lib / "pkgconfig"), "CMAKE_PREFIX_PATH": str(prefix), "LD_LIBRARY_PATH": str(lib)}

    def own(self, text):
        for name, port in {**self.clusters, **self.ports}.items():
            text = re.sub(rf"\b{name}\b", port, text)
        return text.replace("/run/libmesh/sandbox", str(self.root))

    @staticmethod
    def execute(session, where, commands, shows, again):
        end = time.monotonic() + SECONDS / 2
        while True:
            code, output = session.run(commands)
            line = missing_line(shows, output)
            if code == 0 and line is None:
                return
            if not again or time.monotonic() > end:
                break
            time.sleep(0.2)
        if code != 0:
            raise RuntimeError(f"{where}: exit code {code}:\n{commands}\n--\n{output}")
        raise RuntimeError(f"{where}: is to show \"{line}\", and showed:\n{output}")

    def run(self):
        have, run, failed, left_out = self.have(), 0, 0, []
        with tempfile.TemporaryDirectory(prefix="mesh-guide-") as base:
            self.root = pathlib.Path(base) / "sandbox"
            folder = pathlib.Path(base) / "work"
            folder.mkdir()
            (folder / "examples").symlink_to(self.source / "examples")
            blocks = blocks_of(self.path.read_text())
            installed = {}
            if any("installed" in block.needs for block in blocks):
                installed = self.install(pathlib.Path(base) / "prefix")
                have |= {"installed"} if installed else set()
            environment = {**os.environ, **installed, "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                           "MESH_SANDBOX_ROOT": str(self.root), "PYTHONPATH": str(self.python), "PYTHONUNBUFFERED": "1"}
            session = Session(folder, environment)
            try:
                for at, block in enumerate(blocks):
                    where, text = f"docs/{self.name}.md:{block.line}", self.own(block.text)
                    lacking = [need for need in block.needs if need not in have]
                    if lacking:
                        left_out.append(f"NOT RUN: {where}: needs {', '.join(lacking)}")
                    elif block.file:
                        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                        (folder / block.file).write_text(text + "\n")
                    elif block.language == "sh":
                        shows = blocks[at + 1] if at + 1 < len(blocks) and blocks[at + 1].language == "text" else None
                        self.execute(session, where, text, self.own(shows.text) if shows else "", block.again)
                        run += 1
                        print(f"ok   {where}", flush=True)
            except RuntimeError as e:
                failed += 1
                print(f"FAIL {e}")
                for log in sorted(folder.glob("*.log")):
                    print(f"-- {log.name}\n{log.read_text()[-2000:]}")
            finally:
                if "root" in have and self.root.exists():
                    for cluster in self.clusters.values():
                        subprocess.run([self.bin / "meshctl", "--root", self.root, "sandbox", "delete", cluster,
                                        "--ignore-not-found"], capture_output=True)
                session.close()
        print("\n".join(left_out))
        if run == 0:
            print(f"SKIPPED: nothing of docs/{self.name}.md could be run")
            return 77
        return 1 if failed else 0


COMMAND = re.compile(r"(?:^|[\s`(|$])(mesh-agent|mesh-proxy|mesh-operator|mesh-cni|mesh-echo|meshctl)((?:[ ]+[^\s`|;&)#]+)*)")


def mentioned(text):
    """(program, words) of every command in a document: in code blocks and between backquotes."""
    text = text.replace("\\\n", " ")
    for code in re.findall(r"```[^\n]*\n(.*?)```|`([^`\n]+)`|^    (.*)$", text, re.S | re.M):
        for part in code:
            for line in part.splitlines():
                for program, words in COMMAND.findall(" " + line):
                    yield program, words.split()


def check_commands(source, bin_dir):
    helps, wrong, checked = {}, [], 0

    def help_of(words):
        key = tuple(words)
        if key not in helps:
            done = subprocess.run([bin_dir / words[0], *words[1:], "--help"], capture_output=True, text=True)
            helps[key] = done.stdout if done.returncode == 0 else ""
        return helps[key]

    documents = [source / "README.md", source / "CONTRIBUTING.md", *sorted((source / "docs").glob("*.md"))]
    for document in documents:
        for program, words in mentioned(document.read_text()):
            if not (bin_dir / program).exists():
                print(f"NOT RUN: {program} is not built")
                continue
            checked += 1
            path, rest = [program], list(words)
            while rest and re.match(r"^[a-z][a-z-]*$", rest[0]) and re.search(rf"^  {rest[0]}\s", help_of(path), re.M):
                path.append(rest.pop(0))
            shown = help_of(path)
            if path == ["meshctl"] and rest and re.match(r"^[a-z]", rest[0]):
                wrong.append(f"{document.name}: {program} {' '.join(words)}: no such command")
            for word in rest:
                flag = re.match(r"^(--[a-z][a-z0-9-]*)", word)
                everywhere = shown + help_of([program])
                if flag and flag.group(1) not in ("--help",) and not re.search(rf"(^|[\s,]){flag.group(1)}\b", everywhere):
                    wrong.append(f"{document.name}: {program} {' '.join(words)}: no flag {flag.group(1)}")
    print(f"{checked} commands looked at")
    print("\n".join(wrong))
    return 1 if wrong or checked < 20 else 0


def main():
    source, bin_dir = (pathlib.Path(p).resolve() for p in sys.argv[1:3])

    def on_alarm(*_):
        raise TimeoutError
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is interrupted cleans up as well
    if sys.argv[3] == "commands":
        return check_commands(source, bin_dir)
    if not shutil.which("etcd"):
        print("SKIPPED: needs etcd (Debian package etcd-server)")
        return 77
    return Guide(source, bin_dir, sys.argv[3]).run()


if __name__ == "__main__":
    sys.exit(main())
