#!/usr/bin/env bash
# Makes two consecutive images of a real system, before and after a few package upgrades, as ext4 and as
# squashfs, and shows the write path on them: stages the second over the first on a loop device.
#
#   integration/benches/real-images.sh [--images-only] [ext4] [squashfs]
#
# As root on Debian. The packages come from the mirrors that this machine's apt is configured with, the
# suite is the machine's own: "before" from the release's own pocket, "after" with its updates and security
# pockets as well (all but the kernel; KERNEL=upgrade takes that too). Once made, the images are kept in
# target/real-images; delete that folder for new ones. ROUNDS says how often each measurement is made (3).
set -euo pipefail
cd "$(dirname "$0")/../.."

# A node of a cluster with what its owners need when it misbehaves; about 2 GB.
packages=(
  linux-image-amd64 systemd-sysv udev dbus openssh-server ca-certificates curl iproute2 iptables nftables
  ethtool kmod e2fsprogs xfsprogs btrfs-progs lvm2 nfs-common ceph-common open-iscsi chrony rsync zstd
  containerd runc docker.io podman buildah skopeo crun kubernetes-client etcd-server etcd-client
  openvswitch-switch qemu-utils python3 perl git vim tmux strace gdb tcpdump bpftrace linux-perf sysstat
  g++ golang-1.19-go
)
kernel=${KERNEL:-hold}
rounds=${ROUNDS:-3}
out=$PWD/target/real-images/kernel-$kernel
# Any fixed time will do; nothing in an image is newer than it.
export SOURCE_DATE_EPOCH=1790000000
uuid=0d5c0c4e-7a57-4d0c-9d5c-5d0c0a5e0d0c
least_bytes=$((500 << 20))

die() { printf 'real-images: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

images_only=no
systems=()
for word in "$@"; do
  case $word in
    --images-only) images_only=yes ;;
    ext4 | squashfs) systems+=("$word") ;;
    *) die "there is no $word here; say ext4, squashfs, --images-only" ;;
  esac
done
[ ${#systems[@]} -gt 0 ] || systems=(ext4 squashfs)
case $kernel in hold | upgrade) ;; *) die "KERNEL is hold or upgrade, not $kernel" ;; esac
[ "$(id -u)" = 0 ] || die "file systems, loop devices and partitions need root"

work=
cleanup() {
  [ -n "$work" ] || return 0
  if mountpoint -q "$work/tree"; then umount "$work/tree"; fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM


# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh

# bootstrap before|after TAR
bootstrap() {
  local pocket=$1 tar=$2 which=release options=() option
  [ "$pocket" = before ] || which=all
  while read -r option; do options+=("--aptopt=$option"); done < <(apt_options)
  if [ "$kernel" = hold ]; then
    printf 'Package: src:linux src:linux-signed-amd64\nPin: release n=%s\nPin-Priority: 1001\n' "$suite" >"$work/hold"
    options+=("--setup-hook=mkdir -p \"\$1/etc/apt/preferences.d\"; cp '$work/hold' \"\$1/etc/apt/preferences.d/hold\"")
  fi
  # What differs from one run to the next, or belongs to one machine alone, is not part of an image: keys,
  # logs, caches, the mirror of this machine; and an initrd is made where a kernel is installed.
  # shellcheck disable=SC2016 # "$1" is mmdebstrap's
  local tidy='cd "$1" &&
    rm -rf boot/initrd.img* etc/ssh/ssh_host_* etc/apt/preferences.d/hold etc/apt/apt.conf.d/99mmdebstrap \
      etc/apt/sources.list.d/* var/log/* var/cache/* var/lib/apt/* var/lib/dpkg/*-old etc/*- &&
    : >etc/apt/sources.list && : >etc/machine-id && rm -f var/lib/dbus/machine-id var/lib/systemd/random-seed'
  local list="${packages[*]}"
  say "installing ${#packages[@]} packages and what they need ($pocket)"
  sources "$which" | mmdebstrap --quiet --mode=root --variant=important --format=tar "${options[@]}" \
    --dpkgopt=force-unsafe-io \
    --include="${list// /,}" --customize-hook="$tidy" "$suite" "$tar" -
}

# inodes_in_use IMAGE: their numbers, those that are the file system's own apart.
inodes_in_use() {
  dumpe2fs "$1" 2>/dev/null | awk '
    /^Inode count:/ { last = $3 }
    /^ +Free inodes: / {
      sub(/^ +Free inodes: /, ""); pieces = split($0, piece, ", ")
      for (i = 1; i <= pieces; i++) {
        if (piece[i] == "") continue
        ends = split(piece[i], end, "-"); to = ends == 2 ? end[2] : end[1]
        for (n = end[1]; n <= to; n++) free[n] = 1
      }
    }
    END { print 2; for (n = 11; n <= last; n++) if (!(n in free)) print n }'
}

# make_ext4 TREE IMAGE: as large as the tree asks for, the same bytes for the same tree.
make_ext4() {
  local tree=$1 image=$2 bytes inodes
  bytes=$(($(du -s --block-size=4096 "$tree" | cut -f1) * 4096))
  inodes=$(find "$tree" | wc -l)
  rm -f "$image"
  truncate -s $(((bytes * 107 / 100 + (64 << 20)) >> 20 << 20)) "$image"
  # The journal is left out: a root that is only ever mounted read-only replays nothing.
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -L root -U "$uuid" \
    -E "hash_seed=$uuid,lazy_itable_init=0" -N $((inodes * 105 / 100 + 100)) -d "$tree" "$image"
  # The time of the last change is the time of unpacking, which no tool can set in the tree.
  inodes_in_use "$image" | while read -r inode; do
    for field in ctime atime crtime; do
      printf 'set_inode_field <%d> %s @%d\nset_inode_field <%d> %s_extra 0\n' \
        "$inode" "$field" "$SOURCE_DATE_EPOCH" "$inode" "$field"
    done
  done >"$work/times"
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f "$work/times" "$image" >/dev/null 2>"$work/debugfs"
  e2fsck -fn "$image" >/dev/null 2>&1 || die "$image is not a sound file system"
}

# make_squashfs TREE IMAGE: its times are held below SOURCE_DATE_EPOCH by mksquashfs itself.
make_squashfs() {
  local tree=$1 image=$2
  rm -f "$image"
  mksquashfs "$tree" "$image" -comp zstd -Xcompression-level 9 -noappend -no-progress -quiet >/dev/null
}

make_images() {
  local pocket system image
  mkdir -p "$out"
  work=$(mktemp -d "$out/.work.XXXXXX")
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
  for pocket in before after; do
    [ ! -e "$out/$pocket.packages" ] || continue
    if [ ! -e "$out/$pocket.tar" ]; then
      bootstrap "$pocket" "$work/$pocket.tar"
      mv "$work/$pocket.tar" "$out/$pocket.tar"
    fi
    # In memory, because there files come in the order in which they were made, on every machine.
    mkdir "$work/tree"
    mount -t tmpfs -o size=8g,mode=755 real-images "$work/tree"
    tar -C "$work/tree" --numeric-owner --xattrs --xattrs-include='*' -xf "$out/$pocket.tar"
    say "making the file systems ($pocket)"
    make_ext4 "$work/tree" "$work/$pocket.ext4"
    make_squashfs "$work/tree" "$work/$pocket.squashfs"
    cp "$(find "$work/tree/boot" -name 'vmlinuz-*' | sort | tail -n 1)" "$work/$pocket.kernel"
    dpkg-query --root="$work/tree" -W >"$work/$pocket.packages"
    umount "$work/tree"
    rmdir "$work/tree"
    for system in ext4 squashfs; do
      image=$work/$pocket.$system
      [ "$(stat -c %s "$image")" -ge $least_bytes ] || die "the $system image is below 500 MiB; name more packages"
    done
    # The list of packages comes last: where it is, the images are whole.
    mv "$work/$pocket".{ext4,squashfs,kernel} "$out/"
    mv "$work/$pocket.packages" "$out/$pocket.packages"
    rm "$out/$pocket.tar"
  done
  cleanup
  work=
}

if [ ! -e "$out/before.packages" ] || [ ! -e "$out/after.packages" ]; then
  install_tools mmdebstrap:mmdebstrap mksquashfs:squashfs-tools mke2fs:e2fsprogs debugfs:e2fsprogs \
    losetup:mount addpart:util-linux time:time
  fresh_lists
  make_images
fi
say "$(wc -l <"$out/after.packages") packages; $(diff "$out/before.packages" "$out/after.packages" | grep -c '^>' || true) are others in the second image"
for image in "$out"/{before,after}.{kernel,ext4,squashfs}; do
  say "$(stat -c %s "$image") bytes, sha256:$(sha256sum <"$image" | cut -c1-64), ${image##*/}"
done
[ "$images_only" = no ] || exit 0

# The programs that are measured and the one that measures; in one go, so that nothing is built twice.
cargo build --release --workspace --locked --bins --bench real_images
for system in "${systems[@]}"; do
  cargo bench --quiet --workspace --locked --bench real_images -- \
    --images "$out" --file-system "$system" --rounds "$rounds"
done
