/* Connections to the agent in a machine's guest, and the calls that are one question and one answer. */
#ifndef TRAPEZE_CLI_AGENT_CALL_H
#define TRAPEZE_CLI_AGENT_CALL_H

#include "agent/agent.h"
#include "cli/machine.h"

/*
 * Connect: a descriptor, or -errno with a line that says why the guest does not answer. With `patient` a guest that was started
 * lately is given the time to boot.
 */
int agent_connect(const struct machine_row *row, bool patient, struct error *e);

/* Ask, and wait for AGENT_DONE, `seconds` at most. 0 or -errno. */
int agent_call(const struct machine_row *row, u8 kind, const void *data, size_t len, unsigned seconds, struct error *e);

#endif
