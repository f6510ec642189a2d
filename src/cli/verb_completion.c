/* Bash completion: the table turned into one case a verb and one an option. */
#include "cli/cli.h"

#include <string.h>

static const char head[] =
    "# bash completion of trapeze, made by `trapeze completion`\n"
    "_trapeze()\n"
    "{\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}\n"
    "    if ((COMP_CWORD == 1)); then\n";
static const char names[] = "    COMPREPLY=($(compgen -W \"$(trapeze ps -a --format json 2>/dev/null |\n"
                            "        sed -n 's/.*\"name\": *\"\\([^\"]*\\)\".*/\\1/p')\" -- \"$cur\"))\n";

static void verb_names(FILE *out)
{
    fputs("        COMPREPLY=($(compgen -W \"", out);
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!cli_verbs[i].hidden)
            fprintf(out, "%s%s", i ? " " : "", cli_verbs[i].name);
    fputs("\" -- \"$cur\"))\n        return\n    fi\n", out);
}

/* Words after an option that takes a value: its choices, or files. */
static void values(FILE *out)
{
    fputs("    case $prev in\n", out);
    for (int id = OPT_NONE + 1; id < OPT_COUNT; id++) {
        const struct option_def *o = &cli_options[id];
        if (o->kind == OPTION_FLAG || id == OPT_FORMAT_JSON)
            continue;
        fprintf(out, "    --%s)", o->name);
        if (o->choices) {
            fputs(" COMPREPLY=($(compgen -W \"", out);
            for (const char *p = o->choices; *p; p++)
                fputc(*p == '|' ? ' ' : *p, out);
            fputs("\" -- \"$cur\")); return ;;\n", out);
        } else if (!strcmp(o->value, "FILE")) {
            fputs(" COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", out);
        } else {
            fputs(" return ;;\n", out);
        }
    }
    fputs("    esac\n", out);
}

static void verb_options(FILE *out)
{
    fputs("    if [[ $cur == -* ]]; then\n        case $verb in\n", out);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        fprintf(out, "        %s) COMPREPLY=($(compgen -W \"--help", v->name);
        for (int k = 0; v->options[k]; k++)
            fprintf(out, " --%s", cli_options[v->options[k]].name);
        fputs("\" -- \"$cur\")) ;;\n", out);
    }
    fputs("        esac\n        return\n    fi\n", out);
}

/* Verbs whose operands are names of machines. */
static void operands(FILE *out)
{
    fputs("    case $verb in\n    ", out);
    const char *sep = "";
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!strncmp(cli_verbs[i].operands, "NAME", 4)) {
            fprintf(out, "%s%s", sep, cli_verbs[i].name);
            sep = "|";
        }
    fprintf(out, ")\n    %s        ;;\n    esac\n", names);
}

int verb_completion(const struct args *a, struct error *e)
{
    fputs(head, stdout);
    verb_names(stdout);
    values(stdout);
    verb_options(stdout);
    operands(stdout);
    fputs("}\ncomplete -o filenames -F _trapeze trapeze\n", stdout);
    return CLI_OK;
}
