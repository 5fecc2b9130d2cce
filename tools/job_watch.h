/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_JOB_WATCH_H
#define TOOLS_JOB_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "tools/progress.h"

/*
 * Progress of a long request. Before the answer comes the daemon is at work, which may take long: a
 * thread asks /info how far it is. If the answer has a body of its own to wait for (an export), its
 * bytes are what is shown once they arrive.
 *
 * job_watch_begin, job_watch_body as often as needed, job_watch_end.
 */
struct job_watch {
    const char *address;
    char what[512];  /* as /info names the job: "export of app.db" */
    char shown[640]; /* and as it is shown */
    struct thread thread;
    struct mutex mutex; /* guards the next two */
    struct cond stop;
    bool stopped;
    struct progress progress; /* the thread's until it is joined, then the caller's */
    bool body;
};

/* `doing` is the verb's noun: "export", "verify". */
void job_watch_begin(struct job_watch *w, const char *address, const char *doing, const char *name);
void job_watch_body(struct job_watch *w, uint64_t done, uint64_t total);
void job_watch_end(struct job_watch *w);

#endif
