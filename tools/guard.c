/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the death of the daemon is seen: it holds a robust mutex in memory that both share, and the
 * kernel wakes the one who waits for it when the holding thread exits. That is before the exiting
 * process lets go of its mappings and files, where it would hang. (The end of the process, as
 * waitpid, a pidfd or a pipe tell it, comes after that: too late.)
 *
 * A duplicate of the connection's descriptor lies in a socket that both processes have. The guard
 * takes it out when the daemon has died, or has unmounted and let go of the mutex: it cannot touch the device
 * before, and with its own end the connection ends.
 */
#include "tools/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/expire.h"
#include "fs/refuse.h"
#include "fs/roll.h"
#include "ltx/base/err.h"

#define EXPIRE_ROUNDS 3
#define EXPIRE_PAUSE_US 100000

struct guard_shared {
    pthread_mutex_t alive;     /* held by the daemon while it lives */
    _Atomic unsigned device;   /* minor number of the mount, which is the connection's; 0 = none */
    char mountpoint[PATH_MAX]; /* written before `device` is set */
};

/* Is a mount of ours with that device still attached anywhere? Asks /proc, never the mount. */
static int is_attached(unsigned device)
{
    char line[2 * PATH_MAX], want[32];
    int found = 0;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return 0;
    snprintf(want, sizeof want, " 0:%u ", device);
    while (!found && fgets(line, sizeof line, f))
        found = strstr(line, want) && strstr(line, " - fuse.tandemfs ");
    fclose(f);
    return found;
}

/* The kernel's control file for the connection; its owner may use it, root or not. */
static int abort_by_control(unsigned device)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", device);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, "1", 1);
    close(fd);
    return n == 1 ? 0 : -1;
}

static void cut(struct guard_shared *s)
{
    unsigned device = atomic_load(&s->device);
    if (device == 0 || abort_by_control(device) == 0)
        return;
    /* A forced unmount aborts the connection first, and does so too where it then says "busy". */
    if (is_attached(device))
        umount2(s->mountpoint, MNT_FORCE);
}

static void put_device(const struct guard *g, int device)
{
    char byte = 0, control[CMSG_SPACE(sizeof device)] = {0};
    struct iovec data = {&byte, 1};
    struct msghdr msg = {.msg_iov = &data,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof device);
    memcpy(CMSG_DATA(c), &device, sizeof device);
    sendmsg(g->sockets[0], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* -1: there is none. */
static int take_device(const struct guard *g)
{
    int device = -1;
    char byte, control[CMSG_SPACE(sizeof device)];
    struct iovec data = {&byte, 1};
    struct msghdr msg = {.msg_iov = &data,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof control};
    if (recvmsg(g->sockets[1], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
        return -1;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof device))
        memcpy(&device, CMSG_DATA(c), sizeof device);
    return device;
}

/* What a thread of the daemon, or a client that was just writing, may have set right again goes at the
 * next round. */
static void expire_all(const struct guard *g, int device, bool killed)
{
    expire_walindexes(g->roll, device);
    for (int i = 1; killed && i < EXPIRE_ROUNDS; i++) {
        usleep(EXPIRE_PAUSE_US);
        expire_attributes(g->roll, device);
        expire_walindexes(g->roll, device);
    }
}

/* Nobody answers the connection any more: see expire.h and refuse.h for the order. `daemon` is a pidfd of
 * one that was killed; -1: the kernel has none. */
static void bid_farewell(struct guard *g, int device, bool killed, int daemon)
{
    expire_attributes(g->roll, device);
    if (killed)
        cut(g->shared);
    pid_t pid = fork();
    if (pid == 0) {
        expire_all(g, device, killed);
        _exit(0);
    }
    /* Where it was cut, there is nothing to refuse. */
    if (killed && daemon >= 0)
        refuse_requests(device, daemon, g->shared->mountpoint);
    if (pid < 0) {
        expire_all(g, device, false);
        return;
    }
    int child = pidfd_open(pid, 0);
    if (child >= 0)
        refuse_requests(device, child, g->shared->mountpoint);
    waitpid(pid, NULL, 0);
}

static _Noreturn void watch(struct guard *g, int daemon)
{
    struct guard_shared *s = g->shared;
    /* What is sent to the daemon and its whole group is not for this process. */
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    prctl(PR_SET_NAME, "tandemfs-guard");
    bool killed = pthread_mutex_lock(&s->alive) == EOWNERDEAD;
    int device = take_device(g);
    if (device >= 0)
        bid_farewell(g, device, killed, daemon);
    else if (killed)
        cut(s);
    _exit(0);
}

static int make_shared(struct guard_shared **out)
{
    pthread_mutexattr_t attr;
    struct guard_shared *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return err_from_errno(errno);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->alive, &attr);
    pthread_mutexattr_destroy(&attr);
    *out = s;
    return 0;
}

int guard_start(struct guard *g)
{
    *g = (struct guard){.sockets = {-1, -1}};
    int err = make_shared(&g->shared);
    if (err)
        return err;
    g->roll = roll_new();
    if (!g->roll) {
        guard_stop(g);
        return -ERR_NOMEM;
    }
    /* A number could be somebody else's by then; with -1 (a kernel without) it can only cut. */
    int daemon = pidfd_open(getpid(), 0);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, g->sockets) != 0) {
        err = err_from_errno(errno);
        goto out;
    }
    pthread_mutex_lock(&g->shared->alive);
    fflush(NULL);
    g->pid = fork();
    if (g->pid == 0)
        watch(g, daemon);
    if (g->pid < 0) {
        err = err_from_errno(errno);
        pthread_mutex_unlock(&g->shared->alive);
    }
out:
    if (daemon >= 0)
        close(daemon);
    if (err)
        guard_stop(g);
    return err;
}

/* Lets it do what is left to do, and waits for its end. */
static void dismiss(struct guard *g)
{
    if (g->pid <= 0)
        return;
    pthread_mutex_unlock(&g->shared->alive);
    while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    g->pid = 0;
}

void guard_mounted(struct guard *g, const char *mountpoint, int device)
{
    struct stat st;
    size_t n = strlen(mountpoint);
    if (!g->shared || stat(mountpoint, &st) != 0 || n >= PATH_MAX)
        return;
    memcpy(g->shared->mountpoint, mountpoint, n + 1);
    put_device(g, device);
    atomic_store(&g->shared->device, minor(st.st_dev));
}

void guard_unmounting(struct guard *g)
{
    if (g->shared)
        atomic_store(&g->shared->device, 0);
}

void guard_unmounted(struct guard *g)
{
    if (!g->shared)
        return;
    guard_unmounting(g);
    dismiss(g);
    int device = take_device(g); /* the guard has, unless it was killed */
    if (device >= 0)
        close(device);
}

void guard_cut(struct guard *g)
{
    if (g->shared)
        cut(g->shared);
}

void guard_stop(struct guard *g)
{
    if (!g->shared)
        return;
    dismiss(g);
    roll_free(g->roll);
    munmap(g->shared, sizeof *g->shared);
    for (int i = 0; i < 2; i++)
        if (g->sockets[i] >= 0)
            close(g->sockets[i]);
    *g = (struct guard){0};
}
