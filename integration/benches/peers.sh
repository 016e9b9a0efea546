#!/usr/bin/env bash
# What others take for the same updates: from `base` to `hotfix` and from `base` to `patch` of the releases
# that release-images.sh makes, as ext4 and as squashfs, in turn on one loop device with slots A and B.
#
#   integration/benches/peers.sh [ext4] [squashfs] [PEER...]       without a word: both, and all of them
#
# As root on Debian, which has every peer; what is missing is installed, none of its services started.
# Prints a table in Markdown and leaves it in target/release-images/peers.md. What a peer publishes is made
# once and kept in target/release-images/peers. ROUNDS says how often each measurement is made (3); with 0
# there is only published.
#
# Before each measurement no byte of slot B is right, and after it slot B is compared with the image.
# Memory is that of the largest process of a peer, CPU that of all of them; neither knows the kernel's threads.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The bounds, then those that always install a whole image, then those that use what a node has.
bounds=(dd read sha256 zstd)
whole=(zstd-dd rauc swupdate)
deltas=(casync zchunk xdelta3 patch-3 patch-19)
rounds=${ROUNDS:-3}
images=$PWD/target/release-images
made=$images/peers
slack_bytes=$((4 << 20))

die() { printf 'peers: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

# among WORD WORDS...
among() {
  local word=$1
  shift
  case " $* " in *" $word "*) ;; *) return 1 ;; esac
}

systems=()
peers=()
for word in "$@"; do
  if among "$word" ext4 squashfs; then
    systems+=("$word")
  elif among "$word" "${bounds[@]}" "${whole[@]}" "${deltas[@]}"; then
    peers+=("$word")
  else
    die "there is no $word here; say ext4, squashfs, ${bounds[*]} ${whole[*]} ${deltas[*]}"
  fi
done
[ ${#systems[@]} -gt 0 ] || systems=(ext4 squashfs)
[ ${#peers[@]} -gt 0 ] || peers=("${bounds[@]}" "${whole[@]}" "${deltas[@]}")
# The time of everything is held against dd's.
among dd "${peers[@]}" || peers=(dd "${peers[@]}")
[[ $rounds =~ ^[0-9]+$ ]] || die "ROUNDS is a number, not $rounds"
[ "$(id -u)" = 0 ] || die "loop devices need root"

work=
disk=
cleanup() {
  trap - EXIT
  [ -n "$work" ] || return 0
  local group tries
  while read -r group; do kill -- "-$group" 2>/dev/null || true; done <"$work/groups"
  # A process that was ended a moment ago may still hold a partition or a mount.
  for tries in $(seq 50); do
    [ "$tries" = 1 ] || sleep 0.1
    if mountpoint -q "$work/mounts/bundle" && ! umount "$work/mounts/bundle" 2>/dev/null; then continue; fi
    [ -n "$disk" ] || break
    if [ -e "${disk}p1" ] && ! delpart "$disk" 1 2>/dev/null; then continue; fi
    if [ -e "${disk}p2" ] && ! delpart "$disk" 2 2>/dev/null; then continue; fi
    if losetup --detach "$disk" 2>/dev/null; then disk=; fi
  done
  [ -z "$disk" ] || say "$disk is still attached: losetup --detach $disk"
  rm -rf --one-file-system "$work"
  rm -f "$made/slot-b"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# start COMMAND...: in a process group of its own, which ends with this script; its number is in $started.
start() {
  setsid "$@" </dev/null &
  started=$!
  echo "$started" >>"$work/groups"
}

# finish GROUP: waits for it. Bash heeds a signal while it waits, not while a command runs in front.
finish() {
  local code=0
  wait "$1" || code=$?
  sed -i "/^$1\$/d" "$work/groups"
  return "$code"
}

# Runs a command to its end; what it says is shown if it fails.
run() {
  start "$@" >"$work/said" 2>&1
  finish "$started" || { tail -n 20 "$work/said" >&2; return 1; }
}

# soon COMMAND...: until it holds.
soon() {
  local tries
  for tries in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  say "in ten seconds this did not come to hold (tried $tries times): $*"
  return 1
}

install_peers() {
  local policy=/usr/sbin/policy-rc.d ours=no
  # Debian's way to say that no service is to be started.
  if [ ! -e $policy ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  install_tools rauc:rauc mksquashfs:squashfs-tools dbus-daemon:dbus-daemon swupdate:swupdate cpio:cpio \
    openssl:openssl casync:casync zck:zchunk xdelta3:xdelta3 zstd:zstd python3:python3-minimal time:time \
    losetup:mount addpart:util-linux || true
  [ $ours = no ] || rm -f $policy
}

# Slot A is partition 1, slot B is partition 2.
attach_disk() {
  local longest=0 bytes release system
  for release in base hotfix patch; do
    for system in "${systems[@]}"; do
      bytes=$(stat -c %s "$images/$release.$system")
      [ "$bytes" -le "$longest" ] || longest=$bytes
    done
  done
  local slot_bytes=$(((longest + slack_bytes) / slack_bytes * slack_bytes))
  truncate -s $((2 * slot_bytes + (2 << 20))) "$work/disk.img"
  # Past the cache of the file below, so that reads and writes are those of a disk.
  disk=$(losetup --find --show --partscan --direct-io=on "$work/disk.img")
  addpart "$disk" 1 2048 $((slot_bytes / 512))
  addpart "$disk" 2 $((2048 + slot_bytes / 512)) $((slot_bytes / 512))
  slot_a=${disk}p1 slot_b=${disk}p2
  soon test -b "$slot_b"
  ln -sfn "$slot_b" "$made/slot-b"
  run dd if=/dev/zero of="$slot_a" bs=4M count=$((slot_bytes >> 22)) oflag=direct conv=fsync
}

# wear BYTES: makes slot B wrong, with all its blocks in use, as a slot has after years.
wear() {
  # shellcheck disable=SC2016 # these are the inner shell's
  run sh -c 'tr "\0" "\377" </dev/zero | head --bytes="$1" | dd of="$2" bs=4M iflag=fullblock oflag=direct conv=fsync' \
    sh "$1" "$slot_b"
}

# Drops what the kernel remembers of the device and of the image in slot A.
forget() {
  blockdev --flushbufs "$slot_a" "$slot_b" "$disk"
  dd if="$from" iflag=nocache count=0 status=none
}

serve() {
  start python3 integration/benches/peers/serve.py "$made" "$work/requests" "$work/port"
  soon test -e "$work/port"
  url=http://127.0.0.1:$(cat "$work/port")
}

# What a peer publishes for a release, made once. $image is the release's, $from the one before it, $of the
# folder for what is made, $of_base that of the one before. Each leaves its file whole or not at all.
keep() {
  local file=$1
  shift
  [ ! -e "$file" ] || return 0
  say "making ${file#"$made"/}"
  run "$@" "$file.new" || return 1
  mv "$file.new" "$file"
}

keys() {
  [ -e "$made/cert.pem" ] || run openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=peers \
    -keyout "$made/key.pem" -out "$made/cert.pem"
}

publish_zstd() { keep "$of/image.zst" zstd -q -f -9 -T0 "$image" -o; }
publish_zstd-dd() { publish_zstd; }

publish_rauc() {
  keys || return 1
  rm -rf "$work/content" && mkdir "$work/content" && ln "$image" "$work/content/root.img" || return 1
  printf '[update]\ncompatible=peers\nversion=1\n[bundle]\nformat=plain\n[image.root]\nfilename=root.img\n' \
    >"$work/content/manifest.raucm"
  keep "$of/image.raucb" rauc --cert="$made/cert.pem" --key="$made/key.pem" \
    --mksquashfs-args='-comp zstd -Xcompression-level 9' bundle "$work/content"
}

publish_swupdate() {
  { keys && publish_zstd; } || return 1
  rm -rf "$work/swu" && mkdir "$work/swu" && ln "$of/image.zst" "$work/swu/" || return 1
  cat >"$work/swu/sw-description" <<END
software = { version = "1.0"; hardware-compatibility: [ "1.0" ]; images: ( {
  filename = "image.zst"; device = "$made/slot-b"; type = "raw"; compressed = "zstd"; installed-directly = true;
  sha256 = "$(sha256sum "$of/image.zst" | cut -c1-64)"; } ); }
END
  run openssl cms -sign -in "$work/swu/sw-description" -out "$work/swu/sw-description.sig" \
    -signer "$made/cert.pem" -inkey "$made/key.pem" -outform DER -nosmimecap -binary || return 1
  # shellcheck disable=SC2016 # these are the inner shell's
  keep "$of/image.swu" sh -c 'cd "$1" && printf "%s\n" sw-description sw-description.sig image.zst |
    cpio -o -H crc --quiet >"$2"' sh "$work/swu"
}

publish_casync() {
  [ ! -e "$of/image.caibx" ] || return 0
  say "making ${of#"$made"/}/image.caibx"
  rm -rf "$of/store.castr"
  run casync make --store="$of/store.castr" "$of/new.caibx" "$image" && mv "$of/new.caibx" "$of/image.caibx"
}

publish_zchunk() { keep "$of_base/image.zck" zck "$from" -o && keep "$of/image.zck" zck "$image" -o; }
publish_xdelta3() {
  keep "$of/image.xdelta3" xdelta3 -e -f -9 -S lzma -B "$(stat -c %s "$from")" -s "$from" "$image"
}
publish_patch-3() { keep "$of/image.patch-3" zstd -q -f -T0 -3 --long=31 --patch-from="$from" "$image" -o; }
publish_patch-19() { keep "$of/image.patch-19" zstd -q -f -T0 -19 --long=31 --patch-from="$from" "$image" -o; }

# measured SCRIPT: runs it with what a peer needs as variables, and leaves what it took in $work/took: wall
# seconds, CPU seconds, KiB of memory.
measured() {
  env image="$image" from="$from" of="$of" of_base="$of_base" made="$made" url="$url/${of#"$made"/}" \
    slot_a="$slot_a" slot_b="$slot_b" TMPDIR="$work" bytes="$(stat -c %s "$image")" \
    setsid /usr/bin/time --quiet --format '%e %U %S %M' --output "$work/time" bash -euo pipefail -c "$1" \
    </dev/null >"$work/said" 2>&1 &
  started=$!
  echo "$started" >>"$work/groups"
  finish "$started" || { tail -n 20 "$work/said" >&2; return 1; }
  awk '{ print $1, $2 + $3, $4 }' "$work/time" >"$work/took"
}

# What a node does. These are scripts of `measured`.
# shellcheck disable=SC2016,SC2034 # their variables are its own, and they are found by name
{
  to_slot='dd of="$slot_b" bs=4M iflag=fullblock oflag=direct conv=fsync status=none'
  do_dd='dd if="$image" of="$slot_b" bs=4M oflag=direct conv=fsync status=none'
  do_read='dd if="$slot_b" of=/dev/null bs=4M iflag=direct,count_bytes count="$bytes" status=none'
  do_sha256='openssl sha256 "$image"'
  do_zstd='zstd -q -d -c "$of/image.zst" >/dev/null'
  do_zstd_dd='zstd -q -d -c "$of/image.zst" | '$to_slot
  do_swupdate='swupdate -k "$made/cert.pem" -H peers:1.0 -M -m -l 2 -d "-u $url/image.swu"'
  do_casync='casync extract --store="$url/store.castr" --seed="$slot_a" --seed-output=no "$url/image.caibx" "$slot_b"
    sync -d "$slot_b"'
  do_zchunk='mkdir "$TMPDIR/zchunk" && cd "$TMPDIR/zchunk" && zckdl -s "$of_base/image.zck" "$url/image.zck"
    unzck -c image.zck | '$to_slot'; rm -r "$TMPDIR/zchunk"'
  # Both start from a regular file alone, the image that slot A was written from. With a smaller window than the
  # file xdelta3 reads it over and over, for minutes.
  do_xdelta3='xdelta3 -d -c -B "$(stat -c %s "$from")" -s "$from" "$of/image.xdelta3" | '$to_slot
  do_patch_3='zstd -q -d -c --long=31 --patch-from="$from" "$of/image.patch-3" | '$to_slot
  do_patch_19='zstd -q -d -c --long=31 --patch-from="$from" "$of/image.patch-19" | '$to_slot
}

# RAUC's work is done by its service, on a bus of its own here; what the service takes is measured.
measure_rauc() {
  local service bus begun
  mkdir -p "$work/mounts"
  cat >"$work/bus.conf" <<END
<busconfig><listen>unix:path=$work/bus</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
END
  cat >"$work/system.conf" <<END
[system]
compatible=peers
bootloader=noop
mountprefix=$work/mounts
statusfile=$work/status
[keyring]
path=$made/cert.pem
[slot.root.0]
device=$slot_a
type=raw
bootname=A
[slot.root.1]
device=$slot_b
type=raw
bootname=B
END
  export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$work/bus
  rm -f "$work/bus"
  start dbus-daemon --config-file="$work/bus.conf" --nofork --nopidfile 2>/dev/null
  bus=$started
  soon test -S "$work/bus"
  start /usr/bin/time --quiet --format '%e %U %S %M' --output "$work/time" \
    rauc --conf="$work/system.conf" --override-boot-slot=A service >"$work/service" 2>&1
  service=$started
  # Without its service it falls over, which only the inner shell is to hear.
  # shellcheck disable=SC2016 # "$1" is the inner shell's
  soon sh -c 'rauc --conf="$1" status; exit $?' sh "$work/system.conf" || return 1
  begun=$(date +%s.%N)
  run rauc --conf="$work/system.conf" install "$of/image.raucb" || { cat "$work/service" >&2; return 1; }
  local wall
  wall=$(awk -v begun="$begun" -v ended="$(date +%s.%N)" 'BEGIN { print ended - begun }')
  pkill -TERM -P "$service" && finish "$service" || return 1
  kill "$bus" && { finish "$bus" || true; }
  awk -v wall="$wall" '{ print wall, $2 + $3, $4 }' "$work/time" >"$work/took"
}

# What has to come to the node: a file, or what the server sent.
wire() {
  case $1 in
    dd) stat -c '%s -' "$image" ;;
    zstd | zstd-dd) stat -c '%s -' "$of/image.zst" ;;
    rauc) stat -c '%s -' "$of/image.raucb" ;;
    xdelta3 | patch-*) stat -c '%s -' "$of/image.$1" ;;
    swupdate | casync | zchunk) awk '{ sent += $1 } END { print sent + 0, NR }' "$work/requests" ;;
    *) echo "- -" ;;
  esac
}

# measure PEER SYSTEM RELEASE: one line more in the results.
measure() {
  local peer=$1 system=$2 release=$3 script=do_${1//-/_}
  case $peer in read | sha256 | zstd) ;; *) wear "$(stat -c %s "$image")" || return 1 ;; esac
  forget
  : >"$work/requests"
  if [ "$peer" = rauc ]; then measure_rauc || return 1; else measured "${!script}" || return 1; fi
  case $peer in
    read | sha256 | zstd) ;;
    *)
      blockdev --flushbufs "$slot_b"
      cmp --bytes="$(stat -c %s "$image")" "$image" "$slot_b" || { say "$peer left other bytes in slot B"; return 1; }
      ;;
  esac
  echo "$system $peer $release $(cat "$work/took") $(wire "$peer")" | tee -a "$work/results" >&2
}

# each_case FUNCTION SYSTEM: calls it for every peer with the releases that it is measured on. A peer that
# fails once is left alone from then on.
each_case() {
  local peer release system=$2
  from=$images/base.$system
  of_base=$made/$system/base
  for peer in "${peers[@]}"; do
    for release in hotfix patch; do
      # Whoever takes a whole image takes the same time for each.
      if [ $release = hotfix ] && ! among "$peer" "${deltas[@]}"; then continue; fi
      [ ! -e "$work/failed-$system-$peer" ] || continue
      image=$images/$release.$system
      of=$made/$system/$release
      mkdir -p "$of" "$of_base"
      : >"$work/said"
      "$1" "$peer" "$system" "$release" ||
        echo "- $peer ($system, $release): $(tail -n 3 "$work/said" | tr '\n' ' ')" >"$work/failed-$system-$peer"
    done
  done
}

publish() {
  if declare -F "publish_$1" >/dev/null; then "publish_$1"; fi
}

load() { cut -d' ' -f1 /proc/loadavg; }

# column SYSTEM PEER RELEASE NUMBER: that column of the results, least first.
column() {
  awk -v key="$1 $2 $3" -v at="$4" '$1 " " $2 " " $3 == key { print $at }' "$work/results" | sort -g
}
# Of an even number of values, the lower one of the two in the middle.
middle() { awk '{ value[NR] = $1 } END { if (NR) print value[int((NR + 1) / 2)] }'; }

table() {
  local system peer release wall dd
  echo "Medians of $rounds rounds on $(nproc) processors, load average $(sort -g "$work/loads" | sed -n 1p) to" \
    "$(sort -g "$work/loads" | sed -n '$p') as each round began. Where others work beside, times are rough; bytes and requests are not."
  for system in "${systems[@]}"; do
    printf '\n%s: base %s, hotfix %s, patch %s bytes\n\n' "$system" \
      "$(stat -c %s "$images/base.$system")" "$(stat -c %s "$images/hotfix.$system")" "$(stat -c %s "$images/patch.$system")"
    echo '| peer | from base to | on the wire, bytes | requests | time | least to most | against dd | CPU | peak memory, most |'
    echo '|---|---|---|---|---|---|---|---|---|'
    dd=$(column "$system" dd patch 4 | middle)
    for peer in "${peers[@]}"; do
      [ ! -e "$work/failed-$system-$peer" ] || continue
      for release in hotfix patch; do
        wall=$(column "$system" "$peer" "$release" 4 | middle)
        [ -n "$wall" ] || continue
        echo "$peer $release $(column "$system" "$peer" "$release" 7 | middle) $(column "$system" "$peer" "$release" 8 | middle)" \
          "$wall $(column "$system" "$peer" "$release" 4 | sed -n '1p;$p' | tr '\n' ' ') $dd" \
          "$(column "$system" "$peer" "$release" 5 | middle) $(column "$system" "$peer" "$release" 6 | sed -n '$p')" |
          awk '{ printf "| %s | %s | %s | %s | %.2f s | %.2f to %.2f s | %.2f | %.2f s | %.1f MiB |\n",
            $1, $2, $3, $4, $5, $6, NF == 10 ? $7 : $6, $5 / $(NF - 2), $(NF - 1), $NF / 1024 }'
      done
    done
  done
  { cat "$work"/failed-* 2>/dev/null || true; } | sed '1s/^/\nLeft out, because it failed:\n\n/'
}

integration/benches/release-images.sh "${systems[@]}"
# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh
install_peers
mkdir -p "$made"
work=$(mktemp -d "$images/.peers.XXXXXX")
: >"$work/groups"
: >"$work/results"
for system in "${systems[@]}"; do each_case publish "$system"; done
if [ "$rounds" = 0 ]; then exit 0; fi
attach_disk
serve
for round in $(seq "$rounds"); do
  for system in "${systems[@]}"; do
    load >>"$work/loads"
    say "round $round of $rounds, $system, load average $(load)"
    run dd if="$images/base.$system" of="$slot_a" bs=4M oflag=direct conv=fsync
    each_case measure "$system"
  done
done
table | tee "$images/peers.md"
