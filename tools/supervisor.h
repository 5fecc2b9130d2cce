/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_SUPERVISOR_H
#define TOOLS_SUPERVISOR_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "tools/guard.h"

/*
 * What makes the daemon end: signals, the end of the command it runs, a fatal finding of a part.
 * One thread reads the signals (signalfd), passes them on to the command and reaps it. A guard sees
 * to it that a daemon which is killed can end.
 *
 * supervisor_start before any other thread exists (it blocks the signals for all of them),
 * supervisor_wait as often as needed, supervisor_run, supervisor_ending, supervisor_stop.
 *
 * While a command runs, every signal is passed on and the command decides. Otherwise the first
 * SIGINT, SIGTERM or SIGHUP asks for an orderly end, and one more ends at once: the mount is
 * detached and the program exits.
 */
enum supervisor_event {
    SUPERVISOR_NOTHING, /* the time passed */
    SUPERVISOR_STOP,    /* somebody asked for the end */
    SUPERVISOR_CHILD,   /* the command has ended */
    SUPERVISOR_FATAL,   /* see supervisor_why */
};

struct supervisor {
    struct thread thread;
    struct guard guard;
    struct mutex mutex; /* guards all below */
    struct cond changed;
    sigset_t original; /* the mask before ours, for the command */
    int signal_fd;
    int wake_fd; /* tells the thread to end */
    unsigned stops;
    int stop_signal;
    bool running; /* `child` is a process of ours that was not reaped */
    bool ended;   /* it was */
    pid_t child;
    int child_status; /* as of waitpid */
    bool fatal;
    char why[512];
    char mountpoint[PATH_MAX]; /* what a forced end detaches; "" = nothing */
};

int supervisor_start(struct supervisor *s);
void supervisor_stop(struct supervisor *s);

/* What happened; waits at most `ms` for something. The most urgent first; repeats until the program
 * ends. */
enum supervisor_event supervisor_wait(struct supervisor *s, int64_t ms);

/* From now on (or, with "", no longer) a forced end detaches this mount, which answers already;
 * `device` is its connection, see mount_device. Called with "" after the mount was closed. */
void supervisor_mounted(struct supervisor *s, const char *mountpoint, int device);
void supervisor_unmounting(struct supervisor *s); /* it is about to be closed */

/* Starts the command, with the signal mask that the program was started with. `why` on failure. */
int supervisor_run(struct supervisor *s, char *const argv[], char *why, size_t why_size);
/* Asks a command that still runs to end (SIGTERM), and kills it after `ms`. Blocks until it is
 * gone. */
void supervisor_end_child(struct supervisor *s, int64_t ms);
/* The exit status that the command asks for: its own, or 128 + the signal that killed it. */
int supervisor_exit_status(struct supervisor *s);

/* A part cannot go on; from any thread. The first sentence is kept. */
void supervisor_set_fatal(struct supervisor *s, const char *why);
const char *supervisor_why(struct supervisor *s);

#endif
