# How a Debian becomes the files of a machine image: src/image/vmimage_debian.c runs this in namespaces of its own, as root
# there, with the directory of the image as $1. Nothing outside of it is written. Lines "I: .." are shown as progress, what
# begins with "E: " is what went wrong.
#
#   suite size uuid mirror security include agent unit   variables: bytes of the disk; mirror, security and include may be
#                                                        empty; the agent's program and the text of its systemd unit
set -eu
dir=$1
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export TMPDIR="$dir" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
# so that nothing sees the processes outside, and mmdebstrap's mounts are its own
mount -t proc proc /proc || { echo "E: /proc cannot be mounted in namespaces of one's own"; exit 1; }

packages=linux-image-cloud-amd64,systemd-sysv,udev,dbus,kmod,e2fsprogs,iproute2,iputils-ping
packages=$packages,openssh-server,sudo,login,passwd,procps,less,nano,ca-certificates
case $suite in
buster | bullseye) ;; # systemd's own package has it
*) packages=$packages,systemd-resolved ;;
esac

mkdir "$dir/files"
cd "$dir/files"
mkdir -p etc/systemd/network etc/systemd/system/ssh.service.d "etc/systemd/system/serial-getty@ttyS0.service.d" \
    etc/initramfs-tools/conf.d etc/initramfs-tools/hooks etc/init.d usr/sbin

# A disk of virtio with ext4 is all that the initrd has to find. It can not look for the root when it is made; FSTYPE tells which
# fsck it has to take along.
printf 'MODULES=list\nFSTYPE=ext4\n' >etc/initramfs-tools/conf.d/trapeze
cat >etc/initramfs-tools/hooks/trapeze <<'EOF'
#!/bin/sh
[ "${1:-}" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
EOF
chmod 755 etc/initramfs-tools/hooks/trapeze
# the file system follows the disk when that was made larger
echo "UUID=$uuid / ext4 discard,errors=remount-ro,x-systemd.growfs 0 1" >etc/fstab

cat >etc/systemd/network/80-dhcp.network <<'EOF'
[Match]
Type=ether

[Network]
DHCP=yes
IPv6AcceptRA=yes
EOF
# Keys are made at the first boot, or all machines would have the same; no RSA key, which takes a guest as long as all else.
cat >etc/systemd/system/ssh.service.d/trapeze.conf <<'EOF'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'cd /etc/ssh; for t in ed25519 ecdsa; do [ -e ssh_host_$${t}_key ] || ssh-keygen -q -t $$t -N "" -f ssh_host_$${t}_key; done'
ExecStartPre=/usr/sbin/sshd -t
EOF
# Who has the machine's console is its owner on the host, and could run programs as root anyway.
cat >etc/systemd/system/serial-getty@ttyS0.service.d/trapeze.conf <<'EOF'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
EOF
cp "$agent" usr/sbin/trapeze-agent
chmod 755 usr/sbin/trapeze-agent
printf %s "$unit" >etc/systemd/system/trapeze-agent.service
cat >etc/systemd/system/trapeze-first-boot.service <<'EOF'
[Unit]
Description=Host name and users from a NoCloud disk
Documentation=man:trapeze-run(1)
DefaultDependencies=no
After=systemd-remount-fs.service
Before=sysinit.target systemd-networkd.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/trapeze-agent --first-boot

[Install]
WantedBy=sysinit.target
EOF
# the same for who puts sysvinit in systemd's place
cat >etc/init.d/trapeze-agent <<'EOF'
#!/bin/sh
### BEGIN INIT INFO
# Provides:          trapeze-agent
# Required-Start:    $local_fs
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: exec, cp, shutdown and clock for the host
### END INIT INFO
agent=/usr/sbin/trapeze-agent
case $1 in
start)
    $agent --first-boot
    modprobe vmw_vsock_virtio_transport 2>/dev/null
    start-stop-daemon --start --quiet --oknodo --background --make-pidfile --pidfile /run/trapeze-agent.pid --exec $agent
    ;;
stop) start-stop-daemon --stop --quiet --oknodo --pidfile /run/trapeze-agent.pid --exec $agent ;;
restart | force-reload) $0 stop; $0 start ;;
*) echo "usage: $0 start|stop|restart|force-reload" >&2; exit 2 ;;
esac
EOF
chmod 755 etc/init.d/trapeze-agent
echo debian >etc/hostname
: >etc/machine-id
cd "$dir"

# A mirror's lines, and those of its updates where this host's apt names an archive of security updates; without a mirror
# mmdebstrap has them all.
set -- ${mirror:+"deb $mirror $suite main"}
case $suite in
sid | unstable | experimental | rc-buggy) ;;
*)
    [ -z "$security" ] || set -- "$@" "deb $mirror $suite-updates main" "deb $security $suite-security main"
    ;;
esac

# Ours go in before the kernel's package makes the initrd, and again after all packages had their say.
# mmdebstrap gives each hook the root as $1.
export files="$dir/files"
copy='cp -RT --no-dereference --preserve=mode "$files" "$1"'
mmdebstrap --verbose --mode=root --variant=minbase --format=directory --include="$packages${include:+,$include}" \
    --aptopt='Acquire::http::Timeout "20"' --aptopt='Acquire::Retries "2"' \
    --essential-hook="$copy" --customize-hook="$copy" \
    --customize-hook='chroot "$1" systemctl enable -q trapeze-agent trapeze-first-boot systemd-networkd systemd-resolved' \
    --customize-hook='chroot "$1" systemctl disable -q getty@tty1 e2scrub_reap e2scrub_all.timer || :' \
    --customize-hook='cd "$1/etc"; rm -f ssh/ssh_host_* resolv.conf apt/apt.conf.d/99mmdebstrap; ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf' \
    "$suite" "$dir/tree" "$@"

echo "I: making the disk..."
cp "$(ls "$dir"/tree/boot/vmlinuz-* | sort -V | tail -1)" "$dir/vmlinuz"
cp "$(ls "$dir"/tree/boot/initrd.img-* | sort -V | tail -1)" "$dir/initrd.img"
truncate -s "$size" "$dir/disk.img"
mke2fs -q -F -t ext4 -L root -U "$uuid" -E lazy_itable_init=0,lazy_journal_init=0 -d "$dir/tree" "$dir/disk.img" ||
    { echo "E: mke2fs failed: a larger --size may help"; exit 1; }
ls "$dir/tree/boot" | sed -n 's/^vmlinuz-//p' | sort -V | tail -1 >"$dir/release"
rm -rf "$dir/tree" "$dir/files"
