#!/usr/bin/env python3
"""completion.py PROGRAM OUTPUT: bash completion of a program, from what it tells with --describe."""
import json
import pathlib
import re
import shlex
import subprocess
import sys

TEMPLATE = """\
# bash completion of @NAME@: made from @NAME@ --describe.
_@FUNCTION@_at() {
    commands='' flags='' values='' positionals=''
    case $1 in
@PATHS@
    esac
}
_@FUNCTION@_choices() {
    case $1 in
@CHOICES@
    esac
}
_@FUNCTION@() {
    local cur=${COMP_WORDS[COMP_CWORD]} path='' value='' word i commands flags values positionals choices
    _@FUNCTION@_at ''
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == '=' ]]; then
            continue
        elif [[ -n $value ]]; then
            value=''
        elif [[ $word == '--' ]]; then
            compopt -o bashdefault -o default
            return
        elif [[ $word == -* ]]; then
            [[ " $values " == *" $word "* ]] && value=$word
        elif [[ " $commands " == *" $word "* ]]; then
            path="$path$word/"
            _@FUNCTION@_at "$path"
        fi
    done
    [[ $cur == '=' ]] && cur=''
    COMPREPLY=()
    if [[ -n $value ]]; then
        choices=$(_@FUNCTION@_choices "$path $value")
        if [[ -n $choices ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur")
        else
            compopt -o default
        fi
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    elif [[ -n $commands ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
    elif [[ -n $positionals ]]; then
        compopt -o default
    fi
}
complete -F _@FUNCTION@ @NAME@
"""


def walk(command, path, paths, choices):
    flags = [name for option in command["flags"] for name in option["names"]]
    values = [name for option in command["flags"] if option["value"] for name in option["names"]]
    words = {"commands": [below["name"] for below in command["commands"]], "flags": flags, "values": values,
             "positionals": [positional["name"] for positional in command["positionals"]]}
    sets = " ".join(f"{key}={shlex.quote(' '.join(value))}" for key, value in words.items() if value)
    paths.append(f"        {shlex.quote(path)}) {sets} ;;")
    for option in command["flags"]:
        found = re.search(r"\{([^}]*)\}", option["value"])
        if found:
            patterns = "|".join(shlex.quote(f"{path} {name}") for name in option["names"])
            choices.append(f"        {patterns}) echo {shlex.quote(found.group(1).replace(',', ' '))} ;;")
    for below in command["commands"]:
        walk(below, f"{path}{below['name']}/", paths, choices)


def main():
    program, output = sys.argv[1:3]
    described = json.loads(subprocess.run([program, "--describe"], check=True, capture_output=True, text=True).stdout)
    paths, choices = [], []
    walk(described, "", paths, choices)
    text = TEMPLATE
    for key, value in {"NAME": described["name"], "FUNCTION": described["name"].replace("-", "_"),
                       "PATHS": "\n".join(paths), "CHOICES": "\n".join(choices or ["        *) ;;"])}.items():
        text = text.replace(f"@{key}@", value)
    pathlib.Path(output).write_text(text)


if __name__ == "__main__":
    main()
