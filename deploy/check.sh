#!/bin/bash
# Checks the files of this folder with whatever of their own tools is here, and says what could not be checked.
# That their flags exist is checked by `cargo test -p regatta` (cli/src/main.rs).

set -eu
cd "$(dirname "$0")"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

with() { command -v "$1" >/dev/null || { echo "not checked: $2 ($1 is missing)"; return 1; }; }

for script in check.sh slurm/*.sh slurm/*.sbatch; do bash -n "$script"; done
echo "ok: shell scripts"

if with systemd-analyze systemd; then
    for unit in systemd/*.service; do
        # The program need not be installed here.
        sed -E 's#^ExecStart=[^ ]+#ExecStart=/bin/true#' "$unit" >"$temporary/$(basename "$unit")"
    done
    systemd-analyze verify "$temporary"/*.service
    echo "ok: systemd"
fi

if with python3 "launchd, Windows"; then
    python3 - <<'END'
import plistlib, xml.dom.minidom
plist = plistlib.load(open("launchd/io.regatta.agent.plist", "rb"))
assert plist["Label"] == "io.regatta.agent" and plist["ProgramArguments"][1] == "agent"
xml.dom.minidom.parse("windows/regatta-agent.xml")
END
    echo "ok: launchd, Windows"
fi

if with kubectl Kubernetes; then
    kubectl kustomize kubernetes >"$temporary/all.yaml"
    if command -v kubernetes-validate >/dev/null; then
        kubernetes-validate --quiet --strict "$temporary/all.yaml"
        echo "ok: Kubernetes, against the schema"
    else
        echo "ok: Kubernetes, as YAML (for the schema: pip install kubernetes-validate)"
    fi
fi
