#!/bin/sh
# flanneld on one node of the cluster, and on the first one the etcd that all of them use in place of a
# Kubernetes API server. BACKEND is the "Backend" of Flannel's configuration.
set -eu
first=$CNIBENCH_NODE_IP
while read -r index address _; do
    [ "$index" != 0 ] || first=$address
done <"$CNIBENCH_PEERS"
endpoint=http://$first:2379

if [ "$CNIBENCH_NODE_INDEX" = 0 ]; then
    "$ETCD" --name first --data-dir /run/flannel/etcd --log-level error --unsafe-no-fsync \
        --listen-client-urls "$endpoint" --advertise-client-urls "$endpoint" \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster first=http://127.0.0.1:2380 &
    config=$(printf '{"Network": "%s", "SubnetMin": "%s", "EnableNFTables": true, "Backend": %s}' \
        "$CNIBENCH_CLUSTER_CIDR" "${CNIBENCH_CLUSTER_CIDR%/*}" "$BACKEND")
    until curl -sf -o /run/flannel/put "$endpoint/v3/kv/put" --data \
        "{\"key\": \"$(printf %s /coreos.com/network/config | base64 -w 0)\", \"value\": \"$(printf %s "$config" | base64 -w 0)\"}"; do
        sleep 0.2
    done
fi

# flanneld asks for the lease that it had, which is the node's pod range as the plugins are to have it.
gateway=${CNIBENCH_POD_CIDR%.*}.1/${CNIBENCH_POD_CIDR#*/}
printf 'FLANNEL_SUBNET=%s\n' "$gateway" >/run/flannel/subnet.env
exec "$FLANNELD" --etcd-endpoints="$endpoint" --iface="$CNIBENCH_NODE_DEVICE" --ip-masq
