/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};

static bool asks_to_stop(int signo)
{
    return signo == SIGINT || signo == SIGTERM || signo == SIGHUP;
}

/* An ordinary user may not call umount2; fusermount3 does it for him. */
static void detach(const char *mountpoint)
{
    pid_t pid;
    char *argv[] = {"fusermount3", "-u", "-z", (char *)mountpoint, NULL};
    if (!mountpoint[0] || umount2(mountpoint, MNT_DETACH) == 0)
        return;
    if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0)
        waitpid(pid, NULL, 0);
}

/* The second request while the first is being served: whatever hangs shall hang no longer. All
 * that was acknowledged is in the log, so the next start recovers as after a crash. */
static _Noreturn void force_end(struct supervisor *s, int signo)
{
    char mountpoint[sizeof s->mountpoint];
    log_warn("mount", "%s once more: ending at once; the next start recovers", strsignal(signo));
    guard_cut(&s->guard);
    mutex_lock(&s->mutex);
    memcpy(mountpoint, s->mountpoint, sizeof mountpoint);
    mutex_unlock(&s->mutex);
    detach(mountpoint);
    _exit(128 + signo);
}

static void reap(struct supervisor *s)
{
    int status;
    mutex_lock(&s->mutex);
    if (s->running && waitpid(s->child, &status, WNOHANG) == s->child) {
        s->running = false;
        s->ended = true;
        s->child_status = status;
        cond_broadcast(&s->changed);
    }
    mutex_unlock(&s->mutex);
}

static void take(struct supervisor *s, const struct signalfd_siginfo *info)
{
    int signo = (int)info->ssi_signo;
    bool force = false;
    if (signo == SIGCHLD) {
        reap(s);
        return;
    }
    mutex_lock(&s->mutex);
    if (asks_to_stop(signo)) {
        s->stops++;
        s->stop_signal = signo;
    }
    if (s->running) {
        /* What the terminal sends goes to every process of the foreground group: the command has
         * it already. */
        if (info->ssi_code != SI_KERNEL)
            kill(s->child, signo);
    } else {
        force = asks_to_stop(signo) && s->stops > 1;
    }
    cond_broadcast(&s->changed);
    mutex_unlock(&s->mutex);
    if (force)
        force_end(s, signo);
}

static void listen_for_signals(void *arg)
{
    struct supervisor *s = arg;
    struct pollfd fds[2] = {{.fd = s->signal_fd, .events = POLLIN},
                            {.fd = s->wake_fd, .events = POLLIN}};
    for (;;) {
        struct signalfd_siginfo info;
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return;
        if (fds[1].revents)
            return;
        if (fds[0].revents && read(s->signal_fd, &info, sizeof info) == sizeof info)
            take(s, &info);
    }
}

static void handled_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++)
        sigaddset(set, handled[i]);
}

int supervisor_start(struct supervisor *s)
{
    sigset_t set;
    *s = (struct supervisor){.signal_fd = -1, .wake_fd = -1};
    mutex_init(&s->mutex, RANK_LEAF);
    cond_init(&s->changed);
    handled_set(&set);
    /* A connection that the other side has closed is an error of the write, not a reason to end. */
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, &s->original);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC);
    int err = s->signal_fd < 0 || s->wake_fd < 0 ? err_from_errno(errno) : 0;
    if (!err)
        err = guard_start(&s->guard);
    if (!err)
        err = thread_start(&s->thread, "signals", listen_for_signals, s);
    if (err)
        supervisor_stop(s);
    return err;
}

void supervisor_stop(struct supervisor *s)
{
    uint64_t one = 1;
    if (s->thread.started && write(s->wake_fd, &one, sizeof one) == sizeof one)
        thread_join(&s->thread);
    guard_stop(&s->guard);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    cond_fini(&s->changed);
    mutex_fini(&s->mutex);
}

enum supervisor_event supervisor_wait(struct supervisor *s, int64_t ms)
{
    enum supervisor_event event = SUPERVISOR_NOTHING;
    mutex_lock(&s->mutex);
    for (bool again = true; again;) {
        if (s->fatal)
            event = SUPERVISOR_FATAL;
        else if (s->ended)
            event = SUPERVISOR_CHILD;
        else if (s->stops > 0 && !s->running)
            event = SUPERVISOR_STOP;
        again = event == SUPERVISOR_NOTHING && ms > 0 && cond_wait_ms(&s->changed, &s->mutex, ms);
    }
    mutex_unlock(&s->mutex);
    return event;
}

void supervisor_mounted(struct supervisor *s, const char *mountpoint, int device)
{
    mutex_lock(&s->mutex);
    snprintf(s->mountpoint, sizeof s->mountpoint, "%s", mountpoint);
    mutex_unlock(&s->mutex);
    if (mountpoint[0])
        guard_mounted(&s->guard, mountpoint, device);
    else
        guard_unmounted(&s->guard);
}

void supervisor_unmounting(struct supervisor *s)
{
    guard_unmounting(&s->guard);
}

int supervisor_run(struct supervisor *s, char *const argv[], char *why, size_t why_size)
{
    posix_spawnattr_t attr;
    sigset_t normal;
    posix_spawnattr_init(&attr);
    handled_set(&normal);
    sigaddset(&normal, SIGPIPE);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &s->original);
    posix_spawnattr_setsigdefault(&attr, &normal);
    mutex_lock(&s->mutex);
    int errnum = posix_spawnp(&s->child, argv[0], NULL, &attr, argv, environ);
    s->running = errnum == 0;
    mutex_unlock(&s->mutex);
    posix_spawnattr_destroy(&attr);
    if (errnum == 0)
        return 0;
    snprintf(why, why_size, "cannot run %s: %s", argv[0], strerror(errnum));
    return err_from_errno(errnum);
}

void supervisor_end_child(struct supervisor *s, int64_t ms)
{
    mutex_lock(&s->mutex);
    if (s->running)
        kill(s->child, SIGTERM);
    while (s->running) {
        if (!cond_wait_ms(&s->changed, &s->mutex, ms) && s->running) {
            log_warn("mount", "the command (process %d) does not end: killed", (int)s->child);
            kill(s->child, SIGKILL);
        }
    }
    mutex_unlock(&s->mutex);
}

int supervisor_exit_status(struct supervisor *s)
{
    mutex_lock(&s->mutex);
    int status = s->child_status;
    bool ended = s->ended;
    mutex_unlock(&s->mutex);
    if (!ended)
        return EXIT_FAILURE;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void supervisor_set_fatal(struct supervisor *s, const char *why)
{
    mutex_lock(&s->mutex);
    if (!s->fatal)
        snprintf(s->why, sizeof s->why, "%s", why);
    s->fatal = true;
    cond_broadcast(&s->changed);
    mutex_unlock(&s->mutex);
}

const char *supervisor_why(struct supervisor *s)
{
    return s->why; /* written once, before `fatal` is seen */
}
