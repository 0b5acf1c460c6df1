package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type note struct {
	Name string `json:"name" jsonschema:"the note's name, a single word"`
	Text string `json:"text,omitempty" jsonschema:"what it says"`
}

// Serve is the demo's tool server: notes as files in dir, over stdin and stdout, until its input ends.
func Serve(ctx context.Context, dir string) error {
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	no := false
	add(s, &mcp.Tool{Name: "read_note", Description: "Read a note", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}},
		dir, func(_ context.Context, _ *mcp.CallToolRequest, path string, _ note) (string, error) {
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return "", errors.New("no such note")
			}
			return string(b), err
		})
	add(s, &mcp.Tool{Name: "write_note", Description: "Write a note", Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}},
		dir, func(_ context.Context, _ *mcp.CallToolRequest, path string, n note) (string, error) {
			return "written", os.WriteFile(path, []byte(n.Text), 0o600)
		})
	add(s, &mcp.Tool{Name: "burn_note", Description: "Delete a note for good", Annotations: &mcp.ToolAnnotations{OpenWorldHint: &no}},
		dir, func(_ context.Context, _ *mcp.CallToolRequest, path string, _ note) (string, error) {
			return "burnt", os.Remove(path)
		})
	add(s, &mcp.Tool{Name: "scribble_note", Description: "Write over a note again and again", Annotations: &mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}},
		dir, func(ctx context.Context, r *mcp.CallToolRequest, path string, _ note) (string, error) {
			return scribble(ctx, r, path)
		})
	return s.Run(ctx, &mcp.StdioTransport{})
}

func add(s *mcp.Server, tool *mcp.Tool, dir string, do func(ctx context.Context, r *mcp.CallToolRequest, path string, n note) (string, error)) {
	mcp.AddTool(s, tool, func(ctx context.Context, r *mcp.CallToolRequest, n note) (*mcp.CallToolResult, any, error) {
		if filepath.Base(n.Name) != n.Name || n.Name == "." || n.Name == ".." {
			return nil, nil, fmt.Errorf("a note's name is a single word")
		}
		text, err := do(ctx, r, filepath.Join(dir, n.Name+".txt"), n)
		if err != nil {
			return nil, nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
	})
}
