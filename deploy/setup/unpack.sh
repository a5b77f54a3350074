#!/usr/bin/env bash
# Unpack Debian packages without root: unpack.sh DIRECTORY PACKAGE...
# apt verifies the signed lists and the packages' hashes as always; only the place differs.
set -euo pipefail

target=$(realpath "$1")
shift
scratch=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

if ! apt-get -qq download "$@" </dev/null >/dev/null 2>&1; then
    # No lists, or old ones: fetch our own, beside the packages.
    mkdir -p apt/lists/partial apt/archives/partial
    private=(-qq -o "Dir::State::lists=$scratch/apt/lists" -o "Dir::Cache=$scratch/apt"
        -o "APT::Sandbox::User=$(id -un)")
    # Silent unless it fails: hooks of the system stumble over directories that are root's.
    apt-get "${private[@]}" update </dev/null >update.log 2>&1 || { cat update.log >&2; exit 1; }
    apt-get "${private[@]}" download "$@" </dev/null >&2
fi
for package in ./*.deb; do
    dpkg-deb -x "$package" "$target"
done
