/* A packet's track: the points that it passes, and where it ends. */
#ifndef CNIBENCH_STAGES_TRACK_BPF_H
#define CNIBENCH_STAGES_TRACK_BPF_H

#include "kernel.bpf.h"
#include "stages_count.bpf.h"

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

/* The next event of a packet, of which a track is there; false: the track is not, any more.
 *
 * What is deleted from the map is another packet's at once, which an interrupt on this CPU may begin
 * (they wait while the map's lock is held, and come with its end): neither read nor written after. */
static __always_inline bool step(__u64 address, struct track *t, __u32 point, __u64 now)
{
	__u64 last = t->last_ns;
	__u32 edge = t->point * POINTS + point, direction = t->direction, of;
	bool first = t->first;
	__u8 *stage = bpf_map_lookup_elem(&edges, &edge);

	/* Another CPU has begun a new packet at this address meanwhile. */
	if (now < last)
		return false;
	if (!stage || *stage == NO_EDGE) {
		ends(address, COUNT_ILLEGAL_EDGE);
		return false;
	}
	if (now - last > TOO_OLD_NS) {
		ends(address, COUNT_TOO_OLD);
		return false;
	}
	of = *stage - 1;
	if (point == POINT_SOCKET) {
		/* The last step is of whoever takes the packet off the map. */
		if (bpf_map_delete_elem(&tracks, &address))
			return false;
	} else {
		t->first = 0;
		t->last_ns = now;
		t->point = point;
	}
	/* The first device is the sender's own, whatever its role on the way of others. */
	if (first && (point >> 3) == EV_XMIT)
		of = STAGE_POD_DEVICE;
	add(of, direction, last, now);
	return true;
}

/* A followed packet at a device; devices without a role are part of what lies between two others. */
static __always_inline bool meets(__u64 address, struct net_device *dev, __u32 event)
{
	struct track *t = bpf_map_lookup_elem(&tracks, &address);
	__u32 role = t ? role_of(dev) : 0;

	return role && step(address, t, event * 8 + role, bpf_ktime_get_ns());
}

#endif
