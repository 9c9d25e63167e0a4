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
#include "cnibench.bpf.h"

/* BPF_PROG names every argument of a tracepoint up to the last that is used. */
#pragma clang diagnostic ignored "-Wunused-parameter"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* The kernel's types, as far as they are read. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sock_common {
	possible_net_t skc_net;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	__u16 transport_header;
	unsigned char *head;
	unsigned char *data;
} __attribute__((preserve_access_index));

struct nsproxy {
	struct net *net_ns;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

/* What follows is shared with src/stages/layout.rs, by value. */
enum event { EV_QUEUE = 1, EV_XMIT, EV_RX, EV_RECEIVE };
enum role { ROLE_POD = 1, ROLE_PORT, ROLE_BRIDGE, ROLE_TUNNEL, ROLE_UNDERLAY };
/* A point of a path: what happened (enum event) times 8 plus where (enum role). */
#define POINTS 64
/* Before the first point: the send call. */
#define POINT_SEND 0
/* After the last: the data is in the socket. */
#define POINT_SOCKET 63
/* In "edges": no such step. Otherwise a stage's number plus 1. */
#define NO_EDGE 0

enum stage {
	STAGE_SOCKET_TO_QDISC,
	STAGE_POD_DEVICE,
	STAGE_BACKLOG,
	STAGE_NODE_FORWARD,
	STAGE_ENCAPSULATION,
	STAGE_UNDERLAY,
	STAGE_DECAPSULATION,
	STAGE_TO_POD,
	STAGE_TO_SOCKET,
	STAGE_WAKE_UP,
	STAGE_APPLICATION,
	STAGES,
};

enum place { PLACE_ELSEWHERE, PLACE_CLIENT, PLACE_SERVER = 2 };
/* Request and response are numbered as the places that send them, from 0. */
#define DIRECTIONS 2

enum count {
	COUNT_SKB_REUSED,
	COUNT_ILLEGAL_EDGE,
	COUNT_TOO_OLD,
	COUNT_MERGED,
	COUNT_MAP_FULL,
	COUNT_RETRANSMITS,
	COUNT_FOLLOWED, /* packets that a track was begun for */
	COUNT_DROPPED,  /* of these: dropped on the way */
	COUNTS,
};

#define EEXIST 17
#define SUB_BITS 5
#define BUCKETS 1024
/* A packet that is not seen for this long is another one at the same address. */
#define TOO_OLD_NS 200000000ULL

struct config {
	__u64 send_calls[3]; /* numbers of the system calls that send through a socket */
	__u64 after_ns;      /* COUNT_WINDOW: from the first send of a flow until the window opens */
	__u64 for_ns;        /* COUNT_WINDOW: how long the window is open */
	__u32 counting;      /* enum counting */
	__u32 unused;
};

enum counting {
	COUNT_NOTHING, /* follow packets, add nothing */
	COUNT_ALL,
	COUNT_WINDOW, /* what lies in the window, to the nanosecond */
};

/* The window, once a flow has begun to send. */
struct window {
	__u64 from_ns; /* 0: none has */
	__u64 to_ns;
};

struct device {
	__u32 netns;
	__u32 ifindex;
};

struct track {
	__u64 last_ns;
	__u8 point;
	__u8 direction;
	__u8 first; /* on the sender's own device still */
	__u8 unused[5];
};

struct thread {
	__u64 send_ns;  /* entered a send call, which no packet has been seen of yet; 0: none */
	__u64 ready_ns; /* its data was ready and it has not sent since; 0: none */
	__u64 since_ns; /* since then it runs, or waits for a CPU */
	__u64 ran_ns;   /* ran before it had to wait in the same turn */
	__u8 running;
	__u8 direction; /* of what made it ready */
	__u8 place;
	__u8 woken; /* put on a CPU since its data was ready */
	__u8 unused[4];
};

struct sums {
	__u64 count;
	__u64 sum_ns;
};

struct drop {
	__u32 reason;
	__u32 place;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window);
} window SEC(".maps");

/* Network namespace (inode) -> enum place; places beyond 2 only have their drops counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} places SEC(".maps");

/* Device -> enum role. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct device);
	__type(value, __u32);
} roles SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POINTS * POINTS);
	__type(key, __u32);
	__type(value, __u8);
} edges SEC(".maps");

/* Packets under way, by the skb's address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct track);
} tracks SEC(".maps");

/* Threads that send, by thread id. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/* The thread that sends through a socket, by the socket's address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} sockets SEC(".maps");

/* The skb that this CPU is receiving; 0: one that is not followed. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} current_skb SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DIRECTIONS * STAGES);
	__type(key, __u32);
	__type(value, struct sums);
} sums SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DIRECTIONS *STAGES *BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} histograms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct drop);
	__type(value, __u64);
} drops SEC(".maps");

#define barrier() asm volatile("" ::: "memory")

static __always_inline struct config *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline struct window *opened(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&window, &zero);
}

static __always_inline bool counting(void)
{
	struct config *c = settings();
	struct window *w;
	__u64 now;

	if (!c || c->counting != COUNT_WINDOW)
		return c && c->counting;
	w = opened();
	now = bpf_ktime_get_ns();
	return w && w->from_ns && now >= w->from_ns && now < w->to_ns;
}

static __always_inline void bump(__u32 which)
{
	__u64 *n;

	if (!counting())
		return;
	n = bpf_map_lookup_elem(&counts, &which);
	if (n)
		*n += 1;
}

/* Buckets as in src/stages/histogram.rs: exact below 32 ns, then 32 in each doubling. */
static __always_inline __u32 bucket(__u64 ns)
{
	__u64 v = ns;
	__u32 e = 0;

	if (ns < (1 << SUB_BITS))
		return ns;
	if (v >> 32) {
		e += 32;
		v >>= 32;
	}
	if (v >> 16) {
		e += 16;
		v >>= 16;
	}
	if (v >> 8) {
		e += 8;
		v >>= 8;
	}
	if (v >> 4) {
		e += 4;
		v >>= 4;
	}
	if (v >> 2) {
		e += 2;
		v >>= 2;
	}
	e += v >> 1;
	if (e > 35)
		return BUCKETS - 1;
	return ((e - SUB_BITS + 1) << SUB_BITS) + ((ns >> (e - SUB_BITS)) & ((1 << SUB_BITS) - 1));
}

/* What lies in the window of the time between two events: so the stages of a flow add up to the window,
 * also where a long wait begins before it or ends after it. */
static __always_inline void add(__u32 stage, __u32 direction, __u64 from, __u64 to)
{
	__u32 series = direction * STAGES + stage;
	struct config *c = settings();
	struct window *w;
	struct sums *s;
	__u32 slot;
	__u64 *n, ns;

	if (!c || !c->counting)
		return;
	if (c->counting == COUNT_WINDOW) {
		w = opened();
		if (!w || !w->from_ns)
			return;
		if (from < w->from_ns)
			from = w->from_ns;
		if (to > w->to_ns)
			to = w->to_ns;
	}
	if (from >= to)
		return;
	ns = to - from;
	s = bpf_map_lookup_elem(&sums, &series);
	if (s) {
		s->count += 1;
		s->sum_ns += ns;
	}
	slot = series * BUCKETS + bucket(ns);
	n = bpf_map_lookup_elem(&histograms, &slot);
	if (n)
		*n += 1;
}

static __always_inline __u32 netns_of(struct net *net)
{
	return net ? net->ns.inum : 0;
}

static __always_inline __u32 role_of(struct net_device *dev)
{
	struct device key = {};
	__u32 *role;

	if (!dev)
		return 0;
	key.netns = netns_of(dev->nd_net.net);
	key.ifindex = dev->ifindex;
	role = bpf_map_lookup_elem(&roles, &key);
	return role ? *role : 0;
}

/* Does the packet carry data of its socket, or only an acknowledgement? At a device's queue the data
 * begins at the link's header. */
static __always_inline bool has_payload(struct sk_buff *skb, struct sock *sk)
{
	__u16 protocol = sk->sk_protocol;
	unsigned char *transport = skb->head + skb->transport_header;
	__u64 before = transport - skb->data;
	__u8 offset = 0;

	if (protocol == 6) {
		bpf_probe_read_kernel(&offset, sizeof(offset), transport + 12);
		return skb->len > before + (offset >> 4) * 4;
	}
	if (protocol == 17)
		return skb->len > before + 8;
	return false;
}

/* A packet is followed no further. Two CPUs may come to that at the same time: only one counts it. */
static __always_inline void ends(__u64 address, __u32 why)
{
	if (!bpf_map_delete_elem(&tracks, &address))
		bump(why);
}

/* The next event of a packet. */
static __always_inline struct track *step(__u64 address, struct track *t, __u32 point, __u64 now)
{
	__u32 edge = t->point * POINTS + point;
	__u8 *stage = bpf_map_lookup_elem(&edges, &edge);
	__u32 of;

	/* Another CPU has begun a new packet at this address meanwhile. */
	if (now < t->last_ns)
		return NULL;
	if (!stage || *stage == NO_EDGE) {
		ends(address, COUNT_ILLEGAL_EDGE);
		return NULL;
	}
	if (now - t->last_ns > TOO_OLD_NS) {
		ends(address, COUNT_TOO_OLD);
		return NULL;
	}
	/* The last step is of whoever takes the packet off the map. */
	if (point == POINT_SOCKET && bpf_map_delete_elem(&tracks, &address))
		return NULL;
	of = *stage - 1;
	/* The first device is the sender's own, whatever its role on the way of others. */
	if (t->first && (point >> 3) == EV_XMIT)
		of = STAGE_POD_DEVICE;
	t->first = 0;
	add(of, t->direction, t->last_ns, now);
	t->last_ns = now;
	t->point = point;
	return t;
}

/* Is this the generator's thread of a flow that asks? They are named ask-0, ask-1, ... */
static __always_inline bool is_flow(void)
{
	char name[16] = {};

	bpf_get_current_comm(name, sizeof(name));
	return name[0] == 'a' && name[1] == 's' && name[2] == 'k' && name[3] == '-';
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, void *regs, long id)
{
	struct config *c = settings();
	struct thread fresh = {}, *t;
	struct task_struct *task;
	__u32 pid, netns, *place;
	struct window *w;
	__u64 now;

	if (!c || id < 0)
		return 0;
	if ((__u64)id != c->send_calls[0] && (__u64)id != c->send_calls[1] &&
	    (__u64)id != c->send_calls[2])
		return 0;
	pid = (__u32)bpf_get_current_pid_tgid();
	t = bpf_map_lookup_elem(&threads, &pid);
	if (!t) {
		task = bpf_get_current_task_btf();
		netns = netns_of(task->nsproxy->net_ns);
		place = bpf_map_lookup_elem(&places, &netns);
		if (!place || *place > PLACE_SERVER)
			return 0;
		fresh.place = *place;
		fresh.running = 1;
		fresh.send_ns = bpf_ktime_get_ns();
		/* Others of the namespace send, too: who says go, and on a node whatever runs there. */
		w = opened();
		if (w && *place == PLACE_CLIENT && !w->from_ns && is_flow()) {
			w->to_ns = fresh.send_ns + c->after_ns + c->for_ns;
			w->from_ns = fresh.send_ns + c->after_ns;
		}
		if (bpf_map_update_elem(&threads, &pid, &fresh, BPF_ANY))
			bump(COUNT_MAP_FULL);
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (t->ready_ns) {
		add(STAGE_APPLICATION, t->direction, t->since_ns - t->ran_ns, now);
		t->ready_ns = 0;
	}
	t->send_ns = now;
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

/* A followed packet at a device; devices without a role are part of what lies between two others. */
static __always_inline bool meets(__u64 address, struct track *t, struct net_device *dev, __u32 event)
{
	__u32 role = t ? role_of(dev) : 0;

	return role && step(address, t, event * 8 + role, bpf_ktime_get_ns());
}

/* Is it a socket of the end that packets of this direction go to? */
static __always_inline bool receives(struct sock *sk, __u32 direction)
{
	__u32 netns = netns_of(sk->__sk_common.skc_net.net);
	__u32 *place = bpf_map_lookup_elem(&places, &netns);

	return place && *place <= PLACE_SERVER && *place - 1 != direction;
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(on_xmit, struct sk_buff *skb, struct net_device *dev)
{
	__u64 address = (__u64)skb;

	meets(address, bpf_map_lookup_elem(&tracks, &address), dev, EV_XMIT);
	return 0;
}

SEC("tp_btf/netif_rx")
int BPF_PROG(on_rx, struct sk_buff *skb)
{
	__u64 address = (__u64)skb;

	meets(address, bpf_map_lookup_elem(&tracks, &address), skb->dev, EV_RX);
	return 0;
}

static __always_inline void receiving(__u64 address)
{
	__u32 zero = 0;
	__u64 *now = bpf_map_lookup_elem(&current_skb, &zero);

	if (now)
		*now = address;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(on_receive, struct sk_buff *skb)
{
	__u64 address = (__u64)skb;
	struct track *t = bpf_map_lookup_elem(&tracks, &address);

	receiving(meets(address, t, skb->dev, EV_RECEIVE) ? address : 0);
	return 0;
}

/* Says which skb the socket's next data is of, also where the socket was busy and takes it later. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(on_tcp, struct sock *sk, struct sk_buff *skb)
{
	__u32 netns = netns_of(sk->__sk_common.skc_net.net);

	receiving(bpf_map_lookup_elem(&places, &netns) ? (__u64)skb : 0);
	return 0;
}

SEC("tp_btf/sk_data_ready")
int BPF_PROG(on_ready, struct sock *sk)
{
	__u64 now = bpf_ktime_get_ns(), socket = (__u64)sk, *address;
	__u32 zero = 0, *pid, direction;
	struct thread *t;
	struct track *k;

	address = bpf_map_lookup_elem(&current_skb, &zero);
	if (!address || !*address)
		return 0;
	k = bpf_map_lookup_elem(&tracks, address);
	if (!k || !receives(sk, k->direction))
		return 0;
	direction = k->direction;
	k = step(*address, k, POINT_SOCKET, now);
	if (!k)
		return 0;
	*address = 0;
	pid = bpf_map_lookup_elem(&sockets, &socket);
	t = pid ? bpf_map_lookup_elem(&threads, pid) : NULL;
	if (!t)
		return 0;
	/* What came while it had not looked yet is part of the same turn. */
	if (t->ready_ns)
		return 0;
	t->since_ns = now;
	t->ran_ns = 0;
	t->direction = direction;
	t->woken = 0;
	/* Last: the thread may be looked at on another CPU. */
	barrier();
	t->ready_ns = now;
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	__u32 from = prev->pid, to = next->pid;
	struct thread *t;
	__u64 now;

	t = from ? bpf_map_lookup_elem(&threads, &from) : NULL;
	if (t) {
		t->running = 0;
		/* It was woken for its data and sleeps again: it has taken that and waits for something
		 * else than what sends (a thread that only receives). One that goes to sleep just when
		 * its data comes is woken at once. */
		if (!preempt && prev_state && t->woken)
			t->ready_ns = 0;
		if (t->ready_ns) {
			now = bpf_ktime_get_ns();
			t->ran_ns += now - t->since_ns;
			t->since_ns = now;
		}
	}
	t = to ? bpf_map_lookup_elem(&threads, &to) : NULL;
	if (t) {
		t->running = 1;
		if (t->ready_ns) {
			now = bpf_ktime_get_ns();
			add(STAGE_WAKE_UP, t->direction, t->since_ns, now);
			t->since_ns = now;
			t->woken = 1;
		}
	}
	return 0;
}

/* Whose drop it is: the receiving socket's, since sockets use the place of "dev" for other things; else
 * that of the device where the packet is; else (on its way to one) the sender's. Of packets that are
 * followed a drop anywhere else counts, too. */
static __always_inline int dropped(struct sk_buff *skb, int reason, struct sock *to)
{
	struct drop key = {};
	__u32 netns = 0, *place;
	struct net *net = NULL;
	__u64 one = 1, *n, address = (__u64)skb;
	struct net_device *dev;
	struct sock *from;
	bool followed = false;

	if (bpf_map_lookup_elem(&tracks, &address)) {
		followed = true;
		ends(address, COUNT_DROPPED);
	}
	if (!counting())
		return 0;
	dev = skb->dev;
	from = skb->sk;
	if (to) {
		bpf_probe_read_kernel(&net, sizeof(net), &to->__sk_common.skc_net.net);
		bpf_probe_read_kernel(&netns, sizeof(netns), &net->ns.inum);
	}
	if (!netns && dev)
		netns = netns_of(dev->nd_net.net);
	if (!netns && from)
		netns = netns_of(from->__sk_common.skc_net.net);
	key.reason = reason;
	place = bpf_map_lookup_elem(&places, &netns);
	if (place)
		key.place = *place;
	else if (!followed)
		return 0;
	n = bpf_map_lookup_elem(&drops, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else if (bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST))
		bump(COUNT_MAP_FULL);
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
