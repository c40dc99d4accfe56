// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Page faults of watched cgroups, and the most memory that one of their processes has had.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Kinds of pages that are counted (include/linux/mm_types_task.h). Pages of mapped files are left out: they are the
// node's, shared by all instances.
#define MM_ANONPAGES 1
#define MM_SHMEMPAGES 3

SEC("tp_btf/page_fault_user")
int BPF_PROG(fault)
{
	struct counters *c = watched(bpf_get_current_cgroup_id());
	if (c)
		add(&c->faults, 1);
	return 0;
}

// A page of a file that was not in memory (Linux 6.11 and newer).
SEC("tp_btf/mm_filemap_fault")
int BPF_PROG(major_fault)
{
	struct counters *c = watched(bpf_get_current_cgroup_id());
	if (c)
		add(&c->major_faults, 1);
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
