#!/usr/bin/env bash
# Makes the two trees of a node's packages, from Debian's packages alone: what the release's own pocket
# has, and the same with its updates and security pockets. Both have the release's kernel.
#
#   integration/nodes/trees.sh OUT        leaves OUT/1.tar, OUT/2.tar, OUT/1.packages, OUT/2.packages
#
# As root on Debian. The packages come from the mirrors that this machine's apt is configured with, the
# suite is the machine's own. build.sh keeps what this leaves under the hash of this script.
set -euo pipefail

packages=(
  linux-image-cloud-amd64 systemd-sysv udev kmod mount util-linux procps iproute2 iptables
  runc containernetworking-plugins busybox-static
)
# Kernel modules that a guest of QEMU with pods and packet filters asks for, and what these need. Names
# are of files, without .ko.
modules=(
  virtio_pci virtio_blk virtio_net virtio-rng virtio_console squashfs autofs4 overlay bridge br_netfilter veth
  'nf_*' 'nft_*' 'xt_*' 'x_tables' 'ip_tables' 'ip6_tables' 'iptable_*' 'ip6table_*' 'ipt_*' 'ip6t_*' nfnetlink
)
# Units that do nothing here but take their time, or would write to the root.
masked=(
  getty.target getty-static.service serial-getty@ttyS0.service console-getty.service systemd-logind.service
  systemd-user-sessions.service systemd-update-utmp.service systemd-update-utmp-runlevel.service
  systemd-ask-password-wall.path systemd-ask-password-console.path systemd-firstboot.service
  systemd-machine-id-commit.service systemd-repart.service systemd-binfmt.service systemd-pstore.service
  systemd-random-seed.service systemd-sysusers.service systemd-pcrphase.service
  systemd-pcrphase-sysinit.service systemd-journald-audit.socket systemd-initctl.socket
  systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service
  proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount
  sys-kernel-debug.mount sys-kernel-tracing.mount cryptsetup.target integritysetup.target
  veritysetup.target remote-fs.target fstrim.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer
)

die() { printf 'nodes: %s\n' "$*" >&2; exit 1; }
say() { printf 'nodes: %s\n' "$*" >&2; }

[ $# = 1 ] || die "usage: trees.sh OUT"
[ "$(id -u)" = 0 ] || die "packages are installed as root"
out=$(realpath "$1")
work=$(mktemp -d "$out/.work.XXXXXX")
cleanup() { rm -rf --one-file-system "$work"; }
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")

# shellcheck source=integration/apt-sources.sh
source "$(dirname "$0")/../apt-sources.sh"

# bootstrap 1|2: into $work/tree.
bootstrap() {
  local which=release options=() option list="${packages[*]}"
  [ "$1" = 1 ] || which=all
  while read -r option; do options+=("--aptopt=$option"); done < <(apt_options)
  printf 'Package: src:linux src:linux-signed-amd64\nPin: release n=%s\nPin-Priority: 1001\n' "$suite" >"$work/hold"
  # The initrd is build.sh's own: none is made where a kernel is installed.
  for option in '/etc/kernel/postinst.d/*' '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/info/*' \
    '/usr/share/locale/*' '/usr/share/lintian/*' '/usr/share/bash-completion/*'; do
    options+=("--dpkgopt=path-exclude=$option")
  done
  # All packages at once and by name: what is unpacked over the tree later may turn its links into folders.
  sources "$which" | timeout 1800 mmdebstrap --quiet --mode=root --variant=essential --format=directory \
    "${options[@]}" --dpkgopt=force-unsafe-io --include="${list// /,}" \
    --setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\"; cp '$work/hold' \"\$1/etc/apt/preferences.d/hold\"" \
    "$suite" "$work/tree" -
}

# Keeps those kernel modules that are named above, and what they need.
prune_modules() {
  local release module file keep=$work/keep
  release=$(basename "$(echo usr/lib/modules/*)")
  depmod --basedir "$PWD" "$release"
  : >"$keep"
  for module in "${modules[@]}"; do
    find "usr/lib/modules/$release" -name "$module.ko" -printf '%f\n' | sed 's/\.ko$//'
  done | sort -u | while read -r file; do
    modprobe --dirname "$PWD" --set-version "$release" --show-depends "$file" | sed -n 's/^insmod //p'
  done | sed 's/ *$//; s|^.*/usr/lib/modules/|usr/lib/modules/|; s|^.*/lib/modules/|usr/lib/modules/|' | sort -u >"$keep"
  find "usr/lib/modules/$release" -name '*.ko' | sort | comm -23 - "$keep" | xargs -r rm
  [ -e "usr/lib/modules/$release/kernel/fs/squashfs/squashfs.ko" ] || die "no squashfs among the modules that were kept"
  find "usr/lib/modules/$release" -type d -empty -delete
  rm -f "usr/lib/modules/$release"/{source,build}
  depmod --basedir "$PWD" "$release"
}

# Takes away what no node needs. The current folder is the tree.
prune() {
  prune_modules
  local perl
  perl=$(find usr/bin -type f -exec sh -c 'head -c 64 "$1" | head -n 1 | grep -aq "^#!.*perl"' _ {} \; -print)
  # shellcheck disable=SC2086 # names without spaces
  rm -f $perl usr/bin/perl* usr/bin/{apt,dpkg,deb}*
  rm -rf usr/lib/apt usr/lib/dpkg usr/lib/x86_64-linux-gnu/{perl*,libperl*,gconv,libapt-*} usr/share/{perl*,doc,man,info,locale} \
    usr/share/{bug,lintian,zoneinfo,bash-completion,zsh,initramfs-tools,debconf,gcc,gdb,pixmaps,common-licenses} \
    usr/lib/udev/hwdb* etc/udev/hwdb* usr/lib/firmware usr/lib/systemd/catalog usr/lib/systemd/{portable,user} \
    usr/lib/{initramfs-tools,klibc,klibc-*.so} etc/initramfs-tools etc/{apt,dpkg,perl,kernel,cron*,init.d,rc?.d} \
    usr/include usr/src usr/games usr/local/share etc/machine-id~ usr/sbin/{mkfs,fsck,mke2fs,e2fsck}.* \
    usr/lib/cni/{bandwidth,dhcp,firewall,host-device,ipvlan,macvlan,ptp,sbr,static,tuning,vlan,vrf}
  find usr/lib/udev/rules.d -type f ! -name '50-udev-default.rules' ! -name '60-block.rules' \
    ! -name '60-persistent-storage.rules' ! -name '80-drivers.rules' ! -name '80-net-setup-link.rules' \
    ! -name '99-systemd.rules' -delete
  rm -rf var/cache var/lib/apt var/lib/dpkg var/log var/lib/systemd etc/*- boot/{System.map,config,initrd}* \
    vmlinuz* initrd.img* etc/systemd/system/*.wants/{getty,remote,fstrim,dpkg}* dev/* run/* tmp/*
  find . -xdev -name '*.pyc' -delete
  # Empty: the initrd lays the node's own over it.
  : >etc/machine-id
  local unit
  for unit in "${masked[@]}"; do ln -sf /dev/null "etc/systemd/system/$unit"; done
}

fresh_lists
for number in 1 2; do
  say "installing ${#packages[@]} packages and what they need, tree $number of 2"
  mkdir "$work/tree"
  bootstrap "$number"
  dpkg-query --root="$work/tree" -W >"$work/$number.packages"
  (cd "$work/tree" && prune)
  [ "$(find "$work/tree/boot" -name 'vmlinuz-*' | wc -l)" = 1 ] || die "there is not one kernel in the tree"
  tar -C "$work/tree" --sort=name --numeric-owner --xattrs --xattrs-include='*' -cf "$work/$number.tar" .
  rm -rf "$work/tree"
done
mv "$work"/{1,2}.packages "$work"/{1,2}.tar "$out/"
