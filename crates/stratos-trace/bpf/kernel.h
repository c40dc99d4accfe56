// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// What these programs know of the kernel: base types, and of each structure the fields that are read. The loader finds
// the fields' real places in the running kernel's BTF, so order and size of what is here do not matter.
//
// The kernel lends the helpers that follow its own pointers only to programs whose licence it counts as compatible with
// its own, so the files in this folder, unlike all others, are under MIT or GPL-2.0.
#ifndef STRATOS_KERNEL_H
#define STRATOS_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

// include/uapi/linux/bpf.h
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

// The context of programs on packets: the kernel translates each access, so here the offsets do matter
// (struct __sk_buff of the same file).
struct __sk_buff {
	__u32 len;
};

#define KERNEL __attribute__((preserve_access_index))

struct kernfs_node {
	__u64 id;
} KERNEL;

struct cgroup {
	struct kernfs_node *kn;
} KERNEL;

struct css_set {
	struct cgroup *dfl_cgrp;
} KERNEL;

struct mm_struct;

struct signal_struct {
	struct mm_struct *oom_mm;
	unsigned long maxrss;
} KERNEL;

struct kernel_siginfo {
	int si_code;
} KERNEL;

struct thread_info {
	__u32 status;
} KERNEL;

struct task_struct {
#if defined(__TARGET_ARCH_x86)
	struct thread_info thread_info;
#endif
	int pid;
	int tgid;
	int exit_code;
	unsigned long maj_flt;
	char comm[16];
	struct css_set *cgroups;
	struct signal_struct *signal;
	struct mm_struct *mm;
} KERNEL;

struct percpu_counter {
	__s64 count;
} KERNEL;

struct mm_struct {
	struct percpu_counter rss_stat[4];
} KERNEL;

// Before Linux 6.2.
typedef struct {
	long counter;
} atomic_long_t;

struct mm_rss_stat {
	atomic_long_t count[4];
} KERNEL;

struct mm_struct___old {
	struct mm_rss_stat rss_stat;
} KERNEL;

struct sock {
	__u16 sk_protocol;
} KERNEL;

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long orig_ax;
} KERNEL;
#define syscall_number(registers) ((registers)->orig_ax)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	int syscallno;
} KERNEL;
#define syscall_number(registers) ((registers)->syscallno)
#else
struct pt_regs {
	unsigned long a7;
} KERNEL;
#define syscall_number(registers) ((registers)->a7)
#endif

struct address_space;
struct linux_binprm;

#endif
