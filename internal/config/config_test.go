package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/cel"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

var update = flag.Bool("update", false, "rewrite golden files")

func ptr[T any](v T) *T { return &v }

// contractsExample is what docs/contract.md shows under "Configuration".
func contractsExample(t *testing.T) *Config {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "contract.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "## Configuration")
	_, rest, begins := strings.Cut(rest, "```yaml\n")
	example, _, ends := strings.Cut(rest, "```")
	if !found || !begins || !ends {
		t.Fatal("the page has no example")
	}
	c, err := Parse("contract.md", []byte(example), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContractsExampleLoads(t *testing.T) {
	c := contractsExample(t)
	want := &Config{
		Listen: "127.0.0.1:7700", Data: "./hypervisor-data",
		Session: Session{Consistency: "strong", MaxParticipants: 10, MaxDuration: time.Hour, MinSigmaEff: ptr(ring.MustSigma("0.6")),
			VouchWeight: ptr(action.Omega(650_000)), ApprovalTTL: 15 * time.Minute},
		MCPServers: map[string]MCPServer{
			"files":   {Type: "stdio", Command: "npx", Args: []string{"-y", "@modelcontextprotocol/server-filesystem", "/srv/work"}},
			"tickets": {Type: "http", URL: "https://tickets.example/mcp"},
		},
		Servers: map[string]Server{"files": {TrustAnnotations: true, Pack: "filesystem", Actions: map[string]action.Claim{"move_file": {
			Reversibility: ptr(action.Full), UndoWindow: ptr(24 * time.Hour), Resource: ptr("{{args.source}}"),
			Undo: []action.Call{{Tool: "move_file", Args: map[string]any{"source": "{{args.destination}}", "destination": "{{args.source}}"}}},
		}}}},
		Agents:         []Agent{{"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", ptr(ring.MustSigma("0.8"))}},
		AnonymousAgent: &Agent{"did:mesh:local", ptr(ring.MustSigma("0.8"))},
		Policies:       []cel.Rule{{Name: "no-prod-writes", When: `action.id == "files.write_file" && resource.under("/prod")`, Effect: policy.Deny}},
	}
	if diff := cmp.Diff(want, c, cmpopts.IgnoreFields(Config{}, "Rules", "Digest"), cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	verdict := c.Rules.Evaluate(policy.Request{Action: action.Descriptor{ID: "files.write_file"}, Resource: "/prod/a"})
	if verdict != (policy.Verdict{Effect: policy.Deny, Rule: "no-prod-writes"}) {
		t.Errorf("the policy says %+v", verdict)
	}
}

func TestNothingSurprisesInTheReportOfContractsExample(t *testing.T) {
	r := contractsExample(t).Report()
	if len(r.Policies) != 1 || len(r.Actions) < 14 {
		t.Fatalf("%d policies, %d actions", len(r.Policies), len(r.Actions))
	}
	for _, p := range r.Policies {
		if p.Note != "" {
			t.Errorf("%s: %s", p.Name, p.Note)
		}
	}
	for _, a := range r.Actions {
		if a.Action == "files.write_file" && (a.Resource != "{{args.path}}" || a.Reversibility != action.Full) {
			t.Errorf("what the policy is about: %+v", a)
		}
	}
}

func TestNothingWrittenIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "{}", "session:\nservers:\npolicies:\nagents: []\n", "---\n"} {
		c, err := Parse("f", []byte(text), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := &Config{Listen: DefaultListen, Data: DefaultData, MCPServers: map[string]MCPServer{}, Servers: map[string]Server{}}
		if diff := cmp.Diff(want, c, cmpopts.IgnoreFields(Config{}, "Rules", "Digest"), cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
		if c.Rules.Len() != 0 || c.Rules.Version() != new(cel.Rules).Version() {
			t.Errorf("%q has rules", text)
		}
	}
}

func TestEverySettingIsRead(t *testing.T) {
	c, err := Parse("f", []byte(`
session: {consistency: eventual, max_participants: 1000, max_duration: 7d, min_sigma_eff: 0, vouch_weight: 1.0, audit: false, approval_ttl: 1d12h,
  network_allow: [API.example, "*.b.example:443"], files_scope: [/srv//work/, "https://H/x"]}
mcpServers:
  a: {type: stdio, command: run, args: [-p, 8080, 1.10, true, ""], env: {PORT: 8080, EMPTY: ""}, cwd: /srv}
  b: {type: sse, url: "http://h/sse", headers: {Authorization: Bearer x}}
  c: {type: streamable-http, url: "http://h/mcp"}
servers:
  a:
    shared: true
    sampling: false
    roots: true
    actions:
      x: {name: X, read_only: false, admin: true, idempotent: true, network: true, files: true, subprocess: true, reversibility: partial,
          undo: {tool: y, args: {n: 1, f: 1.5, s: "t", b: true, z: null, l: [{}]}}}
      "*": {reversibility: none}
roles: {operator: ["did:mesh:op"], approver: [alice@example.com], auditor: [a], service: [s]}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	yes := ptr(true)
	want := &Config{
		Listen: DefaultListen, Data: DefaultData,
		Session: Session{Consistency: "eventual", MaxParticipants: 1000, MaxDuration: 7 * document.Day, MinSigmaEff: ptr(ring.Sigma(0)), VouchWeight: ptr(action.Omega(1_000_000)),
			NoAudit: true, ApprovalTTL: 36 * time.Hour, NetworkAllow: []string{"api.example", "*.b.example:443"}, FilesScope: []string{"/srv/work", "https://h/x"}},
		MCPServers: map[string]MCPServer{
			"a": {Type: "stdio", Command: "run", Args: []string{"-p", "8080", "1.10", "true", ""}, Env: map[string]string{"PORT": "8080", "EMPTY": ""}, Cwd: "/srv"},
			"b": {Type: "sse", URL: "http://h/sse", Headers: map[string]string{"Authorization": "Bearer x"}},
			"c": {Type: "http", URL: "http://h/mcp"},
		},
		Servers: map[string]Server{"a": {Shared: true, Sampling: ptr(false), Roots: yes, Actions: map[string]action.Claim{
			"x": {Name: ptr("X"), ReadOnly: ptr(false), Admin: yes, Idempotent: yes, Network: yes, Files: yes, Subprocess: yes, Reversibility: ptr(action.Partial),
				Undo: []action.Call{{Tool: "y", Args: map[string]any{"n": int64(1), "f": 1.5, "s": "t", "b": true, "z": nil, "l": []any{map[string]any{}}}}}},
			"*": {Reversibility: ptr(action.Irreversible)},
		}}},
		Roles: Roles{[]string{"did:mesh:op"}, []string{"alice@example.com"}, []string{"a"}, []string{"s"}},
	}
	if diff := cmp.Diff(want, c, cmpopts.IgnoreFields(Config{}, "Rules", "Digest"), cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
}

func TestToolsOwnClaimComesBeforeThatOfAllTools(t *testing.T) {
	own, all := action.Claim{Name: ptr("own")}, action.Claim{Name: ptr("all")}
	c := &Config{Servers: map[string]Server{"a": {Actions: map[string]action.Claim{"x": own, "*": all}}, "b": {Actions: map[string]action.Claim{"x": own}}}}
	for _, tc := range []struct {
		server, tool string
		want         []action.Claim
	}{{"a", "x", []action.Claim{own, all}}, {"a", "y", []action.Claim{all}}, {"a", "*", []action.Claim{all}}, {"b", "y", nil}, {"c", "x", nil}} {
		if diff := cmp.Diff(tc.want, c.Claims(tc.server, tc.tool)); diff != "" {
			t.Errorf("%s.%s: %s", tc.server, tc.tool, diff)
		}
	}
}

func TestClientsFileCanBePastedOrNamed(t *testing.T) {
	const mcp = "{\n\t\"mcpServers\": {\n\t\t\"files\": {\"type\": \"stdio\", \"command\": \"npx\", \"args\": [\"-y\"], \"env\": {\"A\": \"b\\u00e9\"}}\n\t}\n}\n"
	want := map[string]MCPServer{"files": {Type: "stdio", Command: "npx", Args: []string{"-y"}, Env: map[string]string{"A": "bé"}}}
	c, err := Parse("mcp.json", []byte(mcp), nil)
	if err != nil || !cmp.Equal(c.MCPServers, want) {
		t.Errorf("pasted: %v %v", c, err)
	}

	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mcp.json", strings.Replace(mcp, "{", `{"theme": {"client's": "own"},`, 1))
	main := write("hypervisor.yaml", "servers: {files: {shared: true}}\nmcpServersFile: mcp.json\n")
	if c, err = Load(main, nil); err != nil || !cmp.Equal(c.MCPServers, want) {
		t.Errorf("named: %v %v", c, err)
	}

	write("mcp.json", `{"mcpServers": {"files": {"comand": "npx"}, "own": {"command": "x"}}}`)
	main = write("hypervisor.yaml", "mcpServersFile: mcp.json\nmcpServers: {own: {command: y}}\nsession: {audit: 1}\n")
	_, err = Load(main, nil)
	wantErr := main + ":3:18: session.audit: want true or false, got 1\n" +
		dir + `/mcp.json:1:27: unknown key "comand" (did you mean "command"?)` + "\n" +
		dir + "/mcp.json:1:45: mcpServers.own: the server is in mcpServers and in mcpServersFile"
	if err == nil || err.Error() != wantErr {
		t.Errorf("got\n%v\nwant\n%s", err, wantErr)
	}

	write("mcp.json", `{"servers": {}}`)
	if _, err = Load(write("h.yaml", "mcpServersFile: mcp.json"), nil); err == nil || err.Error() != dir+"/mcp.json:1:1: there is no mcpServers in it" {
		t.Errorf("without mcpServers: %v", err)
	}
	if _, err = Load(write("h.yaml", "mcpServersFile: nope.json"), nil); err == nil || !strings.Contains(err.Error(), "h.yaml:1:17: mcpServersFile: open ") {
		t.Errorf("missing: %v", err)
	}
	if _, err = Load(filepath.Join(dir, "nope.yaml"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing configuration: %v", err)
	}
}

func TestWhatRefersToTheEnvironmentIsTakenFromIt(t *testing.T) {
	environ := map[string]string{"KEY": "k€y", "HOST": "h.example", "EMPTY": "", "SCHEME": "ftp", "LINES": "a\r\nB: c"}
	opts := &Options{Environ: func(name string) (string, bool) { v, ok := environ[name]; return v, ok }}
	c, err := Parse("f", []byte(`
mcpServers:
  a: {command: "/opt/${HOST}/x", args: ["--key=${KEY}", "${NOT:-otherwise}", "$KEY ${x%y} ${}", "${EMPTY:-none}"], env: {A: "${env:KEY}", B: "${EMPTY}"}}
  b: {url: "https://${HOST}/mcp", headers: {Authorization: "Bearer ${KEY}"}}
servers: {b: {oauth: {token_url: "https://${HOST}/token", client_id: "${KEY}", client_secret: "${env:KEY}", params: {resource: "${HOST}"}}}}
`), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]MCPServer{
		"a": {Type: "stdio", Command: "/opt/h.example/x", Args: []string{"--key=k€y", "otherwise", "$KEY ${x%y} ${}", "none"}, Env: map[string]string{"A": "k€y", "B": ""}},
		"b": {Type: "http", URL: "https://h.example/mcp", Headers: map[string]string{"Authorization": "Bearer k€y"}},
	}
	oauth := &OAuth{TokenURL: "https://h.example/token", ClientID: "k€y", ClientSecret: "k€y", Params: map[string]string{"resource": "h.example"}}
	if d := cmp.Diff(want, c.MCPServers) + cmp.Diff(oauth, c.Servers["b"].OAuth); d != "" {
		t.Error(d)
	}
	for text, want := range map[string]string{
		`{command: "${NOT}"}`:                               `f:1:27: mcpServers.a.command: the environment has no NOT; set it before the hypervisor starts, or say ${NOT:-otherwise}`,
		`{command: "${EMPTY}"}`:                             `f:1:27: mcpServers.a.command: is empty once the environment is in it`,
		`{url: "${SCHEME}://x"}`:                            `f:1:23: mcpServers.a.url: want an http or https URL, got "${SCHEME}://x"`,
		`{url: "http://x", headers: {A: "${input:token}"}}`: `f:1:48: mcpServers.a.headers.A: ${input:token} is asked of a person by a client; name a variable of the environment, as ${NAME}`,
		`{url: "http://x", headers: {A: "${LINES}"}}`:       `f:1:48: mcpServers.a.headers.A: has a line break or a control character`,
	} {
		if _, err := Parse("f", []byte("mcpServers: {a: "+text+"}"), opts); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", text, err, want)
		}
	}
	if c, err = Parse("f", []byte(`mcpServers: {a: {command: "${NOT}"}}`), nil); err != nil || c.MCPServers["a"].Command != "${NOT}" {
		t.Errorf("where nothing is started the file is read as it stands: %v", err)
	}
}

func TestAServerSaysWhereItIsNamed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"h.yaml": "mcpServersFile: mcp.json\nmcpServers:\n  own: {command: y}\n", "mcp.json": `{"mcpServers": {"files": {"command": "x"}}}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(filepath.Join(dir, "h.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.At("own") != filepath.Join(dir, "h.yaml")+":3:3" || c.At("files") != filepath.Join(dir, "mcp.json")+":1:17" {
		t.Errorf("own at %s, files at %s", c.At("own"), c.At("files"))
	}
}

func TestWrappedServerNeedNotBeInMCPServers(t *testing.T) {
	text := []byte("servers: {upstream: {shared: true}}")
	if _, err := Parse("f", text, &Options{Wrapped: "upstream"}); err != nil {
		t.Error(err)
	}
	want := `f:1:11: servers.upstream: there is no "upstream" in mcpServers (there are files)`
	if _, err := Parse("f", text, &Options{Wrapped: "files"}); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAnonymousAgentIsJudgedByTheAddressReallyListenedOn(t *testing.T) {
	for listen, good := range map[string]bool{"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, ":1": false, "[::]:1": false, "192.0.2.1:1": false, "example.com:1": false} {
		text := "anonymous_agent: {did: 'did:mesh:local'}\n"
		if _, err := Parse("f", []byte(text+"listen: '"+listen+"'"), nil); (err == nil) != good {
			t.Errorf("listen: %s: %v", listen, err)
		}
		if _, err := Parse("f", []byte(text), &Options{Listen: listen}); (err == nil) != good {
			t.Errorf("--listen %s: %v", listen, err)
		}
	}
}

func TestSecretsOfServersAreNotLogged(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("starting", "server",
		MCPServer{Command: "run", Args: []string{"s3cret"}, Env: map[string]string{"TOKEN": "s3cret"}, Headers: map[string]string{"Authorization": "s3cret"}, URL: "https://u:s3cret@h/?k=s3cret"})
	if out := b.String(); strings.Contains(out, "s3cret") || !strings.Contains(out, "TOKEN") || !strings.Contains(out, "https://h/") {
		t.Error(out)
	}
}

func TestReportSaysAsWhatActionsAreDecided(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "report.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(c.Report(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
		t.Error(diff)
	}
}

// Every YAML block of docs/config.md is a configuration that loads.
func TestExamplesOfTheDocumentationLoad(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "config.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(doc, -1)
	if len(blocks) < 3 {
		t.Fatalf("found %d examples", len(blocks))
	}
	for _, block := range blocks {
		if _, err := Parse("docs/config.md", block[1], &Options{Wrapped: "files"}); err != nil {
			t.Errorf("%s\n%v", block[1], err)
		}
	}
}

func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "*.yaml"))
	if err != nil || len(seeds) == 0 {
		f.Fatal(seeds, err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{"policies:\n- when: >\n   nope\n", "policies: [{when: \"\\x6eope\\\n  x\"}]", "a: [{", "session: {max_duration: '", "'", "- -", "\t", "? x", "a:\n- b\n c", "servers: {a: {actions: {x: {undo: {args: {p: '{{'}}}}}}", "policies: [{when: 'a''\n\n b'}]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b, nil)
		if err == nil {
			c.Report()
			c.Claims("files", "move_file")
			return
		}
		var faults document.Faults
		if !errors.As(err, &faults) {
			t.Fatalf("%T: %v", err, err)
		}
		for _, fault := range faults {
			if fault.Line < 1 || fault.Col < 1 || fault.What == "" {
				t.Errorf("%#v", fault)
			}
		}
	})
}
