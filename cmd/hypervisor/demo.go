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
A call is refused, one is approved, one is voted on; then the session ends and its log is verified from its bytes.
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
	return &cobra.Command{Use: demoServer + " DIR", Hidden: true, Args: cobra.ExactArgs(1), Example: "  hypervisor " + demoServer + " /tmp/notes",
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
			g.printf("%s\n", demoLine(l))
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

// demoLine is a line of the story for people: what happens, and beneath it who did what and how it went.
func demoLine(l demo.Line) string {
	var b strings.Builder
	fmt.Fprintf(&b, "• %s", l.Say)
	if l.Did != "" {
		fmt.Fprintf(&b, "\n    %-8s %-12s ", strings.TrimPrefix(l.Who, "did:mesh:"), l.Did)
		if d := l.Decision; d != nil {
			fmt.Fprintf(&b, "%s: %s", d.Code, d.Reason)
		} else {
			fmt.Fprintf(&b, "ok %s", l.Result)
		}
	} else if l.Result != "" {
		fmt.Fprintf(&b, "\n    %s", l.Result)
	}
	if !l.OK {
		b.WriteString("   ← not as told")
	}
	return b.String()
}
