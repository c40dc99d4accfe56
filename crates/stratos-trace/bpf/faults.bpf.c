// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Page faults of watched cgroups, and the most memory that one of their processes has had.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Kinds of pages that are counted (include/linux/mm_types_task.h). Pages of mapped files are left out: they are the
// node's, shared by all instances.
#define MM_ANONPAGES 1
#define MM_SHMEMPAGES 3

// Major faults of a thread that are counted.
struct seen {
	__u64 major_faults;
	bool begun;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct seen);
} threads SEC(".maps");

// Whether a fault is major shows when it is over, and is counted with the thread's next one.
SEC("tp_btf/page_fault_user")
int BPF_PROG(fault)
{
	struct counters *c = watched(bpf_get_current_cgroup_id());
	if (!c)
		return 0;
	add(&c->faults, 1);
	struct task_struct *task = bpf_get_current_task_btf();
	struct seen *seen = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!seen)
		return 0;
	__u64 now = task->maj_flt;
	if (seen->begun && now > seen->major_faults)
		add(&c->major_faults, now - seen->major_faults);
	seen->major_faults = now;
	seen->begun = true;
	return 0;
}

static __always_inline __s64 positive(__s64 pages)
{
	return pages > 0 ? pages : 0;
}

// The kernel counts in batches of 32 pages for each processor; so far what is read here may be off.
static __always_inline __u64 pages(struct mm_struct *mm)
{
	if (bpf_core_type_exists(struct mm_rss_stat)) {
		struct mm_struct___old *old = (void *)mm;
		return positive(BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter)) +
		       positive(BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter));
	}
	return positive(mm->rss_stat[MM_ANONPAGES].count) + positive(mm->rss_stat[MM_SHMEMPAGES].count);
}

SEC("tp_btf/rss_stat")
int BPF_PROG(memory, struct mm_struct *mm, int member)
{
	if (member != MM_ANONPAGES && member != MM_SHMEMPAGES)
		return 0;
	struct counters *c = watched(bpf_get_current_cgroup_id());
	if (!c)
		return 0;
	struct task_struct *task = bpf_get_current_task_btf();
	// Else it is of another, whose pages are reclaimed here, or of one that is being made.
	if (task->mm == mm)
		raise_to(&c->rss_peak_pages, pages(mm));
	return 0;
}
