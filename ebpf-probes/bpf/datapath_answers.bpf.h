/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Answers to ARP requests and neighbour solicitations of pods for their gateway, so that it need not be
 * on any device. What is not for the gateway is left to others.
 */
#ifndef CNIBENCH_DATAPATH_ANSWERS_BPF_H
#define CNIBENCH_DATAPATH_ANSWERS_BPF_H

#include "datapath.bpf.h"

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

#endif
