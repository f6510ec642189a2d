/*
 * Where the other side of a migration is: "ADDR:PORT", "[v6]:PORT", "HOST:PORT" or "unix:PATH". Text only: what a name stands for
 * is looked up when it is connected to or listened at.
 */
#ifndef TRAPEZE_MIGRATE_ADDRESS_H
#define TRAPEZE_MIGRATE_ADDRESS_H

#include "base/error.h"
#include "base/types.h"

#include <limits.h>

#define CHANNEL_TEXT_MAX (PATH_MAX + 16) /* bytes: room for any address as text */

struct channel_address {
    bool local;          /* a unix socket */
    u16 port;            /* 0: any that is free, to listen at */
    char name[PATH_MAX]; /* its path; else a host's name or number, without brackets */
};

/* 0, or -EINVAL with what is wrong with it. */
int channel_address_parse(struct channel_address *a, const char *text, struct error *e);
/* The text form, "[v6]:PORT" with its brackets; returns `out`, of which CHANNEL_TEXT_MAX bytes are always enough. */
const char *channel_address_text(const struct channel_address *a, char *out, size_t size);

#endif
