/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ltx/base/logger.h"
#include "tools/human.h"

#define REDRAW_MS 200
#define LOG_MS 5000

static const char *quantity(enum progress_unit unit, uint64_t n, char out[HUMAN_SIZE])
{
    if (unit == PROGRESS_BYTES)
        return human_bytes(n, out);
    snprintf(out, HUMAN_SIZE, "%llu", (unsigned long long)n);
    return out;
}

/* Cuts the line to the terminal's width: a line that wraps cannot be redrawn in place. */
static void draw(struct progress *p, char *line)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 &&
        strlen(line) >= size.ws_col)
        line[size.ws_col - 1] = '\0';
    fprintf(stderr, "\r\033[K%s", line);
    fflush(stderr);
    p->drawn = true;
}

void progress_format(char *out, size_t out_size, const char *what, enum progress_unit unit,
                     uint64_t done, uint64_t total, int64_t elapsed_ms)
{
    char a[HUMAN_SIZE], b[HUMAN_SIZE], c[HUMAN_SIZE], d[HUMAN_SIZE];
    const char *word = unit == PROGRESS_PAGES ? " pages" : "";
    uint64_t rate = elapsed_ms > 0 ? (uint64_t)((double)done * 1000 / (double)elapsed_ms) : 0;
    if (total == 0) {
        snprintf(out, out_size, "%s: %s%s, %s%s/s", what, quantity(unit, done, a), word,
                 quantity(unit, rate, b), word);
        return;
    }
    if (done > total)
        done = total;
    int percent = (int)((double)done * 100 / (double)total);
    if (rate == 0) {
        snprintf(out, out_size, "%s: %s of %s%s (%d%%)", what, quantity(unit, done, a),
                 quantity(unit, total, b), word, percent);
        return;
    }
    snprintf(out, out_size, "%s: %s of %s%s (%d%%), %s%s/s, %s left", what, quantity(unit, done, a),
             quantity(unit, total, b), word, percent, quantity(unit, rate, c), word,
             human_duration((int64_t)((total - done + rate - 1) / rate), d));
}

void progress_begin(struct progress *p, const char *what, enum progress_unit unit)
{
    *p = (struct progress){
        .what = what, .unit = unit, .began = mono_now(), .terminal = isatty(STDERR_FILENO) == 1};
    p->shown = p->began;
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
    char line[256];
    if (mono_since_ms(p->shown) < (p->terminal ? REDRAW_MS : LOG_MS))
        return;
    p->shown = mono_now();
    p->said = true;
    progress_format(line, sizeof line, p->what, p->unit, done, total, mono_since_ms(p->began));
    if (p->terminal)
        draw(p, line);
    else
        log_info("progress", "%s", line);
}

void progress_end(struct progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
}
