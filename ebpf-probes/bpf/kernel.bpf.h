/* The kernel's types as far as the probes read them, and to which network namespace a thing belongs. */
#ifndef CNIBENCH_KERNEL_BPF_H
#define CNIBENCH_KERNEL_BPF_H

#include "cnibench.bpf.h"

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

static __always_inline __u32 netns_of(struct net *net)
{
	return net ? net->ns.inum : 0;
}

/* Where a packet is dropped: the receiving socket's namespace, since sockets use the place of "dev" for
 * other things; else that of the device where the packet is; else (on its way to one) the sender's. */
static __always_inline __u32 netns_of_drop(struct sk_buff *skb, struct sock *to)
{
	struct net_device *dev = skb->dev;
	struct sock *from = skb->sk;
	struct net *net = NULL;
	__u32 netns = 0;

	if (to) {
		bpf_probe_read_kernel(&net, sizeof(net), &to->__sk_common.skc_net.net);
		bpf_probe_read_kernel(&netns, sizeof(netns), &net->ns.inum);
	}
	if (!netns && dev)
		netns = netns_of(dev->nd_net.net);
	if (!netns && from)
		netns = netns_of(from->__sk_common.skc_net.net);
	return netns;
}

#endif
