#!/usr/bin/env bash
# Unpacks Debian 13's Dovecot 2.4 with all that it needs into a new folder, for DOVECOT_24_ROOT. Needs root. Nothing is installed: apt works on a state
# of its own, with the mirror that this machine's own sources name, and Debian's key.
set -euo pipefail
root=${1:?usage: $0 FOLDER}
mkdir "$root"
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | sort -u | head -n 1)
[ -n "$mirror" ] || { echo "no Debian mirror among this machine's sources; run apt-get update first" >&2; exit 1; }
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
: > "$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/sources.list"
own=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$apt" -o Dir::State::lists="$apt/lists"
  -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
apt-get "${own[@]}" -qq update
apt-get "${own[@]}" -qq -y --no-install-recommends --download-only install dovecot-core dovecot-sqlite dovecot-pgsql >/dev/null
mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,etc,run,tmp,var/lib/dovecot}
for merged in bin sbin lib lib64; do ln -s "usr/$merged" "$root/$merged"; done
for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
chmod 1777 "$root/tmp"
cp /etc/passwd /etc/group "$root/etc/"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/urandom" c 1 9
chroot "$root" dovecot --version >/dev/null
