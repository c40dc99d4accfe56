// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The maps that all groups share, and what lies in them. `src/layout.rs` reads the same, byte for byte.
#ifndef STRATOS_SHARED_H
#define STRATOS_SHARED_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

// Cgroups that can be watched at a time.
#define MAX_WATCHED 4096

// One cgroup's figures, which only grow.
struct counters {
	__u64 run_queue_ns;
	__u64 off_cpu_ns;
	__u64 faults;
	__u64 major_faults;
	__u64 rss_peak_pages;
	__u64 rx_bytes;
	__u64 rx_packets;
	__u64 tx_bytes;
	__u64 tx_packets;
	__u64 connects;
	__u64 connect_failures;
	__u64 connect_ns;
	__u64 processes;
	__u64 threads;
	__u64 execs;
	__u64 exits;
	__u64 killed;
	__u64 oom_kills;
};

enum {
	EVENT_EXEC = 1,
	EVENT_EXIT = 2,
	EVENT_DENIED = 3,
};

enum {
	EVENT_OOM = 1,
	EVENT_FOREIGN = 2,
};

struct event {
	__u64 at_ns;
	__u64 cgroup;
	__u32 kind;
	__u32 flags;
	__u32 pid;
	__s32 status;
	__u64 max_rss_pages;
	char comm[16];
};

enum {
	DROPPED_EVENTS = 0,
	DROPPED_TASKS = 1,
	DROPPED_CONNECTS = 2,
	DROPPED_SYSCALLS = 3,
	DROPPED_KINDS = 4,
};

// By cgroup id; the agent puts in those that are watched, programs add to what is there.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_WATCHED);
	__type(key, __u64);
	__type(value, struct counters);
} counters SEC(".maps");

// By cgroup id: when what is worked on began. What a thread slept before is nobody's wait.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_WATCHED);
	__type(key, __u64);
	__type(value, __u64);
} begun SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

// What found no place, by DROPPED_*.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DROPPED_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

static __always_inline void add(__u64 *to, __u64 amount)
{
	__sync_fetch_and_add(to, amount);
}

static __always_inline void drop(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&dropped, &what);
	if (count)
		add(count, 1);
}

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

static __always_inline struct counters *watched(__u64 cgroup)
{
	return bpf_map_lookup_elem(&counters, &cgroup);
}

// Two processors may raise it at once, and the lower value stay: the next change of it corrects that.
static __always_inline void raise_to(__u64 *to, __u64 value)
{
	if (value > *to)
		*to = value;
}

#endif
