/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/mount.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fs/adapter.h"
#include "fs/mountpoint.h"
#include "fs/ops.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

struct mount {
    struct fs fs;
    struct loop loop;
    struct fuse_session *se;
    char path[PATH_MAX];
    bool mounted;
    bool loop_is_open;
};

/* What libfuse last said: the reason why it could not mount. Only mount_open looks at it. */
static char libfuse_said[256];

__attribute__((format(printf, 2, 0))) static void libfuse_log(enum fuse_log_level level,
                                                              const char *fmt, va_list args)
{
    char line[256];
    int n = vsnprintf(line, sizeof line, fmt, args);
    for (n = n < (int)sizeof line ? n : (int)sizeof line - 1; n > 0 && isspace(line[n - 1]);)
        line[--n] = 0;
    if (n <= 0)
        return;
    snprintf(libfuse_said, sizeof libfuse_said, "%s", line);
    if (level <= FUSE_LOG_ERR)
        log_warn("mount", "libfuse: %s", line);
    else
        log_debug("mount", "libfuse: %s", line);
}

/* One descriptor for each file that clients have open: as many as the system lets us have. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        log_warn("mount", "cannot raise the limit of open files (errno %d)", errno);
}

/* In a list of mount options a comma ends the option; libfuse takes a backslash before it. */
static int add_option(struct fuse_args *args, const char *name, const char *value)
{
    char opt[2 * PATH_MAX + 32];
    size_t n = (size_t)snprintf(opt, sizeof opt, "-o%s", name);
    for (; value && *value && n + 3 < sizeof opt; value++) {
        if (*value == ',' || *value == '\\')
            opt[n++] = '\\';
        opt[n++] = *value;
    }
    opt[n] = 0;
    return fuse_opt_add_arg(args, opt);
}

static struct fuse_session *new_session(struct fs *fs, const struct mount_options *options)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_session *se = NULL;
    if (!fuse_opt_add_arg(&args, "tandemfs") &&
        !add_option(&args, "default_permissions,nosuid,nodev", NULL) &&
        !add_option(&args, "subtype=", "tandemfs") &&
        !add_option(&args, "fsname=", options->fsname) &&
        (!options->allow_other || !add_option(&args, "allow_other", NULL)))
        se = fuse_session_new(&args, &fs_ops, sizeof fs_ops, fs);
    fuse_opt_free_args(&args);
    return se;
}

/* fusermount3 refuses allow_other to ordinary users unless the system's administrator agrees. */
static bool may_allow_other(void)
{
    FILE *f = geteuid() == 0 ? NULL : fopen("/etc/fuse.conf", "re");
    char line[256];
    bool allowed = geteuid() == 0;
    while (f && !allowed && fgets(line, sizeof line, f)) {
        char *word = line + strspn(line, " \t");
        size_t n = strcspn(word, " \t\r\n#");
        allowed = n == strlen("user_allow_other") && strncmp(word, "user_allow_other", n) == 0;
    }
    if (f)
        fclose(f);
    return allowed;
}

static int do_mount(struct mount *m, const struct mount_options *options, char *why,
                    size_t why_size)
{
    libfuse_said[0] = 0;
    m->se = new_session(&m->fs, options);
    if (!m->se) {
        snprintf(why, why_size, "libfuse refuses the mount options: %s", libfuse_said);
        return -ERR_INVALID;
    }
    int rc = mountpoint_clear(m->path, why, why_size);
    if (rc)
        return rc;
    if (fuse_session_mount(m->se, m->path)) {
        snprintf(why, why_size, "%s cannot be mounted: %s", m->path,
                 libfuse_said[0] ? libfuse_said : "see the messages of fusermount3 above");
        return -ERR_ACCESS;
    }
    m->mounted = true;
    rc = loop_open(&m->loop, m->se, options->workers);
    if (rc)
        snprintf(why, why_size, "the FUSE device cannot be used: %s", err_text(rc));
    m->loop_is_open = !rc;
    return rc;
}

int mount_open(struct mount **out, const struct mount_options *options, char *why, size_t why_size)
{
    if (options->allow_other && !may_allow_other()) {
        snprintf(why, why_size,
                 "allow-other needs the line 'user_allow_other' in /etc/fuse.conf when an ordinary "
                 "user mounts: ask the administrator to add it, or leave allow-other out");
        return -ERR_ACCESS;
    }
    if (strlen(options->mountpoint) >= PATH_MAX) {
        snprintf(why, why_size, "the path of the mount point is too long");
        return -ERR_LIMIT;
    }
    struct mount *m = calloc(1, sizeof *m);
    if (!m) {
        snprintf(why, why_size, "out of memory");
        return -ERR_NOMEM;
    }
    raise_descriptor_limit();
    fuse_set_log_func(libfuse_log);
    snprintf(m->path, sizeof m->path, "%s", options->mountpoint);
    m->fs.catalog = options->catalog;
    m->fs.role = options->role;
    m->fs.tree_dirfd = options->tree_dirfd;
    m->fs.roll = options->roll;
    int rc = fs_init(&m->fs);
    if (rc) {
        snprintf(why, why_size, "the folder of the backing files cannot be used: %s", err_text(rc));
        free(m);
        return rc;
    }
    warm_init(&m->fs.warmer, m->path);
    rc = do_mount(m, options, why, why_size);
    if (rc)
        mount_close(m);
    else
        *out = m;
    return rc;
}

int mount_start(struct mount *m)
{
    int rc = loop_start(&m->loop);
    if (!rc)
        rc = warm_start(&m->fs.warmer);
    if (rc)
        return rc;
    log_info("mount", "mounted on %s, %u workers", m->path, m->loop.worker_count);
    return 0;
}

int mount_device(const struct mount *m)
{
    return fuse_session_fd(m->se);
}

bool mount_ended(struct mount *m)
{
    return atomic_load(&m->loop.ended);
}

void mount_quit(struct mount *m)
{
    /* First out of sight, so that nobody new comes in; then the workers, which finish what they
     * have begun. What clients hold open after that fails with ENOTCONN. */
    if (m->mounted && !mount_ended(m)) {
        int rc = mountpoint_detach(m->path);
        if (rc)
            log_warn("mount", "cannot unmount %s (%s): 'fusermount3 -u -z %s' does", m->path,
                     err_text(rc), m->path);
    }
    m->mounted = false;
    warm_stop(&m->fs.warmer);
    loop_quit(&m->loop);
}

void mount_join(struct mount *m)
{
    loop_join(&m->loop);
}

/*
 * fuse_session_unmount would unmount whatever is at our path by now, perhaps our successor. It
 * leaves it alone when the device reports an error; a pipe that nobody reads reports one.
 */
static void close_device(struct mount *m)
{
    int broken[2];
    if (pipe2(broken, O_CLOEXEC) == 0) {
        close(broken[0]);
        dup3(broken[1], fuse_session_fd(m->se), O_CLOEXEC);
        close(broken[1]);
    }
    fuse_session_unmount(m->se);
}

void mount_close(struct mount *m)
{
    if (!m)
        return;
    if (m->loop_is_open)
        loop_close(&m->loop);
    if (m->mounted)
        mountpoint_detach(m->path);
    if (m->se) {
        if (fuse_session_fd(m->se) >= 0)
            close_device(m);
        fuse_session_destroy(m->se);
    }
    warm_fini(&m->fs.warmer);
    fs_fini(&m->fs);
    free(m);
}
