// SPDX-License-Identifier: MIT OR Apache-2.0
/* The packet path of an eBPF host-routing CNI: from a pod straight to another pod of the node, to the
 * next hop, into a tunnel or to what encrypts; from the wire straight into a pod. The node's own stack sees only what
 * is for the node itself and what this does not know, which is passed to it untouched.
 *
 * It keeps no state of connections. ../README.md describes programs and maps for those who bring an
 * object of their own; user space is src/datapath.
 */
#include "datapath.bpf.h"
#include "datapath_answers.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Rounds of a loop that does nothing, for every packet that a pod sends: a cost of known size, which a
 * gate must find. User space sets it before the program is loaded; with 0 the verifier takes the loop
 * away (opt_remove_dead_code), so that whoever does not ask for it pays nothing.
 */
const volatile __u32 burn = 0;

static __always_inline void spend(void)
{
	__u32 sum = burn;

	for (__u32 round = 0; round < burn; round++) {
		sum = sum * 3 + round;
		/* Or the compiler sees that nobody wants the sum. */
		asm volatile("" : "+r"(sum));
	}
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

/* Up to the stack, whose policies encrypt what has this mark; it also counts the time to live down. */
static __always_inline int to_policy(struct __sk_buff *skb, const struct route *route)
{
	skb->mark = route->vni;
	return end(TO_TUNNEL, TC_ACT_OK);
}

/* `encrypts` is known when this is compiled: other datapaths do not pay for it. */
static __always_inline int pod_sends4(struct __sk_buff *skb, bool encrypts)
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
	if (encrypts && route->flags & ROUTE_MARK)
		return to_policy(skb, route);
	decrement_ttl(ip);
	if (encrypts && route->flags & ROUTE_DEVICE) {
		count(TO_TUNNEL);
		return bpf_redirect(route->ifindex, 0);
	}
	if (route->flags & ROUTE_TUNNEL) {
		set_macs(eth, route->inner_destination, route->inner_source);
		return encapsulate(skb, route);
	}
	return to_next_hop(route);
}

static __always_inline int pod_sends6(struct __sk_buff *skb, bool encrypts)
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
	if (encrypts && route->flags & ROUTE_MARK)
		return to_policy(skb, route);
	if (route->flags & ROUTE_TUNNEL)
		set_macs(eth, route->inner_destination, route->inner_source);
	decrement_hop_limit(skb, ip);
	if (encrypts && route->flags & ROUTE_DEVICE) {
		count(TO_TUNNEL);
		return bpf_redirect(route->ifindex, 0);
	}
	return route->flags & ROUTE_TUNNEL ? encapsulate(skb, route) : to_next_hop(route);
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

static __always_inline int pod_sends(struct __sk_buff *skb, bool encrypts)
{
	spend();
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return pod_sends4(skb, encrypts);
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		int answered = answer_nd(skb);

		return answered >= 0 ? answered : pod_sends6(skb, encrypts);
	}
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	return pass();
}

/* Ingress of the node's end of a pod's veth pair: what the pod sends. */
SEC("classifier")
int from_pod(struct __sk_buff *skb)
{
	return pod_sends(skb, false);
}

/* The same where what goes to other nodes is encrypted. */
SEC("classifier")
int from_pod_encrypted(struct __sk_buff *skb)
{
	return pod_sends(skb, true);
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

/* Has ESP of a known node decrypted: the mark is what its state waits for. -1: it is no ESP. */
static __always_inline int to_decryption(struct __sk_buff *skb)
{
	struct route *route = NULL;
	struct ethhdr *eth;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct range4 range = { .bits = 32 };
		struct iphdr *ip;

		eth = headers(skb, ETH_HLEN + sizeof(*ip));
		if (!eth)
			return end(BROKEN, TC_ACT_SHOT);
		ip = (struct iphdr *)(eth + 1);
		if (ip->protocol != IPPROTO_ESP)
			return -1;
		range.address = ip->source;
		route = bpf_map_lookup_elem(&routes4, &range);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct range6 range = { .bits = 128 };
		struct ip6hdr *ip;

		eth = headers(skb, ETH_HLEN + sizeof(*ip));
		if (!eth)
			return end(BROKEN, TC_ACT_SHOT);
		ip = (struct ip6hdr *)(eth + 1);
		if (ip->next_header != IPPROTO_ESP)
			return -1;
		range.address = ip->source;
		route = bpf_map_lookup_elem(&routes6, &range);
	} else {
		return -1;
	}
	if (route)
		skb->mark = route->vni;
	return pass();
}

/* Ingress of the node's device towards the other nodes, where IPsec is between them. What was decrypted
 * comes in there once more. */
SEC("classifier")
int from_underlay_ipsec(struct __sk_buff *skb)
{
	int verdict;

	if ((skb->mark & MARK_BITS) == MARK_DECRYPTED) {
		skb->mark = 0;
		return arrives(skb, FROM_TUNNEL);
	}
	verdict = to_decryption(skb);
	return verdict >= 0 ? verdict : arrives(skb, FROM_UNDERLAY);
}

/* Puts a link layer before a packet that has none, and gives what is behind it. */
static __always_inline void *with_link_layer(struct __sk_buff *skb, __u32 length)
{
	struct ethhdr *eth;

	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return NULL;
	eth = headers(skb, ETH_HLEN + length);
	if (!eth)
		return NULL;
	eth->protocol = skb->protocol;
	return eth + 1;
}

/* Ingress of a WireGuard device, whose packets begin with the IP header. */
SEC("classifier")
int from_wireguard(struct __sk_buff *skb)
{
	struct endpoint *pod;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = headers(skb, sizeof(*ip));
		__be32 to;

		if (!ip)
			return end(BROKEN, TC_ACT_SHOT);
		to = ip->destination;
		pod = bpf_map_lookup_elem(&endpoints4, &to);
		if (!pod || ip->ttl <= 1)
			return pass();
		ip = with_link_layer(skb, sizeof(*ip));
		return ip ? deliver4(skb, ip, pod, FROM_TUNNEL) : end(BROKEN, TC_ACT_SHOT);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ip6hdr *ip = headers(skb, sizeof(*ip));
		struct in6 to;

		if (!ip)
			return end(BROKEN, TC_ACT_SHOT);
		to = ip->destination;
		pod = bpf_map_lookup_elem(&endpoints6, &to);
		if (!pod || ip->hop_limit <= 1)
			return pass();
		ip = with_link_layer(skb, sizeof(*ip));
		return ip ? deliver6(skb, ip, pod, FROM_TUNNEL) : end(BROKEN, TC_ACT_SHOT);
	}
	return pass();
}
