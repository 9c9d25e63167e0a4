/* The threads of both ends: when they send, when their data is ready, when they run. */
#ifndef CNIBENCH_STAGES_THREAD_BPF_H
#define CNIBENCH_STAGES_THREAD_BPF_H

#include "kernel.bpf.h"
#include "stages_count.bpf.h"

#ifndef barrier
#define barrier() asm volatile("" ::: "memory")
#endif

/* Is this the generator's thread of a flow that asks? They are named ask-0, ask-1, ... */
static __always_inline bool is_flow(void)
{
	char name[16] = {};

	bpf_get_current_comm(name, sizeof(name));
	return name[0] == 'a' && name[1] == 's' && name[2] == 'k' && name[3] == '-';
}

/* The first send call of a thread of either end: it is observed from here on. */
static __always_inline void first_send(struct config *c, __u32 pid)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 netns = netns_of(task->nsproxy->net_ns), *place;
	struct thread fresh = {};
	struct window *w;

	place = bpf_map_lookup_elem(&places, &netns);
	if (!place || *place > PLACE_SERVER)
		return;
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
}

static __always_inline void sends(__u64 id)
{
	struct config *c = settings();
	struct thread *t;
	__u32 pid;
	__u64 now;

	if (!c)
		return;
	if (id != c->send_calls[0] && id != c->send_calls[1] && id != c->send_calls[2])
		return;
	pid = (__u32)bpf_get_current_pid_tgid();
	t = bpf_map_lookup_elem(&threads, &pid);
	if (!t) {
		first_send(c, pid);
		return;
	}
	now = bpf_ktime_get_ns();
	if (t->ready_ns) {
		add(STAGE_APPLICATION, t->direction, t->since_ns - t->ran_ns, now);
		t->ready_ns = 0;
	}
	t->send_ns = now;
}

/* The data of a socket is there: the thread that sends through it has a turn. */
static __always_inline void is_ready(struct sock *sk, __u32 direction, __u64 now)
{
	__u64 socket = (__u64)sk;
	__u32 *pid = bpf_map_lookup_elem(&sockets, &socket);
	struct thread *t = pid ? bpf_map_lookup_elem(&threads, pid) : NULL;

	/* What came while it had not looked yet is part of the same turn. */
	if (!t || t->ready_ns)
		return;
	t->since_ns = now;
	t->ran_ns = 0;
	t->direction = direction;
	t->woken = 0;
	/* Last: the thread may be looked at on another CPU. */
	barrier();
	t->ready_ns = now;
}

static __always_inline void leaves_cpu(__u32 pid, bool sleeps)
{
	struct thread *t = pid ? bpf_map_lookup_elem(&threads, &pid) : NULL;
	__u64 now;

	if (!t)
		return;
	t->running = 0;
	/* It was woken for its data and sleeps again: it has taken that and waits for something else than
	 * what sends (a thread that only receives). One that goes to sleep just when its data comes is
	 * woken at once. */
	if (sleeps && t->woken)
		t->ready_ns = 0;
	if (t->ready_ns) {
		now = bpf_ktime_get_ns();
		t->ran_ns += now - t->since_ns;
		t->since_ns = now;
	}
}

static __always_inline void enters_cpu(__u32 pid)
{
	struct thread *t = pid ? bpf_map_lookup_elem(&threads, &pid) : NULL;
	__u64 now;

	if (!t)
		return;
	t->running = 1;
	if (t->ready_ns) {
		now = bpf_ktime_get_ns();
		add(STAGE_WAKE_UP, t->direction, t->since_ns, now);
		t->since_ns = now;
		t->woken = 1;
	}
}

#endif
