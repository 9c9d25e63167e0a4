#!/bin/sh
# Keeps a route to the pods of every peer, puts back what is taken away, and removes them at the end.
set -eu
trap 'rm -f /run/routes-agent/ready; exit 0' TERM
while :; do
    while read -r _ address range; do
        ip route replace "$range" via "$address" dev "$CNIBENCH_NODE_DEVICE"
    done <"$CNIBENCH_PEERS"
    touch /run/routes-agent/ready
    sleep 1 &
    wait $!
done
