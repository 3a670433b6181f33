#!/usr/bin/env python3
"""sbom.py BUILD VERSION FOLDER PACKAGE=TARGET[,TARGET...]...: what each package is made of, FOLDER/PACKAGE.cdx.json in
CycloneDX's JSON, from what was really built: the Debian packages of the shared libraries that the targets (paths below
BUILD) need, and those whose headers their objects included. Names, versions and licences are dpkg's; the same build on
the same machine gives the same files."""
import functools
import json
import pathlib
import re
import subprocess
import sys
import uuid

# Debian's short names (machine-readable copyright files) as SPDX spells them.
SPDX = {"Expat": "MIT", "MIT": "MIT", "Apache-2.0": "Apache-2.0", "BSL-1.0": "BSL-1.0", "BSD-2-clause": "BSD-2-Clause",
        "BSD-3-clause": "BSD-3-Clause", "ISC": "ISC", "Zlib": "Zlib", "zlib": "Zlib", "OpenLDAP-2.8": "OLDAP-2.8",
        "GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later", "GPL-3": "GPL-3.0-only", "GPL-3+": "GPL-3.0-or-later",
        "LGPL-2": "LGPL-2.0-only", "LGPL-2+": "LGPL-2.0-or-later", "LGPL-2.1": "LGPL-2.1-only",
        "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3": "LGPL-3.0-only", "LGPL-3+": "LGPL-3.0-or-later"}


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@functools.cache
def libraries():
    """soname → path, as the loader finds it."""
    found = {}
    for line in run("/sbin/ldconfig", "-p").splitlines():
        match = re.match(r"\s+(\S+) \((.*)\) => (\S+)", line)
        if match and "x32" not in match[2]:
            found.setdefault(match[1], match[3])
    return found


@functools.cache
def installed_files():
    """path → Debian package, of all that is installed."""
    found = {}
    for file in pathlib.Path("/var/lib/dpkg/info").glob("*.list"):
        for path in file.read_text().split("\n"):
            found[path] = file.stem
    return found


def owners(paths):
    """The Debian packages that the files belong to."""
    names = set()
    for path in paths:
        path = str(pathlib.Path(path).resolve())
        # Merged /usr: dpkg knows some files by the path below /.
        name = installed_files().get(path) or installed_files().get(path.removeprefix("/usr"))
        if name:
            names.add(name)
    return names


def linked(files):
    sonames = set()
    for file in files:
        sonames.update(re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", file)))
    missing = sonames - set(libraries())
    own = {name for name in missing if name.startswith("libmesh.so.")}
    if missing - own:
        raise SystemExit(f"sbom.py: the loader does not know {sorted(missing - own)}")
    return owners(libraries()[name] for name in sonames - own)


def included(build, targets):
    """Packages whose headers the objects behind the targets included, by ninja's log of dependencies."""
    inputs = run("ninja", "-C", build, "-t", "inputs", *targets).splitlines()
    objects = [name for name in inputs if name.endswith(".o")]
    headers = {line.strip() for line in run("ninja", "-C", build, "-t", "deps", *objects).splitlines()
               if line.startswith("    /usr/")}
    return owners(headers)


def licences(package):
    """SPDX ids of a machine-readable copyright file; Debian's name where SPDX has none."""
    path = pathlib.Path("/usr/share/doc") / package.split(":")[0] / "copyright"
    text = path.read_text(errors="replace") if path.exists() else ""
    if not text.startswith("Format:"):
        return []
    names = set()
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("Files:") and not re.match(r"Files:\s*debian/", paragraph):
            found = re.search(r"^License:\s*(.*)$", paragraph, re.M)
            if found:
                names.update(re.split(r",?\s+(?:or|and|and/or)\s+|,\s*", found[1].strip()))
    names.discard("")
    return [{"license": {"id": SPDX[n]} if n in SPDX else {"name": n}} for n in sorted(names, key=str.lower)]


def component(package, how):
    fields = run("dpkg-query", "-W", "-f=${Package}\t${Version}\t${Architecture}\t${source:Package}", package).split("\t")
    name, version, architecture, source = fields
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "scope": "required" if how == "linked" else "excluded",
            **({"licenses": found} if (found := licences(package)) else {}),
            "properties": [{"name": "libmesh:use", "value": how}, {"name": "libmesh:debian-source", "value": source}]}


def document(name, version, components):
    ref = f"pkg:deb/libmesh/{name}@{version}"
    body = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "library" if name.startswith("lib") else "application", "bom-ref": ref,
                                       "name": name, "version": version, "purl": ref,
                                       "licenses": [{"license": {"id": "Apache-2.0"}}]}},
            "components": components,
            "dependencies": [{"ref": ref, "dependsOn": [c["bom-ref"] for c in components]}]}
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return {**body, "serialNumber": f"urn:uuid:{number}"}


def main():
    build, version, folder, *packages = sys.argv[1:]
    build = pathlib.Path(build)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for package in packages:
        name, _, targets = package.partition("=")
        targets = targets.split(",")
        needed = linked(build / target for target in targets if not target.endswith(".a"))
        headers = included(build, targets) - needed
        components = [component(owner, "linked") for owner in sorted(needed)]
        components += [component(owner, "headers") for owner in sorted(headers)]
        text = json.dumps(document(name, version, components), indent=1)
        (pathlib.Path(folder) / f"{name}.cdx.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
