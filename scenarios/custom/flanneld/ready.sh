#!/bin/sh
# Has flanneld its lease, and every peer a way to it?
set -eu
grep -q FLANNEL_MTU /run/flannel/subnet.env
while read -r _ _ range; do
    case $BACKEND in
    *ipsec*) ip xfrm state list | grep -q aead && ip xfrm policy list dst "$range" | grep -q . ;;
    *) ip route get "${range%.*}.2" | grep -q "dev flannel" ;;
    esac
done <"$CNIBENCH_PEERS"
