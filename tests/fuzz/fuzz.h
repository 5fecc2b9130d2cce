/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "tests/lib/scratch.h"

/*
 * What the fuzz targets share. Each is one source, fuzz_NAME.c, with the two functions of libFuzzer
 * below; replay.c is the driver that runs the same source over its corpus without libFuzzer.
 */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Something that holds for every input: ends the program, with the place, where it does not. */
#define FUZZ_MUST(cond)                                \
    do {                                               \
        if (!(cond))                                   \
            fuzz_broken(__FILE__, __LINE__, #cond, 0); \
    } while (0)
/* The same for what the machine must do for the target itself; says the errno. */
_Noreturn void fuzz_broken(const char *file, int line, const char *cond, int errnum);

/* Errors and nothing else in the log lines: an input is expected to be refused. To begin with. */
void fuzz_quiet(void);

/* A descriptor of a file in memory with these bytes; the same file each time. For readers of files. */
int fuzz_file(const uint8_t *data, size_t size);

/* A folder for this run, removed when the program ends in an orderly way. Static storage. */
const char *fuzz_folder(void);
/* NAME in that folder with these bytes. For readers that open a file by its name. */
void fuzz_put_file(int dirfd, const char *name, const uint8_t *data, size_t size);
/* The folder, open. */
int fuzz_folder_fd(void);

/* A copy of exactly `size` bytes, so that the sanitizer sees a read past them. To be freed. */
uint8_t *fuzz_copy(const uint8_t *data, size_t size);

/* The input read front to back by a target that needs several things from it. Zeros past its end. */
struct fuzz_input {
    const uint8_t *p;
    size_t left;
};
uint8_t fuzz_u8(struct fuzz_input *in);
uint32_t fuzz_u16(struct fuzz_input *in);
uint32_t fuzz_u32(struct fuzz_input *in);
/* The next piece: two bytes of length, and so many bytes or what is left. */
const uint8_t *fuzz_piece(struct fuzz_input *in, size_t *size);

#endif
