/*
 * The agent inside a guest: what its files say to each other. docs/agent.md has the protocol.
 *
 *   init.c     the first process of the default guest: file systems, modules, the agent, /etc/rc, the orderly end
 *   serve.c    a socket, a process for each connection
 *   request.c  requests: one table
 *   run.c      a program with its streams
 *   user.c     who it runs as
 *   first_boot.c  host name, users and keys from a NoCloud disk; yaml.c reads its documents
 */
#ifndef TRAPEZE_GUEST_GUEST_H
#define TRAPEZE_GUEST_GUEST_H

#include "agent/agent.h"

#include <sys/types.h>

/* Never returns: process 1. */
__attribute__((noreturn)) void init_main(void);

/* Listen on a vsock port and serve until something fails: -errno. */
int serve(u32 port, struct error *e);
/* Serve one connection until it ends. */
void serve_connection(int fd);

/* Run the program of a request, carry its streams, say how it ended. 0 or -errno with `e` when it did not start. */
int run_program(int fd, const struct agent_exec *x, struct error *e);

/* A user and groups, by the files in /etc. */
#define USER_GROUPS_MAX 64
struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_GROUPS_MAX];
    unsigned n_groups;
    char name[64], home[256], shell[128];
};

/* "", NAME, NUMBER, each with :GROUP or not. 0 or -ENOENT with `e`. */
int user_find(struct user *u, const char *text, struct error *e);

/* Do what a NoCloud disk says, where there is one and it was not done before. 0. */
int first_boot(void);

/* Power off or start again (AGENT_DOWN_*), as the system in this guest does it. 0 or -errno. */
int go_down(u32 how, struct error *e);

#endif
