package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/policy"
)

// filesystemServer names the official server's program: npm install @modelcontextprotocol/server-filesystem.
const filesystemServer = "HYPERVISOR_TEST_FILESYSTEM_SERVER"

// program builds the shipped program once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hypervisor-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hypervisor")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

const filesConfig = `
servers:
  files:
    trust_annotations: true
    actions:
      write_file: {reversibility: partial}
agents:
  - {did: "did:mesh:reader", sigma: 0.50}
  - {did: "did:mesh:writer", sigma: 0.80}
`

// A world is a folder behind the official server behind `wrap`.
type world struct {
	t                         *testing.T
	program, data, files, cfg string
}

func newWorld(t *testing.T) *world {
	server := os.Getenv(filesystemServer)
	if server == "" {
		t.Skip("the official filesystem server is not here: npm install @modelcontextprotocol/server-filesystem, and name its program in " + filesystemServer)
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &world{t: t, program: path, data: filepath.Join(dir, "data"), files: filepath.Join(dir, "files"), cfg: filepath.Join(dir, "hypervisor.yaml")}
	if err := errors.Join(os.Mkdir(w.files, 0o700), os.WriteFile(w.cfg, []byte(filesConfig), 0o600),
		os.WriteFile(filepath.Join(w.files, "a.txt"), []byte("first"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.files, name) }

// connect starts `wrap` for an agent and connects an SDK client to it.
func (w *world) connect(agent string) *mcp.ClientSession {
	w.t.Helper()
	cmd := exec.Command(w.program, "wrap", "--name", "files", "--data", w.data, "--agent", agent, "-c", w.cfg, "--", os.Getenv(filesystemServer), w.files)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	c, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(w.t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		w.t.Fatalf("connecting through wrap: %v\n%s", err, &stderr)
	}
	return c
}

// call returns the decision of a refusal, or an allowing one.
func (w *world) call(c *mcp.ClientSession, tool string, args map[string]any) policy.Decision {
	w.t.Helper()
	res, err := c.CallTool(context.Background(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		w.t.Fatalf("%s: %v", tool, err)
	}
	if !res.IsError {
		return policy.Allow()
	}
	b, err := json.Marshal(res.StructuredContent)
	if err != nil {
		w.t.Fatal(err)
	}
	var d policy.Decision
	if err := json.Unmarshal(b, &d); err != nil || d.Code == "" {
		w.t.Fatalf("%s: an error without a decision: %+v", tool, res)
	}
	return d
}

// run runs a command of the program on the world's data and returns what it printed and its exit code.
func (w *world) run(args ...string) (string, int) {
	w.t.Helper()
	cmd := exec.Command(w.program, append(args, "--data", w.data)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// What a team sees that puts the hypervisor before the official filesystem server.
func TestOfficialFilesystemServerIsGovernedBehindWrap(t *testing.T) {
	w := newWorld(t)
	reader := w.connect("did:mesh:reader")
	if d := w.call(reader, "read_text_file", map[string]any{"path": w.path("a.txt")}); !d.Allowed {
		t.Errorf("a ring-3 agent may read: %+v", d)
	}
	d := w.call(reader, "write_file", map[string]any{"path": w.path("b.txt"), "content": "x"})
	if d.Code != policy.RingInsufficient || !strings.Contains(d.Reason, "needs ring 2") {
		t.Errorf("a ring-3 agent may not write, and is told why: %+v", d)
	}
	if _, err := os.Stat(w.path("b.txt")); err == nil {
		t.Error("the refused write was done")
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}

	writer := w.connect("did:mesh:writer")
	if d := w.call(writer, "write_file", map[string]any{"path": w.path("b.txt"), "content": "written"}); !d.Allowed {
		t.Errorf("a ring-2 agent may write: %+v", d)
	}
	w.moveNeedsAnApproval(writer)
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(w.path("c.txt")); err != nil || string(b) != "written" {
		t.Errorf("after the approved move: %q, %v", b, err)
	}
	w.anyChangedByteIsFound()
}

// A move nobody described needs an approval, granted on the command line, for exactly these arguments, once.
func (w *world) moveNeedsAnApproval(writer *mcp.ClientSession) {
	t := w.t
	t.Helper()
	move := map[string]any{"source": w.path("b.txt"), "destination": w.path("c.txt")}
	asked := w.call(writer, "move_file", move)
	if asked.Code != policy.ApprovalRequired || asked.Approval == nil {
		t.Fatalf("a move nobody described: %+v", asked)
	}
	if out, code := w.run("approval", "grant", asked.Approval.ID, "--digest", strings.Repeat("0", 64)); code != 1 {
		t.Errorf("granting with another digest: exit %d: %s", code, out)
	}
	if out, code := w.run("approval", "grant", asked.Approval.ID, "--digest", asked.Approval.Digest); code != 0 {
		t.Fatalf("granting: exit %d: %s", code, out)
	}
	other := map[string]any{"source": w.path("a.txt"), "destination": w.path("c.txt")}
	if d := w.call(writer, "move_file", other); d.Code != policy.ApprovalRequired {
		t.Errorf("with changed arguments: %+v", d)
	}
	if d := w.call(writer, "move_file", move); !d.Allowed {
		t.Errorf("granted: %+v", d)
	}
	if d := w.call(writer, "move_file", move); d.Code != policy.ApprovalRequired {
		t.Errorf("a grant is used once: %+v", d)
	}
}

// The log verifies, and with any byte of a record changed it does not.
func (w *world) anyChangedByteIsFound() {
	t := w.t
	t.Helper()
	if out, code := w.run("audit", "verify"); code != 0 {
		t.Fatalf("audit verify: exit %d: %s", code, out)
	}
	db, err := sql.Open("sqlite", filepath.Join(w.data, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var id, size int
	if err := db.QueryRow(`SELECT id, length(body) FROM records WHERE instr(body, CAST('action.admitted' AS BLOB)) > 0 LIMIT 1`).Scan(&id, &size); err != nil {
		t.Fatal(err)
	}
	var body []byte
	if err := db.QueryRow(`SELECT body FROM records WHERE id = ?`, id).Scan(&body); err != nil {
		t.Fatal(err)
	}
	store := func(b []byte) {
		if _, err := db.Exec(`UPDATE records SET body = ? WHERE id = ?`, b, id); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < size; i += 11 { // every byte is the verifier's own test; here the program is asked
		changed := bytes.Clone(body)
		changed[i] ^= 1
		store(changed)
		if out, code := w.run("audit", "verify"); code != 1 || !strings.Contains(out, "session/") {
			t.Fatalf("byte %d changed: exit %d: %s", i, code, out)
		}
	}
	store(body)
	if out, code := w.run("audit", "verify"); code != 0 {
		t.Errorf("as it was: exit %d: %s", code, out)
	}
}
