/* SPDX-License-Identifier: Apache-2.0 */
/* A real connection to the kernel, whose daemon is this test and then stops to answer. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/refuse.h"

#define LIMIT_S 20
#define MAX_WRITE (1u << 20) /* as libfuse has it; with the headers more than the first room */
#define LATER 3000           /* requests after the one that was taken */

struct world {
    char folder[32];
    int device;
    _Alignas(struct fuse_in_header) char room[2 * MAX_WRITE];
};

static struct world w;

static const struct fuse_in_header *next_request(void)
{
    ssize_t n = read(w.device, w.room, sizeof w.room);
    assert_true(n >= (ssize_t)sizeof(struct fuse_in_header));
    return (const struct fuse_in_header *)w.room;
}

static void begin(void)
{
    char data[128];
    strcpy(w.folder, "/tmp/test-refuse-XXXXXX");
    assert_non_null(mkdtemp(w.folder));
    w.device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=0,group_id=0", w.device);
    if (w.device < 0 || mount("test", w.folder, "fuse", MS_NOSUID | MS_NODEV, data) != 0) {
        printf("cannot mount here: %s\n", strerror(errno));
        rmdir(w.folder);
        skip();
    }
    const struct fuse_in_header *in = next_request();
    assert_int_equal(in->opcode, FUSE_INIT);
    struct {
        struct fuse_out_header header;
        struct fuse_init_out init;
    } out = {{sizeof out, 0, in->unique},
             {.major = FUSE_KERNEL_VERSION,
              .minor = 31,
              .flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES,
              .max_write = MAX_WRITE,
              .max_pages = 256}};
    assert_int_equal(write(w.device, &out, sizeof out), sizeof out);
    fcntl(w.device, F_SETFL, O_NONBLOCK);
    /* A request that is never answered must end this program, not stop it. */
    alarm(LIMIT_S);
}

static void end(void)
{
    alarm(0);
    assert_int_equal(umount2(w.folder, MNT_FORCE | MNT_DETACH), 0);
    close(w.device);
    rmdir(w.folder);
}

/* A client that asks `count` times; its exit status says whether it was refused each time. */
static pid_t client(int count)
{
    struct statfs st;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    close(w.device); /* or it would keep alive what it waits for */
    for (int i = 0; i < count; i++)
        if (statfs(w.folder, &st) == 0 || errno != ENOTCONN)
            _exit(1);
    _exit(0);
}

static void wait_for_request(void)
{
    struct pollfd fd = {.fd = w.device, .events = POLLIN};
    assert_int_equal(poll(&fd, 1, LIMIT_S * 1000), 1);
}

static void refuse_next(void)
{
    wait_for_request();
    struct fuse_out_header out = {sizeof out, -ENOTCONN, next_request()->unique};
    assert_int_equal(write(w.device, &out, sizeof out), sizeof out);
}

static void was_refused(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void what_nobody_has_read_is_refused(void **state)
{
    (void)state;
    begin();
    pid_t pid = client(10);
    int process = pidfd_open(pid, 0);
    refuse_requests(w.device, process, w.folder);
    was_refused(pid);
    close(process);
    end();
}

/* The client takes the part of the daemon's thread that waits for its own daemon. */
static void what_the_daemon_had_read_is_refused(void **state)
{
    (void)state;
    for (int later = 0; later <= LATER; later += LATER) {
        begin();
        pid_t pid = client(1);
        int process = pidfd_open(pid, 0);
        wait_for_request();
        (void)next_request();
        /* Others come and go meanwhile; or there is nothing from which its number could be told. */
        pid_t others = later ? client(later) : 0;
        for (int i = 0; i < later; i++)
            refuse_next();
        refuse_requests(w.device, process, w.folder);
        was_refused(pid);
        if (others)
            was_refused(others);
        close(process);
        end();
    }
}

static void it_ends_with_the_connection_and_with_the_process(void **state)
{
    int status;
    (void)state;
    begin();
    int process = pidfd_open(getpid(), 0);
    assert_int_equal(umount2(w.folder, MNT_FORCE), 0);
    refuse_requests(w.device, process, w.folder);
    close(process);
    alarm(0);
    close(w.device);
    rmdir(w.folder);
    begin();
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    process = pidfd_open(pid, 0);
    refuse_requests(w.device, process, w.folder);
    assert_int_equal(waitpid(pid, &status, WNOHANG), pid);
    close(process);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_nobody_has_read_is_refused),
        cmocka_unit_test(what_the_daemon_had_read_is_refused),
        cmocka_unit_test(it_ends_with_the_connection_and_with_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
