// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// How long threads of watched cgroups wait: for a processor (run queue), and for anything else (off CPU).
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define TASK_DEAD 0x80

// What a thread waits for, since when; 0: not.
struct waiting {
	__u64 off_cpu_since;
	__u64 queued_since;
};

// By thread. Made ahead: nothing may be allocated under the lock of a run queue, which sched_switch holds.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct waiting);
} tasks SEC(".maps");

static __always_inline void set(__u32 pid, __u64 off_cpu_since, __u64 queued_since)
{
	struct waiting *there = bpf_map_lookup_elem(&tasks, &pid);
	if (there) {
		there->off_cpu_since = off_cpu_since;
		there->queued_since = queued_since;
		return;
	}
	struct waiting new = { .off_cpu_since = off_cpu_since, .queued_since = queued_since };
	if (bpf_map_update_elem(&tasks, &pid, &new, BPF_ANY))
		drop(DROPPED_TASKS);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(wakeup_new, struct task_struct *task)
{
	if (watched(cgroup_of(task)))
		set(task->pid, 0, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(wakeup, struct task_struct *task)
{
	__u64 cgroup = cgroup_of(task);
	struct counters *c = watched(cgroup);
	if (!c)
		return 0;
	__u32 pid = task->pid;
	__u64 now = bpf_ktime_get_ns();
	struct waiting *waiting = bpf_map_lookup_elem(&tasks, &pid);
	if (waiting && waiting->off_cpu_since) {
		__u64 since = waiting->off_cpu_since;
		__u64 *begin = bpf_map_lookup_elem(&begun, &cgroup);
		if (begin && *begin > since)
			since = *begin;
		if (now > since)
			add(&c->off_cpu_ns, now - since);
	}
	set(pid, 0, now);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switch_tasks, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int state)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 pid = prev->pid;
	if (state & TASK_DEAD)
		bpf_map_delete_elem(&tasks, &pid);
	else if (pid && watched(cgroup_of(prev))) {
		bool runnable = preempt || !state;
		set(pid, runnable ? 0 : now, runnable ? now : 0);
	}
	// The cgroup that counts is that of the thread that runs next, not the current one's.
	pid = next->pid;
	if (!pid)
		return 0;
	struct counters *c = watched(cgroup_of(next));
	if (!c)
		return 0;
	struct waiting *waiting = bpf_map_lookup_elem(&tasks, &pid);
	if (waiting && waiting->queued_since) {
		if (now > waiting->queued_since)
			add(&c->run_queue_ns, now - waiting->queued_since);
		waiting->queued_since = 0;
	}
	return 0;
}
