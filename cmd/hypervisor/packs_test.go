package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/packs"
	"github.com/agenthypervisor/hypervisor/policy"
)

// An official is a server there is a pack for, and calls that show what the pack says of it.
type official struct {
	npm         string // the package that brings it
	variable    string // of the environment: names its program
	args        []string
	scratch     []string // the same, for pack test
	read, write string   // tools; empty write: it has none
	reading     map[string]any
	writing     map[string]any
}

// officials are the official servers by pack, or the most used where there is none to be had from npm, working in dir.
func officials(dir string) map[string]official {
	const mine = "@modelcontextprotocol/server-"
	return map[string]official{
		"filesystem": {mine + "filesystem", filesystemServer, []string{dir}, []string{"{dir}"}, "list_directory", "write_file",
			map[string]any{"path": dir}, map[string]any{"path": filepath.Join(dir, "a.txt"), "content": "x"}},
		"memory": {mine + "memory", "HYPERVISOR_TEST_MEMORY_SERVER", nil, nil, "read_graph", "create_entities",
			map[string]any{}, map[string]any{"entities": []any{map[string]any{"name": "ann", "entityType": "agent", "observations": []any{"writes"}}}}},
		"everything": {mine + "everything", "HYPERVISOR_TEST_EVERYTHING_SERVER", nil, nil, "get-sum", "toggle-simulated-logging",
			map[string]any{"a": 1, "b": 2}, map[string]any{}},
		"sequential-thinking": {mine + "sequential-thinking", "HYPERVISOR_TEST_SEQUENTIAL_THINKING_SERVER", nil, nil, "sequentialthinking", "",
			map[string]any{"thought": "one", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": false}, nil},
		"git": {"@cyanheads/git-mcp-server", "HYPERVISOR_TEST_GIT_SERVER", nil, nil, "git_status", "git_init",
			map[string]any{"path": dir}, map[string]any{"path": dir}},
		"sqlite": {"mcp-sqlite", "HYPERVISOR_TEST_SQLITE_SERVER", []string{filepath.Join(dir, "test.db")}, []string{"{dir}/test.db"}, "list_tables", "create_record",
			map[string]any{}, map[string]any{"table": "notes", "data": map[string]any{"name": "ann"}}},
	}
}

// forEachOfficial runs a test for every official server that is here, with a repository and a database in the test's own
// directory, and memory's file.
func forEachOfficial(t *testing.T, test func(t *testing.T, pack, dir string, o official)) {
	if got := slices.Sorted(maps.Keys(officials(""))); !slices.Equal(got, packs.Names()) {
		t.Errorf("there are packs %v, and servers to try them with %v", packs.Names(), got)
	}
	for _, pack := range packs.Names() {
		t.Run(pack, func(t *testing.T) {
			dir := t.TempDir()
			o := officials(dir)[pack]
			if os.Getenv(o.variable) == "" {
				t.Skipf("the server is not here: npm install %s, and name its program in %s", o.npm, o.variable)
			}
			identity := filepath.Join(dir, "gitconfig")
			if err := os.WriteFile(identity, []byte("[user]\n\tname = Test\n\temail = test@example.com\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{"MEMORY_FILE_PATH": filepath.Join(dir, "memory.jsonl"),
				"GIT_CONFIG_GLOBAL": identity, "GIT_CONFIG_NOSYSTEM": "1", "GIT_SIGN_COMMITS": "false", "MCP_LOG_LEVEL": "fatal"} {
				t.Setenv(name, value)
			}
			if pack == "git" {
				if out, err := exec.Command("git", "init", "--quiet", dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			if pack == "sqlite" {
				createNotes(t, filepath.Join(dir, "test.db"))
			}
			test(t, pack, dir, o)
		})
	}
}

// createNotes makes a database with a table of notes.
func createNotes(t *testing.T, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE notes (id INTEGER PRIMARY KEY, name TEXT)"); err != nil {
		t.Fatal(err)
	}
}

// toolsOf asks a server for its tools as a client that can do everything: some list a tool only then.
func toolsOf(t *testing.T, program string, args []string) (names []string) {
	const ask = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"test","version":"1"},"capabilities":{
"roots":{"listChanged":true},"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},
"tasks":{"list":{},"cancel":{},"requests":{"sampling":{"createMessage":{}},"elicitation":{"create":{}}}}}}}`
	cmd := exec.CommandContext(t.Context(), program, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it may wait a minute for roots
	fmt.Fprintln(in, strings.ReplaceAll(ask, "\n", ""))
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the server ended: %v", err)
		}
		var answer struct {
			ID     json.RawMessage
			Method string
			Result struct{ Tools []struct{ Name string } }
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		switch {
		case answer.Method != "": // it may ask for roots, which it does not get
		case string(answer.ID) == "1":
			fmt.Fprintln(in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			fmt.Fprintln(in, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
		case string(answer.ID) == "2":
			for _, tool := range answer.Result.Tools {
				names = append(names, tool.Name)
			}
			return slices.Sorted(slices.Values(names))
		}
	}
}

func packConfig(pack string) string {
	return "servers: {up: {pack: " + pack + "}}\n" +
		`agents: [{did: "did:mesh:reader", sigma: 0.50}, {did: "did:mesh:writer", sigma: 0.80}]` + "\n"
}

func TestPackDescribesEveryToolOfItsServerAndNoOther(t *testing.T) {
	forEachOfficial(t, func(t *testing.T, pack, _ string, o official) {
		cfg, err := config.Parse("c.yaml", []byte(packConfig(pack)), &config.Options{Wrapped: "up"})
		if err != nil {
			t.Fatal(err)
		}
		var described []string
		for _, row := range cfg.Report().Actions {
			described = append(described, strings.TrimPrefix(row.Action, "up."))
		}
		if diff := cmp.Diff(toolsOf(t, os.Getenv(o.variable), o.args), described); diff != "" {
			t.Errorf("the server's tools and the pack's (-server +pack):\n%s", diff)
		}
	})
}

// SPEC §4: "Never claim more than is so". Every undo of a bundled pack is done against the real server, and what is there
// afterwards compared byte for byte, by the command that users try their own packs with.
func TestPackClaimsNoMoreThanItsServerBearsOut(t *testing.T) {
	forEachOfficial(t, func(t *testing.T, pack, _ string, o official) {
		var out, errout bytes.Buffer
		command := append([]string{"pack", "test", pack, "--", os.Getenv(o.variable)}, o.scratch...)
		if pack == "memory" {
			command = slices.Insert(command, 4, "env", "MEMORY_FILE_PATH={dir}/memory.jsonl")
		}
		code := execute(t.Context(), command, strings.NewReader(""), &out, &errout)
		if t.Log(out.String()); code != exitDone {
			t.Errorf("exit %d\n%s", code, &errout)
		}
	})
}

func TestWithAPackRing2WritesAndRing3OnlyReads(t *testing.T) {
	forEachOfficial(t, func(t *testing.T, pack, dir string, o official) {
		file := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(file, []byte(packConfig(pack)), 0o600); err != nil {
			t.Fatal(err)
		}
		as := func(agent string, calls func(*mcp.ClientSession)) {
			cmd := exec.Command("hypervisor", append([]string{"wrap", "--name", "up", "--data", filepath.Join(dir, "data"), "--agent", agent, "-c", file, "--",
				os.Getenv(o.variable)}, o.args...)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
			if err != nil {
				t.Fatalf("%v\n%s", err, &stderr)
			}
			calls(s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		w := &world{t: t}
		as("did:mesh:reader", func(s *mcp.ClientSession) {
			if d := w.call(s, o.read, o.reading); !d.Allowed {
				t.Errorf("ring 3 may read: %+v", d)
			}
			if o.write == "" {
				return
			}
			if d := w.call(s, o.write, o.writing); d.Code != policy.RingInsufficient || d.RequiredRing == nil || *d.RequiredRing != 2 {
				t.Errorf("ring 3 may not write: %+v", d)
			}
		})
		if o.write == "" {
			return
		}
		as("did:mesh:writer", func(s *mcp.ClientSession) {
			if d := w.call(s, o.write, o.writing); !d.Allowed {
				t.Errorf("ring 2 may write: %+v", d)
			}
		})
	})
}
