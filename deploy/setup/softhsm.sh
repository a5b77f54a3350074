#!/usr/bin/env bash
# See to it that SoftHSM 2 is there: the system's, or unpacked into .cache/softhsm.
# Needs .venv (python.sh).
#
#   STRONGROOM_SETUP_FORCE_UNPACK=1    behave as without root and without SoftHSM
set -euo pipefail
cd "$(dirname "$0")/../.."

target=.cache/softhsm
force_unpack=${STRONGROOM_SETUP_FORCE_UNPACK:-}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Asked of the code that will look for it, so that the two cannot disagree.
has_softhsm() {
    .venv/bin/python -c 'from strongroom_server.hsm.softhsm import find_softhsm; find_softhsm()' 2>/dev/null
}

if [ -n "$force_unpack" ]; then
    export STRONGROOM_SOFTHSM_PREFIX="$target" # there and nowhere else
fi
has_softhsm && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    die "SoftHSM 2 is missing; install it: the package softhsm2 (Debian, Ubuntu) or softhsm (Fedora)"
fi

if [ -z "$force_unpack" ] && [ "$(id -u)" = 0 ]; then
    say "installing softhsm2"
    bash deploy/setup/apt_install.sh softhsm2 || die "apt-get cannot install the package softhsm2; install it by hand"
    has_softhsm && exit 0
    die "the package softhsm2 is installed, but SoftHSM is not found"
fi

say "unpacking softhsm2 into $target"
rm -rf "$target.new"
mkdir -p "$target.new"
bash deploy/setup/unpack.sh "$target.new" softhsm2 libsofthsm2 softhsm2-common ||
    die "the package softhsm2 cannot be fetched; ask for it to be installed"
missing=$(find "$target.new" -name libsofthsm2.so -type f -exec ldd {} + | awk '/not found/ { print $1 }')
[ -z "$missing" ] || die "SoftHSM needs $missing, which this system lacks; ask for the package softhsm2 to be installed"
rm -rf "$target"
mv "$target.new" "$target" # whole or not at all
has_softhsm || die "SoftHSM was unpacked into $target and is not found there"
