/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_EXPORT_WATCH_H
#define TOOLS_EXPORT_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "tools/progress.h"

/*
 * Progress of an export. Before the first byte arrives the daemon makes the copy, which may take
 * long: a thread asks /info how far it is. Once bytes arrive they are what is shown.
 * export_watch_begin, export_watch_body as often as needed, export_watch_end.
 */
struct export_watch {
    const char *address;
    char what[512];
    struct thread thread;
    struct mutex mutex; /* guards the next two */
    struct cond stop;
    bool stopped;
    struct progress progress; /* the thread's until it is joined, then the caller's */
    bool body;
};

void export_watch_begin(struct export_watch *w, const char *address, const char *name);
void export_watch_body(struct export_watch *w, uint64_t done, uint64_t total);
void export_watch_end(struct export_watch *w);

#endif
