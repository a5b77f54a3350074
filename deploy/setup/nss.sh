#!/usr/bin/env bash
# See to it that NSS softokn is there, the second module of the HSM tests: the system's, or
# unpacked into .cache/nss. Its absence is told and is no error: those tests are skipped.
#
#   STRONGROOM_SETUP_FORCE_UNPACK=1    behave as without root and without NSS
set -euo pipefail
cd "$(dirname "$0")/../.."

target=.cache/nss
force_unpack=${STRONGROOM_SETUP_FORCE_UNPACK:-}

say() { printf 'setup: %s\n' "$*" >&2; }
give_up() { say "$*; the tests of NSS will be skipped"; exit 0; }

# Where tests/support/hsm_modules.py looks.
has_nss() {
    compgen -G "$target/usr/lib/*/libsoftokn3.so" >/dev/null ||
        compgen -G "$target/usr/lib/*/nss/libsoftokn3.so" >/dev/null || {
        [ -z "$force_unpack" ] && {
            compgen -G "/usr/lib/*/libsoftokn3.so" >/dev/null ||
                compgen -G "/usr/lib/*/nss/libsoftokn3.so" >/dev/null ||
                compgen -G "/usr/lib64/libsoftokn3.so" >/dev/null
        }
    }
}

has_nss && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    give_up "NSS is missing: the package libnss3 (Debian, Ubuntu) or nss-softokn (Fedora)"
fi

if [ -z "$force_unpack" ] && [ "$(id -u)" = 0 ]; then
    say "installing libnss3"
    bash deploy/setup/apt_install.sh libnss3 || give_up "apt-get cannot install the package libnss3"
    has_nss && exit 0
    give_up "the package libnss3 is installed, but libsoftokn3.so is not found"
fi

say "unpacking libnss3 into $target"
rm -rf "$target.new"
mkdir -p "$target.new"
bash deploy/setup/unpack.sh "$target.new" libnss3 libnspr4 || {
    rm -rf "$target.new"
    give_up "the package libnss3 cannot be fetched"
}
rm -rf "$target"
mv "$target.new" "$target" # whole or not at all
has_nss || give_up "libnss3 was unpacked into $target, and libsoftokn3.so is not found there"
