/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_GUARD_H
#define TOOLS_GUARD_H

#include <stddef.h>
#include <sys/types.h>

/*
 * A daemon that is killed while it has files of its own mount open cannot end: the kernel asks it,
 * of all, to confirm each close (FUSE flush) and to take the dirty pages of its mappings, and waits
 * for the answer without an end, the lock of the data folder still held. So a small process of its
 * own watches, and when the daemon has died it cuts the kernel's connection to it: whatever waits,
 * clients too, gets an error. An ordinary user may not cut it where the kernel's control files are
 * not to be had; then this process answers in the daemon's place, each request with ENOTCONN, until
 * the daemon has gone, and lets go of the last descriptor of the connection, which ends it.
 *
 * However the daemon ended, no transaction begins any more on the files that clients still have open on the
 * mount: see fs/expire.h.
 *
 * guard_start before any thread exists, by the thread that lives longest; guard_mounted; guard_unmounting;
 * guard_unmounted; guard_stop by the same thread.
 */
struct guard {
    struct guard_shared *shared; /* with the process that watches */
    struct roll *roll; /* the files that are open on the mount; with the process that watches */
    pid_t pid;
    int sockets[2]; /* what is sent into the first waits in the second, which both processes have */
};

int guard_start(struct guard *g);
/* The mount answers, at this absolute path; `device` is the descriptor of its connection. */
void guard_mounted(struct guard *g, const char *mountpoint, int device);
/* It is about to be unmounted: from now on its device number may become another mount's. */
void guard_unmounting(struct guard *g);
/*
 * The mount was closed in good order: what clients still have open ends too, and the connection. Waits for
 * that. By the thread that started; the guard has ended then.
 */
void guard_unmounted(struct guard *g);
/* Cuts the connection now. Any thread; does nothing if there is no mount. */
void guard_cut(struct guard *g);
void guard_stop(struct guard *g); /* a zeroed guard is fine */

#endif
