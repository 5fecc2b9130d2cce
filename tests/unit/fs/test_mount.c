/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/mount.h"
#include "ltx/base/clock.h"
#include "ltx/base/logger.h"
#include "ltx/base/thread.h"
#include "tests/lib/fsnode.h"

/* The mount in the process that uses it, as the daemon does. */

#define SHM_SIZE 32768
#define LIMIT_MS 10000
#define WORKERS 16 /* most of them have served no request when a test looks at one that has not */

static char root[SCRATCH_PATH_MAX], mountpoint[SCRATCH_PATH_MAX + 8];
static struct fsnode node;
static struct mount *mounted;

/* A sanitizer takes memory when it likes, also within a worker. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static int begin(void **state)
{
    char why[256];
    (void)state;
    scratch_make(root);
    snprintf(mountpoint, sizeof mountpoint, "%s/mnt", root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    struct mount_options options = {
        .mountpoint = mountpoint,
        .fsname = root,
        .catalog = node.catalog,
        .role = &node.role,
        .tree_dirfd = node.tree_dirfd,
        .workers = WORKERS,
    };
    if (mount_check(mountpoint, why, sizeof why) ||
        mount_open(&mounted, &options, why, sizeof why)) {
        print_message("%s\n", why);
        mounted = NULL;
        return 0;
    }
    return mount_start(mounted);
}

/* After a failed test too: a process that ends with files of its own mount open never does. */
static int end(void **state)
{
    (void)state;
    if (mounted) {
        mount_quit(mounted);
        mount_join(mounted);
    }
    mount_close(mounted);
    fsnode_close(&node);
    scratch_remove(root);
    return 0;
}

static int open_mounted(const char *name, int flags)
{
    char path[2 * SCRATCH_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", mountpoint, name);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    return fd;
}

/* A read that is held up below the mount, so that its worker is not there for others. */
static struct file_ops slow;
static atomic_bool in_slow_read, go_on, went_on_by_itself;

/* Nobody would answer any more: so the kernel must not wait either. */
static void let_go_of_the_connection(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, mount_device(mounted));
    close(null);
}

static ssize_t slow_pread(int fd, void *buf, size_t n, off_t off)
{
    struct mono began = mono_now();
    atomic_store(&in_slow_read, true);
    while (!atomic_load(&go_on)) {
        if (mono_since_ms(began) > LIMIT_MS) {
            atomic_store(&went_on_by_itself, true);
            let_go_of_the_connection();
            break;
        }
        usleep(1000);
    }
    return file_ops_system.pread(fd, buf, n, off);
}

static ssize_t got;

static void read_a_byte(void *fd)
{
    char byte;
    got = pread(*(int *)fd, &byte, 1, 0);
}

/*
 * munmap holds the process's map of memory while the kernel asks for the changed pages to be
 * written; the worker that takes this has not served a request before.
 */
static void a_worker_needs_no_memory_for_its_first_request(void **state)
{
    (void)state;
    const struct file_ops *before = file_ops;
    struct thread reader;
    if (!mounted || SANITIZED)
        skip();
    int file = open_mounted("notes.txt", O_RDWR | O_CREAT);
    assert_int_equal(pwrite(file, "x", 1, 0), 1);
    int shm = open_mounted("app.db-shm", O_RDWR | O_CREAT);
    assert_int_equal(ftruncate(shm, SHM_SIZE), 0);
    uint8_t *map = mmap(NULL, SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0);
    assert_true(map != MAP_FAILED);
    memset(map, 1, SHM_SIZE);

    slow = *file_ops;
    slow.pread = slow_pread;
    file_ops = &slow;
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    assert_int_equal(thread_start(&reader, "reader", read_a_byte, &file), 0);
    while (!atomic_load(&in_slow_read))
        usleep(1000);
    munmap(map, SHM_SIZE);
    atomic_store(&go_on, true);
    thread_join(&reader);
    file_ops = before;
    close(shm);
    close(file);
    assert_int_equal(got, 1);
    assert_false(went_on_by_itself);
}

int main(void)
{
    logger_configure(getenv("TANDEMFS_TRACE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_worker_needs_no_memory_for_its_first_request, begin, end),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
