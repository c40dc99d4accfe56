#!/bin/sh
# Installs what this machine lacks of distro/host-packages.txt. Quiet when nothing is missing.
#
# usage: sh scripts/setup.sh [--list] [run|test|bench]
#
# A shell script and not an xtask, because nothing can be linked before gcc is there.
set -eu

usage() { sed -n '2,4s/^# \{0,1\}//p' "$0"; }

list=
purpose=run
for argument; do
    case $argument in
    --list) list=1 ;;
    run | test | bench) purpose=$argument ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done

packages=$(dirname "$0")/../distro/host-packages.txt

there() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing=
while read -r package proof for _; do
    case $package in '' | '#'*) continue ;; esac
    case ",$for," in *,run,* | *",$purpose,"*) ;; *) continue ;; esac
    there "$proof" || missing="$missing $package"
done <"$packages"

[ -n "$missing" ] || exit 0
if [ -n "$list" ]; then
    printf '%s\n' $missing
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: this machine lacks$missing, and has no apt-get to install it with" >&2
    echo "hint: install the same by other means; distro/host-packages.txt tells what each is for" >&2
    exit 1
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "error: this machine lacks$missing, and there is no sudo to install it with" >&2
        echo "hint: as root, run: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root='sudo'
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    # The lock may be held by unattended-upgrades, which on a new machine runs first of all.
    $as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$log" 2>&1 </dev/null
}

echo "installing$missing" >&2
attempt=1
# The index that is there may do; a new machine has none, an old one's names versions that are gone.
until apt install -y --no-install-recommends $missing; do
    if [ "$attempt" = 5 ]; then
        cat "$log" >&2
        echo "error: apt-get could not install$missing" >&2
        exit 1
    fi
    # Waiting for the index's lock is not among apt's options.
    apt update || sleep 5
    attempt=$((attempt + 1))
done
