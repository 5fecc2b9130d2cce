/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_BYTES_H
#define LTX_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Big-endian integers in byte arrays of any alignment. */

static inline uint16_t get_be16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] << 8 | b[1]);
}

static inline uint32_t get_be32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t get_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

static inline void put_be16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)(v >> 8);
    b[1] = (uint8_t)v;
}

static inline void put_be32(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void put_be64(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tandemfs is built for little-endian machines"
#endif

/* Unsigned varints, 7 bits a byte, least significant first (as in the LTX index). */
#define UVARINT_MAX 10

/* Writes v to p (room for UVARINT_MAX bytes) and returns the number of bytes written. */
static inline size_t put_uvarint(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    while (v >= 0x80) {
        p[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[n++] = (uint8_t)v;
    return n;
}

/* Reads a varint from p, of which `left` bytes are there. Returns its length, 0 if it is cut or too
 * long. */
static inline size_t get_uvarint(const uint8_t *p, size_t left, uint64_t *v)
{
    uint64_t value = 0;
    for (size_t n = 0; n < left && n < UVARINT_MAX; n++) {
        value |= (uint64_t)(p[n] & 0x7f) << (7 * n);
        if (p[n] < 0x80) {
            *v = value;
            return n + 1;
        }
    }
    return 0;
}

/* Reads 16 lower-case hexadecimal digits, as TXIDs and checksums are written. -1 if they are not.
 */
static inline int get_hex16(const char *p, uint64_t *v)
{
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        unsigned digit;
        if (p[i] >= '0' && p[i] <= '9')
            digit = (unsigned)(p[i] - '0');
        else if (p[i] >= 'a' && p[i] <= 'f')
            digit = (unsigned)(p[i] - 'a') + 10;
        else
            return -1;
        value = value << 4 | digit;
    }
    *v = value;
    return 0;
}

#endif
