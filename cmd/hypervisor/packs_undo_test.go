package main

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/action"
)

// An errand is what an agent does behind a pack, and how one sees from outside what it did.
type errand struct {
	prepare func(t *testing.T, dir string)
	calls   func(dir string) []action.Call
	read    func(t *testing.T, dir string) string // past the server and the hypervisor
}

var errands = map[string]errand{
	"filesystem": {
		prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "work", "a.txt"), "\ufefffirst\r\n")
			write(t, filepath.Join(dir, "work", "b.txt"), "one\r\ntwo\r\n")
			write(t, filepath.Join(dir, "work", "c.bin"), "\x00\xff\xfe")
			if err := os.Chmod(filepath.Join(dir, "work", "a.txt"), 0o640); err != nil {
				t.Fatal(err)
			}
		},
		calls: func(dir string) []action.Call {
			at := func(name string) string { return filepath.Join(dir, "work", name) }
			return []action.Call{
				{Tool: "write_file", Args: map[string]any{"path": at("a.txt"), "content": "second"}},
				{Tool: "edit_file", Args: map[string]any{"path": at("b.txt"), "edits": []any{map[string]any{"oldText": "two", "newText": "zwei"}}}},
				{Tool: "move_file", Args: map[string]any{"source": at("c.bin"), "destination": at("d.bin")}},
				{Tool: "write_file", Args: map[string]any{"path": at("a.txt"), "content": ""}},
			}
		},
		read: func(t *testing.T, dir string) string { return readTree(t, filepath.Join(dir, "work")) },
	},
	"memory": {
		prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "memory.jsonl"), `{"type":"entity","name":"ann","entityType":"agent","observations":["reads"]}`+"\n"+
				`{"type":"relation","from":"ann","to":"bob","relationType":"knows"}`)
		},
		calls: func(string) []action.Call {
			return []action.Call{
				{Tool: "create_entities", Args: map[string]any{"entities": []any{
					map[string]any{"name": "ann", "entityType": "other", "observations": []any{}},
					map[string]any{"name": "carl", "entityType": "agent", "observations": []any{"writes"}}}}},
				{Tool: "add_observations", Args: map[string]any{"observations": []any{map[string]any{"entityName": "ann", "contents": []any{"reads", "é"}}}}},
				{Tool: "create_relations", Args: map[string]any{"relations": []any{map[string]any{"from": "carl", "to": "ann", "relationType": "knows"}}}},
				{Tool: "delete_entities", Args: map[string]any{"entityNames": []any{"carl"}}},
			}
		},
		read: func(t *testing.T, dir string) string { return contents(t, filepath.Join(dir, "memory.jsonl")) },
	},
	"git": {
		prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "a.txt"), "one\n")
			git(t, dir, "add", "a.txt")
			git(t, dir, "commit", "--quiet", "--message", "first")
			write(t, filepath.Join(dir, "b.txt"), "two\n")
		},
		calls: func(dir string) []action.Call {
			return []action.Call{
				{Tool: "git_add", Args: map[string]any{"path": dir, "paths": []any{"b.txt"}}},
				{Tool: "git_commit", Args: map[string]any{"path": dir, "message": "second"}},
				{Tool: "git_branch", Args: map[string]any{"path": dir, "mode": "create", "branchName": "side"}},
				{Tool: "git_checkout", Args: map[string]any{"path": dir, "target": "side"}},
			}
		},
		read: func(t *testing.T, dir string) string {
			return git(t, dir, "for-each-ref") + git(t, dir, "symbolic-ref", "HEAD") + git(t, dir, "status", "--porcelain", "a.txt", "b.txt") +
				contents(t, filepath.Join(dir, "a.txt")) + contents(t, filepath.Join(dir, "b.txt"))
		},
	},
	"sqlite": {
		prepare: func(t *testing.T, dir string) {
			query(t, dir, "INSERT INTO notes VALUES (1, 'ann'), (2, NULL), (3, 'carl')")
		},
		calls: func(string) []action.Call {
			return []action.Call{
				{Tool: "create_record", Args: map[string]any{"table": "notes", "data": map[string]any{"name": "dan"}}},
				{Tool: "update_records", Args: map[string]any{"table": "notes", "data": map[string]any{"name": "bob"}, "conditions": map[string]any{"id": 2}}},
				{Tool: "delete_records", Args: map[string]any{"table": "notes", "conditions": map[string]any{"name": "carl"}}},
			}
		},
		read: func(t *testing.T, dir string) string { return query(t, dir, "SELECT *, typeof(name) FROM notes") },
	},
}

// Through the whole of it: an agent works behind the pack, an operator takes it all back by one command, and everything is as
// before.
func TestWhatAnAgentDidBehindAPackIsTakenBackByOneCommand(t *testing.T) {
	forEachOfficial(t, func(t *testing.T, pack, dir string, o official) {
		e, ok := errands[pack]
		if !ok {
			t.Skip("the pack has nothing that is taken back")
		}
		e.prepare(t, dir)
		before := e.read(t, dir)
		data, cfg := filepath.Join(dir, "data"), filepath.Join(dir, "c.yaml")
		write(t, cfg, packConfig(pack))
		cmd := exec.Command("hypervisor", append([]string{"wrap", "--name", "up", "--data", data, "--agent", "did:mesh:writer", "-c", cfg, "--", os.Getenv(o.variable)}, o.args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, &stderr)
		}
		w := &world{t: t}
		for _, c := range e.calls(dir) {
			if d := w.call(s, c.Tool, c.Args); !d.Allowed {
				t.Fatalf("%s: %+v", c.Tool, d)
			}
		}
		if done := e.read(t, dir); done == before {
			t.Error("nothing was done")
		}
		out, err := exec.Command("hypervisor", "action", "undo", "--agent", "did:mesh:writer", "--since", "1h", "--data", data).CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Errorf("action undo: %v", err)
		}
		if diff := cmp.Diff(before, e.read(t, dir)); diff != "" {
			t.Errorf("not as before:\n%s", diff)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// readTree returns every entry of a folder with its mode and contents.
func readTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, name, info.Mode())
		if info.Mode().IsRegular() {
			fmt.Fprintf(&b, "%q\n", contents(t, name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// query returns the rows of a statement on the test's database, each on a line.
func query(t *testing.T, dir, statement string) string {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(statement)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			fmt.Fprintf(&b, "%v ", *v.(*any))
		}
		b.WriteByte('\n')
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
