#!/bin/sh
# Installs the Debian packages that the app needs (as root), or lists those that are missing.
set -eu
packages="python3-venv g++ cmake make libegl1 libgl1 libxkbcommon-x11-0 libdbus-1-3 libfontconfig1
libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-render-util0 libxcb-shape0"
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "Not a Debian system: please see that a C++ compiler, cmake and Qt's xcb libraries are installed."
    exit 0
fi
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
    echo "Installing system packages:$missing"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
else
    echo "These system packages are missing; install them with:"
    echo "  sudo apt-get install$missing"
fi
