/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/message.h"

#include <stdio.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/format.h"
#include "ltx/role.h"

static const char magic[4] = {'T', 'F', 'S', 'M'};

static const char *const request_names[] = {
    "?",      "WHO",  "ANNOUNCE", "HELLO", "COMPARE", "SUBSCRIBE", "PULL",   "ACK",  "BEGIN",
    "BLOCKS", "WANT", "FETCH",    "END",   "COMMON",  "PREPARE",   "COMMIT", "ABORT"};
static const char *const answer_names[] = {"OK",     "ERROR",   "STATE",  "WELCOME",
                                           "STANDS", "RECORDS", "BEGUN",  "DIFFER",
                                           "PAGES",  "PIECES",  "SHARED", "PREPARED"};

/* The numbers of the wire do not follow our table, which may be sorted anew at any time. */
static const struct {
    uint16_t wire;
    int code;
} error_codes[] = {
    {1, -ERR_CLUSTER},      {2, -ERR_VERSION},  {3, -ERR_NOTPRIMARY}, {4, -ERR_CLOSED},
    {5, -ERR_DIVERGED},     {6, -ERR_POSITION}, {7, -ERR_NOTFOUND},   {8, -ERR_BUSY},
    {9, -ERR_PROTOCOL},     {10, -ERR_FENCED},  {11, -ERR_IO},        {12, -ERR_TIMEOUT},
    {13, -ERR_DAMAGED},     {14, -ERR_NOMEM},   {15, -ERR_ACCESS},    {16, -ERR_NOSPACE},
    {17, -ERR_UNSUPPORTED},
};

const char *msg_type_name(unsigned type)
{
    if (type >= MSG_WHO && type < MSG_REQUEST_END)
        return request_names[type];
    if (type >= MSG_OK && type < MSG_ANSWER_END)
        return answer_names[type - MSG_OK];
    return "?";
}

/* Whatever a file may be called: a name that was refused here would stop all the others. */
static bool component_valid(const char *p, size_t n)
{
    return n > 0 && n <= 255 && !(n == 1 && p[0] == '.') && !(n == 2 && p[0] == '.' && p[1] == '.');
}

bool msg_name_valid(const char *name)
{
    const char *p = name;

    if (strlen(name) >= STORE_NAME_MAX)
        return false;
    for (;;) {
        const char *slash = strchrnul(p, '/');
        if (!component_valid(p, (size_t)(slash - p)))
            return false;
        if (*slash == '\0')
            return true;
        p = slash + 1;
    }
}

/* Reading. */

int msg_open(const void *data, size_t len, struct msg_header *header, struct msg_reader *r)
{
    const uint8_t *p = data;

    if (len < MSG_HEADER_SIZE || memcmp(p, magic, sizeof magic) != 0)
        return -ERR_PROTOCOL;
    header->version = get_be16(p + 4);
    header->type = get_be16(p + 6);
    header->stamp.cluster_id = get_be64(p + 8);
    header->stamp.node_id = get_be64(p + 16);
    header->stamp.epoch = get_be64(p + 24);
    *r = (struct msg_reader){.p = p + MSG_HEADER_SIZE, .left = len - MSG_HEADER_SIZE};
    return header->version == MSG_VERSION ? 0 : -ERR_VERSION;
}

int msg_end(const struct msg_reader *r)
{
    return r->bad || r->left != 0 ? -ERR_PROTOCOL : 0;
}

const uint8_t *msg_get_bytes(struct msg_reader *r, size_t n)
{
    const uint8_t *p = r->p;

    if (r->bad || n > r->left) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    r->left -= n;
    return p;
}

uint8_t msg_get_u8(struct msg_reader *r)
{
    const uint8_t *p = msg_get_bytes(r, 1);
    return p == NULL ? 0 : *p;
}

uint16_t msg_get_u16(struct msg_reader *r)
{
    const uint8_t *p = msg_get_bytes(r, 2);
    return p == NULL ? 0 : get_be16(p);
}

uint32_t msg_get_u32(struct msg_reader *r)
{
    const uint8_t *p = msg_get_bytes(r, 4);
    return p == NULL ? 0 : get_be32(p);
}

uint64_t msg_get_u64(struct msg_reader *r)
{
    const uint8_t *p = msg_get_bytes(r, 8);
    return p == NULL ? 0 : get_be64(p);
}

bool msg_get_bool(struct msg_reader *r)
{
    uint8_t v = msg_get_u8(r);

    if (v > 1)
        r->bad = true;
    return v == 1;
}

void msg_get_text(struct msg_reader *r, char *out, size_t size)
{
    size_t n = msg_get_u16(r);
    const uint8_t *p = n < size ? msg_get_bytes(r, n) : NULL;

    out[0] = '\0';
    if (p == NULL || memchr(p, '\0', n) != NULL) {
        r->bad = true;
        return;
    }
    memcpy(out, p, n);
    out[n] = '\0';
}

void msg_get_name(struct msg_reader *r, char out[STORE_NAME_MAX])
{
    msg_get_text(r, out, STORE_NAME_MAX);
    if (!r->bad && !msg_name_valid(out))
        r->bad = true;
}

struct position msg_get_position(struct msg_reader *r)
{
    struct position p;

    p.txid = msg_get_u64(r);
    p.checksum = msg_get_u64(r);
    return p;
}

int msg_more(struct msg_reader *r)
{
    if (r->bad)
        return -ERR_PROTOCOL;
    if (r->left == 0)
        return 0;
    return ++r->items > MSG_ITEMS_MAX ? -ERR_PROTOCOL : 1;
}

static int got(const struct msg_reader *r)
{
    return r->bad ? -ERR_PROTOCOL : 0;
}

static int got_item(const struct msg_reader *r)
{
    return r->bad ? -ERR_PROTOCOL : 1;
}

/* Writing. */

void msg_put_bytes(struct msg_writer *w, const void *data, size_t n)
{
    if (w->err == 0)
        w->err = buf_append(w->buf, data, n);
}

void msg_put_u8(struct msg_writer *w, uint8_t v)
{
    msg_put_bytes(w, &v, 1);
}

static void put_u16(struct msg_writer *w, uint16_t v)
{
    uint8_t b[2];
    put_be16(b, v);
    msg_put_bytes(w, b, sizeof b);
}

void msg_put_u32(struct msg_writer *w, uint32_t v)
{
    uint8_t b[4];
    put_be32(b, v);
    msg_put_bytes(w, b, sizeof b);
}

void msg_put_u64(struct msg_writer *w, uint64_t v)
{
    uint8_t b[8];
    put_be64(b, v);
    msg_put_bytes(w, b, sizeof b);
}

void msg_put_text(struct msg_writer *w, const char *text)
{
    size_t n = strlen(text);

    if (n >= STORE_NAME_MAX && w->err == 0)
        w->err = -ERR_LIMIT;
    put_u16(w, (uint16_t)n);
    msg_put_bytes(w, text, n);
}

void msg_put_position(struct msg_writer *w, struct position p)
{
    msg_put_u64(w, p.txid);
    msg_put_u64(w, p.checksum);
}

struct msg_writer msg_begin(struct buf *b, enum msg_type type, const struct msg_stamp *stamp)
{
    struct msg_writer w = {.buf = b};

    buf_reset(b);
    msg_put_bytes(&w, magic, sizeof magic);
    put_u16(&w, MSG_VERSION);
    put_u16(&w, (uint16_t)type);
    msg_put_u64(&w, stamp->cluster_id);
    msg_put_u64(&w, stamp->node_id);
    msg_put_u64(&w, stamp->epoch);
    return w;
}

/* The messages. */

int msg_error_write(struct buf *b, const struct msg_stamp *s, int code, const char *primary,
                    const char *text)
{
    struct msg_writer w = msg_begin(b, MSG_ERROR, s);
    uint16_t wire = 11;
    char cut[MSG_TEXT_MAX];

    for (size_t i = 0; i < sizeof error_codes / sizeof *error_codes; i++)
        if (error_codes[i].code == code)
            wire = error_codes[i].wire;
    snprintf(cut, sizeof cut, "%s", text);
    put_u16(&w, wire);
    msg_put_text(&w, primary);
    msg_put_text(&w, cut);
    return w.err;
}

int msg_error_read(struct msg_reader *r, struct msg_error *out)
{
    uint16_t wire = msg_get_u16(r);

    out->code = -ERR_IO;
    for (size_t i = 0; i < sizeof error_codes / sizeof *error_codes; i++)
        if (error_codes[i].wire == wire)
            out->code = error_codes[i].code;
    msg_get_text(r, out->primary, sizeof out->primary);
    msg_get_text(r, out->text, sizeof out->text);
    return msg_end(r);
}

void msg_put_state(struct msg_writer *w, const struct msg_state *s)
{
    msg_put_u8(w, s->role);
    msg_put_u8(w, s->candidate);
    msg_put_text(w, s->url);
    msg_put_text(w, s->primary);
}

int msg_get_state(struct msg_reader *r, struct msg_state *out)
{
    out->role = msg_get_u8(r);
    if (out->role > ROLE_PRIMARY)
        r->bad = true;
    out->candidate = msg_get_bool(r);
    msg_get_text(r, out->url, sizeof out->url);
    msg_get_text(r, out->primary, sizeof out->primary);
    return got(r);
}

void msg_put_welcome(struct msg_writer *w, const struct msg_welcome *m)
{
    msg_put_u64(w, m->session);
    msg_put_u32(w, m->heartbeat_ms);
    msg_put_u32(w, m->ack_ms);
    msg_put_text(w, m->url);
}

int msg_get_welcome(struct msg_reader *r, struct msg_welcome *out)
{
    out->session = msg_get_u64(r);
    out->heartbeat_ms = msg_get_u32(r);
    out->ack_ms = msg_get_u32(r);
    msg_get_text(r, out->url, sizeof out->url);
    if (out->heartbeat_ms == 0 || out->heartbeat_ms > 3600000 || out->ack_ms > 60000)
        r->bad = true;
    return got(r);
}

int msg_next_url(struct msg_reader *r, char out[MSG_URL_MAX])
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    msg_get_text(r, out, MSG_URL_MAX);
    return got_item(r);
}

void msg_put_standing(struct msg_writer *w, const char *name, struct position p)
{
    msg_put_text(w, name);
    msg_put_position(w, p);
}

int msg_next_standing(struct msg_reader *r, char name[STORE_NAME_MAX], struct position *p)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    msg_get_name(r, name);
    *p = msg_get_position(r);
    return got_item(r);
}

void msg_put_stand(struct msg_writer *w, const struct msg_stand *s)
{
    msg_put_u8(w, s->known);
    msg_put_position(w, s->last);
    msg_put_position(w, s->first);
    msg_put_u64(w, s->checksum_at);
    msg_put_u32(w, s->page_size);
    msg_put_u32(w, s->commit);
    msg_put_u64(w, s->log_bytes);
}

int msg_next_stand(struct msg_reader *r, struct msg_stand *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    out->known = msg_get_bool(r);
    out->last = msg_get_position(r);
    out->first = msg_get_position(r);
    out->checksum_at = msg_get_u64(r);
    out->page_size = msg_get_u32(r);
    out->commit = msg_get_u32(r);
    out->log_bytes = msg_get_u64(r);
    if (out->page_size != 0 && !ltx_page_size_valid(out->page_size))
        r->bad = true;
    return got_item(r);
}

void msg_put_subscription(struct msg_writer *w, const struct msg_subscription *s)
{
    msg_put_text(w, s->name);
    msg_put_u32(w, s->generation);
    msg_put_u8(w, s->on);
    msg_put_position(w, s->position);
}

int msg_next_subscription(struct msg_reader *r, struct msg_subscription *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    msg_get_name(r, out->name);
    out->generation = msg_get_u32(r);
    out->on = msg_get_bool(r);
    out->position = msg_get_position(r);
    return got_item(r);
}

void msg_put_item(struct msg_writer *w, const struct msg_item *item)
{
    msg_put_u8(w, item->kind);
    msg_put_text(w, item->name);
    msg_put_u32(w, item->generation);
    switch (item->kind) {
    case MSG_RECORD: msg_put_u32(w, (uint32_t)item->size); break;
    case MSG_NEWS: msg_put_position(w, item->position); break;
    case MSG_LARGE: msg_put_u64(w, item->size); break;
    default: break;
    }
}

int msg_next_item(struct msg_reader *r, struct msg_item *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    out->kind = msg_get_u8(r);
    msg_get_name(r, out->name);
    out->generation = msg_get_u32(r);
    switch (out->kind) {
    case MSG_RECORD:
        out->size = msg_get_u32(r);
        out->data = msg_get_bytes(r, out->size);
        break;
    case MSG_NEWS: out->position = msg_get_position(r); break;
    case MSG_LARGE: out->size = msg_get_u64(r); break;
    case MSG_TRIMMED: break;
    default: r->bad = true;
    }
    return got_item(r);
}

int msg_next_range(struct msg_reader *r, struct msg_range *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    out->first = msg_get_u32(r);
    out->count = msg_get_u32(r);
    out->with_sums = msg_get_bool(r);
    out->sums = out->with_sums ? msg_get_bytes(r, (size_t)out->count * 8) : NULL;
    if (out->first == 0 || out->count == 0 || out->first + out->count < out->first)
        r->bad = true;
    return got_item(r);
}

int msg_next_page(struct msg_reader *r, struct msg_page *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    out->pgno = msg_get_u32(r);
    out->size = msg_get_u32(r);
    out->data = msg_get_bytes(r, out->size);
    if (out->pgno == 0)
        r->bad = true;
    return got_item(r);
}

int msg_next_piece(struct msg_reader *r, struct msg_piece *out)
{
    int rv = msg_more(r);

    if (rv <= 0)
        return rv;
    out->size = msg_get_u64(r);
    out->offset = msg_get_u64(r);
    out->length = msg_get_u32(r);
    out->data = msg_get_bytes(r, out->length);
    if (out->length == 0 || out->offset >= out->size || out->length > out->size - out->offset)
        r->bad = true;
    return got_item(r);
}
