// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// What sockets of watched cgroups send and receive, and how long their TCP connections take to be made.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define PASS 1

SEC("cgroup_skb/ingress")
int received(struct __sk_buff *packet)
{
	struct counters *c = watched(bpf_skb_cgroup_id(packet));
	if (c) {
		add(&c->rx_bytes, packet->len);
		add(&c->rx_packets, 1);
	}
	return PASS;
}

SEC("cgroup_skb/egress")
int sent(struct __sk_buff *packet)
{
	struct counters *c = watched(bpf_skb_cgroup_id(packet));
	if (c) {
		add(&c->tx_bytes, packet->len);
		add(&c->tx_packets, 1);
	}
	return PASS;
}

struct connecting {
	__u64 cgroup;
	__u64 since;
};

// By socket, from its first packet until it is connected or given up.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct connecting);
} sockets SEC(".maps");

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state, struct sock *socket, int old, int new)
{
	__u64 key = (__u64)socket;
	if (socket->sk_protocol != IPPROTO_TCP)
		return 0;
	if (new == TCP_SYN_SENT) {
		struct connecting begin = { .cgroup = bpf_get_current_cgroup_id() };
		if (!watched(begin.cgroup))
			return 0;
		begin.since = bpf_ktime_get_ns();
		if (bpf_map_update_elem(&sockets, &key, &begin, BPF_ANY))
			drop(DROPPED_CONNECTS);
		return 0;
	}
	if (old != TCP_SYN_SENT)
		return 0;
	// What follows may run anywhere: the packet that it comes of arrives on any processor, in any process.
	struct connecting *begin = bpf_map_lookup_elem(&sockets, &key);
	if (!begin)
		return 0;
	struct counters *c = watched(begin->cgroup);
	if (c && new == TCP_ESTABLISHED) {
		add(&c->connects, 1);
		add(&c->connect_ns, bpf_ktime_get_ns() - begin->since);
	} else if (c) {
		add(&c->connect_failures, 1);
	}
	bpf_map_delete_elem(&sockets, &key);
	return 0;
}
