/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/base/clock.h"

/*
 * How far a long piece of work is: on a terminal one line that is redrawn, elsewhere a log line
 * every five seconds. Work that ends sooner than the first line is due shows nothing at all.
 * progress_begin, progress_update as often as you like, progress_end. Belongs to one thread.
 */
enum progress_unit { PROGRESS_BYTES, PROGRESS_PAGES };

struct progress {
    const char *what; /* "import of app.db"; borrowed */
    enum progress_unit unit;
    struct mono began;
    struct mono shown;
    bool terminal;
    bool drawn; /* a line stands on the terminal */
    bool said;  /* something was shown */
};

void progress_begin(struct progress *p, const char *what, enum progress_unit unit);
/* `total` 0: not known yet. */
void progress_update(struct progress *p, uint64_t done, uint64_t total);
/* Removes the line from the terminal. */
void progress_end(struct progress *p);

/* "what: 3.2 MB of 10.0 MB (32%), 1.6 MB/s, 4s left". */
void progress_format(char *out, size_t out_size, const char *what, enum progress_unit unit,
                     uint64_t done, uint64_t total, int64_t elapsed_ms);

#endif
