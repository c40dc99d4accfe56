// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The shared maps alone. They are made first; each group's object is given these in place of its own.
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
