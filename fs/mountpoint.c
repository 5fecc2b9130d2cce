/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/mountpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/mount.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/base/thread.h"

/* Decodes \040 and its like in place: how mountinfo writes blanks, tabs, newlines, backslashes. */
static void decode_octal(char *s)
{
    char *out = s;
    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = 0;
}

/* A line of proc_pid_mountinfo(5): the mount point is the fifth field, the type follows " - ". */
static bool line_is_at(char *line, const char *path, char *type, size_t type_size)
{
    char *at = line, *end;
    for (int field = 1; field < 5; field++) {
        at = strchr(at, ' ');
        if (!at)
            return false;
        at++;
    }
    end = strchr(at, ' ');
    char *dash = end ? strstr(end, " - ") : NULL;
    if (!dash)
        return false;
    *end = 0;
    decode_octal(at);
    if (strcmp(at, path) != 0)
        return false;
    dash += 3;
    snprintf(type, type_size, "%.*s", (int)strcspn(dash, " \n"), dash);
    return true;
}

bool mountpoint_type(const char *path, char *type, size_t type_size)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t cap = 0;
    bool found = false;
    if (!f)
        return false;
    while (getline(&line, &cap, f) > 0) /* the last one that matches is on top */
        found |= line_is_at(line, path, type, type_size);
    free(line);
    fclose(f);
    return found;
}

bool mountpoint_has_program(const char *name)
{
    const char *path = getenv("PATH");
    char file[PATH_MAX];
    for (path = path ? path : "/usr/bin:/bin"; *path;) {
        size_t n = strcspn(path, ":");
        if (snprintf(file, sizeof file, "%.*s/%s", (int)n, path, name) < (int)sizeof file &&
            access(file, X_OK) == 0)
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

int mountpoint_detach(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return 0;
    if (geteuid() == 0 || errno != EPERM)
        return err_from_errno(errno);
    char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", (char *)(uintptr_t)path, NULL};
    pid_t pid;
    int status, errnum = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (errnum)
        return err_from_errno(errnum);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_from_errno(errno);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ERR_ACCESS;
}

/* The path without symbolic links; the last part is not looked at, for it may be a dead mount. */
static int resolve(const char *path, char out[PATH_MAX])
{
    char copy[PATH_MAX], parent[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof copy || path[0] != '/')
        return -1;
    memcpy(copy, path, n + 1);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = 0;
    char *slash = strrchr(copy, '/');
    const char *last = slash + 1;
    *slash = 0;
    if (!realpath(*copy ? copy : "/", parent))
        return -1;
    int len = snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", last);
    return len < PATH_MAX ? 0 : -1;
}

#define SAY(...) snprintf(why, why_size, __VA_ARGS__)

static int check_fuse(char *why, size_t why_size)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    } else if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
        SAY("there is no /dev/fuse: load the kernel module with 'modprobe fuse', or start the "
            "container with --device /dev/fuse --cap-add SYS_ADMIN");
        return -ERR_NOTFOUND;
    } else if (errno == EACCES || errno == EPERM) {
        SAY("/dev/fuse may not be opened (%s): run as root, or 'chmod 666 /dev/fuse', or allow "
            "the device in the container",
            strerror(errno));
        return -ERR_ACCESS;
    }
    if (geteuid() != 0 && !mountpoint_has_program("fusermount3")) {
        SAY("fusermount3 is not installed, and only root can mount without it: install the "
            "package fuse3");
        return -ERR_NOTFOUND;
    }
    return 0;
}

/* Attributes come from the kernel's cache even after the daemon has died; statfs asks it. */
static bool is_dead(const char *path)
{
    struct statfs st;
    return statfs(path, &st) && (errno == ENOTCONN || errno == ECONNABORTED);
}

static void let_go(void *fd)
{
    file_close((int)(intptr_t)fd);
}

/*
 * With the last reference to a mount the kernel frees what it has cached of its files: a second for 10 GB.
 * The start does not wait for that.
 */
static int detach_dead(const char *path)
{
    struct thread thread = {.started = false};
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int rc = mountpoint_detach(path);
    if (fd >= 0 && thread_start(&thread, "unmount", let_go, (void *)(intptr_t)fd) != 0)
        let_go((void *)(intptr_t)fd);
    thread_leave(&thread);
    return rc;
}

/* *dead: by a tandemfs that has ended. */
static int check_not_mounted(const char *path, bool *dead, char *why, size_t why_size)
{
    char type[64];
    *dead = false;
    if (!mountpoint_type(path, type, sizeof type))
        return 0;
    if (strncmp(type, "fuse", 4) != 0 || !is_dead(path)) {
        if (strcmp(type, MOUNTPOINT_FSTYPE) == 0)
            SAY("another tandemfs is mounted on %s: stop it first, or choose another folder", path);
        else
            SAY("a file system of type %s is mounted on %s: choose another folder, or 'umount %s'",
                type, path, path);
        return -ERR_BUSY;
    }
    if (strcmp(type, MOUNTPOINT_FSTYPE) != 0) {
        SAY("a dead mount of type %s is on %s and is not ours: 'fusermount3 -u %s' removes it",
            type, path, path);
        return -ERR_BUSY;
    }
    *dead = true;
    return 0;
}

static int check_empty(const char *path, char *why, size_t why_size)
{
    DIR *d = opendir(path);
    if (!d) {
        SAY("%s cannot be read (%s): give the user who mounts access to it", path, strerror(errno));
        return err_from_errno(errno);
    }
    const struct dirent *e;
    do
        e = readdir(d);
    while (e && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0));
    if (e)
        SAY("%s is not empty (it holds %s): mount on an empty folder; files that are there would "
            "be hidden. 'tandemfs import' brings a database in",
            path, e->d_name);
    closedir(d);
    return e ? -ERR_EXISTS : 0;
}

static int check_folder(const char *path, char *why, size_t why_size)
{
    struct stat st;
    if (stat(path, &st)) {
        if (errno != ENOENT) {
            SAY("%s cannot be used as the mount point: %s", path, strerror(errno));
            return err_from_errno(errno);
        }
        if (mkdir(path, 0755)) {
            SAY("%s does not exist and cannot be made (%s): make it, or choose another folder",
                path, strerror(errno));
            return err_from_errno(errno);
        }
        return 0;
    }
    if (!S_ISDIR(st.st_mode)) {
        SAY("%s is not a folder: a mount point has to be one", path);
        return -ERR_INVALID;
    }
    if (geteuid() != 0 && access(path, W_OK)) {
        SAY("%s belongs to another user: an ordinary user can mount only on a folder that they may "
            "write to",
            path);
        return -ERR_ACCESS;
    }
    return check_empty(path, why, why_size);
}

static int find_folder(const char *mountpoint, char path[PATH_MAX], char *why, size_t why_size)
{
    if (resolve(mountpoint, path) == 0)
        return 0;
    SAY("the mount point %s cannot be found: its parent folder has to exist and the path has to be "
        "absolute",
        mountpoint);
    return -ERR_NOTFOUND;
}

int mountpoint_clear(const char *mountpoint, char *why, size_t why_size)
{
    char path[PATH_MAX];
    bool dead = false;
    int rc = find_folder(mountpoint, path, why, why_size);
    if (!rc)
        rc = check_not_mounted(path, &dead, why, why_size);
    if (!rc && dead) {
        rc = detach_dead(path);
        if (rc)
            SAY("a dead tandemfs mount is on %s and cannot be removed (%s): 'umount -l %s' as root",
                path, err_text(rc), path);
        else
            log_info("mount", "%s: removed the mount that an ended daemon had left", path);
    }
    return rc ? rc : check_folder(path, why, why_size);
}

int mount_check(const char *mountpoint, char *why, size_t why_size)
{
    char path[PATH_MAX];
    bool dead = false;
    int rc = check_fuse(why, why_size);
    if (!rc)
        rc = find_folder(mountpoint, path, why, why_size);
    if (!rc)
        rc = check_not_mounted(path, &dead, why, why_size);
    return rc || dead ? rc : check_folder(path, why, why_size);
}
