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
    [OPT_MEMORY_UPDATE] = {.name = "memory",
                           .letter = 'm',
                           .kind = OPTION_SIZE,
                           .value = "SIZE",
                           .min = VM_MEMORY_MIN,
                           .max = VM_MEMORY_MAX,
                           .help =
                               "memory that the guest is to have: 64M at least, what it was started with at most; of a "
                               "container: most that it may use"},
    [OPT_CPUS_UPDATE] = {.name = "cpus",
                         .kind = OPTION_NUMBER,
                         .value = "N",
                         .min = 1,
                         .max = 255,
                         .help = "of a container: how many CPUs' time it may use"},
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
    [OPT_VIRTIO] = {.name = "virtio",
                    .kind = OPTION_CHOICE,
                    .value = "TRANSPORT",
                    .preset = "pci",
                    .choices = "pci|mmio",
                    .help = "where the guest finds disks, network cards and the like: on a PCI bus, or in windows of "
                            "memory (its kernel needs virtio_mmio)"},
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
                    .help = "kernel command line; without it console=ttyS0, with --console virtio console=hvc0"},
    [OPT_CONSOLE] =
        {.name = "console",
         .kind = OPTION_CHOICE,
         .value = "KIND",
         .preset = "serial",
         .choices = "serial|virtio",
         .help = "where the guest reads what is typed: its serial port (ttyS0), or a virtio console (hvc0), which "
                 "is faster and knows the size of the terminal; what it prints to either is shown"},
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
                 "bridge (the default as root), user (the default else), a network made by `trapeze network create`, "
                 "host (this host's network) or none (only its loopback interface)"},
    [OPT_PUBLISH] = {.name = "publish",
                     .letter = 'p',
                     .kind = OPTION_LIST,
                     .value = "PORTS",
                     .help = "[HOSTADDR:]HOSTPORT:GUESTPORT[/udp]: what comes to that port of this host goes to the "
                             "guest or container; as often as there are ports"},
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
    [OPT_FORCE] = {.name = "force",
                   .letter = 'f',
                   .kind = OPTION_FLAG,
                   .help = "also if it runs or is suspended: what it has in memory is lost"},
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
                      .help = "the container's name for itself, its id without it; of a machine from an image: the "
                              "machine's name without it"},
    [OPT_DNS] = {.name = "dns",
                 .kind = OPTION_LIST,
                 .value = "ADDRESS",
                 .help = "a server that is asked for names instead of this host's, as often as there are servers (3)"},
    [OPT_ADD_HOST] = {.name = "add-host",
                      .kind = OPTION_LIST,
                      .value = "NAME:ADDRESS",
                      .help = "a line of the container's /etc/hosts, as often as there are lines"},
    [OPT_SUBNET] = {.name = "subnet",
                    .kind = OPTION_TEXT,
                    .value = "NETWORK",
                    .help = "as in 10.1.2.0/24; without it one is chosen that this host has no route to"},
    [OPT_SIGNAL] = {.name = "signal",
                    .letter = 's',
                    .kind = OPTION_TEXT,
                    .value = "SIGNAL",
                    .help = "of a container: another signal than KILL, by name or number"},
    [OPT_FOLLOW] = {.name = "follow",
                    .letter = 'f',
                    .kind = OPTION_FLAG,
                    .help = "go on as the guest prints, until it ends"},
    [OPT_FOLLOW_EVENTS] = {.name = "follow", .letter = 'f', .kind = OPTION_FLAG, .help = "go on as things happen"},
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
                  .help = "who the program runs as, by name or number, root without it; run vm:IMAGE: a user to make "
                          "at the first boot, who may use sudo"},
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
                     .help = "save, export: write into FILE, not to standard output"},
    [OPT_DISK_SIZE] = {.name = "disk-size",
                       .kind = OPTION_SIZE,
                       .value = "SIZE",
                       .min = 1ull << 20,
                       .max = 1ull << 46,
                       .help = "with vm:NAME: make the machine's disk that large; its file system follows"},
    [OPT_SSH_KEY] = {.name = "ssh-key",
                     .kind = OPTION_LIST,
                     .value = "FILE",
                     .help = "with vm:NAME: a file of public keys that let in --user, or root without one"},
    [OPT_IMAGE_NAME] = {.name = "name",
                        .kind = OPTION_TEXT,
                        .value = "NAME",
                        .help = "build: the image's name, if another than that of what it is made from"},
    [OPT_SIZE] = {.name = "size",
                  .kind = OPTION_SIZE,
                  .value = "SIZE",
                  .preset = "2G",
                  .min = 512ull << 20,
                  .max = 1ull << 44,
                  .help = "build: the machine's disk; what is not used takes no space"},
    [OPT_MIRROR] = {.name = "mirror",
                    .kind = OPTION_TEXT,
                    .value = "URL",
                    .help = "build: the Debian archive; that of this host's apt, or Debian's own, without it"},
    [OPT_INCLUDE] = {.name = "include",
                     .kind = OPTION_LIST,
                     .value = "PKG[,..]",
                     .help = "build: more packages to install"},
    [OPT_LISTEN] = {.name = "listen",
                    .kind = OPTION_TEXT,
                    .value = "ADDRESS",
                    .preset = "127.0.0.1:7000",
                    .help = "ADDR:PORT or unix:PATH; port 0 is one that is free"},
    [OPT_TLS] = {.name = "tls",
                 .kind = OPTION_TEXT,
                 .value = "DIR",
                 .help = "with ca.pem, cert.pem and key.pem: both hosts show certificates of that CA"},
    [OPT_INSECURE] = {.name = "insecure",
                      .kind = OPTION_FLAG,
                      .help = "without TLS beyond this host: who is on the way reads and changes the guest's memory"},
    [OPT_LIFETIME] = {.name = "lifetime",
                      .kind = OPTION_NUMBER,
                      .value = "SECONDS",
                      .preset = "600",
                      .min = 1,
                      .max = 86400,
                      .help = "how long a machine that is here whole waits for the word of the host that sent it"},
    [OPT_MEMORY_ROOM] = {.name = "memory",
                         .letter = 'm',
                         .kind = OPTION_SIZE,
                         .value = "SIZE",
                         .min = VM_MEMORY_MIN,
                         .max = VM_MEMORY_MAX,
                         .help = "what machines that are on their way may have, all together; else what the host has"},
    [OPT_QUIET] = {.name = "quiet", .letter = 'q', .kind = OPTION_FLAG, .help = "say nothing but errors"},
    [OPT_DOWNTIME] = {.name = "downtime",
                      .kind = OPTION_TIME,
                      .value = "TIME",
                      .preset = "50ms",
                      .max = 3600000,
                      .help = "how long the machine may stand still: 50ms, 1s"},
    [OPT_BANDWIDTH] = {.name = "bandwidth",
                       .kind = OPTION_RATE,
                       .value = "RATE",
                       .min = 1000000,
                       .help = "bits a second that it may take: 800M, 1G; as many as go without it"},
    [OPT_MAX_TIME] = {.name = "max-time",
                      .kind = OPTION_TIME,
                      .value = "TIME",
                      .help = "how long to go on copying a machine that writes too fast to get ahead of it"},
    [OPT_STOP_ANYWAY] = {.name = "stop-if-not-converging",
                         .kind = OPTION_FLAG,
                         .help = "stop it then, for as long as the rest takes, instead of letting it stay here"},
    [OPT_THROTTLE] = {.name = "throttle",
                      .kind = OPTION_FLAG,
                      .help = "slow a guest down that writes faster than the link takes, by as much as it needs"},
    [OPT_POSTCOPY] = {.name = "postcopy",
                      .kind = OPTION_FLAG,
                      .help = "let such a guest go on there before all of its memory is; until it is, the guest needs "
                              "both hosts"},
    [OPT_NO_PACKING] = {.name = "no-compression",
                        .kind = OPTION_FLAG,
                        .help = "send pages as they are, also when the link is what takes the time"},
    [OPT_WITH_DISKS] = {.name = "with-disks",
                        .kind = OPTION_FLAG,
                        .help = "its disks go along, all of them, into new files there; the files here stay"},
    [OPT_DISK_DIR] = {.name = "disk-dir",
                      .kind = OPTION_TEXT,
                      .value = "DIR",
                      .help = "where disks go that come along with a machine; else into the machine's own directory, "
                              "with which `rm` removes them"},
    [OPT_DRY_RUN] = {.name = "dry-run",
                     .kind = OPTION_FLAG,
                     .help = "ask the other host, and look how fast the guest writes; nothing moves"},
    [OPT_VERIFY] = {.name = "verify",
                    .kind = OPTION_FLAG,
                    .help =
                        "compare all of memory with what was sent while the machine stands still, which takes longer"},
    [OPT_TAG] = {.name = "tag",
                 .letter = 't',
                 .kind = OPTION_LIST,
                 .value = "NAME[:TAG]",
                 .help = "build from a Dockerfile: a name of the image"},
    [OPT_FILE] = {.name = "file",
                  .letter = 'f',
                  .kind = OPTION_TEXT,
                  .value = "FILE",
                  .help = "build: the Dockerfile, if another than DIR/Dockerfile; - is standard input"},
    [OPT_BUILD_ARG] = {.name = "build-arg",
                       .kind = OPTION_LIST,
                       .value = "NAME[=VALUE]",
                       .help = "build: what an ARG of the Dockerfile is; NAME alone: as it is here"},
    [OPT_TARGET] = {.name = "target",
                    .kind = OPTION_TEXT,
                    .value = "STAGE",
                    .help = "build: this stage of the Dockerfile, by name or number, not the last one"},
    [OPT_NO_CACHE] = {.name = "no-cache",
                      .kind = OPTION_FLAG,
                      .help = "build: do every step, also those that earlier builds have done"},
    [OPT_QUIET_BUILD] = {.name = "quiet",
                         .letter = 'q',
                         .kind = OPTION_FLAG,
                         .help = "build: print the image's id and nothing else"},
    [OPT_NETWORK_BUILD] = {.name = "network",
                           .alias = "net",
                           .kind = OPTION_LIST,
                           .value = "NETWORK",
                           .help = "build: what RUN has: bridge (the default), none, host, or a network's name"},
    [OPT_AUTHOR] =
        {.name = "author", .letter = 'a', .kind = OPTION_TEXT, .value = "NAME", .help = "the image's author"},
    [OPT_MESSAGE] = {.name = "message",
                     .letter = 'm',
                     .kind = OPTION_TEXT,
                     .value = "TEXT",
                     .help = "a word about it, kept in the image's history"},
    [OPT_CHANGE] = {.name = "change",
                    .letter = 'c',
                    .kind = OPTION_LIST,
                    .value = "INSTRUCTION",
                    .help = "of a Dockerfile, that changes the configuration: 'CMD [\"sh\"]', ENV, LABEL, USER, .."},
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
    "trapeze run -d --name web --user ada --ssh-key ~/.ssh/id_ed25519.pub -p 2222:22 vm:debian",
    "a Debian of one's own: ssh -p 2222 ada@localhost",
    NULL,
};
static const char *const examples_ps[] = {"trapeze ps", "machines that run", "trapeze ps -a --format json",
                                          "every machine, for scripts", NULL};
static const char *const examples_migrate[] = {
    "trapeze migrate web 10.0.0.2:7000 --tls ~/.trapeze-tls",
    "to a host where `trapeze receive --listen 10.0.0.2:7000 --tls DIR` waits",
    "trapeze migrate web 10.0.0.2:7000 --tls ~/.trapeze-tls --dry-run", "whether that host would take it", NULL};
static const char *const examples_receive[] = {"trapeze receive --listen 10.0.0.2:7000 --tls ~/.trapeze-tls",
                                               "take machines from hosts with a certificate of the same CA", NULL};
static const char *const examples_network[] = {"trapeze network create back --subnet 10.1.2.0/24",
                                               "a network for containers",
                                               "trapeze run -d --name db --network back mine:1",
                                               "a container in it, which others there reach as db",
                                               "trapeze network inspect back",
                                               "who is in it, at which address, with which ports",
                                               NULL};
static const char *const examples_image[] = {"trapeze image pull debian:12",
                                             "from docker.io; HOST/PATH:TAG from elsewhere",
                                             "trapeze image build -t mine:1 .",
                                             "by the Dockerfile in this directory",
                                             "trapeze image build vm:debian --include nginx-light",
                                             "a Debian with a web server, as an image of a machine",
                                             "trapeze image load debian.tar",
                                             "what docker, podman or skopeo saved",
                                             "trapeze image import root.tar.gz mine:1",
                                             "a root file system as an image",
                                             "trapeze image save --archive oci -o mine.tar mine:1",
                                             "an OCI layout in a tar",
                                             NULL};
static const char *const examples_commit[] = {"trapeze commit -c 'CMD [\"nginx\"]' web mine:2",
                                              "what was changed in the container becomes an image", NULL};
static const char *const examples_export[] = {"trapeze export -o root.tar web", "all files of a container", NULL};
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
static const char *const examples_suspend[] = {"trapeze suspend web && trapeze resume web", "as if nothing had been",
                                               NULL};
static const char *const examples_snapshot[] = {"trapeze snapshot create web before", "as it is now, under that tag",
                                                "trapeze snapshot restore -f web before",
                                                "back to that, whatever it does now", NULL};
static const char *const examples_clone[] = {"trapeze clone web web2", "another one, from what web is now",
                                             "trapeze clone web:ready job1 && trapeze clone web:ready job2",
                                             "two that share the memory of a snapshot", NULL};
static const char *const examples_swing[] = {"trapeze swing --engine interp web", "watch it slowly",
                                             "trapeze swing --engine auto web", "as fast as this host can", NULL};
static const char *const examples_update[] = {
    "trapeze update --memory 256M web", "have the guest give memory back until it has 256 MiB",
    "trapeze update --memory 1G web", "let it have 1 GiB again, with which it was started", NULL};
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
         "Its root is the image's, what it writes stays with it until `trapeze rm`. It is in the network bridge, where "
         "containers find each other by name, hostname and id, and reach what this host reaches; `trapeze network` "
         "makes "
         "others. Signals that come here go "
         "to its first process; the third interrupt or termination kills it. Needs root.\n"
         "With --kernel, starts a machine from a kernel file. On a terminal you are at the guest's console "
         "until you press "
         "the escape key, which leaves the machine running, or until the machine ends. With standard input not a "
         "terminal, it is copied to the guest and the guest's output to standard output until the machine ends. "
         "Interrupt, hang-up and termination signals stop the machine as `trapeze stop` does; a second one kills it.\n"
         "With vm:NAME, starts a machine from an image of one (see `trapeze image`). It has a copy of the image, which "
         "goes with the machine. Its disk is the first, then those of --disk; the last is a small one that tells the "
         "guest its name, user and keys (NoCloud).",
     .examples = examples_run,
     .options = {OPT_KERNEL,     OPT_INITRD,   OPT_APPEND,      OPT_CONSOLE,   OPT_DISK,     OPT_NETWORK,
                 OPT_PUBLISH,    OPT_SHARE,    OPT_MEMORY,      OPT_CPUS,      OPT_CPU,      OPT_ENGINE,
                 OPT_CODE_CACHE, OPT_VIRTIO,   OPT_NAME,        OPT_NO_REBOOT, OPT_DETACH,   OPT_RM,
                 OPT_ESCAPE,     OPT_TIME_RUN, OPT_INTERACTIVE, OPT_TTY,       OPT_ENV,      OPT_VOLUME,
                 OPT_WORKDIR,    OPT_USER,     OPT_HOSTNAME,    OPT_DNS,       OPT_ADD_HOST, OPT_ENTRYPOINT,
                 OPT_READ_ONLY,  OPT_CAP_ADD,  OPT_CAP_DROP,    OPT_FORMAT,    OPT_SSH_KEY,  OPT_DISK_SIZE},
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
     .text = "Connects this terminal to the console of a running machine. What the guest printed lately is "
             "shown first. With --console virtio the guest learns the size of the terminal. The escape key leaves it; "
             "the machine goes on. When another console is open on the machine, "
             "it keeps the keyboard: this one only shows the output.",
     .options = {OPT_ESCAPE},
     .run = verb_console},
    {.name = "logs",
     .operands = "NAME",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "show what a machine or container printed",
     .text = "Prints what the guest wrote to its console since it started, also after it has ended. Of a container: "
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
    {.name = "commit",
     .operands = "CONTAINER [NAME[:TAG]]",
     .min_operands = 1,
     .max_operands = 2,
     .summary = "make an image of a container",
     .text = "The image is that of the container and a layer of what the container has written; volumes and the like "
             "are no "
             "part of it. A container that runs is paused meanwhile. The configuration is the image's, changed by "
             "--change. "
             "Prints the new image's id.",
     .examples = examples_commit,
     .options = {OPT_AUTHOR, OPT_MESSAGE, OPT_CHANGE, OPT_FORMAT},
     .run = verb_commit},
    {.name = "export",
     .operands = "CONTAINER",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "write a container's files as a tar",
     .text =
         "All files of the container's root, of its image too, running or not, without what is mounted in it. `trapeze "
         "image import` makes an image of one layer of such a tar.",
     .examples = examples_export,
     .options = {OPT_TO_FILE},
     .run = verb_export},
    {.name = "image",
     .operands = "ACTION [ARG...]",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "build, load, save, name and remove images",
     .text =
         "Actions: list; build DIR, by a Dockerfile (build -: from a tar or a Dockerfile on standard input); build "
         "vm:debian[:SUITE], a Debian as a machine's disk for `trapeze run vm:debian`; pull "
         "NAME.., from a registry; push NAME [TO]; load [FILE], a docker-archive or oci-archive; "
         "save NAME...; import FILE NAME, a root file "
         "system as a tar; tag NAME NEW; rm NAME...; prune, which removes what no image needs and images without a "
         "name; verify, which reads every blob of every image. FILE - is standard input. Archives may be packed with "
         "gzip or zstd. Images lie in ~/.local/share/trapeze/images, an OCI layout. `trapeze run NAME` "
         "runs one. Images of machines lie in ~/.local/share/trapeze/machines.\n"
         "build remembers what each step has made, and does it again only if something that went into it has changed: "
         "the instruction, its variables, files that are copied, or what stands before it. prune forgets that.",
     .examples = examples_image,
     .options = {OPT_TAG, OPT_FILE, OPT_BUILD_ARG, OPT_TARGET, OPT_NO_CACHE, OPT_QUIET_BUILD, OPT_NETWORK_BUILD,
                 OPT_IMAGE_NAME, OPT_SIZE, OPT_MIRROR, OPT_INCLUDE, OPT_ARCHIVE, OPT_TO_FILE, OPT_FORMAT},
     .run = verb_image},
    {.name = "network",
     .operands = "ACTION [ARG...]",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "make, show and remove networks of containers",
     .text =
         "Actions: create NAME [--subnet NETWORK]; list; inspect NAME..; rm NAME..; prune, which removes those that no "
         "container is in. Each is a bridge with NAT into the world, made when the first container comes; it stays "
         "until rm or prune, which take bridge and rules along. The network bridge is made when it is first used. "
         "Containers of one network find each other by name; networks are apart. Needs root.",
     .examples = examples_network,
     .options = {OPT_SUBNET, OPT_FORMAT},
     .run = verb_network},
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
     .summary = "start machines or containers that have ended, once more",
     .text =
         "With the options they were run with, in the background. A machine's memory and console log begin anew, disks "
         "are as they were left; `trapeze console` shows it. One that is suspended is booted anew only with -f. A "
         "container finds its files as it left them, may have another address, and goes on in its log; `trapeze "
         "attach` shows it.",
     .options = {OPT_FORCE},
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
     .summary = "let a paused or suspended machine, or a paused container, go on",
     .text = "Undoes `trapeze pause` and `trapeze suspend`. Where the guest has an agent, its clock is set.",
     .run = verb_resume},
    {.name = "suspend",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "keep a machine's memory and state in a file, and end it",
     .text = "`trapeze resume` lets it go on where it was, after a restart of the host as well. Its disks must not be "
             "changed meanwhile: that is found, and it is not resumed then. Connections of a network in user mode are "
             "lost. The file lies with the machine's, and goes when it is resumed.",
     .examples = examples_suspend,
     .run = verb_suspend},
    {.name = "migrate",
     .operands = "NAME TO",
     .min_operands = 2,
     .max_operands = 2,
     .summary = "move a running machine to another host",
     .text =
         "TO is where `trapeze receive` listens: ADDR:PORT or unix:PATH. Its memory goes over while it runs, in "
         "rounds; when little "
         "is left it stands still for about --downtime, and goes on there. Whatever fails, exactly one of the two "
         "hosts goes "
         "on with it. Both hosts must have its disks (--with-disks takes them along), kernel and shared directories "
         "under the same names, and the features of "
         "its processor; all that is missing is told before anything moves. Interrupt calls it off.",
     .examples = examples_migrate,
     .options = {OPT_DOWNTIME, OPT_BANDWIDTH, OPT_MAX_TIME, OPT_STOP_ANYWAY, OPT_THROTTLE, OPT_POSTCOPY, OPT_NO_PACKING,
                 OPT_WITH_DISKS, OPT_DRY_RUN, OPT_VERIFY, OPT_TLS, OPT_INSECURE, OPT_FORMAT},
     .run = verb_migrate},
    {.name = "receive",
     .operands = "",
     .summary = "take machines that `trapeze migrate` sends",
     .text =
         "Serves until it is interrupted, and answers what became of machines that came earlier. Who may connect may "
         "start machines as this user, with any file of this user as a disk.",
     .examples = examples_receive,
     .options = {OPT_LISTEN, OPT_TLS, OPT_INSECURE, OPT_MEMORY_ROOM, OPT_DISK_DIR, OPT_LIFETIME, OPT_QUIET},
     .run = verb_receive},
    {.name = "system",
     .operands = "ACTION",
     .min_operands = 1,
     .max_operands = 1,
     .summary = "look after all machines",
     .text =
         "Actions: recover, which asks what became of machines that were handed over to other hosts, and does as they "
         "say; every verb does that for a moment when it begins.",
     .run = verb_system},
    {.name = "snapshot",
     .operands = "ACTION NAME [TAG...]",
     .min_operands = 2,
     .max_operands = -1,
     .summary = "keep states of a machine, and go back to them",
     .text =
         "Actions: create NAME [TAG], of a machine that runs on, without a TAG named by the time; list NAME; restore "
         "NAME TAG, the machine as it was then: one that runs must be ended first, or is by -f; rm NAME TAG... . Of "
         "machines that can write to a disk there are none yet: `trapeze suspend` keeps such ones. The files lie with "
         "the machine's, and go with it.",
     .examples = examples_snapshot,
     .options = {OPT_FORCE, OPT_FORMAT},
     .run = verb_snapshot},
    {.name = "clone",
     .operands = "NAME[:TAG] NEW",
     .min_operands = 2,
     .max_operands = 2,
     .summary = "let another machine go on from where one is, or from a snapshot",
     .text =
         "The snapshot is a template then: any number of machines can begin with it, in the time that it takes to "
         "start a "
         "process. Memory is read from its file when it is touched, and what a clone never touches is kept once for "
         "all "
         "of them. Each clone has an identity of its own: generation identifier, seed of random numbers and, where the "
         "guest has an agent, host name and clock. Without a TAG a machine that runs is cloned as it is. Published "
         "ports stay with the first one. Machines that can write to a disk, or have a card on a network with others, "
         "can not be cloned yet.",
     .examples = examples_clone,
     .run = verb_clone},
    {.name = "top",
     .operands = "[CONTAINER]",
     .min_operands = 0,
     .max_operands = 1,
     .summary = "show what runs, and what it uses; or the processes of a container",
     .text =
         "Without a name a line for each machine and container that lives, by the processes that work for it: CPU time "
         "since they began, memory with what they share counted once; with --interval again and again, and the "
         "share of a CPU in between. With a name its processes, numbers as the host has them. (`trapeze exec "
         "CONTAINER ps` asks the container itself, where it has such a program.)",
     .options = {OPT_INTERVAL, OPT_LINES, OPT_FORMAT},
     .run = verb_top},
    {.name = "events",
     .operands = "[NAME...]",
     .min_operands = 0,
     .max_operands = -1,
     .summary = "show what happened to machines and containers",
     .text =
         "Each that was made, started, paused, resumed, has ended (with its status) or was removed: the last 4096 at "
         "least, of the names or ids given or of all. With -f it goes on. As JSON an object a line.",
     .options = {OPT_FOLLOW_EVENTS, OPT_FORMAT},
     .run = verb_events},
    {.name = "swing",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "change the engine of a machine while it runs",
     .text = "Its processors stop between two instructions, the other engine takes them, and they go on: a fraction of "
             "a millisecond. "
             "Memory, devices, connections and consoles stay where they are. The next start takes the same engine.",
     .examples = examples_swing,
     .options = {OPT_ENGINE},
     .run = verb_swing},
    {.name = "update",
     .operands = "NAME...",
     .min_operands = 1,
     .max_operands = -1,
     .summary = "change how much a running machine or container may use",
     .text = "The guest is told how much memory it is to have; its balloon driver gives the rest back to this host, "
             "page by "
             "page, as far as its system can do without: `trapeze ps` shows how far it has come. It can get "
             "back what the machine was started with, not more. A guest that starts anew is told again; a machine that "
             "is started anew "
             "has all its memory. Without --memory, too, a guest with such a driver gives back what it does not use, "
             "seconds after it was freed.\n"
             "Of a container the limits of memory and CPU time are changed; one that uses more than its new limit of "
             "memory, "
             "and can not do with less, may lose processes.",
     .examples = examples_update,
     .options = {OPT_MEMORY_UPDATE, OPT_CPUS_UPDATE},
     .run = verb_update},
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
     .summary = "show what a machine's engine counts, what a container uses",
     .text =
         "Instructions and how they were run, exits from translated code by reason, the code cache, memory look-ups, "
         "events: since the machine started, or with --interval a line a while. What ran without the monitor is all "
         "but the system instructions that were interpreted.\n"
         "The columns of --interval: million instructions a second; how many of a hundred ran without the monitor "
         "(direct); then, a second: exits from translated code, blocks made, TLB look-ups that missed and entries "
         "filled, exceptions, interrupts, accesses to ports and device memory.\n"
         "Memory: what the guest has (`trapeze update` changes that), what the host holds for it, and what its own "
         "system "
         "counts, if it has a balloon driver that can be asked. The machine may run or be paused; it does not notice, "
         "but "
         "for that question.\n"
         "Of a container: CPU time, memory, processes, and bytes of block devices; with --interval how much of one CPU "
         "it "
         "used.",
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
