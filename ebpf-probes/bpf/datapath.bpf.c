// SPDX-License-Identifier: MIT OR Apache-2.0
/* The packet path of an eBPF host-routing CNI: from a pod straight to another pod of the node, to the
 * next hop, or into a tunnel; from the wire straight into a pod. The node's own stack sees only what
 * is for the node itself and what this does not know, which is passed to it untouched.
 *
 * It keeps no state of connections. ../README.md describes programs and maps for those who bring an
 * object of their own; user space is src/datapath.
 */
#include "cnibench.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd
#define AF_INET 2
#define AF_INET6 10
#define PACKET_HOST 0
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

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

/* A neighbour solicitation or advertisement with one link-layer address option (RFC 4861). */
struct neighbour {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 flags;
	struct in6 target;
	__u8 option;
	__u8 option_length;
	__u8 mac[6];
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

/* Where a range of addresses is. */
struct route {
	__u32 ifindex; /* the underlay's device, or the tunnel's */
	__u32 flags;
	__u32 vni;
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

/* RFC 1624, as ip_decrease_ttl (include/net/ip.h). */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 check = ip->check;

	check += bpf_htons(0x0100);
	ip->check = (__sum16)(check + (check >= 0xffff));
	ip->ttl -= 1;
}

/* The sum that a device may have taken over the packet no longer fits (skb_forward_csum does away
 * with it; here it is corrected). */
static __always_inline void decrement_hop_limit(struct __sk_buff *skb, struct ip6hdr *ip)
{
	__u32 before = bpf_htons((__u16)ip->next_header << 8 | ip->hop_limit);
	__u32 after;

	ip->hop_limit -= 1;
	after = bpf_htons((__u16)ip->next_header << 8 | ip->hop_limit);
	bpf_csum_update(skb, after + (~before & 0xffff));
}

/* The destination port at `offset`, 0 where the protocol has none. */
static __always_inline __be16 port_of(struct __sk_buff *skb, __u8 protocol, __u32 offset)
{
	__be16 port = 0;

	/* TCP, UDP, SCTP and UDP-Lite have it at the same place. */
	if (protocol != 6 && protocol != 17 && protocol != 132 && protocol != 136)
		return 0;
	if (bpf_skb_load_bytes(skb, offset + 2, &port, sizeof(port)))
		return 0;
	return port;
}

static __always_inline bool admitted4(struct __sk_buff *skb, const struct iphdr *ip, __u32 endpoint)
{
	struct policy4 key = { .bits = 96, .endpoint = endpoint, .source = ip->source };
	__u8 protocol = ip->protocol;
	__u32 offset = ETH_HLEN + (ip->version_ihl & 0xf) * 4;
	bool first = !(ip->fragment & bpf_htons(0x1fff));

	if (bpf_map_lookup_elem(&policies4, &key))
		return true;
	/* Later fragments name no port: only what admits every port lets them in. */
	if (!first)
		return false;
	key.protocol = protocol;
	key.port = port_of(skb, protocol, offset);
	return bpf_map_lookup_elem(&policies4, &key) != NULL;
}

static __always_inline bool admitted6(struct __sk_buff *skb, const struct ip6hdr *ip, __u32 endpoint)
{
	struct policy6 key = { .bits = 192, .endpoint = endpoint, .source = ip->source };
	__u8 protocol = ip->next_header;

	if (bpf_map_lookup_elem(&policies6, &key))
		return true;
	/* Behind extension headers no port is looked for. */
	key.protocol = protocol;
	key.port = port_of(skb, protocol, ETH_HLEN + sizeof(*ip));
	return bpf_map_lookup_elem(&policies6, &key) != NULL;
}

/* Into a pod of this node. `ip` was checked. */
static __always_inline int deliver4(struct __sk_buff *skb, struct iphdr *ip,
				    const struct endpoint *pod, enum outcome outcome)
{
	struct ethhdr *eth;

	if (ip->ttl <= 1)
		return pass();
	if (pod->flags & ENDPOINT_HAS_POLICY) {
		if (!admitted4(skb, ip, pod->id))
			return end(DENIED, TC_ACT_SHOT);
	}
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) + sizeof(*ip) > (void *)(long)skb->data_end)
		return end(BROKEN, TC_ACT_SHOT);
	decrement_ttl((struct iphdr *)(eth + 1));
	set_macs(eth, pod->mac, pod->gateway_mac);
	count(outcome);
	return bpf_redirect_peer(pod->ifindex, 0);
}

static __always_inline int deliver6(struct __sk_buff *skb, struct ip6hdr *ip,
				    const struct endpoint *pod, enum outcome outcome)
{
	struct ethhdr *eth;

	if (ip->hop_limit <= 1)
		return pass();
	if (pod->flags & ENDPOINT_HAS_POLICY) {
		if (!admitted6(skb, ip, pod->id))
			return end(DENIED, TC_ACT_SHOT);
	}
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) + sizeof(*ip) > (void *)(long)skb->data_end)
		return end(BROKEN, TC_ACT_SHOT);
	set_macs(eth, pod->mac, pod->gateway_mac);
	decrement_hop_limit(skb, (struct ip6hdr *)(eth + 1));
	count(outcome);
	return bpf_redirect_peer(pod->ifindex, 0);
}

static __always_inline int encapsulate(struct __sk_buff *skb, const struct route *route)
{
	struct bpf_tunnel_key key = { .tunnel_id = route->vni, .tunnel_ttl = 64 };
	__u64 flags;

	/* Without a sum over IPv4, with one over IPv6: as the kernel's own devices do it. */
	if (route->flags & ROUTE_HOP_IPV6) {
		__builtin_memcpy(key.remote_ipv6, route->hop, 16);
		flags = BPF_F_TUNINFO_IPV6;
	} else {
		key.remote_ipv4 = bpf_ntohl(*(const __be32 *)route->hop);
		flags = BPF_F_ZERO_CSUM_TX;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return end(BROKEN, TC_ACT_SHOT);
	count(TO_TUNNEL);
	return bpf_redirect(route->ifindex, 0);
}

static __always_inline int to_next_hop(const struct route *route)
{
	struct bpf_redir_neigh hop = {};

	if (route->flags & ROUTE_HOP_IPV6) {
		hop.nh_family = AF_INET6;
		__builtin_memcpy(hop.ipv6_nh, route->hop, 16);
	} else {
		hop.nh_family = AF_INET;
		hop.ipv4_nh = *(const __be32 *)route->hop;
	}
	count(TO_NEXT_HOP);
	return bpf_redirect_neigh(route->ifindex, &hop, sizeof(hop), 0);
}

static __always_inline int pod_sends4(struct __sk_buff *skb)
{
	struct ethhdr *eth = headers(skb, ETH_HLEN + sizeof(struct iphdr));
	struct endpoint *pod;
	struct range4 range;
	struct route *route;
	struct iphdr *ip;

	if (!eth)
		return end(BROKEN, TC_ACT_SHOT);
	ip = (struct iphdr *)(eth + 1);
	range.bits = 32;
	range.address = ip->destination;
	pod = bpf_map_lookup_elem(&endpoints4, &range.address);
	if (pod)
		return deliver4(skb, ip, pod, TO_LOCAL_POD);
	route = bpf_map_lookup_elem(&routes4, &range);
	if (!route || ip->ttl <= 1)
		return pass();
	decrement_ttl(ip);
	if (route->flags & ROUTE_TUNNEL) {
		set_macs(eth, route->inner_destination, route->inner_source);
		return encapsulate(skb, route);
	}
	return to_next_hop(route);
}

static __always_inline int pod_sends6(struct __sk_buff *skb)
{
	struct ethhdr *eth = headers(skb, ETH_HLEN + sizeof(struct ip6hdr));
	struct endpoint *pod;
	struct range6 range;
	struct route *route;
	struct ip6hdr *ip;

	if (!eth)
		return end(BROKEN, TC_ACT_SHOT);
	ip = (struct ip6hdr *)(eth + 1);
	range.bits = 128;
	range.address = ip->destination;
	pod = bpf_map_lookup_elem(&endpoints6, &range.address);
	if (pod)
		return deliver6(skb, ip, pod, TO_LOCAL_POD);
	route = bpf_map_lookup_elem(&routes6, &range);
	if (!route || ip->hop_limit <= 1)
		return pass();
	if (route->flags & ROUTE_TUNNEL)
		set_macs(eth, route->inner_destination, route->inner_source);
	decrement_hop_limit(skb, ip);
	return route->flags & ROUTE_TUNNEL ? encapsulate(skb, route) : to_next_hop(route);
}

/* Answers a request for a gateway's address itself, so that the node needs no bridge and no address
 * on the pod's link. */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct ethhdr *eth = headers(skb, ETH_HLEN + sizeof(struct arp));
	struct gateway *gateway;
	__be32 wanted;
	struct arp *arp;
	__u8 asker[4];

	if (!eth)
		return end(BROKEN, TC_ACT_SHOT);
	arp = (struct arp *)(eth + 1);
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4 || arp->operation != bpf_htons(1))
		return pass();
	__builtin_memcpy(&wanted, arp->target_ip, 4);
	gateway = bpf_map_lookup_elem(&gateways4, &wanted);
	if (!gateway)
		return pass();
	arp->operation = bpf_htons(2);
	__builtin_memcpy(asker, arp->sender_ip, 4);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target_ip, asker, 4);
	__builtin_memcpy(arp->sender_mac, gateway->mac, 6);
	__builtin_memcpy(arp->sender_ip, &wanted, 4);
	set_macs(eth, arp->target_mac, gateway->mac);
	count(ARP_ANSWERED);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline bool is_zero(const struct in6 *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

struct advertisement {
	struct ip6hdr ip;
	struct neighbour neighbour;
};

#define SOLICITATION 135
#define ADVERTISEMENT 136

/* The same for IPv6: a solicitation becomes an advertisement (RFC 4861, section 7.2.4). -1: none. */
static __always_inline int answer_nd(struct __sk_buff *skb)
{
	/* The option may be missing. */
	const __u32 least = ETH_HLEN + sizeof(struct ip6hdr) + 24;
	const __u32 length = ETH_HLEN + sizeof(struct advertisement);
	struct advertisement answer = {};
	struct ethhdr eth = {};
	struct gateway *gateway;
	struct {
		struct in6 source, destination;
		__be32 length, next_header;
	} pseudo = {};
	struct neighbour *asked;
	struct ip6hdr *ip;
	struct in6 target;
	__u8 *data;
	__s64 sum;

	data = (void *)(long)skb->data;
	if ((void *)data + ETH_HLEN + sizeof(*ip) > (void *)(long)skb->data_end)
		return -1;
	ip = (struct ip6hdr *)(data + ETH_HLEN);
	if (ip->next_header != IPPROTO_ICMPV6)
		return -1;
	data = headers(skb, least);
	if (!data)
		return -1;
	ip = (struct ip6hdr *)(data + ETH_HLEN);
	asked = (struct neighbour *)(ip + 1);
	/* From the unspecified address: somebody looks whether an address is taken. */
	if (asked->type != SOLICITATION || ip->hop_limit != 255 || is_zero(&ip->source))
		return -1;
	target = asked->target;
	gateway = bpf_map_lookup_elem(&gateways6, &target);
	if (!gateway)
		return -1;

	set_macs(&eth, ((struct ethhdr *)data)->source, gateway->mac);
	eth.protocol = bpf_htons(ETH_P_IPV6);
	answer.ip.version_class_flow = bpf_htonl(6 << 28);
	answer.ip.length = bpf_htons(sizeof(struct neighbour));
	answer.ip.next_header = IPPROTO_ICMPV6;
	answer.ip.hop_limit = 255;
	answer.ip.source = target;
	answer.ip.destination = ip->source;
	answer.neighbour.type = ADVERTISEMENT;
	/* From a router, asked for, replaces what was known. */
	answer.neighbour.flags = bpf_htonl(0xe0000000);
	answer.neighbour.target = target;
	answer.neighbour.option = 2;
	answer.neighbour.option_length = 1;
	__builtin_memcpy(answer.neighbour.mac, gateway->mac, 6);

	pseudo.source = answer.ip.source;
	pseudo.destination = answer.ip.destination;
	pseudo.length = bpf_htonl(sizeof(struct neighbour));
	pseudo.next_header = bpf_htonl(IPPROTO_ICMPV6);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&answer.neighbour, sizeof(answer.neighbour), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	answer.neighbour.check = (__sum16)~sum;

	if (skb->len != length && bpf_skb_change_tail(skb, length, 0))
		return end(BROKEN, TC_ACT_SHOT);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &answer, sizeof(answer), 0))
		return end(BROKEN, TC_ACT_SHOT);
	count(ND_ANSWERED);
	return bpf_redirect(skb->ifindex, 0);
}

/* What comes from the wire: into a pod, or to the stack. */
static __always_inline int arrives(struct __sk_buff *skb, enum outcome outcome)
{
	struct endpoint *pod;
	struct ethhdr *eth;

	/* A switch floods what it does not know the port of: not ours. */
	if (skb->pkt_type != PACKET_HOST)
		return pass();
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;
		__be32 to;

		eth = headers(skb, ETH_HLEN + sizeof(*ip));
		if (!eth)
			return end(BROKEN, TC_ACT_SHOT);
		ip = (struct iphdr *)(eth + 1);
		to = ip->destination;
		pod = bpf_map_lookup_elem(&endpoints4, &to);
		return pod ? deliver4(skb, ip, pod, outcome) : pass();
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ip6hdr *ip;
		struct in6 to;

		eth = headers(skb, ETH_HLEN + sizeof(*ip));
		if (!eth)
			return end(BROKEN, TC_ACT_SHOT);
		ip = (struct ip6hdr *)(eth + 1);
		to = ip->destination;
		pod = bpf_map_lookup_elem(&endpoints6, &to);
		return pod ? deliver6(skb, ip, pod, outcome) : pass();
	}
	return pass();
}

/* Ingress of the node's end of a pod's veth pair: what the pod sends. */
SEC("classifier")
int from_pod(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return pod_sends4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		int answered = answer_nd(skb);

		return answered >= 0 ? answered : pod_sends6(skb);
	}
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	return pass();
}

/* Ingress of the node's device towards the other nodes. */
SEC("classifier")
int from_underlay(struct __sk_buff *skb)
{
	return arrives(skb, FROM_UNDERLAY);
}

/* Ingress of the tunnel's device. */
SEC("classifier")
int from_vxlan(struct __sk_buff *skb)
{
	return arrives(skb, FROM_TUNNEL);
}
