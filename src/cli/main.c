/* The program: finds the verb, parses, runs it, prints what went wrong. */
#include "backend/net/net.h"
#include "backend/share/share.h"
#include "cli/cli.h"
#include "network/network.h"
#include "vm/launch.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

/* Write what is buffered; a full disk or a closed pipe must not look like success. */
static int flush_output(int status, struct error *e)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (status == CLI_OK && errno != EPIPE)
        error_set(e, errno, "standard output: cannot be written: %s", strerror(errno));
    return status == CLI_OK ? CLI_HOST : status;
}

static int run_verb(const char *name, int argc, const char **argv, struct error *e)
{
    const struct verb *v = cli_find_verb(name);
    struct args a;
    if (!v) {
        cli_unknown_verb(name, e);
        return CLI_USAGE;
    }
    int status = CLI_USAGE;
    if (cli_parse(&a, v, argc, argv, e) == 0) {
        if (a.given[OPT_HELP]) {
            cli_help_verb(stdout, v);
            status = CLI_OK;
        } else {
            status = v->run(&a, e);
        }
    }
    cli_args_free(&a);
    return status;
}

int main(int argc, const char **argv)
{
    struct error e = {0};
    int status = CLI_OK;
    /* A cell is this program started again, before anything of the command line has been touched. */
    if (argc > 1 && !strcmp(argv[1], CELL_ARG))
        return cell_main(argc, (char **)argv);
    if (argc > 1 && !strcmp(argv[1], NET_ARG)) /* the same for the back end of a network card */
        return net_main(argc, (char **)argv);
    if (argc > 1 && !strcmp(argv[1], SHARE_ARG)) /* and of a shared directory */
        return share_main(argc, (char **)argv);
    if (argc > 1 && !strcmp(argv[1], NETWORK_NAMES_ARG)) /* and of who answers for the names of containers */
        return network_names_main(argc, (char **)argv);
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        cli_help_overview(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        cli_help_overview(stdout);
    else if (!strcmp(argv[1], "--version"))
        status = run_verb("version", 0, argv, &e);
    else if (argv[1][0] == '-')
        error_set(&e, EINVAL, "%.60s: a verb comes first, options after it; `trapeze --help` lists the verbs", argv[1]);
    else
        status = run_verb(argv[1], argc - 2, argv + 2, &e);
    if (e.code && status == CLI_OK)
        status = cli_status_of(&e);
    status = flush_output(status, &e);
    if (e.code)
        fprintf(stderr, "trapeze: %s\n", e.msg);
    return status;
}
