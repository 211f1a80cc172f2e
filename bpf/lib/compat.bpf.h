/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lets the logic in bpf/lib compile for the kernel and for a native unit test alike.
 */
#ifndef WEIR_COMPAT_BPF_H
#define WEIR_COMPAT_BPF_H

#if defined(__bpf__)
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_helpers.h>
#endif
#include "weir/abi.h"

#define WEIR_INLINE static inline __attribute__((always_inline, unused))

/* A function that the verifier checks once, by itself, and not again in every place that calls it:
 * for the bodies of loops. Its pointers may be null, as far as the verifier knows. One object only
 * may include its header. */
#if defined(__bpf__)
#define WEIR_SUBPROGRAM __noinline
#else
#define WEIR_SUBPROGRAM WEIR_INLINE
#endif

/* One load or store of the whole value, never torn, repeated or left out by the compiler. The
 * native spelling is one that ThreadSanitizer knows; clang 14 lacks it for BPF. */
#if defined(__bpf__)
#define WEIR_READ_ONCE(x) (*(const volatile __typeof__(x)*)&(x))
#define WEIR_WRITE_ONCE(x, value) (*(volatile __typeof__(x)*)&(x) = (value))
#else
#define WEIR_READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WEIR_WRITE_ONCE(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELAXED)
#endif

/* Atomic on every CPU the programs run on; need -mcpu=v3. */
#define WEIR_EXCHANGE(pointer, value) __sync_lock_test_and_set(pointer, value)
#define WEIR_COMPARE_EXCHANGE(pointer, expected, value) \
  __sync_val_compare_and_swap(pointer, expected, value)
#define WEIR_ADD(pointer, value) ((void)__sync_fetch_and_add(pointer, value))

#endif /* WEIR_COMPAT_BPF_H */
