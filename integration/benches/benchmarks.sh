#!/usr/bin/env bash
# Everything that Drydock claims about bytes, time and memory of an update, measured in one run beside its
# peers on the same images: makes the images, then runs ours and the peers. What docs/benchmarks.md shows.
#
#   integration/benches/benchmarks.sh [KIND...]      ext4 squashfs erofs lz4.erofs; without a word, ext4 squashfs
#
# As root on Debian. ROUNDS says how often each measurement is made (3).
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${ROUNDS:-3}
kinds=("$@")
[ ${#kinds[@]} -gt 0 ] || kinds=(ext4 squashfs)
integration/benches/release-images.sh "${kinds[@]}"
# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh
install_tools losetup:mount addpart:util-linux time:time
# The programs that are measured and the one that measures; in one go, so that nothing is built twice.
cargo build --release --workspace --locked --bins --bench release_images
for kind in "${kinds[@]}"; do
  cargo bench --quiet --workspace --locked --bench release_images -- \
    --images target/release-images --file-system "$kind" --rounds "$rounds" | tee "target/release-images/ours.$kind.txt"
done
integration/benches/peers.sh "${kinds[@]}"
