#!/usr/bin/env bash
# Makes three releases of one real system to measure with: `base` has what the suite's own pocket has,
# `hotfix` three libraries newer than that, `patch` everything that is newer, the kernel among it.
#
#   integration/benches/release-images.sh [KIND...]      ext4 squashfs erofs lz4.erofs; without a word, all
#
# As root on Debian. The packages come from the mirrors that this machine's apt is configured with, the
# suite is the machine's own. Leaves RELEASE.KIND, RELEASE.kernel and RELEASE.packages of each release in
# target/release-images. The same tree gives the same bytes, and what is there is kept: delete that folder
# for new releases.
set -euo pipefail
cd "$(dirname "$0")/../.."

# A node of a cluster with what its owners need when it misbehaves; about 1.1 GiB.
packages=(
  linux-image-amd64 systemd-sysv udev dbus openssh-server ca-certificates curl iproute2 iptables nftables
  ethtool kmod e2fsprogs xfsprogs lvm2 nfs-common open-iscsi chrony rsync rsyslog zstd xz-utils
  containerd runc crun skopeo kubernetes-client etcd-server python3 perl git vim tmux strace tcpdump bpftool
  bind9-dnsutils haproxy nginx-light redis-tools memcached jq libarchive-tools parted ntfs-3g charon-systemd
  libnss3-tools zip unzip
)
# What a hotfix is for: source packages whose libraries much else is linked with.
hotfixed=(openssl expat xz-utils)
releases=(base hotfix patch)
# The size of a root partition, whatever is in it.
ext4_mib=1184
ext4_inodes=32768
out=$PWD/target/release-images
# Any fixed time will do; nothing in an image is newer than it.
export SOURCE_DATE_EPOCH=1790000000
uuid=0d5c0c4e-7a57-4d0c-9d5c-5d0c0a5e0d0c

die() { printf 'release-images: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

kinds=()
for word in "$@"; do
  case $word in
    ext4 | squashfs | erofs | lz4.erofs) kinds+=("$word") ;;
    *) die "there is no $word here; say ext4, squashfs, erofs, lz4.erofs" ;;
  esac
done
[ ${#kinds[@]} -gt 0 ] || kinds=(ext4 squashfs erofs lz4.erofs)
[ "$(id -u)" = 0 ] || die "packages and their owners need root"

work=
installer=
cleanup() {
  [ -n "$work" ] || return 0
  # It takes its mounts and its folder with it.
  if [ -n "$installer" ] && kill "$installer" 2>/dev/null; then wait "$installer" || true; fi
  if mountpoint -q "$work/trees"; then umount "$work/trees"; fi
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")

# preferences RELEASE: what apt may choose from.
preferences() {
  [ "$1" = hotfix ] || return 0
  local pocket
  printf 'Package: *\nPin: release n=%s\nPin-Priority: 1001\n' "$suite"
  for pocket in updates security; do
    printf '\nPackage: %s\nPin: release n=%s-%s\nPin-Priority: 1002\n' "${hotfixed[*]/#/src:}" "$suite" "$pocket"
  done
}

# bootstrap RELEASE TAR
bootstrap() {
  local release=$1 tar=$2 which=all options=() option list="${packages[*]}"
  [ "$release" != base ] || which=release
  while read -r option; do options+=("--aptopt=$option"); done < <(apt_options)
  preferences "$release" >"$work/preferences"
  say "installing ${#packages[@]} packages and what they need ($release)"
  # The initrd is not part of an image, and making it takes minutes.
  sources "$which" >"$work/sources"
  INITRD=No TMPDIR=$work/trees mmdebstrap --quiet --mode=root --variant=minbase --format=tar "${options[@]}" \
    --dpkgopt=force-unsafe-io --include="${list// /,}" \
    --setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\"; cp '$work/preferences' \"\$1/etc/apt/preferences.d/releases\"" \
    "$suite" "$work/$release.tar.zst" "$work/sources" </dev/null &
  # Bash heeds a signal while it waits, not while a command runs in front.
  installer=$!
  wait "$installer"
  installer=
  mv "$work/$release.tar.zst" "$tar"
}

# unpack RELEASE: to its folder among the trees.
unpack() {
  local release=$1 tree=$work/trees/$1
  [ ! -d "$tree" ] || return 0
  mkdir "$tree"
  tar -C "$tree" --zstd --numeric-owner --xattrs --xattrs-include='*' -xf "$out/$release.tar.zst"
  (cd "$tree" && tidy)
  find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# What differs from one run to the next, or belongs to one machine alone, is not part of an image: keys, logs,
# caches, the mirror of this machine; and an initrd is made where a kernel is installed. The current folder is
# the tree.
tidy() {
  rm -rf boot/initrd.img* var/lib/initramfs-tools/* etc/ssh/ssh_host_* etc/iscsi/initiatorname.iscsi \
    etc/apt/preferences.d/releases etc/apt/apt.conf.d/99mmdebstrap etc/apt/sources.list.d/* etc/*- \
    var/log/* var/cache/* var/lib/apt/* var/lib/dpkg/*-old var/lib/dbus/machine-id var/lib/systemd/random-seed
  : >etc/apt/sources.list
  : >etc/machine-id
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

# Each of these makes IMAGE of TREE.
make_ext4() {
  local tree=$1 image=$2 inode field
  truncate -s "${ext4_mib}M" "$image"
  # The journal is left out: a root that is only ever mounted read-only replays nothing.
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -L root -U "$uuid" \
    -E "hash_seed=$uuid,lazy_itable_init=0" -N $ext4_inodes -d "$tree" "$image"
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

# The zstd that Drydock is built with, for programs that link libzstd: a delta of a squashfs unpacks only what
# the same zstd packs again as it was, and this machine's may be another one.
same_zstd() {
  local source
  source=$(cargo metadata --locked --format-version 1 | grep -o '"manifest_path":"[^"]*/zstd-sys-[^"]*"' | cut -d'"' -f4)
  source=${source%/*}/zstd/lib
  mkdir "$work/zstd"
  cc -O2 -fPIC -shared -DZSTD_DISABLE_ASM -DZSTD_MULTITHREAD -I"$source" "$source"/{common,compress,decompress,dictBuilder}/*.c \
    -Wl,-soname,libzstd.so.1 -o "$work/zstd/libzstd.so.1"
}

# Its times are held below SOURCE_DATE_EPOCH by mksquashfs itself, as by mkfs.erofs.
make_squashfs() {
  [ -d "$work/zstd" ] || same_zstd
  LD_LIBRARY_PATH=$work/zstd mksquashfs "$1" "$2" -comp zstd -Xcompression-level 9 -noappend -no-progress -quiet >/dev/null
}
make_erofs() { mkfs.erofs --quiet -U "$uuid" "$2" "$1"; }
make_lz4.erofs() { mkfs.erofs --quiet -zlz4hc -U "$uuid" "$2" "$1"; }

# list_packages TREE: name, version, source.
# shellcheck disable=SC2016 # these are dpkg's
list_packages() { dpkg-query --root="$1" -W -f='${Package} ${Version} ${source:Package}\n'; }

make_images() {
  local release kind tree
  mkdir -p "$out"
  work=$(mktemp -d "$out/.work.XXXXXX")
  # In memory, because there files come in the order in which they were made, on every machine; and apt fetches
  # as a user of its own.
  chmod 755 "$work"
  mkdir "$work/trees"
  mount -t tmpfs -o size=8g,mode=755 release-images "$work/trees"
  for release in "${releases[@]}"; do
    [ -e "$out/$release.tar.zst" ] || bootstrap "$release" "$out/$release.tar.zst"
  done
  for kind in packages kernel "${kinds[@]}"; do
    for release in "${releases[@]}"; do
      [ ! -e "$out/$release.$kind" ] || continue
      unpack "$release"
      tree=$work/trees/$release
      say "making $release.$kind"
      case $kind in
        packages) list_packages "$tree" >"$work/$release.$kind" ;;
        kernel) cp "$(find "$tree/boot" -name 'vmlinuz-*')" "$work/$release.$kind" ;;
        *) "make_$kind" "$tree" "$work/$release.$kind" ;;
      esac
      # Where an image is, it is whole.
      mv "$work/$release.$kind" "$out/"
    done
  done
  cleanup
  work=
}

incomplete=no
for kind in tar.zst packages kernel "${kinds[@]}"; do
  for release in "${releases[@]}"; do [ -e "$out/$release.$kind" ] || incomplete=yes; done
done
if [ $incomplete = yes ]; then
  install_tools mmdebstrap:mmdebstrap mksquashfs:squashfs-tools mkfs.erofs:erofs-utils mke2fs:e2fsprogs \
    debugfs:e2fsprogs zstd:zstd
  fresh_lists
  make_images
fi
for release in "${releases[@]}"; do
  newer=$(comm -13 <(sort "$out/base.packages") <(sort "$out/$release.packages"))
  say "$release: $(wc -l <"$out/$release.packages") packages, $(grep -c . <<<"$newer" || true) of them newer than in base," \
    "of $(awk 'NF { print $3 }' <<<"$newer" | sort -u | wc -l) source packages"
  for kind in kernel "${kinds[@]}"; do
    say "$(stat -c %s "$out/$release.$kind") bytes, sha256:$(sha256sum <"$out/$release.$kind" | cut -c1-64), $release.$kind"
  done
done
