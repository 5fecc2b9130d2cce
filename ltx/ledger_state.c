/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"
#include "ltx/store.h"

/*
 * The state file of a ledger, big-endian. It is replaced as a whole (file_replace), and only after
 * the sums of its position are on disk.
 *    0  8    magic "TFSTATE1"
 *    8  8+8  S: the position which the database file is known to have reached durably
 *   24  4    page size at S, bytes; 0 = never seen
 *   28  4    commit at S, pages
 *   32  8    timestamp of the record that led to S, ms since the Unix epoch; 0 = unknown
 *   40  4    flags: 1 = unclean, the file holds changes that no record has
 *   44  4    length of the name, bytes
 *   48  n    name of the database: its path below the mount
 * 48+n  8    CRC-64 of all before
 */
#define STATE_FILE "state"
#define STATE_FIXED 48
#define STATE_CRC 8
#define STATE_UNCLEAN 0x1u
#define SUMS_FILE "sums"

static const uint8_t magic[8] = {'T', 'F', 'S', 'T', 'A', 'T', 'E', '1'};

/* Sums are copied under the mutex and written without it, so many blocks at a time. */
#define BATCH_BLOCKS 64u
struct batch {
    uint64_t sums[BATCH_BLOCKS][PAGESUMS_FILE_BLOCK];
    uint32_t block[BATCH_BLOCKS];
    uint32_t len[BATCH_BLOCKS];
    uint32_t count;
    uint64_t txid; /* the sums are of this transaction or an earlier one */
};

static int decode_state(const uint8_t *in, size_t n, struct ledger_state *state, char **name)
{
    if (n < STATE_FIXED + STATE_CRC || memcmp(in, magic, sizeof magic) != 0)
        return -ERR_CORRUPT;
    size_t name_len = get_be32(in + 44);
    if (name_len == 0 || name_len >= STORE_NAME_MAX || n != STATE_FIXED + name_len + STATE_CRC)
        return -ERR_CORRUPT;
    if (get_be64(in + n - STATE_CRC) != checksum_update(0, in, n - STATE_CRC))
        return -ERR_CHECKSUM;
    if (memchr(in + STATE_FIXED, 0, name_len) != NULL)
        return -ERR_CORRUPT;
    *state = (struct ledger_state){
        .recovery = {get_be64(in + 8), get_be64(in + 16)},
        .page_size = get_be32(in + 24),
        .commit = get_be32(in + 28),
        .timestamp_ms = (int64_t)get_be64(in + 32),
        .unclean = (get_be32(in + 40) & STATE_UNCLEAN) != 0,
    };
    if (state->commit > 0 && !ltx_page_size_valid(state->page_size))
        return -ERR_CORRUPT;
    *name = strndup((const char *)in + STATE_FIXED, name_len);
    return *name == NULL ? -ERR_NOMEM : 0;
}

/* One writer of sums and state at a time; commits go on meanwhile. */
static void saving_begin(struct ledger *l)
{
    mutex_lock(&l->mutex);
    while (l->saving)
        cond_wait(&l->saved, &l->mutex);
    l->saving = true;
    mutex_unlock(&l->mutex);
}

static void saving_end(struct ledger *l)
{
    mutex_lock(&l->mutex);
    l->saving = false;
    cond_signal(&l->saved);
    mutex_unlock(&l->mutex);
}

static int write_state(struct ledger *l, const struct ledger_state *state)
{
    int rc = ledger_state_write(l->dirfd, state, l->name);
    if (rc == 0) {
        mutex_lock(&l->mutex);
        l->state = *state;
        mutex_unlock(&l->mutex);
    }
    return rc;
}

static void take_batch(struct ledger *l, struct batch *b, uint32_t *block)
{
    mutex_lock(&l->mutex);
    uint32_t n;
    for (b->count = 0; b->count < BATCH_BLOCKS; b->count++, (*block)++) {
        n = pagesums_take_dirty(&l->sums, block, b->sums[b->count]);
        if (n == 0)
            break;
        b->block[b->count] = *block;
        b->len[b->count] = n;
    }
    b->txid = l->last.txid;
    mutex_unlock(&l->mutex);
}

static void give_back_batch(struct ledger *l, const struct batch *b)
{
    mutex_lock(&l->mutex);
    for (uint32_t i = 0; i < b->count; i++)
        pagesums_mark_dirty(&l->sums, b->block[i]);
    mutex_unlock(&l->mutex);
}

static void mark_all(struct ledger *l)
{
    mutex_lock(&l->mutex);
    for (uint32_t pages = 0, b = 0; pages < l->sums.count; pages += PAGESUMS_FILE_BLOCK)
        pagesums_mark_dirty(&l->sums, b++);
    mutex_unlock(&l->mutex);
}

static int write_batch(struct ledger *l, const struct batch *b, int fd)
{
    /* I6: a start may find these entries, so the records that made them must be there then. */
    int rc = txlog_sync(l->log, b->txid);
    for (uint32_t i = 0; rc == 0 && i < b->count; i++)
        rc = file_write(fd, b->sums[i], b->len[i] * sizeof b->sums[i][0],
                        (int64_t)b->block[i] * (int64_t)sizeof b->sums[i]);
    return rc;
}

static int save_sums(struct ledger *l)
{
    struct batch *b = malloc(sizeof *b);
    if (b == NULL)
        return -ERR_NOMEM;
    int fd = -1, rc = 0;
    uint32_t block = 0;
    /* A state with pages is on disk only together with the name of this file. */
    bool named = l->state.commit > 0 && file_exists(l->dirfd, SUMS_FILE);
    for (;;) {
        take_batch(l, b, &block);
        if (b->count == 0)
            break;
        if (fd < 0)
            rc = file_open(l->dirfd, SUMS_FILE, O_RDWR | O_CREAT, 0600, &fd);
        if (rc == 0)
            rc = write_batch(l, b, fd);
        if (rc < 0) {
            give_back_batch(l, b);
            break;
        }
    }
    free(b);
    if (fd < 0)
        return rc;
    int synced = file_sync_data(fd);
    (void)file_close(fd);
    if (synced == 0 && !named)
        synced = file_sync_dir(l->dirfd, ".");
    if (synced < 0)
        mark_all(l); /* which of them are on disk is not known */
    return rc < 0 ? rc : synced;
}

/* What the database was at `p`, from the log if that is not now. */
static int state_at(struct ledger *l, struct position p, struct ledger_state *out)
{
    mutex_lock(&l->mutex);
    *out = l->state;
    bool now = position_equal(p, l->last);
    if (now) {
        out->page_size = l->page_size;
        out->commit = l->commit;
        out->timestamp_ms = l->timestamp_ms;
    }
    mutex_unlock(&l->mutex);
    if (now || position_equal(p, out->recovery)) {
        out->recovery = p;
        return 0;
    }
    struct txlog_entry e;
    uint8_t bytes[LTX_HEADER_SIZE];
    struct ltx_header h;
    int rc = txlog_find_ending(l->log, p, &e);
    if (rc != 0)
        return rc == -ERR_NOTFOUND ? -ERR_POSITION : rc;
    rc = txlog_entry_read(&e, 0, bytes, sizeof bytes);
    txlog_entry_release(&e);
    if (rc == 0)
        rc = ltx_header_decode(bytes, &h);
    if (rc != 0)
        return rc;
    out->recovery = p;
    out->page_size = h.page_size;
    out->commit = h.commit;
    out->timestamp_ms = h.timestamp_ms;
    return 0;
}

static bool state_equal(const struct ledger_state *a, const struct ledger_state *b)
{
    return position_equal(a->recovery, b->recovery) && a->page_size == b->page_size &&
           a->commit == b->commit && a->timestamp_ms == b->timestamp_ms && a->unclean == b->unclean;
}

static int checkpoint(struct ledger *l, struct position p)
{
    struct ledger_state state;
    int rc = state_at(l, p, &state);
    if (rc == 0)
        rc = save_sums(l);
    /* I6: also the sums that are missing there, because records since have cut their pages off, are
     * newer than S, and those records must be there then. */
    if (rc == 0)
        rc = txlog_sync(l->log, txlog_last(l->log).txid);
    if (rc < 0)
        return rc;
    mutex_lock(&l->mutex);
    bool same = state_equal(&state, &l->state);
    mutex_unlock(&l->mutex);
    return same ? 0 : write_state(l, &state);
}

int ledger_state_read(int dirfd, struct ledger_state *state, char **name)
{
    uint8_t in[STATE_FIXED + STORE_NAME_MAX + STATE_CRC];
    size_t got;
    int fd;
    int rc = file_open(dirfd, STATE_FILE, O_RDONLY, 0, &fd);
    if (rc < 0)
        return rc;
    rc = file_read_some(fd, in, sizeof in, 0, &got);
    (void)file_close(fd);
    return rc < 0 ? rc : decode_state(in, got, state, name);
}

int ledger_state_write(int dirfd, const struct ledger_state *state, const char *name)
{
    uint8_t out[STATE_FIXED + STORE_NAME_MAX + STATE_CRC] = {0};
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len >= STORE_NAME_MAX)
        return -ERR_INVALID;
    memcpy(out, magic, sizeof magic);
    put_be64(out + 8, state->recovery.txid);
    put_be64(out + 16, state->recovery.checksum);
    put_be32(out + 24, state->page_size);
    put_be32(out + 28, state->commit);
    put_be64(out + 32, (uint64_t)state->timestamp_ms);
    put_be32(out + 40, state->unclean ? STATE_UNCLEAN : 0);
    put_be32(out + 44, (uint32_t)name_len);
    memcpy(out + STATE_FIXED, name, name_len); /* NOLINT(bugprone-not-null-terminated-result) */
    size_t n = STATE_FIXED + name_len;
    put_be64(out + n, checksum_update(0, out, n));
    return file_replace(dirfd, STATE_FILE, out, n + STATE_CRC, 0600);
}

int ledger_checkpoint(struct ledger *l, struct position p)
{
    saving_begin(l);
    int rc = checkpoint(l, p);
    saving_end(l);
    return rc < 0 ? rc : txlog_drop_superseded(l->log, p);
}

int ledger_set_unclean(struct ledger *l, bool unclean)
{
    if (ledger_is_unclean(l) == unclean)
        return 0;
    saving_begin(l);
    mutex_lock(&l->mutex);
    struct ledger_state state = l->state;
    mutex_unlock(&l->mutex);
    state.unclean = unclean;
    int rc = write_state(l, &state);
    saving_end(l);
    return rc;
}

bool ledger_is_unclean(struct ledger *l)
{
    mutex_lock(&l->mutex);
    bool unclean = l->state.unclean;
    mutex_unlock(&l->mutex);
    return unclean;
}
