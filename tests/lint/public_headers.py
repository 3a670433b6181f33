#!/usr/bin/env python3
"""public_headers.py INCLUDE GENERATED: each public header compiles alone and without a warning, with g++ and with clang++, mesh.h as
C as well; and none shows anything of the libraries below but Boost's error codes, results and executor type."""
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
INCLUDES = re.compile(r"(mesh/\w+\.hp*|[a-z_]+(\.h)?|boost/(version|asio/any_io_executor|system/\w+|throw_exception|assert/\w+)\.hpp)")
FOREIGN = re.compile(r"\b(nghttp2_|google::|protobuf|openssl|SSL_|X509|EVP_|bpf_|libbpf|YAML::|spdlog|fmt::|prometheus::|MDB_|boost::json)\w*")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.S)


def shown(header):
    """What a header shows that it should not."""
    text = header.read_text()
    for name in re.findall(r"#\s*include\s*[<\"]([^>\"]+)", text):
        if not INCLUDES.fullmatch(name):
            yield f"{header.name}: includes {name}"
    for found in FOREIGN.finditer(COMMENT.sub("", re.sub(r"#\s*include[^\n]*", "", text))):
        yield f"{header.name}: mentions {found.group(0)}"


def compile_alone(job):
    compiler, language, standard, name, folders = job
    command = [compiler, "-x", language, f"-std={standard}", *WARNINGS, "-fsyntax-only", *(f"-I{folder}" for folder in folders), "-"]
    done = subprocess.run(command, input=f"#include <mesh/{name}>\n", capture_output=True, text=True)
    return f"mesh/{name} as {standard} by {compiler}: {done.stderr}" if done.returncode != 0 or done.stderr else ""


def main():
    folders = [pathlib.Path(folder) for folder in sys.argv[1:3]]
    headers = sorted({header for folder in folders for header in (folder / "mesh").glob("*.h*") if header.suffix in (".h", ".hpp")})
    failures = [line for header in headers for line in shown(header)]
    jobs = []
    for c, cxx in (("gcc", "g++"), ("clang", "clang++")):
        if not shutil.which(cxx):
            print(f"SKIPPED: the headers are not compiled by {cxx}: not here")
            continue
        jobs += [(cxx, "c++", "c++20", header.name, folders) for header in headers]
        jobs += [(c, "c", standard, "mesh.h", folders) for standard in ("c99", "c11")]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        failures += [failure for failure in pool.map(compile_alone, jobs) if failure]
    for failure in failures:
        print(failure)
    print(f"{len(headers)} headers, {len(jobs)} compilations, {len(failures)} failures")
    return 1 if failures or len(headers) < 7 or not jobs else 0


sys.exit(main())
