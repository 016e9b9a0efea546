#!/usr/bin/env bash
# Functions for scripts that install packages of this machine's own suite into a tree: the tools for it, where
# apt finds packages here, and how. Sourced; `sources` wants `suite` to be set. Runs nothing by itself.

# install_tools COMMAND:PACKAGE...: the packages of those commands that are not there.
install_tools() {
  local missing=() pair
  for pair in "$@"; do
    type -P "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  printf 'installing %s\n' "${missing[*]}"
  fresh_lists
  DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq --no-install-recommends "${missing[@]}"
} </dev/null >&2

# fresh_lists: apt knows what there is; a machine that has just been made knows nothing.
fresh_lists() { timeout 300 apt-get update -qq; } </dev/null >&2

# sources all|release: one line for each source of Debian's own that apt uses here.
sources() {
  local which=$1 found
  found=$(own_sources "$which")
  if [ -z "$found" ]; then
    # shellcheck disable=SC2154 # `suite` is the caller's
    echo "apt has no lists of Debian's $suite here; see apt-get update" >&2
    return 1
  fi
  echo "$found"
}

own_sources() {
  local which=$1 origin release uri component
  # shellcheck disable=SC2016 # these are apt's
  apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI) $(COMPONENT)' 'Created-By: Packages' |
    sort -u | while read -r origin release uri component; do
      [ "$origin" = Debian ] || continue
      # shellcheck disable=SC2154 # `suite` is the caller's
      case $release in
        "$suite") ;;
        "$suite"-updates | "$suite"-security) [ "$which" = all ] || continue ;;
        *) continue ;;
      esac
      printf 'deb %s %s %s\n' "$uri" "$release" "$component"
    done
}

# How apt reaches its mirrors from here: proxies, retries, what it checks.
apt_options() {
  apt-config dump | grep -E '^Acquire::(https?::(Proxy|Timeout|Pipeline-Depth)|Check-Date|Check-Valid-Until|Retries|Languages)' || true
}
