/* trapeze-agent: as process 1 the default guest's init; else a service. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/vsock.h"

int main(int argc, char **argv)
{
    struct error e = {0};
    u32 port = VSOCK_AGENT_PORT;
    if (getpid() == 1)
        init_main();
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        printf("trapeze-agent %s, protocol %u\n", TRAPEZE_VERSION, AGENT_VERSION);
        return 0;
    }
    if (argc == 2 &&
        !strcmp(argv[1], "--stdio")) { /* one connection, at standard input: for tests, which have no vsock */
        serve_connection(STDIN_FILENO);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--first-boot"))
        return first_boot();
    if (argc != 1) {
        fprintf(stderr, "usage: trapeze-agent [--version | --stdio | --first-boot]\n");
        return 1;
    }
    serve(port, &e);
    fprintf(stderr, "trapeze-agent: %s\n", e.msg);
    return 1;
}
