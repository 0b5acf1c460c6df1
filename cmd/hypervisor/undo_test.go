package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/api"
)

// undoYAML has notes that can be taken back: what was there is read, and written again.
const undoYAML = `
listen: 127.0.0.1:0
mcpServers:
  notes: {command: hypervisor, args: [demo-server, NOTES]}
servers:
  notes:
    actions:
      read_note: {read_only: true}
      write_note:
        reversibility: full
        resource: "{{args.name}}"
        image: {tool: read_note, args: {name: "{{args.name}}"}, bytes: "{{result.content.0.text}}", absent: no such note}
        after: "{{args.text}}"
        undo: {tool: write_note, args: {name: "{{args.name}}", text: "{{image.text}}"}}
        undo_absent: [{tool: burn_note, args: {name: "{{args.name}}"}}]
agents: [{did: "did:mesh:ann", sigma: 0.80}]
`

// note reads and writes a note past the hypervisor, as a human does.
func (d *served) note(name string) string {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(d.dir), "notes", name+".txt"))
	if err != nil {
		return "(none)"
	}
	return string(b)
}

func (d *served) scribble(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(d.dir), "notes", name+".txt"), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// run runs a client command and returns its exit code and what it printed.
func (d *served) run(args ...string) (int, string, string) {
	d.t.Helper()
	var out, errout bytes.Buffer
	code := execute(d.t.Context(), append(args, "--data", d.dir), nil, &out, &errout)
	return code, out.String(), errout.String()
}

func TestWhatAnAgentDidIsTakenBackAtEveryDoorAndAfterEverything(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, undoYAML)
	d.scribble("plan", "one\ntwo\n")
	d.scribble("list", "eggs")
	tok := d.seat("dev").Token
	ann := d.mustConnect(tok)
	write := func(name, text string) {
		t.Helper()
		if text, failed := call(t, ann, "notes__write_note", map[string]any{"name": name, "text": text}); failed {
			t.Fatal(text)
		}
	}
	write("plan", "one\nTWO\n")
	write("new", "x")
	write("list", "milk")
	d.scribble("plan", "one\n2\n")

	code, out, errout := d.run("action", "undo", "--session", "dev", "--plan")
	if code != exitDone || !strings.Contains(out, "compensable") || strings.Count(out, "reversible") != 2 || !strings.Contains(out, "notes:plan") || !strings.Contains(out, "3 of 3 can be taken back") {
		t.Errorf("%d\n%s%s", code, out, errout)
	}
	code, out, errout = d.run("action", "undo", "--session", "dev")
	for _, want := range []string{"undone   ", "refused  ", "somebody has changed it since", "         -TWO\n         +2\n", "2 undone, 1 left"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != exitRefused || !strings.Contains(errout, "stopped: ") {
		t.Errorf("%d %s", code, errout)
	}
	if got := []string{d.note("plan"), d.note("new"), d.note("list")}; strings.Join(got, "|") != "one\n2\n|(none)|eggs" {
		t.Errorf("%q", got)
	}

	write("list", "bread")
	if text, failed := call(t, ann, "hypervisor__undo", map[string]any{"since": "1h", "plan": true}); failed || !strings.Contains(text, "notes.write_note notes:list: reversible, planned") {
		t.Errorf("the agent's plan: %v %s", failed, text)
	}
	var list []api.Action
	for a, err := range d.ctl.Actions(t.Context(), "dev") {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	last := list[len(list)-1]
	if text, failed := call(t, ann, "hypervisor__undo", map[string]any{"action": last.ID}); failed || !strings.Contains(text, "1 undone, 0 left") || d.note("list") != "eggs" {
		t.Errorf("the agent's own: %v %s, %q", failed, text, d.note("list"))
	}
	if text, failed := call(t, ann, "hypervisor__undo", map[string]any{"action": last.ID}); !failed || !strings.Contains(text, "undone already") {
		t.Errorf("twice: %v %s", failed, text)
	}

	// A restart: nobody is connected any more. Then the end of the session.
	write("list", "salt")
	_ = ann.Close()
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	d = start(t, dir, undoYAML)
	if code, out, errout := d.run("action", "undo", "--agent", "did:mesh:ann", "--since", "1h", "--json"); code != exitRefused || d.note("list") != "eggs" {
		t.Errorf("after a restart: %d %s%s", code, out, errout)
	} else {
		var u api.Undo
		if err := json.Unmarshal([]byte(out), &u); err != nil || u.Undone != 1 || u.Left != 1 {
			t.Errorf("after a restart: %s, %v", out, err)
		}
	}
	d.scribble("plan", "one\nTWO\n")
	if _, err := d.ctl.Terminate(t.Context(), "dev"); err != nil {
		t.Fatal(err)
	}
	code, out, errout = d.run("action", "undo", "--action", list[0].Session+"/"+list[0].ID)
	if code != exitDone || !strings.Contains(out, "1 undone, 0 left") || d.note("plan") != "one\ntwo\n" {
		t.Errorf("of a session that has ended: %d %s%s, %q", code, out, errout, d.note("plan"))
	}
	if code, out, _ := d.run("session", "log", list[0].Session+".undo-1"); code != exitDone || !strings.Contains(out, "action.undone id="+list[0].Session+"/"+list[0].ID) {
		t.Errorf("its record: %d %s", code, out)
	}
	if code := d.status("POST", "/v1/undo", tok, nil); code != 403 {
		t.Errorf("an agent takes back in all sessions: %d", code)
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
	if code, out, errout := d.run("audit", "verify", d.dir); code != exitDone {
		t.Errorf("audit verify: %d %s%s", code, out, errout)
	}
}

// serveFiling is a tool server with one file. While there is a file "hold-before" or "hold-after" it stops at that side of a
// write, and says so with a file "held".
func serveFiling() int {
	dir := os.Args[1]
	hold := func(ctx context.Context, side string) error {
		if _, err := os.Stat(filepath.Join(dir, "hold-"+side)); err != nil {
			return nil
		}
		if err := os.WriteFile(filepath.Join(dir, "held"), nil, 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	said := func(text string, err error) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, err
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "filing", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "read"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		b, err := os.ReadFile(filepath.Join(dir, "file"))
		return said(string(b), err)
	})
	mcp.AddTool(s, &mcp.Tool{Name: "write"}, func(ctx context.Context, _ *mcp.CallToolRequest, in struct {
		Text string `json:"text"`
	}) (*mcp.CallToolResult, any, error) {
		if err := hold(ctx, "before"); err != nil {
			return said("", err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "writes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString("w")
			err = errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, "file"), []byte(in.Text), 0o600), hold(ctx, "after"))
		}
		return said("written", err)
	})
	if err := s.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		return 1
	}
	return 0
}

const filingYAML = `
listen: 127.0.0.1:0
mcpServers: {filing: {command: filing, args: [NOTES]}}
servers:
  filing:
    actions:
      read: {read_only: true}
      write:
        reversibility: full
        resource: file
        image: {tool: read, bytes: "{{result.content.0.text}}"}
        after: "{{args.text}}"
        undo: {tool: write, args: {text: "{{image.text}}"}}
agents: [{did: "did:mesh:ann", sigma: 0.80}]
`

// Issue: "Undo after SIGKILL at any point of do or undo: once, or `unknown` and said", of a real process with a real server.
func TestSIGKILLInTheMidstOfAWriteOrItsUndo(t *testing.T) {
	for _, c := range []struct {
		killed, side string
		writes       string // one for the do, one for its undo
	}{
		{"do", "before", ""}, {"do", "after", "ww"}, {"undo", "before", "ww"}, {"undo", "after", "ww"},
	} {
		t.Run(c.killed+" "+c.side, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			d := start(t, dir, filingYAML)
			at := func(name string) string { return filepath.Join(dir, "notes", name) }
			write(t, at("file"), "old")
			ann := d.mustConnect(d.seat("dev").Token)
			doing := func() {
				_, _ = ann.CallTool(t.Context(), &mcp.CallToolParams{Name: "filing__write", Arguments: map[string]any{"text": "new"}})
			}
			first := d
			undoing := func() { _, _, _ = first.run("action", "undo", "--session", "dev") }
			ended := make(chan struct{})
			if c.killed == "undo" {
				doing()
			}
			write(t, at("hold-"+c.side), "")
			go func() {
				defer close(ended)
				if c.killed == "do" {
					doing()
				} else {
					undoing()
				}
			}()
			if err := awaitFile(t.Context(), at("held")); err != nil {
				t.Fatal(err)
			}
			if err := d.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = d.cmd.Wait()
			<-ended
			if err := os.Remove(at("hold-" + c.side)); err != nil {
				t.Fatal(err)
			}
			d = start(t, dir, filingYAML)
			_, out, errout := d.run("action", "undo", "--session", "dev")
			if b, err := os.ReadFile(at("file")); err != nil || string(b) != "old" {
				t.Errorf("the file reads %q, %v\n%s%s", b, err, out, errout)
			}
			if b, err := os.ReadFile(at("writes")); string(b) != c.writes {
				t.Errorf("writes: %q, %v; want %q\n%s%s", b, err, c.writes, out, errout)
			}
			if code, out, _ := d.run("action", "undo", "--session", "dev"); code != exitDone || out != "0 undone, 0 left\n" {
				t.Errorf("once more: %d %s", code, out)
			}
		})
	}
}
