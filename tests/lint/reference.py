#!/usr/bin/env python3
"""The reference of the public headers is made without a warning, and every function, type and macro in it says what it is.

reference.py DOXYFILE. Fields of a struct may speak by their names. Skipped, and says so, without doxygen."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

# Of a class, no more is to be said of these than that it may be copied or moved.
SILENT = re.compile(r"^(operator.*|~.*)$")


def has_text(element):
    return any("".join(part.itertext()).strip() for part in (element.find("briefdescription"), element.find("detaileddescription"))
               if part is not None)


def undocumented(xml):
    for file in sorted(xml.glob("*.xml")):
        compound = ElementTree.parse(file).getroot().find("compounddef")
        if compound is None or compound.get("prot") not in (None, "public"):
            continue
        kind, name = compound.get("kind"), compound.findtext("compoundname")
        if kind in ("class", "struct", "union") and not has_text(compound) and not name.endswith("::Impl"):
            yield f"{kind} {name}"
        for member in compound.iter("memberdef"):
            what, member_name = member.get("kind"), member.findtext("name")
            if what not in ("function", "typedef", "enum", "define") or member.get("prot") != "public":
                continue
            constructor = member_name == name.split("::")[-1]
            if SILENT.match(member_name) or constructor or has_text(member):
                continue
            location = member.find("location")
            yield f"{what} {name}: {member_name} ({location.get('file')}:{location.get('line')})"


def main():
    if not shutil.which("doxygen"):
        print("SKIPPED: the reference is not checked: no doxygen (Debian package doxygen)")
        return 77
    with tempfile.TemporaryDirectory(prefix="mesh-reference-") as folder:
        config = pathlib.Path(sys.argv[1]).read_text() + (f"\nOUTPUT_DIRECTORY = {folder}\nGENERATE_HTML = NO\nGENERATE_XML = YES\n"
                                                          "XML_PROGRAMLISTING = NO\n")
        done = subprocess.run(["doxygen", "-"], input=config, capture_output=True, text=True)
        if done.returncode != 0 or done.stderr.strip():
            print(done.stderr)
            return 1
        missing = list(undocumented(pathlib.Path(folder) / "xml"))
        print("\n".join(f"without a description: {line}" for line in missing))
        count = len(list((pathlib.Path(folder) / "xml").glob("*.xml")))
        if count < 20:
            print(f"only {count} pages: the headers were not read")
            return 1
        return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
