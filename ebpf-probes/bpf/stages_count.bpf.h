/* Whether an event counts, and adding it to a stage or to a counter. */
#ifndef CNIBENCH_STAGES_COUNT_BPF_H
#define CNIBENCH_STAGES_COUNT_BPF_H

#include "stages_maps.bpf.h"

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

/* Atomic: an interrupt may come in the middle, with a program that bumps the same. */
static __always_inline void bump(__u32 which)
{
	__u64 *n;

	if (!counting())
		return;
	n = bpf_map_lookup_elem(&counts, &which);
	if (n)
		__sync_fetch_and_add(n, 1);
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
 * also where a long wait begins before it or ends after it. Not atomic: each stage is added to by
 * programs that no other of them interrupts. */
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

#endif
