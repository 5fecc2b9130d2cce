/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/journal.h"

#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"

struct segment {
    uint32_t records;
    uint32_t nonce;
    uint32_t page_count;
    uint32_t sector_size;
    uint32_t page_size;
};

int journal_look(int fd, bool *hot)
{
    uint8_t magic[8];
    int err = file_read(fd, magic, sizeof magic, 0);
    *hot = !err && memcmp(magic, JOURNAL_MAGIC, sizeof magic) == 0;
    return err == -ERR_TRUNCATED ? 0 : err;
}

int journal_super_name(int fd, char name[JOURNAL_SUPER_MAX])
{
    uint8_t tail[16];
    int64_t size;
    *name = '\0';
    int err = file_size(fd, &size);
    if (err || size < (int64_t)sizeof tail)
        return err;
    err = file_read(fd, tail, sizeof tail, size - (int64_t)sizeof tail);
    uint32_t length = get_be32(tail), sum = get_be32(tail + 4);
    if (err || memcmp(tail + 8, JOURNAL_MAGIC, 8) != 0 || length >= JOURNAL_SUPER_MAX ||
        length > size - (int64_t)sizeof tail)
        return err;
    err = file_read(fd, name, length, size - (int64_t)sizeof tail - length);
    for (uint32_t i = 0; i < length; i++)
        sum -= (uint32_t)name[i]; /* a char as SQLite has it: with its sign, where it has one */
    name[err || sum ? 0 : length] = '\0';
    return err;
}

static bool segment_parse(const uint8_t in[JOURNAL_HEADER_SIZE], struct segment *out)
{
    if (memcmp(in, JOURNAL_MAGIC, 8) != 0)
        return false;
    out->records = get_be32(in + 8);
    out->nonce = get_be32(in + 12);
    out->page_count = get_be32(in + 16);
    out->sector_size = get_be32(in + 20);
    out->page_size = get_be32(in + 24);
    return true;
}

static bool sizes_valid(const struct segment *s)
{
    return ltx_page_size_valid(s->page_size) && s->sector_size >= 32 && s->sector_size <= 65536 &&
           (s->sector_size & (s->sector_size - 1)) == 0;
}

static uint32_t record_checksum(uint32_t nonce, const uint8_t *page, uint32_t page_size)
{
    uint32_t sum = nonce;
    for (int64_t i = (int64_t)page_size - 200; i > 0; i -= 200)
        sum += page[i];
    return sum;
}

/* Plays one segment's records back from *off on. False: the journal ends here. */
static int segment_play_back(int fd, const struct segment *s, int64_t size, int64_t *off,
                             uint8_t *record, struct journal_target target, uint32_t *pages,
                             bool *more)
{
    int64_t record_size = (int64_t)s->page_size + 8;
    int64_t fit = (size - *off) / record_size;
    int64_t count = s->records == 0xffffffffu ? fit : s->records;

    *more = false;
    for (int64_t i = 0; i < count; i++) {
        if (*off + record_size > size)
            return 0;
        int err = file_read(fd, record, (size_t)record_size, *off);
        if (err)
            return err;
        uint32_t pgno = get_be32(record);
        if (pgno == 0 || pgno == ltx_lock_pgno(s->page_size))
            return 0;
        *off += record_size;
        if (pgno > s->page_count)
            continue;
        if (record_checksum(s->nonce, record + 4, s->page_size) !=
            get_be32(record + 4 + s->page_size))
            return 0;
        err = target.put(target.ctx, pgno, record + 4, s->page_size);
        if (err)
            return err;
        (*pages)++;
    }
    *more = true;
    return 0;
}

int journal_play_back(int fd, struct journal_target target, uint32_t *pages)
{
    int64_t size, off = 0;
    struct segment first = {0};
    uint8_t *record = NULL;
    bool more = true;
    int err = file_size(fd, &size);

    *pages = 0;
    while (!err && more && off + JOURNAL_HEADER_SIZE <= size) {
        uint8_t bytes[JOURNAL_HEADER_SIZE];
        struct segment s;
        err = file_read(fd, bytes, sizeof bytes, off);
        if (err || !segment_parse(bytes, &s))
            break;
        if (!first.page_size) {
            if (!sizes_valid(&s) || off + s.sector_size > size)
                break;
            first = s;
            record = malloc((size_t)s.page_size + 8);
            if (!record)
                return -ERR_NOMEM;
        }
        /* Only the first header's sizes count; later ones repeat them. */
        s.page_size = first.page_size;
        s.sector_size = first.sector_size;
        s.page_count = first.page_count;
        off += s.sector_size;
        err = segment_play_back(fd, &s, size, &off, record, target, pages, &more);
        off = (off + s.sector_size - 1) / s.sector_size * s.sector_size;
    }
    if (!err && first.page_size)
        err = target.resize(target.ctx, first.page_count, first.page_size);
    free(record);
    return err;
}
