# Sourced by ./demo and ./test: find Python, make .venv, install what is named, once.
# A fresh Debian or Ubuntu machine is enough; what it lacks is installed when run as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

find_python() {
    for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

ensure_python() {
    if ! find_python >/dev/null; then
        packages="python3 python3-venv python3-pip"
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing $packages"
            apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
        else
            echo "gramian needs Python 3.11 to 3.13 with venv. On Debian or Ubuntu, as root:" >&2
            echo "    apt-get update && apt-get install -y $packages" >&2
            exit 1
        fi
        find_python >/dev/null || { echo "the system's Python is older than 3.11: set PYTHON to a newer one" >&2; exit 1; }
    fi
}

# install EXTRAS: into .venv, at the tested versions; nothing is done when that was done before.
install() {
    ensure_python
    [ -x .venv/bin/python ] || { say "making .venv"; "$(find_python)" -m venv .venv; }
    wanted="$1 $(cat pyproject.toml constraints.txt | sha256sum)"
    if ! grep -qxF "$wanted" .venv/installed 2>/dev/null; then
        say "installing gramian[$1] at the tested versions"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$1]"
        echo "$wanted" >>.venv/installed
    fi
}
