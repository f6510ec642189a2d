/* What this runtime can do, from the tables that do it; and a configuration to begin with. */
#include "container/container.h"
#include "container/mount_option.h"
#include "container/spec.h"

#include <linux/capability.h>
#include <seccomp.h>
#include <string.h>
#include <unistd.h>

static json_t *words(const struct word *table)
{
    json_t *list = json_array();
    for (; table->name; table++)
        json_array_append_new(list, json_string(table->name));
    return list;
}

static json_t *mount_options(void)
{
    json_t *list = json_array();
    const char *name;
    for (size_t i = 0; (name = mount_option_name(i)); i++)
        json_array_append_new(list, json_string(name));
    return list;
}

static json_t *features_linux(void)
{
    return json_pack("{s:o,s:o,s:{s:b,s:b,s:b,s:b,s:b},s:{s:b,s:o,s:o,s:o,s:o,s:o},s:{s:b},s:{s:b},s:{s:{s:b}},s:{s:b,"
                     "s:b,s:b},s:{s:o,s:o},s:{s:b}}",
                     "namespaces", words(spec_namespace_words), "capabilities", words(spec_capability_words), "cgroup",
                     "v1", true, "v2", true, "systemd", false, "systemdUser", false, "rdma", true, "seccomp", "enabled",
                     true, "actions", words(spec_action_words), "operators", words(spec_operator_words), "archs",
                     words(spec_architecture_words), "knownFlags", words(spec_seccomp_flag_words), "supportedFlags",
                     words(spec_seccomp_flag_words), "apparmor", "enabled", true, "selinux", "enabled", true,
                     "mountExtensions", "idmap", "enabled", true, "intelRdt", "enabled", true, "schemata", true,
                     "monitoring", true, "memoryPolicy", "modes", words(spec_memory_mode_words), "flags",
                     words(spec_memory_flag_words), "netDevices", "enabled", true);
}

json_t *container_features(void)
{
    const struct scmp_version *v = seccomp_version();
    json_t *notes =
        json_pack("{s:s,s:s}", "io.github.seccomp.libseccomp.version", "", "org.trapeze.version", TRAPEZE_VERSION);
    json_object_set_new(notes, "io.github.seccomp.libseccomp.version",
                        json_sprintf("%u.%u.%u", v->major, v->minor, v->micro));
    return json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "ociVersionMin", SPEC_VERSION_MIN, "ociVersionMax", SPEC_VERSION_MAX,
                     "hooks", words(spec_hook_words), "mountOptions", mount_options(), "linux", features_linux(),
                     "annotations", notes);
}

/* --- `spec` --- */

static const char example_text[] =
    "{'ociVersion':'1.2.0','process':{'terminal':true,'user':{'uid':0,'gid':0},'args':['sh'],"
    "'env':['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin','TERM=xterm'],'cwd':'/',"
    "'capabilities':{'bounding':['CAP_AUDIT_WRITE','CAP_KILL','CAP_NET_BIND_SERVICE'],"
    "'effective':['CAP_AUDIT_WRITE','CAP_KILL','CAP_NET_BIND_SERVICE'],"
    "'permitted':['CAP_AUDIT_WRITE','CAP_KILL','CAP_NET_BIND_SERVICE']},"
    "'rlimits':[{'type':'RLIMIT_NOFILE','hard':1024,'soft':1024}],'noNewPrivileges':true},"
    "'root':{'path':'rootfs','readonly':true},'hostname':'trapeze',"
    "'mounts':[{'destination':'/proc','type':'proc','source':'proc'},"
    "{'destination':'/"
    "dev','type':'tmpfs','source':'tmpfs','options':['nosuid','strictatime','mode=755','size=65536k']},"
    "{'destination':'/dev/"
    "pts','type':'devpts','source':'devpts','options':['nosuid','noexec','newinstance','ptmxmode=0666',"
    "'mode=0620','gid=5']},"
    "{'destination':'/dev/"
    "shm','type':'tmpfs','source':'shm','options':['nosuid','noexec','nodev','mode=1777','size=65536k']},"
    "{'destination':'/dev/mqueue','type':'mqueue','source':'mqueue','options':['nosuid','noexec','nodev']},"
    "{'destination':'/sys','type':'sysfs','source':'sysfs','options':['nosuid','noexec','nodev','ro']},"
    "{'destination':'/sys/fs/"
    "cgroup','type':'cgroup','source':'cgroup','options':['nosuid','noexec','nodev','relatime','ro']}],"
    "'linux':{'resources':{'devices':[{'allow':false,'access':'rwm'}]},"
    "'namespaces':[{'type':'pid'},{'type':'network'},{'type':'ipc'},{'type':'uts'},{'type':'mount'},{'type':'cgroup'}],"
    "'maskedPaths':['/proc/acpi','/proc/asound','/proc/kcore','/proc/keys','/proc/latency_stats','/proc/timer_list',"
    "'/proc/timer_stats','/proc/sched_debug','/proc/scsi','/proc/interrupts','/sys/firmware','/sys/devices/virtual/"
    "powercap'],"
    "'readonlyPaths':['/proc/bus','/proc/fs','/proc/irq','/proc/sys','/proc/sysrq-trigger']}}";

/* For who is not root: a user namespace with himself as its root, the host's network, no limits. */
static void make_rootless(json_t *j)
{
    json_t *linux_part = json_object_get(j, "linux"), *namespaces = json_object_get(linux_part, "namespaces");
    json_array_append_new(namespaces, json_pack("{s:s}", "type", "user"));
    for (size_t i = json_array_size(namespaces); i-- > 0;)
        if (!strcmp(json_string_value(json_object_get(json_array_get(namespaces, i), "type")), "network"))
            json_array_remove(namespaces, i);
    json_object_set_new(linux_part, "uidMappings",
                        json_pack("[{s:i,s:I,s:i}]", "containerID", 0, "hostID", (json_int_t)geteuid(), "size", 1));
    json_object_set_new(linux_part, "gidMappings",
                        json_pack("[{s:i,s:I,s:i}]", "containerID", 0, "hostID", (json_int_t)getegid(), "size", 1));
    json_object_del(linux_part, "resources");
    size_t i;
    json_t *mount, *option;
    json_array_foreach(json_object_get(j, "mounts"), i, mount)
    {
        json_t *options = json_object_get(mount, "options");
        for (size_t k = json_array_size(options); k-- > 0;) {
            option = json_array_get(options, k);
            if (!strcmp(json_string_value(option), "gid=5"))
                json_array_remove(options, k);
        }
    }
}

json_t *container_example(bool rootless, bool filtered)
{
    char text[sizeof(example_text)];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = example_text[i] == '\'' ? '"' : example_text[i];
    json_t *j = json_loads(text, 0, NULL);
    if (j && rootless)
        make_rootless(j);
    if (j && filtered) /* for the capabilities of the text above */
        json_object_set_new(json_object_get(j, "linux"), "seccomp",
                            container_profile(BIT(CAP_AUDIT_WRITE) | BIT(CAP_KILL) | BIT(CAP_NET_BIND_SERVICE)));
    return j;
}
