/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define TREE_DEPTH 64

struct visitor {
    enum file_kind kind;
    int (*visit)(void *ctx, const char *path);
    void *ctx;
};

static int walk(int dirfd, const char *prefix, int depth, const struct visitor *v)
{
    int fd;
    int err = file_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0, &fd);
    if (err)
        return err;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        file_close(fd);
        return err_from_errno(errno);
    }
    const struct dirent *e;
    while (!err && (err = file_next_entry(dir, &e)) == 0 && e) {
        char path[DATABASE_PATH_MAX];
        struct stat st;
        size_t base;
        int n = snprintf(path, sizeof path, "%s%s", prefix, e->d_name);
        if (n >= (int)sizeof path || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISREG(st.st_mode) && file_kind_of(path, &base) == v->kind) {
            err = v->visit(v->ctx, path);
        } else if (S_ISDIR(st.st_mode) && depth < TREE_DEPTH && n + 1 < (int)sizeof path) {
            int sub;
            path[n++] = '/';
            path[n] = '\0';
            if (file_open(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, &sub) != 0) {
                log_warn("recover", "folder %s cannot be read and is left alone", path);
                continue;
            }
            err = walk(sub, path, depth + 1, v);
            file_close(sub);
        }
    }
    closedir(dir);
    return err;
}

int tree_walk(int tree_dirfd, enum file_kind kind, int (*visit)(void *ctx, const char *path),
              void *ctx)
{
    return walk(tree_dirfd, "", 0, &(struct visitor){.kind = kind, .visit = visit, .ctx = ctx});
}
