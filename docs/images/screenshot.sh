#!/usr/bin/env bash
# Makes docs/images/page.png, the screenshot of the README: the page of `infra-health --demo` after its first cycles, in Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scratch=$(mktemp -d)
trap 'kill "$demo"; wait "$demo" 2>/dev/null || true; rm -rf "$scratch"' EXIT
.venv/bin/infra-health --demo >"$scratch/out" 2>"$scratch/log" &
demo=$!
address() { grep -oEm1 'http://(localhost|127\.0\.0\.1):[0-9]+' "$scratch/out" "$scratch/log" -h; }
until address >/dev/null; do sleep 0.2; done
# Long enough for bars of several cycles.
sleep 65
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1400,1000 --user-data-dir="$scratch/profile" \
	--virtual-time-budget=3000 --screenshot=docs/images/page.png "$(address)/" 2>/dev/null
