#!/usr/bin/env python3
"""contents_test.py SOURCE BUILD PROGRAM...: what packages have beside the programs agrees with the programs: each flag and
command of --help is in the man page and is completed, man has nothing to complain of, systemd neither, and the units give
away no more than they should."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

source, build = (pathlib.Path(argument) for argument in sys.argv[1:3])
programs = [pathlib.Path(argument) for argument in sys.argv[3:]]
failures = []
SECTION = {"meshctl": 1, "mesh-echo": 1}
# What systemd-analyze makes of a unit, in tenths: 0 is sealed, 100 is open.
MOST_EXPOSED = {"mesh-agent": 40, "mesh-proxy": 20, "mesh-operator": 20}


def check(ok, what):
    if not ok:
        print("FAIL " + what)
        failures.append(what)


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def commands_of(program, words=()):
    """(words, text of --help) of the program and of all its commands."""
    text = run(program, *words, "--help").stdout
    yield words, text
    listed = text.split("\nSubcommands:\n")[1].split("\n\n")[0] if "\nSubcommands:\n" in text else ""
    for name in re.findall(r"^  ([a-z][a-z-]*)\b", listed, re.M):
        yield from commands_of(program, (*words, name))


def flags_of(text):
    """The flags that a text of --help lists, of each its names."""
    lines = [line.split("  ", 2)[1] for line in text.split("\nExamples:")[0].splitlines() if line.startswith("  -")]
    return [name for line in lines for name in re.findall(r"(?:^|,)(--?[A-Za-z][A-Za-z0-9-]*)", line)]


def rendered(page):
    return run("man", "-l", page, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "1000"}).stdout


def section_of(page_text, program, words):
    """The part of a page that is about one command."""
    if not words:
        return page_text.split("\nCOMMANDS\n")[0]
    head = "\n   " + " ".join([program.name, *words]) + "\n"
    check(head in page_text, f"man page of {program.name}: {' '.join(words)} is not in it")
    return re.split(r"\n   [a-z]|\n[A-Z]", page_text.split(head)[-1])[0]


def complete(program, *words):
    script = (f"source {build}/packaging/completion/{program.name}\n"
              f"COMP_WORDS=({program.name} {' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words)}\n"
              "compopt() { echo files; }\n"
              f"_{program.name.replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    done = run("bash", "-u", "-c", script)
    check(not done.stderr, f"completion of {program.name} {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.split()


def check_program(program):
    page = build / "packaging" / "man" / f"{program.name}.{SECTION.get(program.name, 8)}"
    warnings = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page,
                   env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}).stderr
    check(not warnings, f"man --warnings {page.name}: {warnings}")
    text = rendered(page)
    found = list(commands_of(program))
    names = [words for words, _ in found]
    count = 0
    for words, help_text in found:
        where = " ".join([program.name, *words])
        part = section_of(text, program, words)
        flags = flags_of(help_text)
        completed = complete(program, *words, "-")
        for flag in flags:
            count += 1
            check(re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", part) or flag in ("-h", "--help"),
                  f"man page of {where}: {flag} of --help is not in it")
            check(flag in completed, f"completion of {where}: {flag} is not offered")
        below = [other[-1] for other in names if other[:-1] == words and other]
        if below:
            check(complete(program, *words, "") == below, f"completion of {where}: commands are not {below}")
    print(f"{program.name}: {len(found)} commands, {count} flags")


def check_completion(meshctl):
    check(complete(meshctl, "st") == ["status"], "meshctl st<TAB> does not give status")
    check(complete(meshctl, "status", "--output", "") == ["table", "json"], "status --output <TAB> does not give its formats")
    check(complete(meshctl, "status", "--output", "=", "j") == ["json"], "status --output=j<TAB> does not give json")
    check(complete(meshctl, "--root", "status", "st") == ["status"], "a flag's value is taken for a command")
    check(complete(meshctl, "ca", "init", "--dir", "") == ["files"], "ca init --dir <TAB> does not offer files")


def check_units(folder):
    if not shutil.which("systemd-analyze"):
        print("NOT CHECKED: units, as there is no systemd-analyze")
        return
    for unit in sorted((source / "packaging" / "systemd").glob("*.service")):
        name = unit.stem
        copy = folder / unit.name
        # The programs are not in /usr/bin here.
        copy.write_text(unit.read_text().replace(f"/usr/bin/{name}", str(build / "bin" / name)))
        verified = run("systemd-analyze", "verify", "--man=no", copy)
        said = [line for line in verified.stderr.splitlines() if unit.name in line]
        check(not said, f"systemd-analyze verify: {said}")
        judged = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED[name]}", "--no-pager", copy)
        verdict = judged.stdout.strip().splitlines()[-1] if judged.stdout.strip() else judged.stderr
        check(judged.returncode == 0, f"{unit.name}: more exposed than {MOST_EXPOSED[name] / 10}: {verdict}")
        print(verdict)


version = re.search(r"^CMAKE_PROJECT_VERSION:\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.M).group(1)
for program in programs:
    check(run(program, "--version").stdout.strip() == f"{program.name} {version}", f"{program.name} --version is not {version}")
    check_program(program)
check_completion(next(program for program in programs if program.name == "meshctl"))
with tempfile.TemporaryDirectory() as folder:
    check_units(pathlib.Path(folder))
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
