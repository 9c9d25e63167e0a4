// SPDX-License-Identifier: MIT OR Apache-2.0
/* One program of every kind, doing nothing: whether it loads and attaches is the whole question. */
#include "cnibench.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/softirq_entry")
int try_tp_btf(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("raw_tracepoint/softirq_entry")
int try_raw_tracepoint(void *ctx)
{
	(void)ctx;
	return 0;
}

/* A function that no packet passes and that nobody makes static. */
SEC("fentry/dev_get_stats")
int try_fentry(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("fexit/dev_get_stats")
int try_fexit(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("kprobe/dev_get_stats")
int try_kprobe(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("tracepoint/irq/softirq_entry")
int try_tracepoint(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("classifier")
int try_classifier(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}
