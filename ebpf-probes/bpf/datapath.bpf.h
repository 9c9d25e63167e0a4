/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the datapath's programs share: packets' headers as they are on the wire, the maps, the counters,
 * and reading a packet. ../README.md describes the maps; src/datapath/layout.rs writes them.
 */
#ifndef CNIBENCH_DATAPATH_BPF_H
#define CNIBENCH_DATAPATH_BPF_H

#include "cnibench.bpf.h"

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd
#define AF_INET 2
#define AF_INET6 10
#define PACKET_HOST 0
#define IPPROTO_ESP 50
#define IPPROTO_ICMPV6 58

struct ethhdr {
	__u8 destination[6];
	__u8 source[6];
	__be16 protocol;
};

struct iphdr {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 source;
	__be32 destination;
};

struct in6 {
	__be32 word[4];
};

struct ip6hdr {
	__be32 version_class_flow;
	__be16 length;
	__u8 next_header;
	__u8 hop_limit;
	struct in6 source;
	struct in6 destination;
};

/* include/uapi/linux/bpf.h */
struct bpf_redir_neigh {
	__u32 nh_family;
	union {
		__be32 ipv4_nh;
		__u32 ipv6_nh[4];
	};
};

/* The same, as long as kernels before 6.2 know it. */
struct bpf_tunnel_key {
	__u32 tunnel_id;
	union {
		__u32 remote_ipv4;
		__u32 remote_ipv6[4];
	};
	__u8 tunnel_tos;
	__u8 tunnel_ttl;
	__u16 tunnel_ext;
	__u32 tunnel_label;
};

#define BPF_F_TUNINFO_IPV6 1
#define BPF_F_ZERO_CSUM_TX 2

/* Policies apply to what is sent to this endpoint. */
#define ENDPOINT_HAS_POLICY 1

/* A pod of this node. */
struct endpoint {
	__u32 ifindex; /* the node's end of its veth pair */
	__u32 id;      /* what policies know it by */
	__u8 mac[6];   /* the pod's own */
	__u8 gateway_mac[6];
	__u32 flags;
};

#define ROUTE_TUNNEL 1
#define ROUTE_HOP_IPV6 2
/* Into a device without a link layer that knows where its packets go (WireGuard). */
#define ROUTE_DEVICE 4
/* To the stack, with the mark that a policy of IPsec waits for. */
#define ROUTE_MARK 8

/* The mark of packets that IPsec has decrypted, and its bits. */
#define MARK_DECRYPTED 0x0d00
#define MARK_BITS 0x0f00

/* Where a range of addresses is. */
struct route {
	__u32 ifindex; /* the underlay's device, or the tunnel's */
	__u32 flags;
	__u32 vni; /* or a mark: for packets that are sent there, of a node for those that it encrypted */
	/* The next hop or the tunnel's far end: IPv4 in the first four bytes. Network order. */
	__u8 hop[16];
	/* Inside of a tunnel: the device's addresses at the far and the near end. */
	__u8 inner_destination[6];
	__u8 inner_source[6];
};

struct gateway {
	__u8 mac[6];
	__u8 pad[2];
};

struct range4 {
	__u32 bits;
	__be32 address;
};

struct range6 {
	__u32 bits;
	struct in6 address;
};

/* Who may send to an endpoint. Protocol and port 0: any. The first 64 bits always count. */
struct policy4 {
	__u32 bits;
	__u32 endpoint;
	__u8 protocol;
	__u8 pad;
	__be16 port;
	__be32 source;
};

struct policy6 {
	__u32 bits;
	__u32 endpoint;
	__u8 protocol;
	__u8 pad;
	__be16 port;
	struct in6 source;
};

#define MAP(name, kind, key_type, value_type, entries, creation)                                  \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, creation);                                                       \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} name SEC(".maps")

#define ENDPOINTS 512
#define ROUTES 4096
#define POLICIES 16384

MAP(endpoints4, BPF_MAP_TYPE_HASH, __be32, struct endpoint, ENDPOINTS, 0);
MAP(endpoints6, BPF_MAP_TYPE_HASH, struct in6, struct endpoint, ENDPOINTS, 0);
MAP(routes4, BPF_MAP_TYPE_LPM_TRIE, struct range4, struct route, ROUTES, BPF_F_NO_PREALLOC);
MAP(routes6, BPF_MAP_TYPE_LPM_TRIE, struct range6, struct route, ROUTES, BPF_F_NO_PREALLOC);
MAP(gateways4, BPF_MAP_TYPE_HASH, __be32, struct gateway, 16, 0);
MAP(gateways6, BPF_MAP_TYPE_HASH, struct in6, struct gateway, 16, 0);
MAP(policies4, BPF_MAP_TYPE_LPM_TRIE, struct policy4, __u32, POLICIES, BPF_F_NO_PREALLOC);
MAP(policies6, BPF_MAP_TYPE_LPM_TRIE, struct policy6, __u32, POLICIES, BPF_F_NO_PREALLOC);

/* What became of packets; the order is that of Outcome in src/datapath/counters.rs. */
enum outcome {
	TO_LOCAL_POD,  /* from a pod into another of the node */
	TO_NEXT_HOP,   /* from a pod to the next hop on the underlay */
	TO_TUNNEL,     /* from a pod into the tunnel */
	FROM_UNDERLAY, /* from the underlay into a pod */
	FROM_TUNNEL,   /* from the tunnel into a pod */
	PASSED,        /* left to the stack */
	DENIED,        /* dropped by policy */
	ARP_ANSWERED,
	ND_ANSWERED,
	BROKEN, /* dropped: headers cut short */
	OUTCOMES,
};

MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, OUTCOMES, 0);

static __always_inline void count(enum outcome outcome)
{
	__u32 key = outcome;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		*value += 1;
}

static __always_inline int end(enum outcome outcome, int verdict)
{
	count(outcome);
	return verdict;
}

static __always_inline int pass(void)
{
	return end(PASSED, TC_ACT_OK);
}

/* Headers up to `length` bytes from the start are readable, or NULL. */
static __always_inline void *headers(struct __sk_buff *skb, __u32 length)
{
	void *data = (void *)(long)skb->data;

	if (data + length <= (void *)(long)skb->data_end)
		return data;
	if (bpf_skb_pull_data(skb, length))
		return NULL;
	data = (void *)(long)skb->data;
	return data + length <= (void *)(long)skb->data_end ? data : NULL;
}

static __always_inline void set_macs(struct ethhdr *eth, const __u8 *destination, const __u8 *source)
{
	__builtin_memcpy(eth->destination, destination, 6);
	__builtin_memcpy(eth->source, source, 6);
}

#endif
