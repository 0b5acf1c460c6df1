#!/usr/bin/env bash
# An agent works behind the official filesystem server, and what it did is taken back. It prints the operator's screen.
#
# It needs Go, curl, Node and npm; SERVER may name the server's program. undo.txt is what it printed:
#
#   docs/recordings/undo.sh > docs/recordings/undo.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$(mktemp -d) port=${PORT:-7700}
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
server=${SERVER:-$dir/node_modules/.bin/mcp-server-filesystem}
[ -x "$server" ] || npm install --silent --no-fund --no-audit --prefix "$dir" >&2 @modelcontextprotocol/server-filesystem@2026.8.31
go build -o "$dir/bin/" ./cmd/hypervisor
export PATH="$dir/bin:$PATH"
cd "$dir"
mkdir work
echo 'We ship on Friday.' > work/plan.txt
printf 'eggs\nmilk\n' > work/list.txt

cat > hypervisor.yaml <<END
listen: 127.0.0.1:$port
mcpServers:
  files: {command: $server, args: [work]}
servers:
  files: {pack: filesystem}
agents:
  - {did: "did:mesh:ann", sigma: 0.80}
END
hypervisor serve -c hypervisor.yaml --data data > serve.txt 2>&1 &
until grep -q 'hypervisor serves' serve.txt; do sleep 0.1; done
hypervisor session create --name dev --data data > /dev/null
hypervisor agent token did:mesh:ann --session dev --out ann.token --data data > /dev/null 2>&1

ann() { # ACTION ARGUMENTS
  curl -sf -H "Authorization: Bearer $(cat ann.token)" "http://127.0.0.1:$port/v1/sessions/dev/actions" -d "{\"action\": \"$1\", \"args\": $2}" > /dev/null
}
on() {
  printf '$ %s\n' "$*"
  "$@" 2>&1 || [ $? = 1 ]
}
ann files.write_file '{"path": "list.txt", "content": "milk"}'
ann files.write_file '{"path": "plan.txt", "content": "We do not ship."}'
ann files.edit_file '{"path": "plan.txt", "edits": [{"oldText": "not", "newText": "never"}]}'
ann files.write_file '{"path": "ideas.txt", "content": "more of me"}'
printf 'milk\nbread\n' > work/list.txt # a human's

on cat work/plan.txt
echo
on hypervisor action undo --session dev --plan --data data
on hypervisor action undo --session dev --data data
on cat work/plan.txt
on cat work/list.txt
