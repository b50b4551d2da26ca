#!/bin/sh
# Usage: create_venv.sh FOLDER [PYTHON]: make a virtual environment with PYTHON, or with the first interpreter that fits.
set -eu

folder=$1
shift
wanted=${1:-}
[ $# -gt 0 ] || set -- python3 python3.13 python3.12 python3.11 python

for python in "$@"; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
        echo "$python ($("$python" -V)) -> $folder"
        exec "$python" -m venv "$folder"
    fi
done

if [ -n "$wanted" ]; then
    echo "PYTHON=$wanted is not a Python 3.11, 3.12 or 3.13 with \`venv\` and \`ensurepip\`." >&2
else
    echo "No Python 3.11, 3.12 or 3.13 with \`venv\` and \`ensurepip\` was found on the PATH." >&2
fi
echo "Install one (Debian, Ubuntu: apt install python3-venv), or name it: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
