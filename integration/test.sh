#!/usr/bin/env bash
# Every check of Drydock, in one command: formatting, lints, licences, all tests, and the demo.
# As root on Debian it installs what is missing; otherwise it says what is missing, and what that skips.
# Exit code 0 only if everything that ran passed. In CI (CI=true) nothing may be skipped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export CARGO_TERM_COLOR=never
# A build that nobody goes on with needs nothing for the next one: two thirds of the disk, a little less time.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi

declare -a ran=() failed=() skipped=()
say() { printf '\n== %s\n' "$*"; }

# stage NAME COMMAND...: runs it, notes the time and whether it held.
stage() {
  local name=$1 start=$SECONDS
  shift
  say "$name: $*"
  if "$@" </dev/null; then
    ran+=("$name ($((SECONDS - start)) s)")
  else
    failed+=("$name ($((SECONDS - start)) s): $*")
  fi
}

# need COMMAND PACKAGE WHAT: installs a Debian package where that is possible.
need() {
  local command=$1 package=$2 what=$3
  command -v "$command" >/dev/null 2>&1 && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing $package (for $what)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } \
      </dev/null >/dev/null && command -v "$command" >/dev/null 2>&1 && return 0
  fi
  skipped+=("$what: there is no $command here (Debian's package $package; as root this script installs it)")
  return 1
}

# A target of rustup's or a component that the toolchain lacks is named before minutes are spent.
for component in rustfmt clippy; do
  cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || failed+=("setup: rustup component add $component")
done
# What a whole run leaves in target/, and a little more.
room_gib=$(($(df --output=avail -k . | tail -1) / 1024 / 1024))
[ "$room_gib" -ge 24 ] || failed+=("setup: $room_gib GiB are free here; a whole run takes about 20, so make it 24")
need cc gcc "the build (aws-lc and zstd are C)"
# Go is often where no login shell of root's looks.
command -v go >/dev/null 2>&1 || PATH=$PATH:/usr/local/go/bin
need go golang-go "the real control plane (etcd, kube-apiserver and others, built once from Go modules)"
# So are root's programs where no other user looks.
command -v veritysetup >/dev/null 2>&1 || PATH=$PATH:/usr/sbin:/sbin
need veritysetup cryptsetup-bin "dm-verity's hash trees"
need losetup mount "staging onto a loop device"
need mmdebstrap mmdebstrap "real nodes: their image"
need mksquashfs squashfs-tools "real nodes: their image"
need cpio cpio "real nodes: their image"
need qemu-system-x86_64 qemu-system-x86 "real nodes: the machines"
need shellcheck shellcheck "shellcheck of the scripts" && stage shellcheck shellcheck integration/*.sh integration/benches/*.sh integration/nodes/*.sh integration/nodes/tree/usr/lib/node/* integration/nodes/{initrd/init,release/check-release} images/fuzz/run.sh .ci/run

stage formatting cargo fmt --all --check
stage "formatting of the fuzz targets" cargo fmt --manifest-path images/fuzz/Cargo.toml --check

deny=target/tools/bin/cargo-deny
if command -v cargo-deny >/dev/null 2>&1; then deny=cargo-deny; fi
if ! command -v "$deny" >/dev/null 2>&1; then
  stage "cargo-deny, built once" cargo install --quiet --debug --locked --root target/tools --version 0.20.2 cargo-deny
fi
# The advisory database is fetched from the network; where that cannot be, the rest is checked.
stage "licences, bans, sources" "$deny" --log-level error check --hide-inclusion-graph licenses bans sources
if timeout 60 "$deny" --log-level error fetch db </dev/null >/dev/null 2>&1; then
  stage advisories "$deny" --log-level error check --disable-fetch advisories
else
  skipped+=("advisories: the advisory database cannot be reached from here")
fi

stage lints cargo clippy --workspace --all-targets --locked -- -D warnings
# A workspace of its own, which no other command would build.
need c++ g++ "lints of the fuzz targets (libFuzzer is C++)" && stage "lints of the fuzz targets" \
  cargo clippy --manifest-path images/fuzz/Cargo.toml --target-dir target --locked -- -D warnings
# An hour's output is long: what failed in it is said again at the end.
test_log=$(mktemp)
sweep_log=$(mktemp)
sweep=
finish() {
  # Its process group: cargo and the test that it runs.
  [ -z "$sweep" ] || kill -- "-$sweep" 2>/dev/null
  rm -f "$test_log" "$sweep_log"
}
trap finish EXIT
# Real nodes leave the processors idle for more than half of their time, waiting for watchdogs and verdicts,
# and a case of the sweep may wait at any time: the sweep takes what all others leave.
# Its end is bounded, so that whoever ends a whole run that takes too long still reads what it said.
begin_sweep() {
  set -m
  nice -n 19 timeout --kill-after=30 3600 \
    cargo test --workspace --locked --no-fail-fast --test sweep -- --nocapture </dev/null >"$sweep_log" 2>&1 &
  sweep=$!
  set +m
}
all_tests_but_the_sweep() {
  cargo test --workspace --locked --no-fail-fast -- --skip whatever_goes_wrong_at_whichever_write 2>&1 | tee "$test_log"
}
end_sweep() {
  local code=0
  # What it said while the others ran, and what it says until it ends.
  tail -n +1 -f --pid="$sweep" "$sweep_log"
  wait "$sweep" || code=$?
  sweep=
  cat "$sweep_log" >>"$test_log"
  [ "$code" != 124 ] || echo "the crash sweep was ended: it took longer than an hour" | tee -a "$test_log"
  return "$code"
}
stage "building the tests" cargo test --workspace --locked --no-run
begin_sweep
stage tests all_tests_but_the_sweep
stage "the crash sweep, begun beside the tests" end_sweep
stage "the demo" cargo demo --plain

say "what ran"
printf '  ok       %s\n' "${ran[@]}"
[ ${#skipped[@]} = 0 ] || printf '  skipped  %s\n' "${skipped[@]}"
[ ${#failed[@]} = 0 ] || printf '  FAILED   %s\n' "${failed[@]}"
printf '%d passed, %d failed, %d skipped\n' "${#ran[@]}" "${#failed[@]}" "${#skipped[@]}"
if grep -q '^test .* FAILED$' "$test_log"; then
  say "tests that failed"
  grep -E -A 6 '^test .* FAILED$|^thread .* panicked at ' "$test_log" | grep -vE '^(test .* ok|note: .*|)$' | tail -n 60
  grep -E '^test .* FAILED$' "$test_log"
fi
[ ${#failed[@]} = 0 ]
