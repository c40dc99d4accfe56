// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// System calls of cgroups with an open window, by call: how many, how many failed, how long they took. Attached only
// while there is a window, for it costs every process of the machine a fraction of a microsecond a call.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define BUCKETS 36
#define MAX_NUMBER 512
#define MAX_ERRNO 4095
#define EPERM 1
#define ENOSYS 38

#if defined(__TARGET_ARCH_x86)
#define NR_EXIT 60
#define NR_EXIT_GROUP 231
#else
#define NR_EXIT 93
#define NR_EXIT_GROUP 94
#endif

struct call_key {
	__u64 cgroup;
	__u32 number;
	__u32 padding;
};

struct call {
	__u64 count;
	__u64 errors;
	// Refused by a seccomp filter before they began; in none of the others.
	__u64 denied;
	__u64 total_ns;
	// By the binary logarithm of the duration in ns; the last one holds all that took longer.
	__u64 buckets[BUCKETS];
};

struct running {
	__u64 since;
	__u64 number;
};

struct window {
	__u64 opened;
	// Calls that were counted.
	__u64 calls;
};

// By cgroup id: those with a window.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct window);
} windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct call_key);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct running);
} now SEC(".maps");

static __always_inline struct call *call_of(__u64 cgroup, __u32 number)
{
	struct call_key key = { .cgroup = cgroup, .number = number };
	struct call *there = bpf_map_lookup_elem(&calls, &key);
	if (there)
		return there;
	struct call none;
	__builtin_memset(&none, 0, sizeof(none));
	// Another thread may have been first; then its entry is found.
	bpf_map_update_elem(&calls, &key, &none, BPF_NOEXIST);
	there = bpf_map_lookup_elem(&calls, &key);
	if (!there)
		drop(DROPPED_SYSCALLS);
	return there;
}

static __always_inline __u32 log2(__u64 value)
{
	__u32 log = 0;
	if (value >> 32) { value >>= 32; log += 32; }
	if (value >> 16) { value >>= 16; log += 16; }
	if (value >> 8) { value >>= 8; log += 8; }
	if (value >> 4) { value >>= 4; log += 4; }
	if (value >> 2) { value >>= 2; log += 2; }
	if (value >> 1) log += 1;
	return log;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter, struct pt_regs *registers, long number)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct window *window = bpf_map_lookup_elem(&windows, &cgroup);
	if (!window)
		return 0;
	if (number == NR_EXIT || number == NR_EXIT_GROUP) {
		// They do not come back.
		struct call *call = call_of(cgroup, number);
		if (call) {
			add(&call->count, 1);
			add(&window->calls, 1);
		}
		return 0;
	}
	struct running *running =
		bpf_task_storage_get(&now, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!running) {
		drop(DROPPED_SYSCALLS);
		return 0;
	}
	running->number = number;
	running->since = bpf_ktime_get_ns();
	return 0;
}

// What a filter refuses never enters: its end has no begin. Neither have those that wait when the first window is
// opened, but these end otherwise.
static __always_inline void count_denied(__u64 cgroup, struct pt_regs *registers, long result)
{
	if (result != -EPERM && result != -ENOSYS)
		return;
	__u32 number = syscall_number(registers);
	if (number >= MAX_NUMBER)
		return;
	struct call *call = call_of(cgroup, number);
	if (call)
		add(&call->denied, 1);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave, struct pt_regs *registers, long result)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct window *window = bpf_map_lookup_elem(&windows, &cgroup);
	if (!window)
		return 0;
	struct running *running = bpf_task_storage_get(&now, bpf_get_current_task_btf(), 0, 0);
	if (!running || !running->since) {
		count_denied(cgroup, registers, result);
		return 0;
	}
	// One that began before the window, in an earlier one, is not counted.
	if (running->since < window->opened) {
		running->since = 0;
		return 0;
	}
	__u64 took = bpf_ktime_get_ns() - running->since;
	// Its number as it was at its begin: rt_sigreturn leaves none behind.
	struct call *call = call_of(cgroup, running->number);
	running->since = 0;
	if (!call)
		return 0;
	add(&window->calls, 1);
	add(&call->count, 1);
	add(&call->total_ns, took);
	if (result < 0 && result >= -MAX_ERRNO)
		add(&call->errors, 1);
	__u32 bucket = log2(took);
	if (bucket >= BUCKETS)
		bucket = BUCKETS - 1;
	add(&call->buckets[bucket], 1);
	return 0;
}
