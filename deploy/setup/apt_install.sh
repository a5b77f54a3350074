#!/usr/bin/env bash
# Install Debian packages, as root: apt_install.sh PACKAGE...
# The package lists are fetched only where the install fails without: images come without
# any, and old lists name versions that are gone. Quiet unless it fails.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt-get install -y -qq --no-install-recommends "$@"; }

{ install "$@" || { apt-get update -qq && install "$@"; }; } </dev/null >"$log" 2>&1 ||
    { cat "$log" >&2; exit 1; }
