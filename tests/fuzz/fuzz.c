/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ltx/base/logger.h"

static char folder[SCRATCH_PATH_MAX];

static void remove_folder(void)
{
    scratch_remove(folder);
}

static void fill(int fd, const uint8_t *data, size_t size)
{
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        fuzz_broken(__FILE__, __LINE__, "the input fits into a file", errno);
}

_Noreturn void fuzz_broken(const char *file, int line, const char *cond, int errnum)
{
    fprintf(stderr, "%s:%d: this does not hold: %s%s%s\n", file, line, cond, errnum ? ": " : "",
            errnum ? strerror(errnum) : "");
    abort();
}

void fuzz_quiet(void)
{
    (void)setenv("TANDEMFS_SEED", "1", 1); /* what a target prepares is the same in every run */
    logger_configure(getenv("VERBOSE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
}

int fuzz_file(const uint8_t *data, size_t size)
{
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        fuzz_broken(__FILE__, __LINE__, "there are files in memory", errno);
    fill(fd, data, size);
    return fd;
}

const char *fuzz_folder(void)
{
    if (!folder[0]) {
        scratch_make(folder);
        atexit(remove_folder);
    }
    return folder;
}

int fuzz_folder_fd(void)
{
    static int fd = -1;
    if (fd < 0)
        fd = open(fuzz_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fuzz_broken(__FILE__, __LINE__, "there is a folder", errno);
    return fd;
}

void fuzz_put_file(int dirfd, const char *name, const uint8_t *data, size_t size)
{
    int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        fuzz_broken(__FILE__, __LINE__, "a file can be made", errno);
    fill(fd, data, size);
    close(fd);
}

uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        fuzz_broken(__FILE__, __LINE__, "there is memory for the input", errno);
    if (size)
        memcpy(copy, data, size);
    return copy;
}

uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->p++;
}

uint32_t fuzz_u16(struct fuzz_input *in)
{
    uint32_t high = fuzz_u8(in);
    return high << 8 | fuzz_u8(in);
}

uint32_t fuzz_u32(struct fuzz_input *in)
{
    uint32_t high = fuzz_u16(in);
    return high << 16 | fuzz_u16(in);
}

const uint8_t *fuzz_piece(struct fuzz_input *in, size_t *size)
{
    size_t n = fuzz_u16(in);
    const uint8_t *p = in->p;
    *size = n < in->left ? n : in->left;
    in->p += *size;
    in->left -= *size;
    return p;
}
