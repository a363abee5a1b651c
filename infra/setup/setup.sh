#!/bin/sh
# Finds a Python that can run the set-up and hands over to setup.py beside it.
# Shell builtins only, so that the message below still appears with an empty PATH.
set -u
here=${0%/*}
root=$here/../..

suits() { # a Python 3.11 or 3.12 that can make environments
    "$1" -I -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
        >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
    found="PYTHON=$PYTHON is not one"
else
    # The environment's own Python comes first: a set-up that is done then answers in no time.
    set -- "$root/.venv/bin/python" python3 python3.11 python3.12
    found="none is on the PATH"
fi
for python in "$@"; do
    if suits "$python"; then exec "$python" -I "$here/setup.py"; fi
done

echo "setup: Concord needs Python 3.11 or 3.12 with its venv module, and $found:" \
    "install python3.11 and python3.11-venv, or name one with make setup PYTHON=/path/to/python3.11" >&2
exit 1
