/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * Preloaded into a writer: stops or kills it, or makes it fail, between the n-th commit of WAL mode that it writes and
 * what follows from that, the entry in the wal-index. In the environment:
 *   WALSTOP_COMMIT  n, counted from 1
 *   WALSTOP_AFTER   "write": when the last byte of the commit frame is written; "sync": when the -wal
 *                   is synced after that
 *   WALSTOP_SIGNAL  "KILL" or "STOP"; "FAIL": the writer lives, and the sync fails once
 */

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static long commits; /* whole commit frames so far */
static bool reached; /* the one that counts is written */

__attribute__((constructor)) static void find_real(void)
{
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
}

static bool is(const char *variable, const char *value)
{
    const char *got = getenv(variable);
    return got && strcmp(got, value) == 0;
}

static bool is_wal(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    return n > 4 && memcmp(path + n - 4, "-wal", 4) == 0;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Does a write that ends at `end` complete a frame that commits? */
static bool completes_commit(int fd, off_t end)
{
    uint8_t header[32], frame[24];
    if (end <= 32 || pread(fd, header, sizeof header, 0) != sizeof header)
        return false;
    off_t size = (off_t)be32(header + 8) + 24;
    if ((end - 32) % size != 0 || pread(fd, frame, sizeof frame, end - size) != sizeof frame)
        return false;
    return be32(frame + 4) != 0 && memcmp(frame + 8, header + 16, 8) == 0;
}

static void end_here(void)
{
    raise(is("WALSTOP_SIGNAL", "STOP") ? SIGSTOP : SIGKILL);
}

static ssize_t write_at(int fd, const void *data, size_t n, off_t off)
{
    ssize_t done = real_pwrite(fd, data, n, off);
    const char *wanted = getenv("WALSTOP_COMMIT");
    if (done != (ssize_t)n || !wanted || !is_wal(fd) || !completes_commit(fd, off + done))
        return done;
    if (++commits == atol(wanted)) {
        reached = true;
        if (is("WALSTOP_AFTER", "write"))
            end_here();
    }
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t off)
{
    return write_at(fd, data, n, off);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t off)
{
    return write_at(fd, data, n, off);
}

static int after_sync(int fd, int result)
{
    if (result != 0 || !reached || !is("WALSTOP_AFTER", "sync") || !is_wal(fd))
        return result;
    if (!is("WALSTOP_SIGNAL", "FAIL"))
        end_here();
    reached = false;
    errno = EIO;
    return -1;
}

int fsync(int fd)
{
    return after_sync(fd, real_fsync(fd));
}

int fdatasync(int fd)
{
    return after_sync(fd, real_fdatasync(fd));
}
