#!/usr/bin/env python3
"""Makes libmesh._mesh, the C extension: what mesh/mesh.h declares, read from that header when it is built.

No declaration is kept here a second time: the header's text without comments, preprocessor and attributes is what
cffi parses, and the compiler checks the result against the header itself.

    mesh_build.py HEADER OUT.c      writes the extension's source (CMake compiles it)
    pip install ./bindings/python   uses make_ffi(): LIBMESH_INCLUDE_DIR and LIBMESH_LIBRARY_DIR, else pkg-config
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys

import cffi

HEADER = "mesh/mesh.h"

# Log lines leave the mesh's own thread as datagrams: it never waits for Python, and no Python runs on it.
SOURCE = r"""
#include <mesh/mesh.h>
#include <string.h>
#include <sys/socket.h>

typedef struct mesh_python_log {
    int fd;            /* a socket that keeps the bounds of messages */
    uint64_t dropped;  /* lines that found no room */
} mesh_python_log;

static size_t mesh_python_append(char* to, size_t at, size_t most, const char* text) {
    const size_t length = strlen(text);
    const size_t taken = length < most - at ? length : most - at;
    memcpy(to + at, text, taken);
    return at + taken;
}

/* A line: severity, subsystem, NUL, text. */
static void mesh_python_write_log(void* user_data, int32_t severity, const char* subsystem, const char* text) {
    mesh_python_log* const log = user_data;
    char line[8192];
    line[0] = (char)severity;
    size_t size = mesh_python_append(line, 1, 256, subsystem);
    line[size++] = '\0';
    size = mesh_python_append(line, size, sizeof line, text);
    if (send(log->fd, line, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        __atomic_fetch_add(&log->dropped, 1, __ATOMIC_RELAXED);
    }
}
"""
SOURCE_CDEF = """
typedef struct mesh_python_log { int fd; uint64_t dropped; } mesh_python_log;
static void mesh_python_write_log(void* user_data, int32_t severity, const char* subsystem, const char* text);
"""


def declarations(header: str) -> str:
    """The declarations of the header's text as cffi reads them; fails at what it does not know."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text).replace("\\\n", " ")
    kept: list[str] = []
    conditions: list[bool] = []  # of the #if that are open: whether what stands in them counts
    for line in text.splitlines():
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            if all(conditions):
                kept.append(line)
            continue
        word, rest = directive[1], directive[2].strip()
        if word in ("if", "ifdef", "ifndef"):
            conditions.append(not (word == "ifdef" and rest == "__cplusplus"))
        elif word == "else":
            conditions[-1] = not conditions[-1]
        elif word == "endif":
            conditions.pop()
        elif word == "define" and all(conditions):
            constant = re.fullmatch(r"(MESH_\w+)\s+\(?-?(?:0[xX])?[0-9a-fA-F]+[uU]?\)?", rest)
            if constant:
                kept.append(f"#define {constant[1]} ...")
        elif word not in ("define", "include", "undef"):
            raise ValueError(f"{HEADER}: #{word}: expected a directive that mesh_build.py knows")
    text = "\n".join(line for line in kept if line.strip())
    text = re.sub(r"\bMESH_API\b", "", text)
    return re.sub(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)", "", text)


def builder(header: pathlib.Path, **options: object) -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(declarations(header.read_text(encoding="utf-8")) + SOURCE_CDEF)
    ffi.set_source("libmesh._mesh", SOURCE, **options)
    return ffi


def pkg_config(*words: str) -> list[str]:
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *words, "libmesh"]
    try:
        return shlex.split(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        raise SystemExit(f"libmesh was not found: set LIBMESH_INCLUDE_DIR and LIBMESH_LIBRARY_DIR, or PKG_CONFIG_PATH "
                         f"to the folder of libmesh.pc ({told.strip()})") from None


def make_ffi() -> cffi.FFI:
    """The extension for setuptools, with the library that the environment names."""
    include, library = os.environ.get("LIBMESH_INCLUDE_DIR"), os.environ.get("LIBMESH_LIBRARY_DIR")
    # pkg-config leaves out the compiler's own folders unless asked.
    includes = [include] if include else [
        word[2:] for word in pkg_config("--cflags-only-I", "--keep-system-cflags")]
    libraries = [library] if library else [word[2:] for word in pkg_config("--libs-only-L")]
    for folder in (*includes, "/usr/local/include", "/usr/include"):
        header = pathlib.Path(folder, HEADER)
        if header.is_file():
            return builder(header, include_dirs=includes, library_dirs=libraries, libraries=["mesh"])
    raise SystemExit(f"{HEADER}: expected below one of {includes}; set LIBMESH_INCLUDE_DIR")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: mesh_build.py HEADER OUT.c")
    builder(pathlib.Path(sys.argv[1])).emit_c_code(sys.argv[2])
