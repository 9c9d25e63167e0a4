/* What the latency probes share with src/stages/layout.rs, by value, and their maps. */
#ifndef CNIBENCH_STAGES_MAPS_BPF_H
#define CNIBENCH_STAGES_MAPS_BPF_H

#include "cnibench.bpf.h"

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
	COUNT_MAP_FULL,
	COUNT_RETRANSMITS,
	COUNT_FOLLOWED, /* packets that a track was begun for */
	COUNT_DROPPED,  /* of these: dropped on the way */
	COUNTS,
};

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

struct receiving {
	__u64 skb;    /* 0: one that is not followed */
	__u64 socket; /* whose data it is; 0: not known yet */
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

/* What this CPU is receiving. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct receiving);
} receiving SEC(".maps");

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

#endif
