// SPDX-License-Identifier: MIT OR Apache-2.0
/* What is lost in the observed network namespaces: packets that the kernel drops, by reason, and TCP
 * segments that are sent again. Programs that run only when something is lost, so that they can stay
 * attached while something is measured.
 *
 * Counts are kept for each slice of time: when the window of a trial opens is known only after it, and
 * user space (src/losses.rs) adds up the slices that lie in it.
 */
#include "kernel.bpf.h"

/* BPF_PROG names every argument of a tracepoint up to the last that is used. */
#pragma clang diagnostic ignored "-Wunused-parameter"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What follows is shared with src/losses.rs, by value. */
struct config {
	__u64 from_ns;  /* bpf_ktime_get_ns() when the first slice begins */
	__u64 slice_ns; /* how long one is; 0: nothing is counted */
};

/* In place of a reason: a segment that was sent again. */
#define RETRANSMIT 0xffffffff

struct loss {
	__u32 reason;
	__u32 netns;
	__u32 slice;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Network namespaces (inodes) that are observed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} observed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct loss);
	__type(value, __u64);
} losses SEC(".maps");

/* Losses that found no room in the map. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} uncounted SEC(".maps");

static __always_inline void count(__u32 reason, __u32 netns)
{
	struct loss key = { .reason = reason, .netns = netns };
	__u64 one = 1, now = bpf_ktime_get_ns(), *n;
	struct config *c;
	__u32 zero = 0;

	if (!bpf_map_lookup_elem(&observed, &netns))
		return;
	c = bpf_map_lookup_elem(&config, &zero);
	if (!c || !c->slice_ns || now < c->from_ns)
		return;
	key.slice = (now - c->from_ns) / c->slice_ns;
	n = bpf_map_lookup_elem(&losses, &key);
	if (!n) {
		if (!bpf_map_update_elem(&losses, &key, &one, BPF_NOEXIST))
			return;
		/* Another CPU was first, or there is no room. */
		n = bpf_map_lookup_elem(&losses, &key);
		if (!n)
			n = bpf_map_lookup_elem(&uncounted, &zero);
	}
	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Linux 6.11 and newer name the receiving socket (NULL: none). */
SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop, struct sk_buff *skb, void *location, int reason, struct sock *to)
{
	count(reason, netns_of_drop(skb, to));
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop_5_17, struct sk_buff *skb, void *location, int reason)
{
	count(reason, netns_of_drop(skb, NULL));
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(on_retransmit, struct sock *sk)
{
	count(RETRANSMIT, netns_of(sk->__sk_common.skc_net.net));
	return 0;
}
