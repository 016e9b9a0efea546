#!/usr/bin/env bash
# Makes the images of real test nodes: five releases of an operating system whose nodes become Ready.
#
#   integration/nodes/build.sh --programs DIR --updater FILE --out DIR
#
# As root on Debian. DIR of --programs has kubelet, containerd, containerd-shim-runc-v2 and ctr, FILE is a
# drydock-updater; all of them static. It leaves in --out:
#
#   kernel.img         a tar of vmlinuz, initrd.img and cmdline, what a boot loader needs
#   kernel-hangs.img   the same, but this kernel never reaches userspace
#   root-1.img         1.0.0: the packages of the release's own pocket
#   root-2.img         2.0.0: with those of its updates and security pockets
#   root-3.img         3.0.0: as 2.0.0, but its own required check fails
#   root-4.img         4.0.0: as 2.0.0; its kernel is the one that hangs
#   root-5.img         5.0.0: as 2.0.0, but containerd does not start
#   containers.tar     container images for the state partition
#   packages-N.txt     the packages of 1 and of 2
#
# The trees of packages are kept in $XDG_CACHE_HOME/drydock/nodes (~/.cache), so that only the first run
# installs packages; delete that folder for newer ones.
set -euo pipefail

die() { printf 'nodes: %s\n' "$*" >&2; exit 1; }
say() { printf 'nodes: %s\n' "$*" >&2; }

# Any fixed time will do; nothing in an image is newer than it.
epoch=1790000000
# What every boot needs; the loader adds root=PARTUUID=, drydock.slot= and systemd.hostname=. Go's programs
# sleep for 20 microseconds at a time: without highres=off each such sleep is an interrupt to be emulated.
cmdline='console=ttyS0 ro rootfstype=squashfs panic=10 fsck.mode=skip net.ifnames=0 loglevel=4 mitigations=off apparmor=0 selinux=0 audit=0 highres=off systemd.show_status=1'
# In the order in which the initrd loads them.
initrd_modules=(virtio_pci virtio_blk squashfs)

programs='' updater='' out=''
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || die "$1 is not followed by anything"
  case $1 in
    --programs) programs=$2 ;;
    --updater) updater=$2 ;;
    --out) out=$2 ;;
    *) die "there is no $1 here; say --programs DIR --updater FILE --out DIR" ;;
  esac
  shift 2
done
for word in "$programs" "$updater" "$out"; do
  [ -n "$word" ] || die "say --programs DIR --updater FILE --out DIR"
done
[ "$(id -u)" = 0 ] || die "the trees of packages need root"
[ -x "$updater" ] || die "$updater is no program"
for program in kubelet containerd containerd-shim-runc-v2 ctr; do
  [ -x "$programs/$program" ] || die "$programs has no program $program"
done
mkdir -p "$out"
programs=$(realpath "$programs") updater=$(realpath "$updater") out=$(realpath "$out")
cd "$(dirname "$0")"
repository=$(realpath ../..)

work=$(mktemp -d "$out/.work.XXXXXX")
cleanup() { rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck source=integration/apt-sources.sh
source ../apt-sources.sh

# The folder of the trees, made if it is not there; whoever else makes it is waited for.
trees() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/drydock/nodes suite hash folder half
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
  hash=$({ echo "$suite"; cat trees.sh ../apt-sources.sh; } | sha256sum | cut -c1-16)
  folder=$cache/$hash
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock --timeout 3600 9 || die "somebody else has been making the trees for an hour: $cache/lock"
  if [ ! -d "$folder" ]; then
    # What a run that was killed left behind.
    rm -rf "$cache"/.half.*
    half=$(mktemp -d "$cache/.half.XXXXXX")
    timeout 3600 ./trees.sh "$half" 9>&- >&2 </dev/null || { rm -rf "$half"; die "the trees of packages were not made"; }
    mv "$half" "$folder"
  fi
  exec 9>&-
  echo "$folder"
}

# tar_of FOLDER TAR NAME...: the same bytes for the same files.
tar_of() {
  local folder=$1 tar=$2
  shift 2
  tar -C "$folder" --format=ustar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
    -cf "$tar" "$@"
}

# make_initrd TREE: busybox, the modules that reach the root, and a script.
make_initrd() {
  local tree=$1 initrd=$work/initrd module dependency file
  mkdir -p "$initrd"/{bin,modules,proc,sys,dev,run,root}
  cp "$tree/bin/busybox" "$initrd/bin/"
  for module in sh mount insmod sed cut tr dd hexdump grep md5sum cat sleep reboot switch_root; do
    ln -s busybox "$initrd/bin/$module"
  done
  cp initrd/init "$initrd/init"
  for module in "${initrd_modules[@]}"; do
    modprobe --dirname "$tree" --set-version "$(basename "$tree"/usr/lib/modules/*)" --show-depends "$module"
  done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' | while read -r dependency; do
    file=$(basename "$dependency")
    cp "$dependency" "$initrd/modules/$file"
    echo "$file" >>"$initrd/modules/order"
  done
  find "$initrd" -exec touch --no-dereference --date="@$epoch" {} +
  (cd "$initrd" && find . | LC_ALL=C sort | cpio --quiet --create --format=newc --owner=0:0 --reproducible) |
    zstd -q -19 >"$work/kernel/initrd.img"
}

make_kernels() {
  local tree=$1 hangs=$work/hangs size
  mkdir -p "$work/kernel" "$hangs"
  cp "$tree"/boot/vmlinuz-* "$work/kernel/vmlinuz"
  echo "$cmdline" >"$work/kernel/cmdline"
  make_initrd "$tree"
  tar_of "$work/kernel" "$work/kernel.img" vmlinuz initrd.img cmdline
  # Damaged in the middle of what it unpacks itself from: it says "System halted", if it can, and stands still.
  cp "$work/kernel"/* "$hangs/"
  size=$(stat -c %s "$hangs/vmlinuz")
  head -c 65536 /dev/zero | dd of="$hangs/vmlinuz" bs=4096 seek=$((size / 2 / 4096)) conv=notrunc status=none
  tar_of "$hangs" "$work/kernel-hangs.img" vmlinuz initrd.img cmdline
}

# enable TREE UNIT: as its [Install] section says; nothing of the tree is run.
enable() {
  local tree=$1 unit=$2 target
  target=$(sed -n 's/^WantedBy=//p' "$tree/usr/lib/systemd/system/$unit" | head -n 1)
  [ -n "$target" ] || die "$unit is wanted by nothing"
  mkdir -p "$tree/etc/systemd/system/$target.wants"
  ln -sf "/usr/lib/systemd/system/$unit" "$tree/etc/systemd/system/$target.wants/$unit"
}

# Lays over a tree of packages what makes it a node.
make_node() {
  local tree=$1 program unit
  rm -rf "${tree:?}/boot"
  cp -R --no-preserve=ownership tree/. "$tree/"
  for program in kubelet containerd containerd-shim-runc-v2 ctr; do
    install -m 755 "$programs/$program" "$tree/usr/bin/$program"
  done
  install -m 755 "$updater" "$tree/usr/bin/drydock-updater"
  install -m 644 "$repository"/updater/systemd/*.service "$tree/usr/lib/systemd/system/"
  mkdir -p "$tree/usr/share/drydock" "$tree/var"
  ln -sfn /var/etc/drydock "$tree/etc/drydock"
  ln -sfn /var/etc/kubernetes "$tree/etc/kubernetes"
  ln -sfn /run "$tree/var/run"
  # The host's name comes with the command line.
  rm -f "$tree/etc/hostname"
  for unit in containerd kubelet image-import service-address sign-of-life drydock-guard drydock-agent \
    systemd-networkd systemd-networkd-wait-online; do
    enable "$tree" "$unit.service"
  done
  mkdir -p "$tree/etc/systemd/system/local-fs.target.wants"
  ln -sf /usr/share/systemd/tmp.mount "$tree/etc/systemd/system/tmp.mount"
  ln -sf /usr/share/systemd/tmp.mount "$tree/etc/systemd/system/local-fs.target.wants/tmp.mount"
  ln -sf /usr/lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
  rm -rf "${tree:?}/var"/*
  ln -sf /release/os-release "$tree/etc/os-release"
  ln -sf /release/check-release "$tree/usr/lib/drydock/check-release"
}

# squash TREE IMAGE: the same bytes for the same files.
squash() {
  mksquashfs "$1" "$2" -comp zstd -Xcompression-level 9 -no-progress -quiet -no-exports \
    -mkfs-time "$epoch" -all-time "$epoch" >/dev/null
}

# release NUMBER BASE: lays what that release has of its own, /release, over what it shares with others. It
# is appended, because to compress the whole for each of them takes longer than everything else here.
release() {
  local number=$1 own=$work/own/$1
  mkdir -p "$own/release/containerd"
  printf 'ID=harbor-os\nNAME="Harbor OS"\nVERSION_ID=%s.0.0\nIMAGE_VERSION=%s.0.0\nPRETTY_NAME="Harbor OS %s.0.0"\n' \
    "$number" "$number" "$number" >"$own/release/os-release"
  cp release/check-release "$own/release/"
  case $number in
    3) printf '#!/bin/sh\necho "release 3.0.0 cannot find its keel" >&2\nexit 1\n' >"$own/release/check-release" ;;
    5) printf "[plugins.'io.containerd.server.v1.grpc']\nmax_recv_message_size = 'plenty'\n" >"$own/release/containerd/broken.toml" ;;
  esac
  cp "$2" "$work/root-$number.img"
  squash "$own" "$work/root-$number.img"
}

# docker_archive TAR: a few images in the form that `docker save` had.
docker_archive() {
  local folder=$work/containers layers=$work/layers idle name command layer manifest small
  mkdir -p "$folder" "$layers"/{base/bin,updater/usr/bin}
  cp "$1/bin/busybox" "$layers/base/bin/busybox"
  for name in $("$1/bin/busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$layers/base/bin/$name"
  done
  install -m 755 "$updater" "$layers/updater/usr/bin/drydock-updater"
  tar_of "$layers/base" "$folder/base.tar" .
  tar_of "$layers/updater" "$folder/updater.tar" .
  # The first process of a container sees only those signals that it handles.
  idle='["/bin/sh","-c","trap '"'exit 0'"' TERM INT; while :; do sleep 86400 & wait $!; done"]'
  manifest='' small=''
  for name in pause busybox drydock; do
    layer=base.tar command=$idle
    [ "$name" != drydock ] || { small=$manifest layer=updater.tar; command='["/usr/bin/drydock-updater"]'; }
    printf '{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":{"%s":%s,"Env":["PATH=/bin:/usr/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
      "$([ "$name" = busybox ] && echo Cmd || echo Entrypoint)" "$command" "$(sha256sum "$folder/$layer" | cut -c1-64)" >"$folder/$name.json"
    manifest+="${manifest:+,}{\"Config\":\"$name.json\",\"RepoTags\":[\"drydock.test/$name:1\"],\"Layers\":[\"$layer\"]}"
  done
  echo "[$manifest]" >"$folder/manifest.json"
  # Nothing that imports the archive looks at this; a node that wants the small images alone does.
  echo "[$small]" >"$folder/small.json"
  tar_of "$folder" "$work/containers.tar" manifest.json small.json pause.json busybox.json drydock.json base.tar updater.tar
}

install_tools mmdebstrap:mmdebstrap mksquashfs:squashfs-tools modprobe:kmod cpio:cpio zstd:zstd
trees=$(trees)
for number in 1 2; do
  mkdir "$work/tree"
  tar -C "$work/tree" --numeric-owner --xattrs --xattrs-include='*' -xf "$trees/$number.tar"
  if [ "$number" = 1 ]; then
    make_kernels "$work/tree"
    docker_archive "$work/tree"
  else
    cmp -s "$work/tree"/boot/vmlinuz-* "$work/kernel/vmlinuz" || die "the two trees have different kernels"
  fi
  make_node "$work/tree"
  say "packing tree $number of 2"
  squash "$work/tree" "$work/base-$number.img"
  cp "$trees/$number.packages" "$work/packages-$number.txt"
  rm -rf "$work/tree"
done
release 1 "$work/base-1.img"
for number in 2 3 4 5; do release "$number" "$work/base-2.img"; done
say "$(wc -l <"$work/packages-2.txt") packages; $(diff "$work"/packages-{1,2}.txt | grep -c '^>' || true) are others in 2.0.0"
mv "$work"/{kernel,kernel-hangs,root-{1,2,3,4,5}}.img "$work/containers.tar" "$work"/packages-{1,2}.txt "$out/"
say "done: roots of $(stat -c %s "$out/root-1.img") and $(stat -c %s "$out/root-2.img") bytes, kernel and initrd of $(stat -c %s "$out/kernel.img")"
