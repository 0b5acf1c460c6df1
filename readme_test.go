package hypervisor_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/internal/config"
)

// blocks returns the fenced blocks of a language in a page. README.md's sh blocks are run by .ci/run.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, rest := range strings.Split(string(b), "```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```")
		found = append(found, block+"\n")
	}
	if len(found) == 0 {
		t.Fatalf("%s has no %s block", page, language)
	}
	return found
}

func TestConfigurationsOfReadmeAndQuickstartLoad(t *testing.T) {
	for _, page := range []string{"README.md", filepath.Join("docs", "quickstart.md")} {
		for _, block := range blocks(t, page, "yaml") {
			if _, err := config.Parse(page, []byte(block), &config.Options{Wrapped: "files"}); err != nil {
				t.Error(err)
			}
		}
		for _, block := range blocks(t, page, "json") {
			if !json.Valid([]byte(block)) {
				t.Errorf("%s: not JSON: %s", page, block)
			}
		}
	}
}

// The clients' files name the daemon where the page's own configuration has it listen. Of TOML only what the page uses is known.
func TestClientsOfTheQuickstartAreGivenTheDaemonsAddress(t *testing.T) {
	page := filepath.Join("docs", "quickstart.md")
	const address = "http://" + config.DefaultListen + "/mcp"
	for _, block := range append(blocks(t, page, "json"), append(blocks(t, page, "js"), blocks(t, page, "python")...)...) {
		if !strings.Contains(block, address) {
			t.Errorf("does not go to %s: %s", address, block)
		}
	}
	for _, block := range blocks(t, page, "toml") {
		got := map[string]string{}
		table := ""
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			key, value, pair := strings.Cut(line, " = ")
			var text string
			switch {
			case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
				table = line[1 : len(line)-1]
			case pair && json.Unmarshal([]byte(value), &text) == nil: // a basic string is one of JSON
				got[table+"."+key] = text
			case line != "":
				t.Errorf("not a table, nor a key with a text: %s", line)
			}
		}
		if got["mcp_servers.hypervisor.url"] != address || got["mcp_servers.hypervisor.bearer_token_env_var"] == "" {
			t.Errorf("%v", got)
		}
	}
}

func TestReadmeGoCompiles(t *testing.T) {
	const head = `package main

import (
	"context"
	"encoding/json"
	"log"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

func draftEmail(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }

func main() {
	ctx, args := context.Background(), json.RawMessage("{}")
`
	for _, block := range blocks(t, "README.md", "go") {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(head+block+"\t_, _ = p, err\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "build", "-o", os.DevNull, file).CombinedOutput(); err != nil {
			t.Errorf("%s\n%s", out, block)
		}
	}
}
