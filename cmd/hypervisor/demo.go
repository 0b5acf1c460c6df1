package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/demo"
)

// demoServer is the hidden command that is the demo's tool server.
const demoServer = "demo-server"

func newDemoCommand(g *globals) *cobra.Command {
	var keep string
	cmd := &cobra.Command{
		Use:   "demo [--keep DIR]",
		Short: "Play the whole story with real parts, then verify its log",
		Long: `Several agents, each a real MCP client, stand before one hypervisor; behind it each has a tool server in a process of its own.
A call is refused, one is approved, one is voted on, an agent is killed in mid-call, what another has wrecked is taken back, who
vouched for a newcomer loses what it put up, and a saga of three agents undoes itself step by step; then the session ends and its log
is verified from its bytes.
Exit code 1 if any step goes otherwise than told.`,
		Example: "  hypervisor demo\n  hypervisor demo --keep /tmp/demo && hypervisor audit verify /tmp/demo/data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			dir := keep
			if dir == "" {
				if dir, err = os.MkdirTemp("", "hypervisor-demo-"); err != nil {
					return unopened(err)
				}
				defer os.RemoveAll(dir)
			} else if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return usage("--keep %s: the directory is not empty; name a new one", dir)
			}
			return playDemo(cmd.Context(), g, dir, keep != "")
		},
	}
	cmd.Flags().StringVar(&keep, "keep", "", "play in this new or empty directory and leave it behind")
	return cmd
}

func newDemoServerCommand(*globals) *cobra.Command {
	return &cobra.Command{Use: demoServer + " DIR", Hidden: true, Short: "Be the demo's tool server", Args: cobra.ExactArgs(1), Example: "  hypervisor " + demoServer + " /tmp/notes",
		RunE: func(cmd *cobra.Command, args []string) error { return demo.Serve(cmd.Context(), args[0]) }}
}

func playDemo(ctx context.Context, g *globals, dir string, kept bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	err = demo.Run(ctx, demo.Options{
		Dir: dir, Server: []string{self, demoServer},
		Verify: func(ctx context.Context, dir string) (audit.Summary, error) {
			v := verification{g: g, began: time.Now()}
			sum, _, err := v.read(ctx, dir)
			return sum, err
		},
		Report: func(l demo.Line) error {
			if g.json {
				return g.printJSON(l)
			}
			for _, line := range demoLines(l) {
				g.printf("%s\n", line)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if kept && !g.json {
		g.printf("\nLook at it: hypervisor audit verify %[1]s/data; sqlite3 -readonly %[1]s/data/log.db 'SELECT body FROM records'\n", dir)
	}
	if !kept && !g.json {
		g.printf("\nTo look at what it leaves: hypervisor demo --keep DIR\n")
	}
	return nil
}

// demoLines are a step of the story for people: what happens, and beneath it who did what and how it went.
func demoLines(l demo.Line) []string {
	lines := []string{"• " + l.Say}
	switch {
	case l.Say == "":
		return []string{fmt.Sprintf("    %-8s %-12s %s", strings.TrimPrefix(l.Who, "did:mesh:"), l.Did, l.Result)}
	case l.Decision != nil:
		lines = append(lines, fmt.Sprintf("    %-8s %-12s %s: %s", strings.TrimPrefix(l.Who, "did:mesh:"), l.Did, l.Decision.Code, l.Decision.Reason))
	case l.Did != "":
		lines = append(lines, fmt.Sprintf("    %-8s %-12s ok %s", strings.TrimPrefix(l.Who, "did:mesh:"), l.Did, l.Result))
	case l.Result != "":
		lines = append(lines, "    "+l.Result)
	}
	if !l.OK {
		lines = append(lines, "    ← not as told")
	}
	return lines
}
