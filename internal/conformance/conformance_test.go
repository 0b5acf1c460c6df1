package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	suiteVariable = "HYPERVISOR_TEST_CONFORMANCE" // the suite's program
	nodeVariable  = "HYPERVISOR_TEST_NODE"        // node, 22 or later
)

// revisions are the suite's sets of requirements, and whether a server over HTTP meets them without sessions.
var revisions = []struct {
	name      string
	stateless bool
}{{"2026-07-28", true}, {"2025-11-25", false}}

// A suite is what the tests need: the official suite, the SDK's server for it, and our program.
type suite struct{ node, program, server, hypervisor string }

func needSuite(t *testing.T) suite {
	t.Helper()
	s := suite{node: os.Getenv(nodeVariable), program: os.Getenv(suiteVariable)}
	if s.node == "" || s.program == "" {
		t.Skipf("the conformance suite is not here: %s names its program, %s a node ≥ 22 (see doc.go)", suiteVariable, nodeVariable)
	}
	s.server, s.hypervisor = built(t)
	return s
}

// built returns the SDK's conformance server and our program.
func built(t *testing.T) (server, hypervisor string) {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{
		"everything": "github.com/modelcontextprotocol/go-sdk/conformance/everything-server",
		"hypervisor": "github.com/agenthypervisor/hypervisor/cmd/hypervisor",
	} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
	}
	return filepath.Join(dir, "everything"), filepath.Join(dir, "hypervisor")
}

// A score is how a scenario went: checks passed and failed.
type score struct{ passed, failed int }

func (s score) String() string {
	if s == (score{}) {
		return "-"
	}
	return fmt.Sprintf("%d passed, %d failed", s.passed, s.failed)
}

// A table is a run of the suite.
type table struct {
	order  []string
	scores map[string]score
	dir    string // where the suite wrote what it checked
}

var scoreLine = regexp.MustCompile(`(?m)^\S+ ([a-z0-9-]+): (\d+) passed, (\d+) failed$`)

// run runs the suite's requirements of a revision against a URL.
func (s suite) run(t *testing.T, revision, url string) table {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result := table{scores: map[string]score{}, dir: t.TempDir()}
	cmd := exec.CommandContext(ctx, s.node, s.program, "server", "--url", url, "--requirements", revision, "-o", result.dir)
	out, err := cmd.CombinedOutput() // it fails where a scenario does, which is for the table to say
	for _, m := range scoreLine.FindAllStringSubmatch(string(out), -1) {
		passed, _ := strconv.Atoi(m[2])
		failed, _ := strconv.Atoi(m[3])
		if _, twice := result.scores[m[1]]; twice {
			t.Fatalf("scenario %s is there twice:\n%s", m[1], out)
		}
		result.order = append(result.order, m[1])
		result.scores[m[1]] = score{passed, failed}
	}
	if len(result.order) == 0 || !bytes.Contains(out, []byte("\nTotal: ")) {
		t.Fatalf("the suite gave no table: %v\n%s", err, out)
	}
	return result
}

// faults returns which checks of a scenario failed, and why.
func (r table) faults(t *testing.T, scenario string) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "server-"+scenario+"-20*", "checks.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var checks []struct{ ID, Status, ErrorMessage string }
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &checks)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			if c.Status != "SUCCESS" && c.Status != "INFO" {
				out = append(out, strings.Join([]string{c.Status, c.ID, c.ErrorMessage}, " "))
			}
		}
	}
	return out
}

// total is the suite's last line.
func (r table) total() (sum score) {
	for _, s := range r.scores {
		sum.passed += s.passed
		sum.failed += s.failed
	}
	return sum
}

// direct starts the SDK's server and returns where it is.
func (s suite) direct(t *testing.T, stateless bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	_ = l.Close() // the server takes no open one
	cmd := exec.Command(s.server, "-http", at, "-stateless="+strconv.FormatBool(stateless))
	started(t, cmd, "the SDK's server")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it says nothing that could be waited for
		if c, err := net.Dial("tcp", at); err == nil {
			_ = c.Close()
			return "http://" + at
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// started starts a process that is ended with the test.
func started(t *testing.T, cmd *exec.Cmd, what string) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait() // how it ends is not what is tested here
		if t.Failed() {
			t.Logf("%s said:\n%s", what, said.String())
		}
	})
}

// ordinary is the configuration under test; SERVER says how the SDK's server is reached.
const ordinary = `
listen: 127.0.0.1:0
mcpServers:
  everything: {SERVER}
servers:
  everything: {actions: {"*": {read_only: true}}}
anonymous_agent: {did: "did:mesh:local", sigma: 0.80}
`

// served starts our daemon with the ordinary configuration and returns the address of its /mcp.
func served(t *testing.T, hypervisor, server string) string {
	t.Helper()
	return servedWith(t, hypervisor, server, ordinary)
}

func servedWith(t *testing.T, hypervisor, server, config string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "hypervisor.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "SERVER", server)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(hypervisor, "serve", "--json", "-c", file, "--data", filepath.Join(dir, "data"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started(t, cmd, "hypervisor serve")
	var hello struct{ MCP string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		t.Fatalf("no greeting: %v", err)
	}
	return hello.MCP
}

func TestNoScenarioIsLostThroughTheGateway(t *testing.T) {
	s := needSuite(t)
	for _, revision := range revisions {
		t.Run(revision.name, func(t *testing.T) {
			at := s.direct(t, revision.stateless)
			direct := s.run(t, revision.name, at)
			for _, way := range []struct{ name, server string }{{"http", "url: " + at}, {"stdio", "command: " + s.server}} {
				through := s.run(t, revision.name, newShim(t, served(t, s.hypervisor, way.server), "everything"))
				what := revision.name + " " + way.name
				for _, complaint := range compared(direct, through) {
					t.Errorf("%s: %s", what, complaint)
				}
				t.Log(sideBySide(t, what, direct, through))
			}
		})
	}
}

// isLost reports whether a scenario goes worse through the gateway: fewer of its checks pass, or more fail.
func isLost(direct, through score) bool {
	return through.passed < direct.passed || through.failed > direct.failed
}

// compared returns what is lost.
func compared(direct, through table) (complaints []string) {
	for _, name := range direct.order {
		if isLost(direct.scores[name], through.scores[name]) {
			complaints = append(complaints, fmt.Sprintf("%s is lost: directly %s, through the gateway %s", name, direct.scores[name], through.scores[name]))
		}
	}
	return complaints
}

// sideBySide is both tables, and beneath why what is lost is.
func sideBySide(t *testing.T, what string, direct, through table) string {
	t.Helper()
	var b, beneath strings.Builder
	row := func(name string, d, g fmt.Stringer, note string) {
		fmt.Fprintf(&b, "%-50s %-22s %-22s %s\n", name, d, g, note)
	}
	fmt.Fprintf(&b, "requirements %s upstream\n%-50s %-22s %-22s\n", what, "scenario", "directly", "through the gateway")
	for _, name := range direct.order {
		note := ""
		if isLost(direct.scores[name], through.scores[name]) {
			note = "lost"
			fmt.Fprintf(&beneath, "%s:\n", name)
			for _, fault := range through.faults(t, name) {
				fmt.Fprintf(&beneath, "    %s\n", fault)
			}
		}
		row(name, direct.scores[name], through.scores[name], note)
	}
	row("total", direct.total(), through.total(), "")
	return b.String() + beneath.String()
}

func TestALossIsTold(t *testing.T) {
	of := func(s map[string]score) table { return table{order: slices.Sorted(maps.Keys(s)), scores: s} }
	direct := of(map[string]score{"kept": {2, 0}, "lost": {2, 0}, "skipped": {2, 0}, "failing": {1, 3}, "gone": {1, 0}})
	through := of(map[string]score{"kept": {2, 0}, "lost": {1, 1}, "skipped": {1, 0}, "failing": {1, 3}})
	got := compared(direct, through)
	for _, want := range []string{"lost is lost", "skipped is lost", "gone is lost"} {
		if !slices.ContainsFunc(got, func(c string) bool { return strings.Contains(c, want) }) {
			t.Errorf("nothing says %q: %q", want, got)
		}
	}
	if len(got) != 3 {
		t.Errorf("told %q", got)
	}
}

// The suite's tools say nothing of themselves, so what lets them through is the operator's line and nothing else.
func TestTheSameConfigurationWithoutReadOnlyRefuses(t *testing.T) {
	server, hypervisor := built(t)
	call := func(config string) *mcp.CallToolResult {
		t.Helper()
		at := servedWith(t, hypervisor, "command: "+server, config)
		c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
		session, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: at, HTTPClient: &http.Client{}, MaxRetries: -1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		r, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "everything__test_simple_text", Arguments: map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := call(ordinary); r.IsError {
		t.Errorf("with the line: %+v", r)
	}
	const line = `  everything: {actions: {"*": {read_only: true}}}`
	without := strings.Replace(ordinary, line, "  everything: {}", 1)
	if without == ordinary {
		t.Fatal("the line is not there")
	}
	r := call(without)
	decision, _ := r.StructuredContent.(map[string]any)
	if !r.IsError || decision["allowed"] != false {
		t.Errorf("without the line: %+v", r)
	}
	t.Logf("without the line: %v", decision)
}
