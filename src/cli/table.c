/* The table that the whole command line is made from. See cli.h for what a row means. */
#include "cli/cli.h"
#include "vm/config.h"

const struct option_def cli_options[OPT_COUNT] = {
    [OPT_HELP] = {.name = "help", .letter = 'h', .kind = OPTION_FLAG, .help = "show this help"},
    [OPT_VERSION] = {.name = "version", .kind = OPTION_FLAG, .help = "show the version"},
    [OPT_NAME] = {.name = "name",
                  .kind = OPTION_TEXT,
                  .value = "NAME",
                  .help = "name of the machine or container; two words are chosen without it"},
    [OPT_MEMORY] = {.name = "memory",
                    .letter = 'm',
                    .kind = OPTION_SIZE,
                    .value = "SIZE",
                    .preset = "512M",
                    .min = VM_MEMORY_MIN,
                    .max = VM_MEMORY_MAX,
                    .help =
                        "guest memory: a number and K, M, G or T; Debian's kernel needs 96M. Of a container: most that "
                        "it may use, no limit without it"},
    [OPT_CPUS] = {.name = "cpus",
                  .kind = OPTION_NUMBER,
                  .value = "N",
                  .preset = "1",
                  .min = 1,
                  .max = 255,
                  .help = "virtual CPUs; of a container: how many CPUs' time it may use, no limit without it"},
    [OPT_CPU] = {.name = "cpu",
                 .kind = OPTION_TEXT,
                 .value = "MODEL",
                 .preset = "host",
                 .help = "processor shown to the guest: host, x86-64-v2, x86-64-v3 or x86-64-v4; "
                         "features of it by name: host,-avx512f"},
    [OPT_ENGINE] = {.name = "engine",
                    .kind = OPTION_CHOICE,
                    .value = "ENGINE",
                    .preset = "auto",
                    .choices = "auto|interp|bt|kvm",
                    .help = "what runs the guest's instructions"},
    [OPT_CODE_CACHE] = {.name = "code-cache",
                        .kind = OPTION_SIZE,
                        .value = "SIZE",
                        .min = VM_CODE_MIN,
                        .max = VM_CODE_MAX,
                        .help = "most memory for decoded or translated code; the engine's own measure without it"},
    [OPT_KERNEL] = {.name = "kernel",
                    .letter = 'k',
                    .kind = OPTION_TEXT,
                    .value = "FILE",
                    .help = "kernel to boot: a Linux bzImage or an ELF file with a PVH note"},
    [OPT_INITRD] = {.name = "initrd",
                    .kind = OPTION_TEXT,
                    .value = "FILE",
                    .help = "initial root file system given to the kernel"},
    [OPT_APPEND] = {.name = "append",
                    .letter = 'a',
                    .kind = OPTION_STRING,
                    .value = "TEXT",
                    .preset = "",
                    .help = "kernel command line, as in \"console=ttyS0\""},
    [OPT_DISK] = {.name = "disk",
                  .kind = OPTION_LIST,
                  .value = "FILE[,..]",
                  .help =
                      "a disk, as often as there are disks: an image or block device; ,format=raw (else by suffix), "
                      ",readonly, ,cache=none|writeback|writethrough"},
    [OPT_NETWORK] =
        {.name = "network",
         .alias = "net",
         .kind = OPTION_LIST,
         .value = "KIND[,..]",
         .help = "a network card, as often as there are cards: user (the default; user,host lets the guest "
                 "reach what this host serves on its loopback addresses, as 10.0.2.2), tap:IFNAME, "
                 "bridge:NAME, switch:NAME (between machines of yours), none; ,mac=52:54:00:12:34:56. A container has "
                 "none (the default: only its loopback interface) or host (this host's network)"},
    [OPT_PUBLISH] = {.name = "publish",
                     .letter = 'p',
                     .kind = OPTION_LIST,
                     .value = "PORTS",
                     .help = "[HOSTADDR:]HOSTPORT:GUESTPORT[/udp]: what comes to that port of this host goes to the "
                             "guest; as often as there are ports"},
    [OPT_SHARE] =
        {.name = "share",
         .kind = OPTION_LIST,
         .value = "DIR:TAG[:ro]",
         .help = "share a directory of this host with the guest, as often as there are directories; there: mount -t "
                 "virtiofs TAG /mnt; with :ro it can only read"},
    [OPT_NO_REBOOT] = {.name = "no-reboot",
                       .kind = OPTION_FLAG,
                       .help = "end with status 0 when the guest asks for a reset"},
    [OPT_DETACH] = {.name = "detach",
                    .letter = 'd',
                    .kind = OPTION_FLAG,
                    .help = "print its name and leave it running in the background"},
    [OPT_RM] = {.name = "rm", .kind = OPTION_FLAG, .help = "forget it when it has ended, with what it wrote"},
    [OPT_ESCAPE] = {.name = "escape",
                    .kind = OPTION_KEY,
                    .value = "KEY",
                    .preset = "^]",
                    .help = "key that leaves the console or the terminal: ^ and a character, or none"},
    [OPT_FORMAT] = {.name = "format",
                    .kind = OPTION_CHOICE,
                    .value = "FORMAT",
                    .preset = "text",
                    .choices = "text|json",
                    .help = "how the answer is written"},
    [OPT_FORMAT_JSON] = {.name = "format",
                         .kind = OPTION_CHOICE,
                         .value = "FORMAT",
                         .preset = "json",
                         .choices = "text|json",
                         .help = "how the answer is written"},
    [OPT_TIME] = {.name = "time",
                  .letter = 't',
                  .kind = OPTION_NUMBER,
                  .value = "SECONDS",
                  .preset = "10",
                  .max = 86400,
                  .help = "how long it may take to end, after the power button or the signal, before it is killed"},
    [OPT_TIME_RUN] = {.name = "time",
                      .kind = OPTION_NUMBER,
                      .value = "SECONDS",
                      .preset = "10",
                      .max = 86400,
                      .help = "how long the guest may take after the power button before it is killed"},
    [OPT_ALL_MACHINES] = {.name = "all", .letter = 'a', .kind = OPTION_FLAG, .help = "ended machines too"},
    [OPT_ALL_CLASSES] = {.name = "all", .letter = 'a', .kind = OPTION_FLAG, .help = "every row of the table"},
    [OPT_OUTPUT] = {.name = "output",
                    .kind = OPTION_TEXT,
                    .value = "DIR",
                    .help = "write every manual page as a file into DIR"},
    [OPT_FORCE] = {.name = "force", .letter = 'f', .kind = OPTION_FLAG, .help = "kill it first if it runs"},
    [OPT_VOLUME] = {.name = "volume",
                    .letter = 'v',
                    .kind = OPTION_LIST,
                    .value = "FROM:TO[:ro]",
                    .help = "show a directory or file of this host in the container, as often as there are"},
    [OPT_READ_ONLY] = {.name = "read-only", .kind = OPTION_FLAG, .help = "the container can not write to its root"},
    [OPT_CAP_ADD] = {.name = "cap-add",
                     .kind = OPTION_LIST,
                     .value = "NAME",
                     .help = "a capability more (capabilities(7)), or all"},
    [OPT_CAP_DROP] = {.name = "cap-drop", .kind = OPTION_LIST, .value = "NAME", .help = "a capability less, or all"},
    [OPT_ENTRYPOINT] = {.name = "entrypoint",
                        .kind = OPTION_STRING,
                        .value = "PROGRAM",
                        .help = "instead of the image's entry point and command; \"\" for none"},
    [OPT_HOSTNAME] = {.name = "hostname",
                      .kind = OPTION_TEXT,
                      .value = "NAME",
                      .help = "the container's name for itself; its id without it"},
    [OPT_SIGNAL] = {.name = "signal",
                    .letter = 's',
                    .kind = OPTION_TEXT,
                    .value = "SIGNAL",
                    .help = "of a container: another signal than KILL, by name or number"},
    [OPT_FOLLOW] = {.name = "follow",
                    .letter = 'f',
                    .kind = OPTION_FLAG,
                    .help = "go on as the guest prints, until it ends"},
    [OPT_INTERVAL] = {.name = "interval",
                      .letter = 'i',
                      .kind = OPTION_NUMBER,
                      .value = "SECONDS",
                      .min = 1,
                      .max = 86400,
                      .help = "print a line of what happened each so many seconds, until the machine ends"},
    [OPT_LINES] = {.name = "count",
                   .letter = 'c',
                   .kind = OPTION_NUMBER,
                   .value = "N",
                   .min = 1,
                   .max = 1000000000,
                   .help = "with --interval: end after so many lines"},
    [OPT_INTERACTIVE] = {.name = "interactive",
                         .letter = 'i',
                         .kind = OPTION_FLAG,
                         .help = "give the program this standard input; it reads nothing without it"},
    [OPT_TTY] = {.name = "tty", .letter = 't', .kind = OPTION_FLAG, .help = "give the program a terminal"},
    [OPT_ENV] = {.name = "env",
                 .letter = 'e',
                 .kind = OPTION_LIST,
                 .value = "NAME=VALUE",
                 .help = "a variable of the program's environment, as often as there are; run IMAGE: NAME alone takes "
                         "this shell's value"},
    [OPT_WORKDIR] = {.name = "workdir",
                     .letter = 'w',
                     .kind = OPTION_TEXT,
                     .value = "DIR",
                     .help = "the program's working directory; in a machine the user's home without it"},
    [OPT_USER] = {.name = "user",
                  .letter = 'u',
                  .kind = OPTION_TEXT,
                  .value = "USER[:GROUP]",
                  .help = "who the program runs as, by name or number; root without it"},
    [OPT_ARCHIVE] = {.name = "archive",
                     .kind = OPTION_CHOICE,
                     .value = "KIND",
                     .preset = "docker",
                     .choices = "docker|oci",
                     .help = "save: the kind of archive: as docker writes and reads it, or an OCI layout"},
    [OPT_TO_FILE] = {.name = "output",
                     .letter = 'o',
                     .kind = OPTION_TEXT,
                     .value = "FILE",
                     .help = "save: write into FILE, not to standard output"},
};

const struct cli_exit_row cli_exit_rows[] = {
    {"0", "done; for run: the guest powered off, or asked for a reset under --no-reboot"},
    {"1", "usage or configuration, or not there yet: the message says what to change"},
    {"2", "run: the guest ended by a triple fault; its state is shown"},
    {"3", "the host failed: out of memory, a process that vanished, a file system error; for run also: the guest used "
          "something that is not implemented"},
    {"125-127", "run IMAGE and exec: not done by us; the program can not be executed; there is none. All other "
                "statuses of theirs are the program's"},
    {"128+n", "ended by signal n; for run 137: the machine was killed"},
    {NULL, NULL},
};

static const char *const examples_run[] = {
    "trapeze run --rm -it debian:12 bash",
    "a shell in a container; `trapeze image pull` brings images",
    "trapeze run -d --name db -v /srv/db:/var/lib/db -e KEY=1 --memory 1G mine:1",
    "in the background; trapeze logs db, trapeze exec -it db sh, trapeze stop db",
    "trapeze run --kernel vmlinuz --initrd root.cpio --append \"console=ttyS0\"",
    "boot a kernel and stay at its console; Ctrl-] leaves it running",
    "trapeze run -d --name web --memory 1G --kernel vmlinuz --initrd root.cpio",
    "boot in the background",
    "trapeze run --kernel vmlinuz --initrd root.cpio -p 8080:80",
    "http://localhost:8080/ is the web server in the guest",
    "trapeze run --kernel vmlinuz --initrd check.cpio --append \"console=ttyS0\" --no-reboot --rm </dev/null",
    "run to the end, for scripts: output on standard output, status 0 at power-off",
    NULL,
};
static const char *const examples_ps[] = {"trapeze ps", "machines that run", "trapeze ps -a --format json",
                                          "every machine, for scripts", NULL};
static const char *const examples_image[] = {"trapeze image pull debian:12",
                                             "from docker.io; HOST/PATH:TAG from elsewhere",
                                             "trapeze image load debian.tar",
                                             "what docker, podman or skopeo saved",
                                             "trapeze image import root.tar.gz mine:1",
                                             "a root file system as an image",
                                             "trapeze image save --archive oci -o mine.tar mine:1",
                                             "an OCI layout in a tar",
                                             NULL};
static const char *const examples_exec[] = {"trapeze exec web uname -a",
                                            "ask the guest",
                                            "trapeze exec -it web sh",
                                            "a shell in it",
                                            "tar c . | trapeze exec -i web tar x -C /srv",
                                            "into its standard input",
                                            NULL};
static const char *const examples_cp[] = {"trapeze cp page.html web:/srv/",
                                          "into the guest",
                                          "trapeze cp web:/var/log ./log-of-web",
                                          "out of it",
                                          "trapeze cp web:/etc - | tar tv",
                                          "as a tar stream",
                                          NULL};
static const char *const examples_stop[] = {"trapeze stop --time 30 web", "give the guest half a minute to shut down",
                                            NULL};
static const char *const examples_stats[] = {"trapeze stats web", "everything since the machine started",
                                             "trapeze stats --interval 1 web", "a line a second, while it works", NULL};
static const char *const examples_explain[] = {"trapeze explain web", "the code that its processor is at",
                                               "trapeze explain web 0xffffffff81000000",
                                               "the start of a Linux kernel, unless it has moved itself", NULL};
static const char *const examples_rm[] = {"trapeze rm -f web", "kill it if it runs, then forget it", NULL};
static const char *const examples_logs[] = {"trapeze logs -f web", "watch what the guest prints", NULL};
static const char *const examples_classify[] = {"trapeze classify popf", "why POPF can not simply run de-privileged",
                                                "trapeze classify --all", "the whole table", NULL};
static const char *const examples_completion[] = {"source <(trapeze completion)", "in ~/.bashrc", NULL};
static const char *const examples_man[] = {"trapeze man run | man -l -", "read one page", NULL};

const struct verb cli_verbs[] = {
    {.name = "run",
     .operands = "[REF [CMD...]]",
     .max_operands = -1,
     .operands_end = true,
     .summary = "start a container or a machine",
     .text =
         "With REF, the name of an image that is here (`trapeze image`), runs CMD, or what the image says, in a "
         "container: with these streams until it ends, and with its status. Without --interactive it reads nothing. "
         "Its root is the image's, what it writes stays with it until `trapeze rm`. It has no network but its loopback "
         "interface unless --network host gives it this host's; a bridge network is not there yet. Signals that come "
         "here go "
         "to its first process; the third interrupt or termination kills it. Needs root.\n"
         "With --kernel, starts a machine from a kernel file. On a terminal you are at the guest's serial console "
         "until you press "
         "the escape key, which leaves the machine running, or until the machine ends. With standard input not a "
         "terminal, it is copied to the guest and the guest's output to standard output until the machine ends. "
         "Interrupt, hang-up and termination signals stop the machine as `trapeze stop` does; a second one kills it.\n"
         "Machines from images (vm:NAME) are not there yet.",
     .examples = examples_run,
     .options = {OPT_KERNEL,      OPT_INITRD,     OPT_APPEND,    OPT_DISK,    OPT_NETWORK,  OPT_PUBLISH,
                 OPT_SHARE,       OPT_MEMORY,     OPT_CPUS,      OPT_CPU,     OPT_ENGINE,   OPT_CODE_CACHE,
                 OPT_NAME,        OPT_NO_REBOOT,  OPT_DETACH,    OPT_RM,      OPT_ESCAPE,   OPT_TIME_RUN,
                 OPT_INTERACTIVE, OPT_TTY,        OPT_ENV,       OPT_VOLUME,  OPT_WORKDIR,  OPT_USER,
                 OPT_HOSTNAME,    OPT_ENTRYPOINT, OPT_READ_ONLY, OPT_CAP_ADD, OPT_CAP_DROP, OPT_FORMAT},
     .run = verb_run},
    {.name = "ps",
     .operands = "",
     .summary = "list machines and containers",
     .text = "Lists the machines and containers that run; with --all those that have ended too, with how they ended.",
     .examples = examples_ps,
     .options = {OPT_ALL_MACHINES, OPT_FORMAT},
     .run = verb_ps},
    {.name = "console",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "come back to a machine's console",
     .text = "Connects this terminal to the serial console of a running machine. What the guest printed lately is "
             "shown first. The escape key leaves it; the machine goes on. When another console is open on the machine, "
             "it keeps the keyboard: this one only shows the output.",
     .options = {OPT_ESCAPE},
     .run = verb_console},
    {.name = "logs",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "show what a machine or container printed",
     .text =
         "Prints what the guest wrote to its serial console since it started, also after it has ended. Of a container: "
         "what it printed on standard output and standard error, to these two; the last 16 MiB at least.",
     .examples = examples_logs,
     .options = {OPT_FOLLOW},
     .run = verb_logs},
    {.name = "exec",
     .operands = "NAME CMD [ARG...]",
     .min_operands = 2,
     .max_operands = -1,
     .operands_end = true,
     .summary = "run a program inside a machine or container",
     .text =
         "In a container: runs the program beside those that are there, in the container's namespaces and limits. "
         "Needs "
         "root.\n"
         "Runs a program in the guest, by the agent that runs there, with this terminal or these streams, and ends as "
         "it "
         "ends: with its status, or 128 and the number of the signal that killed it. 127: there is no such "
         "program; 126: it can not be executed; 125: trapeze could not do it, the message says why. Signals that "
         "come here (interrupt, termination, hang-up, quit, user 1 and 2) go to the program. A guest that was started "
         "less than a minute ago is given the time to boot.",
     .examples = examples_exec,
     .options = {OPT_INTERACTIVE, OPT_TTY, OPT_ENV, OPT_WORKDIR, OPT_USER},
     .run = verb_exec},
    {.name = "attach",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "come back to the streams of a container",
     .text =
         "Connects this terminal or these streams to those of a running container until it ends, and ends with its "
         "status. The escape key leaves a container that has a terminal, it goes on. Signals that come here go to the "
         "container. For a machine it is `trapeze console`.",
     .options = {OPT_ESCAPE},
     .run = verb_attach},
    {.name = "wait",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "wait until machines or containers have ended",
     .text = "Prints the exit status of each, in a line.",
     .run = verb_wait},
    {.name = "cp",
     .operands = "SRC DST",
     .min_operands = 2,
     .max_operands = 2,
     .summary = "copy files into a machine or container or out of it",
     .text =
         "One of SRC and DST is NAME:PATH, in a running container or the guest of a machine; the other is a file or "
         "directory here, or - for "
         "a "
         "tar stream. Directories are copied with all that is in them, modes and times are kept, owners are not: "
         "files belong to who receives them. A directory SRC goes into a directory DST that is there, under its own "
         "name; "
         "SRC/. means what is in it. Devices, pipes and sockets are left out with a word. The machine's agent does the "
         "guest's part.",
     .examples = examples_cp,
     .run = verb_cp},
    {.name = "image",
     .operands = "ACTION [ARG...]",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "load, save, name and remove images of containers",
     .text =
         "Actions: list; pull NAME.., from a registry; push NAME [TO]; load [FILE], a docker-archive or oci-archive; "
         "save NAME...; import FILE NAME, a root file "
         "system as a tar; tag NAME NEW; rm NAME...; prune, which removes what no image needs and images without a "
         "name; verify, which reads every blob of every image. FILE - is standard input. Archives may be packed with "
         "gzip or zstd. Images lie in ~/.local/share/trapeze/images, an OCI layout. `trapeze run NAME` "
         "runs one. The action build is not there yet.",
     .examples = examples_image,
     .options = {OPT_ARCHIVE, OPT_TO_FILE, OPT_FORMAT},
     .run = verb_image},
    {.name = "images",
     .operands = "",
     .hidden = true,
     .summary = "list images",
     .text = "The same as `trapeze image list`.",
     .options = {OPT_FORMAT},
     .run = verb_image},
    {.name = "stop",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "shut a machine or container down, kill it after a while",
     .text =
         "A container gets the signal that its image names, or TERM, and after --time seconds KILL.\n"
         "Asks the guest's agent to shut its system down, where there is one; else, or when that takes long, presses "
         "the "
         "machine's power button, which the guest's system answers in the same way; and waits. A "
         "guest that has not powered off after --time seconds is killed, as is one that was still booting and missed "
         "the button.",
     .examples = examples_stop,
     .options = {OPT_TIME},
     .run = verb_stop},
    {.name = "kill",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "end a machine or container at once",
     .text = "Ends the machine as if its plug were pulled: the guest is not asked. A container's first process gets "
             "KILL or "
             "the signal of --signal.",
     .options = {OPT_SIGNAL},
     .run = verb_kill},
    {.name = "start",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "start machines that have ended, once more",
     .text = "With the options they were run with; memory and console log begin anew, disks are as they were left. "
             "They run in "
             "the background: `trapeze console` shows them. Not for containers yet.",
     .run = verb_start},
    {.name = "pause",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "halt a machine's processors and clock, or freeze a container",
     .text = "The guest does not notice: its clock stands still too. `trapeze resume` lets it go on.",
     .run = verb_pause},
    {.name = "resume",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "let a paused machine or container go on",
     .text = "Undoes `trapeze pause`. Where the guest has an agent, its clock is set.",
     .run = verb_resume},
    {.name = "inspect",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "show all that is known of a machine or container",
     .text = "Configuration, state, processes, files and, while it runs, counters of the engine.",
     .options = {OPT_FORMAT_JSON},
     .run = verb_inspect},
    {.name = "stats",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "show what a machine's engine counts",
     .text =
         "Instructions and how they were run, exits from translated code by reason, the code cache, memory look-ups, "
         "events: since the machine started, or with --interval a line a while. What ran without the monitor is all "
         "but the system instructions that were interpreted.\n"
         "The columns of --interval: million instructions a second; how many of a hundred ran without the monitor "
         "(direct); then, a second: exits from translated code, blocks made, TLB look-ups that missed and entries "
         "filled, exceptions, interrupts, accesses to ports and device memory.\n"
         "The machine may run or be paused; it does not notice.",
     .examples = examples_stats,
     .options = {OPT_INTERVAL, OPT_LINES, OPT_FORMAT},
     .run = verb_stats},
    {.name = "explain",
     .operands = "NAME [ADDRESS]",
     .min_operands = 1,
     .max_operands = 2,
     .summary = "show guest code, its classes and its translation",
     .text =
         "Shows the block of instructions that holds ADDRESS, a hexadecimal linear address in the address space that "
         "the machine's processor is in; without one, the block that it is about to run. Beside each instruction "
         "stand its class (see `trapeze classify`), how the engine runs it and the host's code for it. The machine "
         "may run or be paused; code that was not translated yet is translated.",
     .examples = examples_explain,
     .options = {OPT_FORMAT},
     .run = verb_explain},
    {.name = "rm",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "forget a machine or container that has ended",
     .text = "Removes its row, its log and its directory; of a container also what it has written.",
     .examples = examples_rm,
     .options = {OPT_FORCE},
     .run = verb_rm},
    {.name = "classify",
     .operands = "[MNEMONIC]",
     .max_operands = 1,
     .summary = "show how instructions are classed, and why",
     .text = "The table by which instructions are run as they are or interpreted: privileged, sensitive, sensitive to "
             "IOPL, not supported. What is not in the table runs unchanged.",
     .examples = examples_classify,
     .options = {OPT_ALL_CLASSES, OPT_FORMAT},
     .run = verb_classify},
    {.name = "doctor",
     .operands = "",
     .summary = "say what this host offers and lacks",
     .text =
         "Looks at the processor, memory, kernel features and programs that Trapeze uses, and says what to do about "
         "what is missing. Whether hardware virtualisation works is tried with a small guest in a process of its "
         "own. The status is 0 unless something is missing that Trapeze can not do without.",
     .options = {OPT_FORMAT},
     .run = verb_doctor},
    {.name = "version",
     .operands = "",
     .summary = "show the version",
     .text = "Version, compiler, and the engines built in.",
     .options = {OPT_FORMAT},
     .run = verb_version},
    {.name = "help",
     .operands = "[VERB]",
     .max_operands = 1,
     .summary = "show help",
     .text = "The overview, or the help of one verb.",
     .run = verb_help},
    {.name = "man",
     .operands = "[VERB]",
     .max_operands = 1,
     .hidden = true,
     .summary = "write a manual page",
     .text = "Writes the manual page of a verb, or of trapeze itself, in roff.",
     .examples = examples_man,
     .options = {OPT_OUTPUT},
     .run = verb_man},
    {.name = "completion",
     .operands = "",
     .hidden = true,
     .summary = "write the bash completion",
     .text = "Writes a bash script that completes verbs, options, their choices and names of machines.",
     .examples = examples_completion,
     .run = verb_completion},
};

const size_t cli_n_verbs = ARRAY_LEN(cli_verbs);
