// SPDX-License-Identifier: MIT OR Apache-2.0
/* Where the time of a round trip goes: every packet with payload that an observed thread sends is
 * followed from its send call to the thread that it wakes, and the time between two neighbouring
 * events is added to exactly one stage.
 *
 * What is observed is said by maps that user space fills (src/stages/): the network namespaces of
 * both ends ("places"), the role of every device on the way ("roles"), and which event may follow
 * which, with the stage that lies between them ("edges"). An event that may not follow ends the
 * packet's track and is counted as a discard, so no time is added to a stage that it was not spent in.
 *
 * Tracks are keyed by the skb's address, which the kernel uses again: a track is made anew at every
 * send, whatever was there before.
 */
#include "stages_thread.bpf.h"
#include "stages_track.bpf.h"

/* BPF_PROG names every argument of a tracepoint up to the last that is used. */
#pragma clang diagnostic ignored "-Wunused-parameter"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define EEXIST 17

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, void *regs, long id)
{
	if (id >= 0)
		sends((__u64)id);
	return 0;
}

/* Does a packet begin its way here? Only at a device of its own socket's namespace (a redirect out of
 * it keeps the sender's socket on the packet). It does where a thread in a send call queues its first;
 * later packets of a call, and those that the protocol sends by itself, are new where no packet
 * followed so far can be here by a legal step. */
static __always_inline bool begins(struct sk_buff *skb, __u64 address, struct track *before,
				   __u32 role, __u64 now)
{
	__u32 pid = (__u32)bpf_get_current_pid_tgid(), netns, edge, *place;
	struct sock *sk = skb->sk;
	__u64 socket = (__u64)sk;
	struct track fresh = {};
	struct thread *t;
	__u8 *stage;
	long failed;

	if (!sk)
		return false;
	netns = netns_of(sk->__sk_common.skc_net.net);
	if (netns != netns_of(skb->dev->nd_net.net))
		return false;
	place = bpf_map_lookup_elem(&places, &netns);
	if (!place || *place > PLACE_SERVER)
		return false;
	t = bpf_map_lookup_elem(&threads, &pid);
	if (t && (!t->send_ns || t->place != *place))
		t = NULL;
	if (before) {
		edge = before->point * POINTS + EV_QUEUE * 8 + role;
		stage = bpf_map_lookup_elem(&edges, &edge);
		if (!t && stage && *stage != NO_EDGE)
			return false;
		ends(address, COUNT_SKB_REUSED);
	}
	if (!has_payload(skb, sk))
		return true;
	fresh.last_ns = now;
	fresh.point = EV_QUEUE * 8 + role;
	fresh.direction = *place - 1;
	fresh.first = 1;
	if (t) {
		add(STAGE_SOCKET_TO_QDISC, fresh.direction, t->send_ns, now);
		t->send_ns = 0;
		bpf_map_update_elem(&sockets, &socket, &pid, BPF_ANY);
	}
	failed = bpf_map_update_elem(&tracks, &address, &fresh, BPF_NOEXIST);
	if (failed == -EEXIST) {
		/* The one before could not be deleted: its part of the map was locked. */
		bump(COUNT_SKB_REUSED);
		failed = bpf_map_update_elem(&tracks, &address, &fresh, BPF_ANY);
	}
	bump(failed ? COUNT_MAP_FULL : COUNT_FOLLOWED);
	return true;
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(on_queue, struct sk_buff *skb)
{
	__u64 now = bpf_ktime_get_ns(), address = (__u64)skb;
	__u32 role = role_of(skb->dev);
	struct track *t;

	if (!role)
		return 0;
	t = bpf_map_lookup_elem(&tracks, &address);
	if (!begins(skb, address, t, role, now) && t)
		step(address, t, EV_QUEUE * 8 + role, now);
	return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(on_xmit, struct sk_buff *skb, struct net_device *dev)
{
	meets((__u64)skb, dev, EV_XMIT);
	return 0;
}

SEC("tp_btf/netif_rx")
int BPF_PROG(on_rx, struct sk_buff *skb)
{
	meets((__u64)skb, skb->dev, EV_RX);
	return 0;
}

/* Remembers what this CPU is receiving. */
static __always_inline void receive(__u64 skb, __u64 socket)
{
	__u32 zero = 0;
	struct receiving *r = bpf_map_lookup_elem(&receiving, &zero);

	if (r) {
		r->skb = skb;
		r->socket = socket;
	}
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(on_receive, struct sk_buff *skb)
{
	__u64 address = (__u64)skb;

	receive(meets(address, skb->dev, EV_RECEIVE) ? address : 0, 0);
	return 0;
}

/* Says which skb the socket's next data is of, also where the socket was busy and takes it later. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(on_tcp, struct sock *sk, struct sk_buff *skb)
{
	__u32 netns = netns_of(sk->__sk_common.skc_net.net);

	receive(bpf_map_lookup_elem(&places, &netns) ? (__u64)skb : 0, (__u64)sk);
	return 0;
}

/* Is it a socket of the end that packets of this direction go to? */
static __always_inline bool receives(struct sock *sk, __u32 direction)
{
	__u32 netns = netns_of(sk->__sk_common.skc_net.net);
	__u32 *place = bpf_map_lookup_elem(&places, &netns);

	return place && *place <= PLACE_SERVER && *place - 1 != direction;
}

SEC("tp_btf/sk_data_ready")
int BPF_PROG(on_ready, struct sock *sk)
{
	__u32 zero = 0, direction;
	struct receiving *r;
	__u64 address, now;
	struct track *t;

	r = bpf_map_lookup_elem(&receiving, &zero);
	if (!r || !r->skb)
		return 0;
	/* An interrupt since then has received for another socket. */
	if (r->socket && r->socket != (__u64)sk)
		return 0;
	address = r->skb;
	/* Not before: what an interrupt receives meanwhile is of later. */
	now = bpf_ktime_get_ns();
	t = bpf_map_lookup_elem(&tracks, &address);
	if (!t || !receives(sk, t->direction))
		return 0;
	direction = t->direction;
	if (!step(address, t, POINT_SOCKET, now))
		return 0;
	r->skb = 0;
	is_ready(sk, direction, now);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	leaves_cpu(prev->pid, !preempt && prev_state);
	enters_cpu(next->pid);
	return 0;
}

/* Of packets that are followed a drop anywhere counts, not only in the observed namespaces. */
static __always_inline int dropped(struct sk_buff *skb, int reason, struct sock *to)
{
	__u64 one = 1, *n, address = (__u64)skb;
	struct drop key = { .reason = reason };
	bool followed = false;
	__u32 netns, *place;

	if (bpf_map_lookup_elem(&tracks, &address)) {
		followed = true;
		ends(address, COUNT_DROPPED);
	}
	if (!counting())
		return 0;
	netns = netns_of_drop(skb, to);
	place = bpf_map_lookup_elem(&places, &netns);
	if (place)
		key.place = *place;
	else if (!followed)
		return 0;
	n = bpf_map_lookup_elem(&drops, &key);
	if (!n && bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST)) {
		/* Another CPU was first. */
		n = bpf_map_lookup_elem(&drops, &key);
		if (!n)
			bump(COUNT_MAP_FULL);
	}
	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

/* Linux 6.11 and newer name the receiving socket (NULL: none). */
SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop, struct sk_buff *skb, void *location, int reason, struct sock *to)
{
	return dropped(skb, reason, to);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop_5_17, struct sk_buff *skb, void *location, int reason)
{
	return dropped(skb, reason, NULL);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(on_retransmit, struct sock *sk)
{
	__u32 netns = netns_of(sk->__sk_common.skc_net.net);

	if (bpf_map_lookup_elem(&places, &netns))
		bump(COUNT_RETRANSMITS);
	return 0;
}
