// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Processes of watched cgroups: begin, exec, end, and system calls that they were killed for.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define SIGSYS 31
// Why SIGSYS is sent: by seccomp (include/uapi/asm-generic/siginfo.h).
#define SYS_SECCOMP 1
// What stands in for the pointer to a signal's cause: none (0), or the kernel itself (1).
#define SEND_SIG_PRIV 1
#define TS_COMPAT 2

static __always_inline void report(struct task_struct *task, __u64 cgroup, __u32 kind, __u32 flags,
				   __s32 status, __u64 max_rss_pages)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		drop(DROPPED_EVENTS);
		return;
	}
	event->at_ns = bpf_ktime_get_ns();
	event->cgroup = cgroup;
	event->kind = kind;
	event->flags = flags;
	event->pid = task->tgid;
	event->status = status;
	event->max_rss_pages = max_rss_pages;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(fork, struct task_struct *parent, struct task_struct *child)
{
	// By its parent: where the child is in the end is not decided yet.
	struct counters *c = watched(bpf_get_current_cgroup_id());
	if (c)
		add(child->pid == child->tgid ? &c->processes : &c->threads, 1);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(exec, struct task_struct *task)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct counters *c = watched(cgroup);
	if (c) {
		add(&c->execs, 1);
		report(task, cgroup, EVENT_EXEC, 0, 0, 0);
	}
	return 0;
}

// A seccomp filter kills with SIGSYS, and the thread that is sent it is the one that made the call. One that a process
// sends tells of no call.
SEC("tp_btf/signal_generate")
int BPF_PROG(denied, int signal, struct kernel_siginfo *info)
{
	if (signal != SIGSYS || (__u64)info <= SEND_SIG_PRIV || BPF_CORE_READ(info, si_code) != SYS_SECCOMP)
		return 0;
	__u64 cgroup = bpf_get_current_cgroup_id();
	if (!watched(cgroup))
		return 0;
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *registers = (void *)bpf_task_pt_regs(task);
	__u32 flags = 0;
#if defined(__TARGET_ARCH_x86)
	// Made through the door of 32-bit programs, where numbers mean other calls.
	if (task->thread_info.status & TS_COMPAT)
		flags = EVENT_FOREIGN;
#endif
	report(task, cgroup, EVENT_DENIED, flags, syscall_number(registers), 0);
	return 0;
}

// The last thread of a process.
static __always_inline void process_exit(struct task_struct *task)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct counters *c = watched(cgroup);
	if (!c)
		return;
	__s32 status = task->exit_code;
	// Set when the kernel has chosen it as a victim for lack of memory, whatever killed it in the end.
	bool oom = task->signal->oom_mm != NULL;
	__u64 max_rss = task->signal->maxrss;
	add(&c->exits, 1);
	if (status & 0x7f)
		add(&c->killed, 1);
	if (oom)
		add(&c->oom_kills, 1);
	report(task, cgroup, EVENT_EXIT, oom ? EVENT_OOM : 0, status, max_rss);
}

// From Linux 6.16 on the tracepoint tells which thread is the last.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(exit_last, struct task_struct *task, bool last)
{
	if (last)
		process_exit(task);
	return 0;
}

// Before: the first one stands for all.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(exit_first, struct task_struct *task)
{
	if (task->pid == task->tgid)
		process_exit(task);
	return 0;
}
