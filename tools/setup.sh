#!/bin/sh
# Makes .venv, the environment that the Makefile's commands run in: what uv.lock names and nothing else.
# Uses the uv on the PATH if it suits this project; otherwise puts one into .uv, for which any Python from 3.8 on will do.
set -eu
cd "$(dirname "$0")/.."

# The environment of another project must not be mistaken for this one's.
unset VIRTUAL_ENV UV_PROJECT UV_PROJECT_ENVIRONMENT UV_WORKING_DIRECTORY

# Whether a uv starts, is new enough and reads the lock file; asks no registry.
suits() {
    "$1" export --frozen --quiet --no-emit-project --only-group docs >/dev/null 2>&1
}

bootstrap() {
    for python in python3 python3.13 python3.12 python3.11 python; do
        "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || continue
        echo "setup: putting uv into .uv with $(command -v "$python")" >&2
        rm -rf .uv
        "$python" -m venv .uv
        .uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
        return
    done
    cat >&2 <<'END'
setup: no Python with its modules venv and ensurepip was found, and no uv.
Install Python 3.11, 3.12 or 3.13 (on Debian and Ubuntu: apt-get install python3-venv), or uv, and call again.
END
    exit 1
}

if suits uv; then
    uv=uv
else
    uv=.uv/bin/uv
    suits $uv || bootstrap
fi

# Without a home that can be written to, uv has no place for its cache.
cache=$($uv cache dir 2>/dev/null) || cache=
if [ -z "$cache" ] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
    UV_CACHE_DIR=$PWD/.uv/cache
    export UV_CACHE_DIR
fi

$uv sync --frozen
