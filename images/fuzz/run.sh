#!/usr/bin/env bash
# Fuzzes what drydock-images reads from outside: run.sh [SECONDS_PER_TARGET=60] [TARGET...]
# Installs cargo-fuzz beside the other tools where it is missing; needs a nightly compiler of rustup's and a
# C++ compiler. Prints one table. Exit code 0 only if every target ran its time and nothing was found.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
export CARGO_TERM_COLOR=never

seconds=60
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"$|\1|p' Cargo.toml)
[ $# -gt 0 ] || read -ra chosen <<<"${all//$'\n'/ }"
[ $# = 0 ] || chosen=("$@")
for target in "${chosen[@]}"; do
  if ! grep -qx -- "$target" <<<"$all"; then
    printf 'there is no target %s; there are: %s\n' "$target" "${all//$'\n'/ }" >&2
    exit 2
  fi
done

if ! rustc +nightly --version >/dev/null 2>&1; then
  echo 'fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal' >&2
  exit 2
fi
export RUSTUP_TOOLCHAIN=nightly
tool=../../target/tools/bin/cargo-fuzz
if command -v cargo-fuzz >/dev/null 2>&1; then tool=cargo-fuzz; fi
if ! command -v "$tool" >/dev/null 2>&1; then
  cargo install --quiet --debug --locked --root ../../target/tools --version 0.13.2 cargo-fuzz || exit 2
fi
fuzz() {
  local command=$1
  shift
  CARGO_TARGET_DIR=$PWD/target "$tool" "$command" --fuzz-dir . "$@"
}

# Everything is built before the first clock starts.
fuzz build seeds || exit 2
for target in "${chosen[@]}"; do fuzz build "$target" || exit 2; done
host=$(rustc -vV | sed -n 's/^host: //p')
"target/$host/release/seeds" corpus || exit 2

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
touch "$logs/begin"
declare -a rows=() crashed=()
stat_of() { sed -n "s/^stat::$2: *//p" "$1" | tail -1; }
# The number after a word of libFuzzer's lines, of the first or last line that matches.
number_of() { grep -E "$2" "$1" | sed -n "s/.* $3: \([0-9]*\).*/\1/p" | "$4" -1; }

for target in "${chosen[@]}"; do
  printf '== %s, %s s\n' "$target" "$seconds"
  log=$logs/$target
  # No single allocation, and not all together, may be large: what is read is bounded.
  fuzz run "$target" "corpus/$target" -- -max_total_time="$seconds" -rss_limit_mb=512 -malloc_limit_mb=64 \
    -timeout=10 -print_final_stats=1 >"$log" 2>&1 </dev/null
  code=$?
  found=0
  if [ -d "artifacts/$target" ]; then
    found=$(find "artifacts/$target" -type f -newer "$logs/begin" | wc -l)
  fi
  if [ "$code" != 0 ]; then
    crashed+=("$target")
    tail -n 60 "$log"
  fi
  before=$(number_of "$log" 'INITED' ft head)
  after=$(number_of "$log" ' ft: ' ft tail)
  rows+=("$(printf '%-18s %12s %9s %9s %+9d %7s %9s %8s' "$target" \
    "$(stat_of "$log" number_of_executed_units)" "$(stat_of "$log" average_exec_per_sec)" "${after:-?}" \
    $((${after:-0} - ${before:-0})) "$(number_of "$log" ' corp: ' corp tail)" \
    "$(stat_of "$log" peak_rss_mb)" "$found")")
done

printf '\n%-18s %12s %9s %9s %9s %7s %9s %8s\n' target executions exec/s features new corpus 'rss MiB' crashes
printf '%s\n' "${rows[@]}"
for target in ${crashed[@]+"${crashed[@]}"}; do
  printf '\n%s failed. What it failed on, and how to run that again:\n' "$target"
  find "artifacts/$target" -type f -newer "$logs/begin" 2>/dev/null | while read -r input; do
    printf '  images/fuzz/%s\n  (cd images/fuzz && cargo +nightly fuzz run --fuzz-dir . %s %s)\n' "$input" "$target" "$input"
  done
done
[ ${#crashed[@]} = 0 ]
