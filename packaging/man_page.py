#!/usr/bin/env python3
"""man_page.py SECTION PROGRAM OUTPUT: the man page of a program, from what it tells with --describe. Dates are none, so
that the same program gives the same page."""
import json
import pathlib
import re
import subprocess
import sys

SEE_ALSO = ["mesh-agent(8)", "mesh-cni(8)", "mesh-echo(1)", "mesh-operator(8)", "mesh-proxy(8)", "meshctl(1)"]
FILES = {
    "mesh-agent": [("/etc/libmesh/mesh-agent.env", "Flags of the systemd service."),
                   ("/var/lib/libmesh/wireguard.key", "The node's private WireGuard key, made if absent.")],
    "mesh-proxy": [("/etc/libmesh/mesh-proxy.env", "Flags of the systemd service."),
                   ("/etc/libmesh/mesh-proxy/", "Certificates and etcd.yaml, which the service reads as credentials.")],
    "mesh-operator": [("/etc/libmesh/mesh-operator.env", "Flags of the systemd service."),
                      ("/etc/libmesh/mesh-operator/", "Certificates and etcd.yaml, which the service reads as credentials."),
                      ("/etc/libmesh/manifests/", "The cluster's Kubernetes manifests.")],
}


def text(words):
    """Escaped for roff; a line does not begin with a request."""
    words = words.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in words.split("\n"))


def value_of(option):
    """What stands for the value, and what it can be."""
    name, _, rest = option["value"].partition(":")
    choices = re.search(r"\{([^}]*)\}", rest)
    bounds = re.search(r"in (\[[^\]]*\])", rest)
    can = ""
    if choices and "|" not in name:
        can = "One of " + ", ".join(choices.group(1).split(",")) + "."
    elif bounds:
        can = "In " + bounds.group(1) + "."
    return name, can


def sentences(about, more):
    """What --help says, and what follows it as sentences."""
    if more and not about.endswith((".", ":", "?")):
        about += "."
    return " ".join([about, *more])


def option_lines(option):
    value, can = value_of(option)
    names = ", ".join("\\fB" + text(name) + "\\fR" for name in option["names"])
    if value:
        names += " \\fI" + text(value) + "\\fR"
    about = option["about"]
    more = [can] if can else []
    if option["default"]:
        more.append(f"Default: {option['default'].strip('[]')}.")
    if option["env"]:
        more.append(f"Environment: {option['env']}.")
    if option["required"]:
        more.append("Required.")
    return [".TP", names, text(sentences(about, more))]


def positional_lines(option):
    _, can = value_of(option)
    more = [can] if can else []
    if option["required"]:
        more.append("Required.")
    return [".TP", "\\fI" + text(option["name"]) + "\\fR", text(sentences(option["about"], more))]


def usage(words, command):
    parts = ["\\fB" + text(" ".join(words)) + "\\fR"]
    if command["flags"]:
        parts.append("[\\fIOPTIONS\\fR]")
    for positional in command["positionals"]:
        name = "\\fI" + text(positional["name"]) + "\\fR" + ("..." if positional["many"] else "")
        parts.append(name if positional["required"] else f"[{name}]")
    if command["commands"]:
        parts.append("\\fICOMMAND\\fR")
    return " ".join(parts)


def footer_lines(footer):
    return [".PP", ".nf", *[text(line) for line in footer.split("\n")], ".fi"]


def command_lines(words, command, parent_footer):
    lines = [f".SS {text(' '.join(words))}", text(command["about"]).replace("\n", "\n.br\n"), ".PP", usage(words, command)]
    for positional in command["positionals"]:
        lines += positional_lines(positional)
    for option in command["flags"]:
        if "--help" not in option["names"]:
            lines += option_lines(option)
    if command["footer"] and command["footer"] != parent_footer:
        lines += footer_lines(command["footer"])
    for below in command["commands"]:
        lines += command_lines([*words, below["name"]], below, command["footer"])
    return lines


def page(section, program):
    name = program["name"]
    about = program["about"].split("\n")
    summary = re.sub(rf"^{name}: ", "", about[0]).rstrip(".")
    lines = [f'.TH {name.upper()} {section} "" "libmesh {program["version"]}" "libmesh"',
             ".nh", ".ad l",   # flags and paths are not to be broken
             ".SH NAME", f"{text(name)} \\- {text(summary)}", ".SH SYNOPSIS", usage([name], program)]
    if about[1:]:
        lines += [".SH DESCRIPTION", text("\n".join(about[1:])).replace("\n", "\n.br\n")]
    if program["positionals"]:
        lines += [".SH ARGUMENTS"]
        for positional in program["positionals"]:
            lines += positional_lines(positional)
    groups = list(dict.fromkeys(option["group"] for option in program["flags"]))
    for group in groups:
        lines.append(".SH OPTIONS" if group == "Options" else f".SS {text(group)}")
        for option in program["flags"]:
            if option["group"] == group:
                lines += option_lines(option)
    if program["commands"]:
        lines.append(".SH COMMANDS")
        for command in program["commands"]:
            lines += command_lines([name, command["name"]], command, program["footer"])
    if program["footer"]:
        lines += [".SH EXAMPLES"] + footer_lines(program["footer"].removeprefix("Examples:\n"))
    if name in FILES:
        lines.append(".SH FILES")
        for path, what in FILES[name]:
            lines += [".TP", f"\\fI{text(path)}\\fR", text(what)]
    if not program["commands"] and name != "mesh-cni":
        lines += [".SH EXIT STATUS", "0 after a stop in order, 2 for bad flags or a bad configuration, 1 for other failures."]
    others = [f"\\fB{text(o.split('(')[0])}\\fR({o[-2]})" for o in SEE_ALSO if not o.startswith(name + "(")]
    lines += [".SH SEE ALSO", ", ".join(others)]
    return "\n".join(lines) + "\n"


def main():
    section, program, output = sys.argv[1:4]
    described = json.loads(subprocess.run([program, "--describe"], check=True, capture_output=True, text=True).stdout)
    pathlib.Path(output).write_text(page(section, described))


if __name__ == "__main__":
    main()
