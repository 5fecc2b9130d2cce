/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/dying.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/database_impl.h"
#include "fs/db/walfix.h"
#include "fs/db/walindex.h"
#include "ltx/base/file.h"

/* A request that waits for its answer. */
struct dying {
    struct database *db; /* counted */
    pid_t pid;           /* of the process that dies; 0: it lives */
    void (*done)(void *arg);
    void *arg;
    struct dying *next;
};

/* ---- is it dying? ---- */

/* Not file_ops: it is not data of ours. What is read, as a string; 0 or an errno. */
static int read_proc(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    ssize_t n = read(fd, out, size - 1);
    int err = n < 0 ? errno : 0;
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    return err;
}

/*
 * Has the kernel begun to take that thread apart, or is it gone altogether? Its memory goes before its
 * files, and then `status` has no line of it. (`stat` would say it as a flag, but waits for a process
 * that is starting a program, which may be the very one that waits for this close.)
 */
static bool thread_is_exiting(const char *status_path)
{
    char status[2048];
    int err = read_proc(status_path, status, sizeof status);
    if (err)
        return err == ENOENT || err == ESRCH;
    return strstr(status, "\nState:") && !strstr(status, "\nVmSize:");
}

static pid_t process_of(pid_t tid)
{
    char path[64], status[2048];
    int pid;
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    if (read_proc(path, status, sizeof status) != 0)
        return 0;
    const char *line = strstr(status, "\nTgid:");
    return line && sscanf(line, "\nTgid: %d", &pid) == 1 ? pid : 0;
}

/*
 * The process of a thread that closes a file, if all of its threads are ending; else 0. One that
 * lives could be in the middle of a commit in another thread. What cannot be found out (a process of
 * another PID namespace, a hidden /proc) is not dying: the settler looks later.
 */
static pid_t dying_process(pid_t tid)
{
    char path[320];
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    pid_t pid = tid > 0 && thread_is_exiting(path) ? process_of(tid) : 0;
    if (pid == 0)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    bool all = tasks != NULL;
    while (all && (entry = readdir(tasks))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int)pid, entry->d_name);
        all = thread_is_exiting(path);
    }
    if (tasks)
        closedir(tasks);
    return all ? pid : 0;
}

/* ---- has it left something? ---- */

/*
 * Looks at the backing file: the kernel has written back what a dying process changed in its
 * mapping, for its memory goes before its files. Of a living one some may be missing here, so this
 * may say "behind" where nothing is, but never the opposite.
 */
static bool index_is_behind(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    struct walindex_header h;
    int fd;

    mutex_lock(&db->mutex);
    bool captured = db->wal.valid && db->wal.captured > 0 && database_is_primary(db);
    mutex_unlock(&db->mutex);
    if (!captured)
        return false;
    database_file_path(db, FILE_SHM, path);
    if (file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd) != 0)
        return false;
    int err = walindex_peek(fd, &h);
    file_close(fd);
    if (err)
        return false; /* the next connection reads the frames themselves */
    mutex_lock(&db->mutex);
    bool unseen = capture_wal_unseen(db, h.salt, h.mx_frame);
    mutex_unlock(&db->mutex);
    return unseen;
}

/* With the wal-index goes what nothing in the file seals, whoever closes the last connection, and how. */
static bool frames_are_unsealed(struct database *db)
{
    mutex_lock(&db->mutex);
    bool unsealed = db->wal.valid && db->wal.broken > 0 && database_is_primary(db);
    mutex_unlock(&db->mutex);
    return unsealed;
}

bool database_closing(struct database *db, enum file_kind kind, bool own, pid_t tid,
                      void (*done)(void *arg), void *arg)
{
    struct catalog *c = db->catalog;
    if (own || (kind != FILE_MAIN && kind != FILE_WAL && kind != FILE_SHM))
        return false;
    bool unsealed = frames_are_unsealed(db);
    if (!unsealed && !index_is_behind(db))
        return false;
    pid_t pid = dying_process(tid);
    struct dying *d = pid || unsealed ? malloc(sizeof *d) : NULL;
    if (!d)
        return false;
    *d = (struct dying){catalog_get(c, db->path), pid, done, arg, NULL};
    mutex_lock(&c->mutex);
    bool taken = d->db && c->dying_runs;
    if (taken) {
        d->next = c->dying;
        c->dying = d;
        cond_signal(&c->death);
    }
    mutex_unlock(&c->mutex);
    if (!taken) {
        if (d->db)
            catalog_put(d->db);
        free(d);
    }
    return taken;
}

/* ---- the thread ---- */

static void dying_run(void *arg)
{
    struct catalog *c = arg;
    mutex_lock(&c->mutex);
    while (c->dying_runs || c->dying) {
        struct dying *d = c->dying;
        if (!d) {
            cond_wait(&c->death, &c->mutex);
            continue;
        }
        c->dying = d->next;
        mutex_unlock(&c->mutex);
        walfix_of_closing(d->db, d->pid);
        d->done(d->arg);
        catalog_put(d->db);
        free(d);
        mutex_lock(&c->mutex);
    }
    mutex_unlock(&c->mutex);
}

int dying_start(struct catalog *c)
{
    mutex_lock(&c->mutex);
    c->dying_runs = true;
    mutex_unlock(&c->mutex);
    return thread_start(&c->dying_thread, "walfix", dying_run, c);
}

void dying_quit(struct catalog *c)
{
    mutex_lock(&c->mutex);
    c->dying_runs = false;
    cond_broadcast(&c->death);
    mutex_unlock(&c->mutex);
}

void dying_join(struct catalog *c)
{
    thread_join(&c->dying_thread);
}
