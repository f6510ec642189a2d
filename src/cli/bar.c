#include "cli/bar.h"
#include "cli/cli.h"
#include "cli/terminal.h"

#include <unistd.h>

static void show(void *arg, u64 done, u64 total)
{
    const struct bar *b = arg;
    struct timespec now;
    char line[160], a[24], c[24], rate[24], cells[21];
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)(now.tv_sec - b->start.tv_sec) + (double)(now.tv_nsec - b->start.tv_nsec) / 1e9;
    unsigned full = total ? (unsigned)(MIN(done, total) * 20 / total) : 20;
    for (unsigned i = 0; i < 20; i++)
        cells[i] = i < full ? '#' : '.';
    cells[20] = 0;
    done *= b->unit;
    snprintf(line, sizeof(line), "%.30s [%s] %s of %s, %s/s", b->name, cells, cli_size_name(done, a),
             cli_size_name(total * b->unit, c), cli_size_name(seconds > 0.2 ? (u64)((double)done / seconds) : 0, rate));
    terminal_status(line);
}

static bar_tell *begin(struct bar *b, const char *name, u64 unit)
{
    *b = (struct bar){.name = name, .unit = unit};
    clock_gettime(CLOCK_MONOTONIC, &b->start);
    return isatty(STDERR_FILENO) ? show : NULL;
}

bar_tell *bar_begin(struct bar *b, const char *name)
{
    return begin(b, name, 1);
}

bar_tell *bar_begin_pages(struct bar *b, const char *name)
{
    return begin(b, name, PAGE_SIZE);
}
