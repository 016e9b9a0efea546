#!/usr/bin/env bash
# Shows the write path on real images: stages a release over `base`, both as release-images.sh makes them, on
# a loop device.
#
#   integration/benches/real-images.sh [hotfix] [patch] [KIND...]
#
# As root on Debian. Without a word the release is patch, and the kinds are ext4 and squashfs; there are erofs
# and lz4.erofs too. ROUNDS says how often each measurement is made (3).
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${ROUNDS:-3}
releases=()
kinds=()
for word in "$@"; do
  case $word in
    hotfix | patch) releases+=("$word") ;;
    *) kinds+=("$word") ;;
  esac
done
[ ${#releases[@]} -gt 0 ] || releases=(patch)
[ ${#kinds[@]} -gt 0 ] || kinds=(ext4 squashfs)

integration/benches/release-images.sh "${kinds[@]}"
# shellcheck source=integration/apt-sources.sh
source integration/apt-sources.sh
install_tools losetup:mount addpart:util-linux time:time
# The programs that are measured and the one that measures; in one go, so that nothing is built twice.
cargo build --release --workspace --locked --bins --bench real_images
for release in "${releases[@]}"; do
  for kind in "${kinds[@]}"; do
    cargo bench --quiet --workspace --locked --bench real_images -- \
      --images "$PWD/target/release-images" --release "$release" --file-system "$kind" --rounds "$rounds"
  done
done
