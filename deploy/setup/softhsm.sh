#!/usr/bin/env bash
# See to it that SoftHSM 2 is there: the system's, or unpacked into .cache/softhsm.
#
#   STRONGROOM_SETUP_FORCE_UNPACK=1    behave as without root and without SoftHSM
set -euo pipefail
cd "$(dirname "$0")/../.."

target=.cache/softhsm
force_unpack=${STRONGROOM_SETUP_FORCE_UNPACK:-}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Both are needed: the module, and softhsm2-util, which makes tokens.
has_softhsm() {
    local root=$1 module
    [ -x "$root/usr/bin/softhsm2-util" ] || [ -x "$root/usr/local/bin/softhsm2-util" ] || return 1
    for module in "$root"/usr/{lib,lib64,local/lib}/{,*/}{softhsm,pkcs11}/libsofthsm2.so; do
        [ -e "$module" ] && return
    done
    return 1
}

[ -z "$force_unpack" ] && has_softhsm "" && exit 0
has_softhsm "${STRONGROOM_SOFTHSM_PREFIX:-$target}" && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    die "SoftHSM 2 is missing; install it: softhsm2 (Alpine: softhsm; Fedora: softhsm; macOS: brew install softhsm)"
fi

if [ -z "$force_unpack" ] && [ "$(id -u)" = 0 ]; then
    say "installing softhsm2"
    bash deploy/setup/apt_install.sh softhsm2 || die "apt-get cannot install the package softhsm2; install it by hand"
    exit 0
fi

say "unpacking softhsm2 into $target"
rm -rf "$target.new"
mkdir -p "$target.new"
bash deploy/setup/unpack.sh "$target.new" softhsm2 libsofthsm2 softhsm2-common ||
    die "the package softhsm2 cannot be fetched; ask for it to be installed"
missing=$(find "$target.new" -name libsofthsm2.so -type f -exec ldd {} + | awk '/not found/ { print $1 }')
[ -z "$missing" ] || die "SoftHSM needs $missing, which this system lacks; ask for the package softhsm2 to be installed"
rm -rf "$target"
mv "$target.new" "$target" # whole or not at all: has_softhsm believes what it sees
