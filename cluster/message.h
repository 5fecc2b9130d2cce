/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_MESSAGE_H
#define CLUSTER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/base/buf.h"
#include "ltx/position.h"
#include "ltx/store.h"

/*
 * What nodes say to each other. Integers are big-endian; url and text are a length (2 bytes) and
 * bytes without NUL, at most MSG_URL_MAX - 1 and MSG_TEXT_MAX - 1; a name is the same, at most
 * STORE_NAME_MAX - 1, and is a path below the mount (msg_name_valid); a position is TXID and
 * checksum, 8 bytes each. "..." items follow until the message ends, at most MSG_ITEMS_MAX.
 *
 * Every message, request or answer, begins with 32 bytes:
 *    0  4  magic "TFSM"
 *    4  2  protocol version, MSG_VERSION
 *    6  2  type
 *    8  8  cluster id; 0 = this node belongs to none yet
 *   16  8  node id of the sender
 *   24  8  epoch, the highest the sender knows
 * These eight bytes of magic, version and type stay where they are in every version, and so does
 * the layout of ERROR.
 *
 *   request    body                                           answer
 *   WHO        url (own)                                      STATE
 *   ANNOUNCE   url: the sender is primary of its epoch there  STATE
 *   HELLO      url (own), candidate 1                         WELCOME
 *   COMPARE    (name, position) ...                           STANDS, an item each, in order
 *   SUBSCRIBE  session 8, (name, generation 4, on 1, position) ...     OK
 *   PULL       session 8, seq 4: last answer that arrived, (name, durable position) ...  RECORDS
 *   ACK        session 8, (name, durable position) ...        OK
 *   BEGIN      name                                           BEGUN
 *   BLOCKS     name, page size 4, first block 4, (block sum 8) ...     DIFFER
 *   WANT       name, page size 4, (first page 4, count 4, with sums 1, count x sum 8) ...  PAGES
 *   FETCH      name, after txid 8, offset 8, at least to 8    PIECES
 *   END        name                                           OK
 *   COMMON     name, position ...                             SHARED
 *   PREPARE    token 8 (0 = begin), from 4, url               PREPARED
 *   COMMIT     token 8, epoch 8, url of the new primary       OK
 *   ABORT      token 8                                        OK
 *
 *   answer
 *   OK
 *   ERROR      code 2, url of the primary or "", text
 *   STATE      role 1, candidate 1, url (own), url of the primary or "", (url of a member) ...
 *   WELCOME    session 8, heartbeat ms 4, least ms between two ACKs 4, url (own), (url) ...
 *   STANDS     (known 1, last position, first position, checksum at the asked TXID 8 or 0,
 *              page size 4, commit 4, bytes of log after the asked TXID 8) ...
 *   RECORDS    seq 4, level 1, items: kind 1, name, generation 4 and
 *                MSG_RECORD: length 4, one record       MSG_NEWS: position
 *                MSG_LARGE: size 8                                MSG_TRIMMED: nothing
 *   BEGUN      position, page size 4, commit 4
 *   DIFFER     first block 4, a byte (0 or 1) for each block asked
 *   PAGES      page size 4 (now), ranges dealt with 4, pages of the next range dealt with 4, TXID
 *              that the pages do not exceed 8, (page number 4, compressed size 4, LZ4 block) ...;
 *              size 0: a transaction is changing the page, ask again later
 *   PIECES     level 1, durable position, (size of the record 8, offset 8, length 4,
 *              bytes) ...
 *   SHARED     found 1, newest shared position
 *   PREPARED   token 8, databases in all 4, (name, position) ...
 */
#define MSG_VERSION 1
#define MSG_HEADER_SIZE 32
#define MSG_URL_MAX 256
#define MSG_TEXT_MAX 512
#define MSG_ITEMS_MAX 262144
#define MSG_BATCH (1u << 20)     /* an answer with records or pages aims at this many bytes */
#define MSG_LIST (512u << 10)    /* a list of names is cut into messages of about this many */
#define MSG_RECORD_MAX MSG_BATCH /* longer records are fetched in pieces */
#define MSG_PIECE (1u << 20)     /* bytes of one piece */

enum msg_type {
    MSG_WHO = 1,
    MSG_ANNOUNCE,
    MSG_HELLO,
    MSG_COMPARE,
    MSG_SUBSCRIBE,
    MSG_PULL,
    MSG_ACK,
    MSG_BEGIN,
    MSG_BLOCKS,
    MSG_WANT,
    MSG_FETCH,
    MSG_END,
    MSG_COMMON,
    MSG_PREPARE,
    MSG_COMMIT,
    MSG_ABORT,
    MSG_REQUEST_END,

    MSG_OK = 64,
    MSG_ERROR,
    MSG_STATE,
    MSG_WELCOME,
    MSG_STANDS,
    MSG_RECORDS,
    MSG_BEGUN,
    MSG_DIFFER,
    MSG_PAGES,
    MSG_PIECES,
    MSG_SHARED,
    MSG_PREPARED,
    MSG_ANSWER_END
};
const char *msg_type_name(unsigned type);

/* Who speaks: the part of the header that is the same in all messages of a moment. */
struct msg_stamp {
    uint64_t cluster_id, node_id, epoch;
};

struct msg_header {
    uint16_t version;
    uint16_t type;
    struct msg_stamp stamp;
};

/*
 * Reading: msg_open, the fixed part with a msg_get_..., then items with a msg_next_... until it
 * gives 0; it gives a negated code if the bytes are not what the table says. The message's bytes
 * must stay where they are. -ERR_PROTOCOL for everything that is wrong; -ERR_VERSION from msg_open
 * for a message of another version, the header of which is then set as far as all versions agree.
 */
struct msg_reader {
    const uint8_t *p;
    size_t left;
    uint32_t items;
    bool bad;
};
int msg_open(const void *data, size_t len, struct msg_header *header, struct msg_reader *r);
int msg_end(const struct msg_reader *r); /* nothing is left and nothing was wrong */

/*
 * Writing: msg_begin empties the buffer and writes the header; msg_put_... appends; the first
 * failure sticks, and `err` has it at the end.
 */
struct msg_writer {
    struct buf *buf;
    int err;
};
struct msg_writer msg_begin(struct buf *b, enum msg_type type, const struct msg_stamp *stamp);

/* The database's name is a relative path without empty, "." and ".." parts; any other bytes. */
bool msg_name_valid(const char *name);

/* The simple values of the table. Getters mark the reader bad and give 0 or "" when cut. */
void msg_put_u8(struct msg_writer *w, uint8_t v);
void msg_put_u32(struct msg_writer *w, uint32_t v);
void msg_put_u64(struct msg_writer *w, uint64_t v);
void msg_put_text(struct msg_writer *w, const char *text); /* url, name, text */
void msg_put_position(struct msg_writer *w, struct position p);
void msg_put_bytes(struct msg_writer *w, const void *data, size_t n);
uint8_t msg_get_u8(struct msg_reader *r);
uint16_t msg_get_u16(struct msg_reader *r);
uint32_t msg_get_u32(struct msg_reader *r);
uint64_t msg_get_u64(struct msg_reader *r);
bool msg_get_bool(struct msg_reader *r); /* bad if neither 0 nor 1 */
void msg_get_text(struct msg_reader *r, char *out, size_t size);
void msg_get_name(struct msg_reader *r, char out[STORE_NAME_MAX]);
struct position msg_get_position(struct msg_reader *r);
const uint8_t *msg_get_bytes(struct msg_reader *r, size_t n); /* NULL if cut */
/* Whether another item begins: 1, 0 at the end, -ERR_PROTOCOL if bad or too many. */
int msg_more(struct msg_reader *r);

/* ERROR: codes of our table by the numbers that the wire has for them. */
struct msg_error {
    int code; /* -ERR_X */
    char primary[MSG_URL_MAX];
    char text[MSG_TEXT_MAX];
};
int msg_error_write(struct buf *b, const struct msg_stamp *s, int code, const char *primary,
                    const char *text);
int msg_error_read(struct msg_reader *r, struct msg_error *out);

struct msg_state {
    uint8_t role; /* enum role */
    bool candidate;
    char url[MSG_URL_MAX];
    char primary[MSG_URL_MAX];
};
void msg_put_state(struct msg_writer *w, const struct msg_state *s);
int msg_get_state(struct msg_reader *r, struct msg_state *out);

struct msg_welcome {
    uint64_t session;
    uint32_t heartbeat_ms, ack_ms;
    char url[MSG_URL_MAX];
};
void msg_put_welcome(struct msg_writer *w, const struct msg_welcome *m);
int msg_get_welcome(struct msg_reader *r, struct msg_welcome *out);
int msg_next_url(struct msg_reader *r, char out[MSG_URL_MAX]);

/* (name, position): COMPARE, PULL, ACK, PREPARED. */
void msg_put_standing(struct msg_writer *w, const char *name, struct position p);
int msg_next_standing(struct msg_reader *r, char name[STORE_NAME_MAX], struct position *p);

struct msg_stand {
    bool known;
    struct position last, first;
    uint64_t checksum_at; /* 0 = not known */
    uint32_t page_size, commit;
    uint64_t log_bytes;
};
void msg_put_stand(struct msg_writer *w, const struct msg_stand *s);
int msg_next_stand(struct msg_reader *r, struct msg_stand *out);

struct msg_subscription {
    char name[STORE_NAME_MAX];
    uint32_t generation;
    bool on;
    struct position position;
};
void msg_put_subscription(struct msg_writer *w, const struct msg_subscription *s);
int msg_next_subscription(struct msg_reader *r, struct msg_subscription *out);

enum msg_item_kind { MSG_RECORD = 1, MSG_NEWS, MSG_LARGE, MSG_TRIMMED };
struct msg_item {
    uint8_t kind;
    char name[STORE_NAME_MAX];
    uint32_t generation;
    struct position position; /* NEWS */
    uint64_t size;            /* LARGE, RECORD; bytes */
    const uint8_t *data;      /* RECORD; in the message */
};
/* Everything but a record's own bytes, which the caller appends. */
void msg_put_item(struct msg_writer *w, const struct msg_item *item);
int msg_next_item(struct msg_reader *r, struct msg_item *out);

struct msg_range {
    uint32_t first, count; /* pages */
    bool with_sums;
    const uint8_t *sums; /* count x 8 bytes, big-endian, in the message */
};
int msg_next_range(struct msg_reader *r, struct msg_range *out);

struct msg_page {
    uint32_t pgno;
    uint32_t size; /* compressed, bytes */
    const uint8_t *data;
};
int msg_next_page(struct msg_reader *r, struct msg_page *out);

struct msg_piece {
    uint64_t size, offset; /* of the whole record; of this piece in it; bytes */
    uint32_t length;
    const uint8_t *data;
};
int msg_next_piece(struct msg_reader *r, struct msg_piece *out);

#endif
