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

// blocks returns the fenced blocks of a language in README.md. Its sh blocks are run by .ci/run.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, rest := range strings.Split(string(b), "```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```")
		found = append(found, block+"\n")
	}
	if len(found) == 0 {
		t.Fatalf("README.md has no %s block", language)
	}
	return found
}

func TestReadmeConfigurationsLoad(t *testing.T) {
	for _, block := range blocks(t, "yaml") {
		if _, err := config.Parse("README.md", []byte(block), &config.Options{Wrapped: "files"}); err != nil {
			t.Error(err)
		}
	}
	for _, block := range blocks(t, "json") {
		if !json.Valid([]byte(block)) {
			t.Errorf("not JSON: %s", block)
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
	for _, block := range blocks(t, "go") {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(head+block+"\t_, _ = p, err\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "build", "-o", os.DevNull, file).CombinedOutput(); err != nil {
			t.Errorf("%s\n%s", out, block)
		}
	}
}
