/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FAULT_H
#define TESTS_LIB_FAULT_H

#include <stdbool.h>

/*
 * Makes one operation on the daemon's own files fail: the n-th from now, counted from 0 over all that
 * can fail so.
 *
 *     for (int n = 0; fired; n++) { fault_arm(n); ...; fired = fault_disarm(); look at the result }
 */
enum fault {
    FAULT_PLAIN,  /* as is usual for the operation; a write after half of it is done */
    FAULT_EIO,    /* a write after half of it is done; a close all the same closes */
    FAULT_ENOSPC, /* what needs room: a write after half of it is done */
    FAULT_EINTR,  /* what may wait */
    FAULT_EMFILE, /* what takes a descriptor */
    FAULT_SHORT,  /* a read or write does half of it, and says so */
    FAULT_COUNT
};

void fault_arm(int n); /* FAULT_PLAIN; close, unlink and the reading of folders do not count */
void fault_arm_kind(int n, enum fault kind);
bool fault_disarm(void); /* whether it has failed */
/* What has failed last, for messages. Static storage. */
const char *fault_name(enum fault kind);
const char *fault_what(void);

#endif
