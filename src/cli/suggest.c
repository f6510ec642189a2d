#include "cli/cli.h"

#include <string.h>

#define LONGEST 40

/* Optimal string alignment distance: three rows of the usual table. */
unsigned cli_distance(const char *a, const char *b)
{
    unsigned rows[3][LONGEST + 1];
    size_t la = strlen(a), lb = strlen(b);
    if (la > LONGEST || lb > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = MIN(best, last[j] + 1);
            best = MIN(best, now[j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = MIN(best, before[j - 2] + 1);
            now[j] = best;
        }
    }
    return rows[la % 3][lb];
}

void cli_suggest(const char *typed, const char *candidate, const char **best, unsigned *distance)
{
    unsigned d = cli_distance(typed, candidate);
    unsigned longest = (unsigned)MAX(strlen(typed), strlen(candidate));
    /* A beginning is meant more often than a slip: `doc`, `insp`. */
    if (strlen(typed) >= 3 && !strncmp(typed, candidate, strlen(typed)))
        d = 1;
    if (d > MAX(1, longest / 3) || (*best && d >= *distance))
        return;
    *best = candidate;
    *distance = d;
}
