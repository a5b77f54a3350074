#!/usr/bin/env bash
# Make .venv from the lock and install this checkout into it, editable.
#
# A stamp, keyed by everything the result depends on, lets a second run end at once. It is
# written last: an interrupted run is taken up again by the next one.
#
#   STRONGROOM_PYTHON=python3.12            use this interpreter
#   STRONGROOM_SETUP_FORCE_UNPACK=1         behave as without root and without ensurepip
set -euo pipefail
cd "$(dirname "$0")/../.."

lock=requirements/dev.txt
stamp=.venv/.strongroom-stamp
cache=.cache/setup
force_unpack=${STRONGROOM_SETUP_FORCE_UNPACK:-}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${STRONGROOM_PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer; install the package python3 of a system that has one (Debian 12, Ubuntu 24.04), or set STRONGROOM_PYTHON"
}

# Where the stamp's key says nothing changed and the interpreter runs, nothing is done.
fingerprint() {
    { pwd; cat "$lock" pyproject.toml deploy/setup/python.sh; } | sha256sum | cut -d' ' -f1
}
key=$(fingerprint)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

mkdir -p "$cache"
if command -v flock >/dev/null; then # two makes at once take turns
    exec 9>"$cache/lock"
    flock 9
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then exit 0; fi
fi

has_ensurepip() { [ -z "$force_unpack" ] && "$1" -c 'import ensurepip, venv' 2>/dev/null; }
has_environment() { [ -x .venv/bin/python ] && is_new_enough .venv/bin/python; }
has_pip() { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }

# Debian splits ensurepip off into pythonX.Y-venv. Without root, pip comes out of the
# package python3-pip-whl, unpacked below .cache: a wheel can run itself.
pip_from_debian_wheel() {
    mkdir -p "$cache/pip"
    bash deploy/setup/unpack.sh "$cache/pip" python3-pip-whl || return 1
    find "$cache/pip" -name 'pip-*.whl' | head -n 1
}

make_environment() {
    local python=$1 version package
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$version-venv"
    if ! has_ensurepip "$python" && [ -z "$force_unpack" ] && [ "$(id -u)" = 0 ] &&
        command -v apt-get >/dev/null; then
        say "installing $package"
        bash deploy/setup/apt_install.sh "$package" || true
    fi
    say "creating .venv with $python ($version)"
    if has_ensurepip "$python"; then
        "$python" -m venv --clear .venv
        return
    fi
    "$python" -m venv --clear --without-pip .venv ||
        die "$python cannot make virtual environments; install the package $package"
}

python=$(find_python)
has_environment || make_environment "$python"
# An environment that another tool made may lack pip; it is kept, not replaced.
has_pip || { has_ensurepip .venv/bin/python && .venv/bin/python -m ensurepip >/dev/null; } || true
if has_pip; then
    pip=(.venv/bin/python -m pip)
else
    wheel=$(pip_from_debian_wheel) && [ -n "$wheel" ] ||
        die "there is no pip; install the package $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    pip=(.venv/bin/python "$wheel/pip")
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
say "installing $(grep -c '==' "$lock") locked packages (the first time takes a minute)"
"${pip[@]}" install --quiet --require-hashes --only-binary :all: -r "$lock"
"${pip[@]}" install --quiet --no-deps --no-build-isolation -e .
printf '%s\n' "$key" >"$stamp"
say "ready: .venv"
