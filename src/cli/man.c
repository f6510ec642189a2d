/* Manual pages in man(7) roff, from the same rows as --help. */
#include "cli/cli.h"

#include <ctype.h>
#include <string.h>

/*
 * Text with what roff would take for itself escaped; a dash is a minus so that options can be copied, and what
 * stands in backticks becomes bold.
 */
static void text(FILE *out, const char *s)
{
    bool line_start = true, quoted = false;
    for (; *s; s++) {
        if (line_start && (*s == '.' || *s == '\''))
            fputs("\\&", out);
        line_start = *s == '\n';
        if (*s == '\\')
            fputs("\\e", out);
        else if (*s == '-')
            fputs("\\-", out);
        else if (*s == '`')
            fputs((quoted = !quoted) ? "\\fB" : "\\fR", out);
        else if (*s == '^')
            fputs("\\(ha", out);
        else if (*s == '\n')
            fputs("\n.PP\n", out);
        else
            fputc(*s, out);
    }
}

static void upper(FILE *out, const char *s)
{
    for (; *s; s++)
        fputc(toupper((unsigned char)*s), out);
}

static void title(FILE *out, const char *name)
{
    fputs(".TH ", out);
    upper(out, name);
    fprintf(out, " 1 \"\" \"Trapeze %s\" \"Trapeze\"\n.SH NAME\n", TRAPEZE_VERSION);
    text(out, name);
}

static void option(FILE *out, enum option_id id)
{
    const struct option_def *o = &cli_options[id];
    fputs(".TP\n", out);
    if (o->letter)
        fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", out);
    text(out, o->name);
    fputs("\\fR", out);
    if (o->value)
        fprintf(out, " \\fI%s\\fR", o->value);
    fputc('\n', out);
    text(out, o->help);
    if (o->choices) {
        fputs(": ", out);
        text(out, o->choices);
    }
    if (o->preset && *o->preset) {
        fputs(" (default ", out);
        text(out, o->preset);
        fputc(')', out);
    }
    fputc('\n', out);
}

static void exit_status(FILE *out)
{
    fputs(".SH EXIT STATUS\n", out);
    for (const struct cli_exit_row *x = cli_exit_rows; x->meaning; x++) {
        fprintf(out, ".TP\n.B %s\n", x->status);
        text(out, x->meaning);
        fputc('\n', out);
    }
}

static void files(FILE *out)
{
    fputs(".SH FILES\n.TP\n.I $XDG_STATE_HOME/trapeze\nor\n.I ~/.local/state/trapeze\nthe registry of machines and a "
          "directory for each: control socket and console log\n",
          out);
}

static void man_verb(FILE *out, const struct verb *v)
{
    char name[64];
    snprintf(name, sizeof(name), "trapeze-%s", v->name);
    title(out, name);
    fputs(" \\- ", out);
    text(out, v->summary);
    fputs("\n.SH SYNOPSIS\n.B trapeze ", out);
    text(out, v->name);
    fputs("\n", out);
    cli_usage(out, v);
    fputs("\n.SH DESCRIPTION\n", out);
    text(out, v->text);
    fputs("\n.SH OPTIONS\n", out);
    for (int i = 0; v->options[i]; i++)
        option(out, v->options[i]);
    option(out, OPT_HELP);
    if (v->examples)
        fputs(".SH EXAMPLES\n", out);
    for (int i = 0; v->examples && v->examples[i]; i += 2) {
        fputs(".TP\n.B ", out);
        text(out, v->examples[i]);
        fputc('\n', out);
        text(out, v->examples[i + 1]);
        fputc('\n', out);
    }
    exit_status(out);
    files(out);
    fputs(".SH SEE ALSO\n.BR trapeze (1)\n", out);
}

static void man_program(FILE *out)
{
    title(out, "trapeze");
    fputs(" \\- runs machines on a Linux host, with or without hardware virtualisation\n"
          ".SH SYNOPSIS\n.B trapeze\n.I VERB\n[OPTIONS] [ARGUMENTS]\n.SH VERBS\n",
          out);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (cli_verbs[i].hidden)
            continue;
        fprintf(out, ".TP\n.BR trapeze\\-%s (1)\n", cli_verbs[i].name);
        text(out, cli_verbs[i].summary);
        fputc('\n', out);
    }
    exit_status(out);
    files(out);
}

void cli_man(FILE *out, const struct verb *v)
{
    fputs(".\\\" made by `trapeze man`\n", out);
    if (v)
        man_verb(out, v);
    else
        man_program(out);
}
