#!/usr/bin/env bash
# Sets up a node of ray-cluster.yaml: the Python and the packages that the tests ran with.
# Running it again changes nothing that is in place.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$HOME/venv

chmod 600 "$HOME/.ray/auth_token"
# For whoever logs in, and for what `ray exec` and `ray down` run.
profile="export PATH=$venv/bin:\$PATH RAY_AUTH_MODE=token"
grep -qxF "$profile" "$HOME/.bashrc" || echo "$profile" >>"$HOME/.bashrc"

if [[ ! -x $venv/bin/uv ]]; then
    sudo apt-get update -q
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -yq python3-venv
    python3 -m venv "$HOME/uv"
    "$HOME/uv/bin/pip" install -q uv==0.13.8
    # To the last digit: a study refuses nodes with another Python.
    "$HOME/uv/bin/uv" venv -q --python 3.11.7 "$venv"
    ln -s "$HOME/uv/bin/uv" "$venv/bin/uv"
fi
"$venv/bin/uv" pip install -q --python "$venv/bin/python" \
    --constraint "$here/deploy/constraints.txt" --editable "${here}[server,cluster]"
