#include "cli/cli.h"

#include <string.h>

#define WIDTH  80
#define INDENT 26

/* Print `text` in lines of WIDTH columns; continuation lines start at column `indent`, the first is at `at` already. */
static void wrap(FILE *out, const char *text, unsigned at, unsigned indent)
{
    unsigned column = at;
    bool first = true;
    while (*text) {
        if (*text == '\n') {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            first = true;
            text++;
            continue;
        }
        if (*text == ' ') {
            text++;
            continue;
        }
        size_t len = strcspn(text, " \n");
        if (!first && column + 1 + len > WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        column += (unsigned)fprintf(out, "%s%.*s", first ? "" : " ", (int)len, text);
        first = false;
        text += len;
    }
    fputc('\n', out);
}

/* "  -m, --memory SIZE" and its help beside it, or below it if it is long. */
static void option_line(FILE *out, enum option_id id)
{
    const struct option_def *o = &cli_options[id];
    char left[64], help[256];
    char letter[8] = "    ";
    if (o->letter)
        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    snprintf(left, sizeof(left), "  %s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
    int n = snprintf(help, sizeof(help), "%s", o->help);
    if (o->choices)
        n += snprintf(help + n, sizeof(help) - (size_t)n, ": %s", o->choices);
    if (o->preset && *o->preset)
        snprintf(help + n, sizeof(help) - (size_t)n, " (default %s)", o->preset);
    fprintf(out, "%-*s", INDENT, left);
    if (strlen(left) >= INDENT)
        fprintf(out, "\n%*s", INDENT, "");
    wrap(out, help, INDENT, INDENT);
}

void cli_usage(FILE *out, const struct verb *v)
{
    fprintf(out, "%s%s%s", v->options[0] ? "[OPTIONS]" : "", v->options[0] && *v->operands ? " " : "", v->operands);
}

static void exit_table(FILE *out)
{
    fputs("\nExit status\n", out);
    for (const struct cli_exit_row *x = cli_exit_rows; x->meaning; x++) {
        fprintf(out, "  %-8s", x->status);
        wrap(out, x->meaning, 10, 10);
    }
}

void cli_help_verb(FILE *out, const struct verb *v)
{
    fprintf(out, "trapeze %s: %s\n\nUsage: trapeze %s%s", v->name, v->summary, v->name,
            v->options[0] || *v->operands ? " " : "");
    cli_usage(out, v);
    fputs("\n\n", out);
    wrap(out, v->text, 0, 0);
    fputs("\nOptions\n", out);
    for (int i = 0; v->options[i]; i++)
        option_line(out, v->options[i]);
    option_line(out, OPT_HELP);
    if (v->examples)
        fputs("\nExamples\n", out);
    for (int i = 0; v->examples && v->examples[i]; i += 2)
        fprintf(out, "  %s\n      %s\n", v->examples[i], v->examples[i + 1]);
    exit_table(out);
}

void cli_help_overview(FILE *out)
{
    fputs("trapeze: runs machines on a Linux host, with or without hardware virtualisation\n\n"
          "Usage: trapeze VERB [OPTIONS] [ARGUMENTS]\n\nVerbs\n",
          out);
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!cli_verbs[i].hidden)
            fprintf(out, "  %-12s%s\n", cli_verbs[i].name, cli_verbs[i].summary);
    fputs("\n`trapeze VERB --help` shows a verb's options and examples.\n", out);
    exit_table(out);
}
