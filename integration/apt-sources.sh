#!/usr/bin/env bash
# Functions for scripts that install packages of this machine's own suite into a tree: where apt finds them
# here, and how. Sourced with `suite` set; runs nothing by itself.

# sources all|release: one line for each source of Debian's own that apt uses here.
sources() {
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
