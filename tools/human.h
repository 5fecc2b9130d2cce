/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_HUMAN_H
#define TOOLS_HUMAN_H

#include <stdint.h>

/* Quantities as people read them. Each writes at most HUMAN_SIZE bytes with the NUL, returns out.
 */
#define HUMAN_SIZE 32

const char *human_bytes(uint64_t bytes, char out[HUMAN_SIZE]); /* "512 B", "1.4 MB", "2.0 GB" */
const char *human_ms(int64_t ms, char out[HUMAN_SIZE]);        /* "12 ms", "3.4 s", "2m05s" */
const char *human_duration(int64_t s, char out[HUMAN_SIZE]);   /* "5s", "2m05s", "3h10m", "4d2h" */
const char *human_time(int64_t unix_ms, char out[HUMAN_SIZE]); /* UTC, "2024-05-01T12:00:00Z" */

#endif
