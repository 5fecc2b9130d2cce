/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/base/file.h"
#include "tests/lib/scratch.h"

static uint8_t *read_at(int dirfd, const char *path, size_t *size)
{
    int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    ASSERT(fd >= 0, "a file of the test can be opened");
    int64_t n;
    ASSERT(file_size(fd, &n) == 0, "a file of the test has a size");
    uint8_t *data = malloc((size_t)n + 1);
    ASSERT(data != NULL && file_read(fd, data, (size_t)n, 0) == 0, "a file of the test is read");
    close(fd);
    *size = (size_t)n;
    return data;
}

static void write_at(int dirfd, const char *path, const void *data, size_t size)
{
    int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT(fd >= 0, "a file of the test can be made");
    ASSERT(file_write(fd, data, size, 0) == 0, "a file of the test is written");
    close(fd);
}

static DIR *open_dir(int dirfd, const char *path)
{
    int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? NULL : fdopendir(fd);
}

static int is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int is_folder(DIR *dir, const char *name)
{
    struct stat st;
    ASSERT(fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) == 0, "an entry is there");
    return S_ISDIR(st.st_mode);
}

static void copy_tree(int from, int to)
{
    DIR *dir = open_dir(from, ".");
    ASSERT(dir != NULL, "a folder of the test can be read");
    const struct dirent *e;
    while ((e = readdir(dir)) != NULL) {
        if (is_dot(e->d_name))
            continue;
        if (is_folder(dir, e->d_name)) {
            ASSERT(mkdirat(to, e->d_name, 0700) == 0, "a folder of the test can be made");
            int a = openat(from, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            int b = openat(to, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            copy_tree(a, b);
            close(a);
            close(b);
        } else {
            size_t n;
            uint8_t *data = read_at(from, e->d_name, &n);
            write_at(to, e->d_name, data, n);
            free(data);
        }
    }
    closedir(dir);
}

static void remove_tree(int at)
{
    DIR *dir = open_dir(at, ".");
    ASSERT(dir != NULL, "a folder of the test can be read");
    const struct dirent *e;
    while ((e = readdir(dir)) != NULL) {
        if (is_dot(e->d_name))
            continue;
        if (is_folder(dir, e->d_name)) {
            int below = openat(at, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            remove_tree(below);
            close(below);
            unlinkat(at, e->d_name, AT_REMOVEDIR);
        } else
            unlinkat(at, e->d_name, 0);
    }
    closedir(dir);
}

void folder_make(struct folder *f)
{
    scratch_make(f->path);
    f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT(f->fd >= 0, "a folder that was made can be opened");
}

void folder_copy(struct folder *to, const struct folder *from)
{
    folder_make(to);
    copy_tree(from->fd, to->fd);
}

void folder_remove(struct folder *f)
{
    if (f->path[0] == '\0')
        return;
    remove_tree(f->fd);
    close(f->fd);
    rmdir(f->path);
    f->path[0] = '\0';
}

int folder_count(const struct folder *f, const char *below, const char *suffix, char *name)
{
    DIR *dir = open_dir(f->fd, below);
    if (dir == NULL)
        return 0;
    int count = 0;
    const struct dirent *e;
    while ((e = readdir(dir)) != NULL) {
        size_t n = strlen(e->d_name), k = strlen(suffix);
        if (is_dot(e->d_name) || n < k || strcmp(e->d_name + n - k, suffix) != 0)
            continue;
        if (name != NULL && (count == 0 || strcmp(e->d_name, name) < 0))
            strcpy(name, e->d_name);
        count++;
    }
    closedir(dir);
    return count;
}

uint8_t *folder_read(const struct folder *f, const char *path, size_t *size)
{
    return read_at(f->fd, path, size);
}

void folder_write(const struct folder *f, const char *path, const void *data, size_t size)
{
    write_at(f->fd, path, data, size);
}
