/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_WARM_H
#define FS_WARM_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"

/*
 * Keeps the pages of a -wal in the kernel's cache complete.
 *
 * The kernel sends a write that fills only part of a page as a request of its own unless it holds
 * the rest of the page. Frames are 24 bytes longer than pages, so each is cut in two: a commit of
 * one page is three requests instead of two. After the WAL has begun anew, its frames overwrite
 * what is in the file already: reading that once through the mount makes the pages complete, and
 * they stay so. (Measured: WAL commits with synchronous=NORMAL a fifth to a third faster.)
 *
 * The reading is done by a thread that serves no request. warm_start after the mount answers,
 * warm_stop before its workers end.
 */
#define WARM_QUEUE 32

struct warmer {
    struct mutex mutex;
    struct cond wake;
    struct thread thread;
    const char *mountpoint; /* absolute; borrowed */
    bool quitting;
    unsigned count;
    struct {
        char *path;
        off_t from;
    } queue[WARM_QUEUE];
};

void warm_init(struct warmer *w, const char *mountpoint);
int warm_start(struct warmer *w);
void warm_stop(struct warmer *w); /* returns when it touches the mount no more */
void warm_fini(struct warmer *w);

/* Reads the file (a path below the mount) from `from` to its end, soon. Forgotten if the queue is
 * full. */
void warm_file(struct warmer *w, const char *path, off_t from);

#endif
