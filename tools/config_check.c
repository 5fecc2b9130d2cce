/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "tools/config_value.h"

/*
 * The absolute path without symbolic links, for a path whose last parts need not exist yet. The
 * part that cannot be looked at is kept as it is written: it may be missing, or be the mount of a
 * daemon that was killed, about which the kernel only says ENOTCONN.
 */
static int resolve(const char *path, char out[PATH_MAX])
{
    char head[PATH_MAX], tail[PATH_MAX] = "";
    if (strlen(path) >= sizeof head)
        return -ERR_LIMIT;
    memcpy(head, path, strlen(path) + 1);
    for (;;) {
        if (realpath(head[0] ? head : ".", out))
            break;
        if (errno != ENOENT && errno != ENOTCONN)
            return err_from_errno(errno);
        size_t n = strlen(head);
        while (n > 1 && head[n - 1] == '/')
            head[--n] = '\0';
        char *slash = strrchr(head, '/');
        const char *part = slash ? slash + 1 : head;
        if (strcmp(part, "..") == 0 || strcmp(part, ".") == 0 || !*part)
            return -ERR_NOTFOUND;
        char joined[PATH_MAX];
        int len = snprintf(joined, sizeof joined, "/%s%s", part, tail);
        if (len < 0 || (size_t)len >= sizeof joined)
            return -ERR_LIMIT;
        memcpy(tail, joined, (size_t)len + 1);
        if (!slash)
            head[0] = '\0';
        else if (slash == head)
            head[1] = '\0';
        else
            *slash = '\0';
    }
    size_t n = strlen(out);
    if (n == 1)
        n = 0;
    if (n + strlen(tail) >= PATH_MAX)
        return -ERR_LIMIT;
    memcpy(out + n, tail, strlen(tail) + 1);
    if (!out[0])
        memcpy(out, "/", 2);
    return 0;
}

static int make_absolute(char **path, const char *what, char *why, size_t why_size)
{
    char real[PATH_MAX];
    int err = resolve(*path, real);
    if (err) {
        snprintf(why, why_size, "%s: cannot find out what %s is: %s", what, *path, err_text(err));
        return err;
    }
    char *copy = strdup(real);
    if (!copy)
        return -ERR_NOMEM;
    free(*path);
    *path = copy;
    return 0;
}

static bool is_inside(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    if (n == 1)
        return true;
    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

static int check_paths(struct config *c, char *why, size_t why_size)
{
    int err = 0;
    if (!c->mount || !c->data) {
        const char *key = c->mount ? "data" : "mount";
        snprintf(why, why_size, "%s is not set: give --%s DIR, or \"%s:\" in a file with -c FILE",
                 key, key, key);
        return -ERR_INVALID;
    }
    err = make_absolute(&c->mount, "mount", why, why_size);
    if (!err)
        err = make_absolute(&c->data, "data", why, why_size);
    if (err)
        return err;
    if (strcmp(c->mount, c->data) == 0)
        err = snprintf(why, why_size,
                       "mount and data are the same folder, %s: give each a folder of its own",
                       c->mount);
    else if (is_inside(c->data, c->mount))
        err =
            snprintf(why, why_size,
                     "data (%s) lies inside mount (%s): the mount would hide it; put it elsewhere",
                     c->data, c->mount);
    else if (is_inside(c->mount, c->data))
        err = snprintf(why, why_size,
                       "mount (%s) lies inside data (%s): that folder belongs to tandemfs; mount "
                       "elsewhere",
                       c->mount, c->data);
    return err ? -ERR_INVALID : 0;
}

static int check_addresses(struct config *c, char *why, size_t why_size)
{
    int err = 0;
    if (c->listen && value_is_wildcard(c->listen) && !c->advertise)
        err = snprintf(why, why_size,
                       "listen is %s, every address of this machine: say with \"advertise\" (or "
                       "--advertise URL) which one other nodes shall use",
                       c->listen);
    else if (!c->listen && c->advertise)
        err = snprintf(why, why_size, "advertise is %s, but listen is none: nobody could reach it",
                       c->advertise);
    else if (c->listen && value_port(c->listen) && value_port(c->listen) == value_port(c->http))
        err = snprintf(why, why_size, "listen (%s) and http (%s) use the same port", c->listen,
                       c->http);
    return err ? -ERR_INVALID : 0;
}

int config_check(struct config *c, char *why, size_t why_size)
{
    why[0] = '\0';
    if (!c->http) {
        snprintf(why, why_size, "out of memory");
        return -ERR_NOMEM;
    }
    int err = check_paths(c, why, why_size);
    if (!err)
        err = check_addresses(c, why, why_size);
    /* A node that knows of no other can only be the primary. */
    if (!err && !c->primary_given)
        c->primary = c->peer_count == 0;
    if (!err && !c->primary && c->peer_count == 0) {
        snprintf(why, why_size,
                 "this node shall not be the primary, but no peers are set: give --replica-of URL, "
                 "or \"peers:\" in the file");
        err = -ERR_INVALID;
    }
    if (err && !why[0])
        snprintf(why, why_size, "%s", err_text(err));
    return err;
}
