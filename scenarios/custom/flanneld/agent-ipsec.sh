#!/bin/sh
# agent.sh in a mount namespace in which /run is the node's own: charon's socket and its number are there.
set -eu
own=/run/flannel/own
mkdir -p "$own/flannel" "$own/cni"
STRONGSWAN_CONF=$CNIBENCH_PROFILE_DIR/strongswan.conf
export STRONGSWAN_CONF own
exec unshare --mount --propagation private sh -c '
    mount --bind /run/flannel "$own/flannel"
    mount --bind /run/cni "$own/cni"
    mount --rbind "$own" /run
    exec "$CNIBENCH_PROFILE_DIR/agent.sh"'
