/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/sparse.h"

/* The n-th call through the table fails; each transfer is interrupted and short before it is
 * complete. */
static int calls_until_failure;
static int interruptions;

static bool fails(void)
{
    if (calls_until_failure-- != 0)
        return false;
    errno = ENOSPC;
    return true;
}

static bool interrupted(void)
{
    if (interruptions++ % 2 != 0)
        return false;
    errno = EINTR;
    return true;
}

static int open_faulty(int dirfd, const char *path, int flags, mode_t mode)
{
    return fails() ? -1 : file_ops_system.openat(dirfd, path, flags, mode);
}

static int close_faulty(int fd)
{
    int rc = close(fd);
    return fails() ? -1 : rc;
}

static ssize_t read_slowly(int fd, void *buf, size_t n, off_t off)
{
    return interrupted() ? -1 : pread(fd, buf, n > 3 ? 3 : n, off);
}

static ssize_t write_slowly(int fd, const void *buf, size_t n, off_t off)
{
    if (interrupted())
        return -1;
    return fails() ? -1 : pwrite(fd, buf, n > 3 ? 3 : n, off);
}

static int fsync_faulty(int fd)
{
    return fails() ? -1 : fsync(fd);
}

static int rename_faulty(int olddir, const char *oldpath, int newdir, const char *newpath,
                         unsigned flags)
{
    return fails() ? -1 : renameat2(olddir, oldpath, newdir, newpath, flags);
}

static int no_fallocate(int fd, int mode, off_t off, off_t len)
{
    (void)fd;
    (void)mode;
    (void)off;
    (void)len;
    errno = EOPNOTSUPP;
    return -1;
}

static char dir[64];
static int dirfd_;

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/tandemfs-file-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    calls_until_failure = -1;
    interruptions = 0;
    static struct file_ops faulty;
    faulty = file_ops_system;
    faulty.openat = open_faulty;
    faulty.close = close_faulty;
    faulty.pread = read_slowly;
    faulty.pwrite = write_slowly;
    faulty.fsync = fsync_faulty;
    faulty.renameat2 = rename_faulty;
    faulty.fallocate = no_fallocate;
    file_ops = &faulty;
    return dirfd_ < 0 ? -1 : 0;
}

static int remove_dir(void **state)
{
    (void)state;
    file_ops = &file_ops_system;
    close(dirfd_);
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static int entries(void)
{
    int count = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d) != NULL)
        count++;
    closedir(d);
    return count - 2;
}

static void assert_content(const char *name, const char *want)
{
    int fd;
    char got[64] = "";
    size_t n;
    assert_int_equal(file_open(dirfd_, name, O_RDONLY, 0, &fd), 0);
    assert_int_equal(file_read_some(fd, got, sizeof got - 1, 0, &n), 0);
    assert_int_equal(file_close(fd), 0);
    assert_int_equal(n, strlen(want));
    assert_string_equal(got, want);
}

static void interrupted_and_short_transfers_are_completed(void **state)
{
    (void)state;
    int fd;
    char got[32] = "";
    int64_t size;
    assert_int_equal(file_open(dirfd_, "f", O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(file_write(fd, "0123456789", 10, 5), 0);
    assert_int_equal(file_size(fd, &size), 0);
    assert_int_equal(size, 15);
    assert_int_equal(file_read(fd, got, 10, 5), 0);
    assert_string_equal(got, "0123456789");
    assert_int_equal(file_read(fd, got, 11, 5), -ERR_TRUNCATED);
    assert_true(interruptions > 10);
    assert_int_equal(file_close(fd), 0);
    assert_int_equal(file_close(-1), 0);
}

static void space_is_allocated_without_fallocate_too(void **state)
{
    (void)state;
    int fd;
    char got[10];
    int64_t size;
    assert_int_equal(file_open(dirfd_, "f", O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(file_write(fd, "abc", 3, 0), 0);
    assert_int_equal(file_allocate(fd, 1, 200000), 0);
    assert_int_equal(file_size(fd, &size), 0);
    assert_int_equal(size, 200001);
    assert_int_equal(file_read(fd, got, 5, 0), 0);
    assert_memory_equal(got, "abc\0\0", 5);
    assert_int_equal(file_close(fd), 0);
}

static void zeros_beyond_the_end_are_left_out(void **state)
{
    static uint8_t page[65536], got[65536];
    struct sparse s;
    struct stat st;
    int fd;
    (void)state;
    assert_int_equal(file_open(dirfd_, "sparse", O_RDWR | O_CREAT, 0600, &fd), 0);
    sparse_begin(&s, fd);
    page[65535] = 1;
    assert_int_equal(sparse_write(&s, page, sizeof page, 0), 0);
    page[65535] = 0;
    for (int64_t i = 1; i < 1000; i++)
        assert_int_equal(sparse_write(&s, page, sizeof page, i * (int64_t)sizeof page), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, sizeof page);
    /* Within the file they are written. */
    assert_int_equal(sparse_write(&s, page, sizeof page, 0), 0);
    assert_int_equal(file_read(fd, got, sizeof got, 0), 0);
    assert_memory_equal(got, page, sizeof page);
    page[7] = 7;
    assert_int_equal(sparse_write(&s, page, sizeof page, 1000 * (int64_t)sizeof page), 0);
    assert_int_equal(sparse_set_size(&s, 2000 * (int64_t)sizeof page), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 2000 * (int64_t)sizeof page);
    assert_true(st.st_blocks * 512 < 10 * (int64_t)sizeof page);
    page[7] = 0;
    assert_int_equal(sparse_write(&s, page, sizeof page, 1000 * (int64_t)sizeof page), 0);
    assert_int_equal(file_read(fd, got, sizeof got, 1000 * (int64_t)sizeof page), 0);
    assert_memory_equal(got, page, sizeof page);
    file_close(fd);
}

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    assert_int_equal(file_mkdirs(dirfd_, "a/b/c", 0700), 0);
    assert_int_equal(file_mkdirs(dirfd_, "a/b/c", 0700), 0);
    assert_true(file_exists(dirfd_, "a/b/c"));
    assert_false(file_exists(dirfd_, "a/x"));
    assert_int_equal(file_replace(dirfd_, "a/b/c/f", "x", 1, 0600), 0);
    assert_int_equal(file_mkdir(dirfd_, "a/b/c/f", 0700), -ERR_EXISTS);
    assert_int_equal(file_unlink(dirfd_, "a/b/c/f"), 0);
    assert_int_equal(file_unlink(dirfd_, "a/b/c/f"), -ERR_NOTFOUND);
}

static void a_replaced_file_is_old_or_new_whatever_call_fails(void **state)
{
    (void)state;
    assert_int_equal(file_replace(dirfd_, "f", "the old text", 12, 0600), 0);
    int rc = -1, n = 0;
    for (; rc != 0; n++) {
        calls_until_failure = n;
        rc = file_replace(dirfd_, "f", "what is new", 11, 0600);
        bool never_failed = calls_until_failure >= 0;
        calls_until_failure = -1;
        assert_true(rc == (never_failed ? 0 : -ERR_NOSPACE));
        assert_int_equal(entries(), 1);
        int fd;
        char first;
        assert_int_equal(file_open(dirfd_, "f", O_RDONLY, 0, &fd), 0);
        assert_int_equal(file_read(fd, &first, 1, 0), 0);
        assert_int_equal(file_close(fd), 0);
        assert_content("f", first == 't' ? "the old text" : "what is new");
        if (rc == 0)
            assert_int_equal(first, 'w');
        else
            assert_int_equal(file_replace(dirfd_, "f", "the old text", 12, 0600), 0);
    }
    assert_true(n > 8); /* open, four writes, fsync, close, rename, and the folder's */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(interrupted_and_short_transfers_are_completed, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(space_is_allocated_without_fallocate_too, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(zeros_beyond_the_end_are_left_out, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(folders_are_made_with_their_parents, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_replaced_file_is_old_or_new_whatever_call_fails, make_dir,
                                        remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
