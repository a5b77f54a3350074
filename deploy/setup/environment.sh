# Sourced by the Makefile, in the root of the work tree: where SoftHSM and NSS
# were unpacked to, if they were.
if [ -d .cache/softhsm ]; then
    export STRONGROOM_SOFTHSM_PREFIX="${STRONGROOM_SOFTHSM_PREFIX:-$PWD/.cache/softhsm}"
fi
if [ -d .cache/nss ]; then
    export STRONGROOM_NSS_PREFIX="${STRONGROOM_NSS_PREFIX:-$PWD/.cache/nss}"
fi
