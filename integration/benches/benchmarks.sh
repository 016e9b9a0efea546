#!/usr/bin/env bash
# Everything that Drydock claims about bytes, time and memory of an update, measured in one run beside its
# peers on the same images: makes the images, runs ours and the peers, and writes what came out into
# docs/benchmarks.md, between its two marks.
#
#   integration/benches/benchmarks.sh [KIND...]      without a word: ext4 squashfs erofs lz4.erofs
#
# As root on Debian. ROUNDS says how often each measurement is made (3). The peers are measured on ext4 and
# squashfs; PEERS names those that are, without it all (peers.sh says which there are).
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${ROUNDS:-3}
kinds=("$@")
[ ${#kinds[@]} -gt 0 ] || kinds=(ext4 squashfs erofs lz4.erofs)
read -ra peers <<<"${PEERS:-}"
page=docs/benchmarks.md
# cargo runs a bench in its package's folder.
results=$PWD/target/release-images
integration/benches/release-images.sh "${kinds[@]}"
# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh
install_tools losetup:mount addpart:util-linux time:time
# The programs that are measured and the one that measures, built with the same features both times.
packages=(--locked -p drydock-images -p drydock-updater -p drydock-integration)
cargo build --release "${packages[@]}" --bin drydock-images --bin drydock-updater --bench release_images
for_peers=()
for kind in "${kinds[@]}"; do
  cargo bench --quiet "${packages[@]}" --bench release_images -- \
    --images "$results" --file-system "$kind" --rounds "$rounds" | tee "$results/ours.$kind.txt"
  case $kind in ext4 | squashfs) for_peers+=("$kind") ;; esac
done
: >"$results/peers.md"
[ ${#for_peers[@]} = 0 ] || ROUNDS=$rounds integration/benches/peers.sh "${for_peers[@]}" "${peers[@]}"

# What was measured, as it stands in the page.
measured() {
  printf 'Measured on %s, %s processors, Linux %s, %s rounds.\n' "$(date -u +%F)" "$(nproc)" \
    "$(uname -r | cut -d- -f1)" "$rounds"
  local kind
  for kind in "${kinds[@]}"; do
    printf '\n### Drydock, %s\n\n' "$kind"
    # What was published, as a list; then the table.
    sed -n 's/, sha256:.*//; s/^\(base\|hotfix\|patch\): */- \1: /p; s/^delta to /- delta to /p' "$results/ours.$kind.txt"
    sed -n '/: medians of /,$p' "$results/ours.$kind.txt" | sed 1d
  done
  if [ -s "$results/peers.md" ]; then
    printf '\n### The others\n\n'
    sed 's/^\(ext4\|squashfs\): base/#### \1: base/' "$results/peers.md"
  fi
}
measured >"$results/measured.md"
if ! grep -q '^<!-- measured -->$' "$page" || ! grep -q '^<!-- to here -->$' "$page"; then
  printf 'benchmarks: %s has lost its marks; what was measured is in %s\n' "$page" "$results/measured.md" >&2
  exit 1
fi
sed -i -e '/^<!-- measured -->$/,/^<!-- to here -->$/{//!d}' -e "/^<!-- measured -->\$/r $results/measured.md" "$page"
echo "written into $page"
