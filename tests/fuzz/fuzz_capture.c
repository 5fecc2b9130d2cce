/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of a primary that does to the files of one database whatever it likes, as the mount would
 * tell of it: opens, writes, truncates, syncs, removes and closes database, -wal, -journal and -shm,
 * in any order and with any bytes. Frames and journal headers are made right by the target if the
 * input says so, so that commits come about. An input is a row of steps, each an operation and its
 * arguments; the page size is 512.
 *
 * When all is closed and has settled, the log holds what a connection finds in the files, and the next
 * start finds it so.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"

#define PAGE 512
#define STEPS_MAX 200
#define REACH 0x1ffff /* offsets: the first 128 kB */

enum step {
    OPEN,
    CLOSE,
    WRITE,
    FRAME,
    HEADER,
    TRUNCATE,
    SYNC,
    UNLINK,
    SETTLE,
    RESTART,
    STEP_COUNT
};

static struct fsnode node;
static struct database *db;
static int fds[FILE_KIND_COUNT];
static unsigned files[FILE_KIND_COUNT]; /* as database_opened numbers them */
static bool believed; /* something was done that only a connection of SQLite knows to be right */
static char root[SCRATCH_PATH_MAX + 8];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    snprintf(root, sizeof root, "%s/node", fuzz_folder());
    return 0;
}

static const char *name_of(enum file_kind kind)
{
    static const char *const names[] = {"a.db", "a.db-journal", "a.db-wal", "a.db-shm"};
    return names[kind];
}

/* With VERBOSE set. */
static void trace(const char *what, enum file_kind kind, int64_t off, size_t n)
{
    static int verbose = -1;
    if (verbose < 0)
        verbose = getenv("VERBOSE") != NULL;
    if (verbose)
        fprintf(stderr, "--- %s %s%s at %lld, %zu bytes\n", what, name_of(kind),
                fds[kind] < 0 ? " (closed)" : "", (long long)off, n);
}

static void node_begin(void)
{
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    db = catalog_get(node.catalog, "a.db");
    FUZZ_MUST(db != NULL);
}

static void close_file(enum file_kind kind)
{
    trace("close", kind, 0, 0);
    if (fds[kind] < 0)
        return;
    (void)database_flushed(db, kind, files[kind], false);
    database_released(db, kind, files[kind], false);
    close(fds[kind]);
    fds[kind] = -1;
}

static void node_end(void)
{
    for (int kind = 0; kind <= FILE_SHM; kind++)
        close_file((enum file_kind)kind);
    catalog_put(db);
    fsnode_close(&node);
}

static void open_file(enum file_kind kind)
{
    trace("open", kind, 0, 0);
    if (fds[kind] >= 0 || database_may_open(db, kind, O_RDWR | O_CREAT, false) != 0)
        return;
    fds[kind] = openat(node.tree_dirfd, name_of(kind), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    FUZZ_MUST(fds[kind] >= 0);
    files[kind] = database_opened(db, kind, false);
}

/* A journal, and what a connection in WAL mode writes into the database, may be any bytes; and a WAL
 * may begin anew only when all of it is in the database. */
static void note_believed(enum file_kind kind, int64_t off)
{
    bool anew = kind == FILE_WAL && off < WAL_HEADER_SIZE && db->wal.captured > 0;
    bool checkpoint = kind == FILE_MAIN && fds[FILE_WAL] >= 0;
    believed = believed || kind == FILE_JOURNAL || checkpoint || anew;
}

static void write_file(enum file_kind kind, int64_t off, const uint8_t *data, size_t n)
{
    trace("write", kind, off, n);
    if (fds[kind] < 0 || n == 0 || database_before_write(db, kind, false, off, n) != 0)
        return;
    note_believed(kind, off);
    FUZZ_MUST(pwrite(fds[kind], data, n, off) == (ssize_t)n);
    (void)database_after_write(db, kind, false, off, n);
}

static void truncate_file(enum file_kind kind, int64_t size)
{
    trace("truncate", kind, size, 0);
    if (fds[kind] < 0 || database_before_truncate(db, kind, false, size) != 0)
        return;
    note_believed(kind, size);
    FUZZ_MUST(ftruncate(fds[kind], size) == 0);
    (void)database_after_truncate(db, kind, false, size);
}

static void unlink_file(enum file_kind kind)
{
    close_file(kind);
    trace("unlink", kind, 0, 0);
    if (faccessat(node.tree_dirfd, name_of(kind), F_OK, 0) != 0 ||
        database_before_unlink(db, kind, name_of(kind), false) != 0)
        return;
    FUZZ_MUST(unlinkat(node.tree_dirfd, name_of(kind), 0) == 0);
    database_after_unlink(db, kind, false);
}

/* A frame of the WAL that follows on the one before it in the file, in one write or in two. */
static void write_frame(struct fuzz_input *in)
{
    uint8_t frame[WAL_FRAME_HEADER_SIZE + PAGE], head[WAL_HEADER_SIZE], before[8];
    uint32_t n = fuzz_u8(in) % 32 + 1, how = fuzz_u8(in);
    struct wal_frame f = {.pgno = fuzz_u8(in) % 40u, .commit = how & 1 ? fuzz_u8(in) % 40u : 0};
    struct wal_header h;
    int64_t off = wal_frame_offset(PAGE, n);
    if (fds[FILE_WAL] < 0 || pread(fds[FILE_WAL], head, sizeof head, 0) != sizeof head ||
        !wal_header_parse(head, &h) || h.page_size != PAGE)
        return;
    uint32_t cksum[2] = {h.cksum[0], h.cksum[1]};
    if (n > 1 && pread(fds[FILE_WAL], before, 8, wal_frame_offset(PAGE, n - 1) + 16) == 8) {
        cksum[0] = get_be32(before);
        cksum[1] = get_be32(before + 4);
    }
    memset(frame, fuzz_u8(in), sizeof frame);
    if (f.pgno == 1 && how & 2) {
        memset(frame + WAL_FRAME_HEADER_SIZE, 0, 100);
        memcpy(frame + WAL_FRAME_HEADER_SIZE, "SQLite format 3\0\2\0\2\2", 20);
    }
    wal_frame_build(&h, frame, f, cksum);
    if (how & 4)
        memset(frame + 8, 0, 16); /* not sealed yet */
    if (how & 8) {
        write_file(FILE_WAL, off, frame, WAL_FRAME_HEADER_SIZE);
        if (!(how & 16))
            write_file(FILE_WAL, off + WAL_FRAME_HEADER_SIZE, frame + WAL_FRAME_HEADER_SIZE, PAGE);
    } else if (how & 16) {
        write_file(FILE_WAL, off + WAL_FRAME_HEADER_SIZE, frame + WAL_FRAME_HEADER_SIZE, PAGE);
    } else {
        write_file(FILE_WAL, off, frame, sizeof frame);
    }
}

/* A header that is right: of the database, of a journal, of a WAL. */
static void write_header(enum file_kind kind, struct fuzz_input *in)
{
    uint8_t bytes[PAGE] = {0};
    uint8_t a = fuzz_u8(in), b = fuzz_u8(in);
    struct wal_header h = {.page_size = PAGE, .salt = {a, b}, .checkpoint_seq = b};
    switch (kind) {
    case FILE_MAIN:
        memcpy(bytes, "SQLite format 3\0\2\0\1\1", 20);
        bytes[18] = bytes[19] = a & 1 ? 2 : 1;
        bytes[27] = bytes[95] = a;
        put_be32(bytes + 28, b % 64u);
        write_file(kind, 0, bytes, PAGE);
        break;
    case FILE_JOURNAL:
        if (!(a & 1))
            memcpy(bytes, JOURNAL_MAGIC, 8);
        put_be32(bytes + 8, a >> 1);
        put_be32(bytes + 16, b % 64u);
        put_be32(bytes + 20, PAGE);
        put_be32(bytes + 24, PAGE);
        write_file(kind, 0, bytes, a & 2 ? JOURNAL_HEADER_SIZE : PAGE);
        break;
    case FILE_WAL:
        wal_header_build(&h, bytes);
        write_file(kind, 0, bytes, WAL_HEADER_SIZE);
        break;
    default: break;
    }
}

static void do_step(struct fuzz_input *in)
{
    enum step op = (enum step)(fuzz_u8(in) % STEP_COUNT);
    enum file_kind kind = (enum file_kind)(fuzz_u8(in) % (FILE_SHM + 1));
    const uint8_t *data;
    int64_t off;
    size_t n;
    switch (op) {
    case OPEN: open_file(kind); break;
    case CLOSE: close_file(kind); break;
    case WRITE:
        off = fuzz_u32(in) & REACH;
        data = fuzz_piece(in, &n);
        write_file(kind, off, data, n);
        break;
    case FRAME: write_frame(in); break;
    case HEADER: write_header(kind, in); break;
    case TRUNCATE: truncate_file(kind, fuzz_u32(in) & REACH); break;
    case SYNC:
        if (fds[kind] >= 0)
            (void)database_sync(db, kind, false, fds[kind]);
        break;
    case UNLINK: unlink_file(kind); break;
    case SETTLE:
        trace("settle", FILE_MAIN, 0, 0);
        fsnode_settle(&node);
        break;
    case RESTART:
        trace("restart", FILE_MAIN, 0, 0);
        node_end();
        node_begin();
        break;
    default: break;
    }
}

/* Without a -wal that holds a part of it the database file is what the log says, if it is as long. */
static void compare(const struct logcopy *copy)
{
    static uint8_t bytes[REACH + 1 + 64 * PAGE];
    struct stat st;
    if (copy->commit == 0 || db->wal.captured > 0 || dirty_any(&db->dirty) || db->journal_hot ||
        faccessat(node.tree_dirfd, "a.db-journal", F_OK, 0) == 0)
        return;
    int fd = openat(node.tree_dirfd, "a.db", O_RDONLY | O_CLOEXEC);
    size_t size = (size_t)copy->commit * copy->page_size;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size >= (off_t)size && size <= sizeof bytes) {
        FUZZ_MUST(pread(fd, bytes, size, 0) == (ssize_t)size);
        FUZZ_MUST(logcopy_equals(copy, bytes, size));
    }
    close(fd);
}

/*
 * The log can be read, and the files agree with it. What a journal brings back and a checkpoint
 * writes is believed: where that was not what they are for, the next start calls it damaged.
 */
static void check(void)
{
    struct ledger *l = fsnode_ledger(&node, "a.db");
    struct ledger_info info;
    struct logcopy copy;
    if (!l)
        return;
    ledger_info(l, &info);
    FUZZ_MUST(!info.damaged || believed);
    logcopy_open(&copy);
    (void)logcopy_advance(&copy, l);
    FUZZ_MUST(copy.commit == info.commit);
    if (!believed)
        compare(&copy);
    logcopy_close(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    memset(fds, -1, sizeof fds);
    believed = false;
    node_begin();
    for (unsigned i = 0; i < STEPS_MAX && in.left > 0; i++)
        do_step(&in);
    for (int kind = FILE_SHM; kind >= 0; kind--)
        close_file((enum file_kind)kind);
    fsnode_settle(&node);
    check();
    node_end();
    node_begin();
    check();
    node_end();
    scratch_remove(root);
    return 0;
}
