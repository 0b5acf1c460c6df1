package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/internal/packtest"
	"github.com/agenthypervisor/hypervisor/packs"
)

func newPackCommand(g *globals) *cobra.Command {
	return group("pack", "Adapter packs: what is known of a server's tools", "  hypervisor pack test filesystem -- mcp-server-filesystem {dir}", packTest(g))
}

func packTest(g *globals) *cobra.Command {
	var casesFile string
	cmd := &cobra.Command{
		Use: "test FILE|NAME -- CMD ARG…", Short: "Try what a pack claims against the real server", Args: cobra.MinimumNArgs(2),
		Long: `Try what a pack claims against the real server: each case is done and undone, and what is there then is compared with what was there
before, byte for byte. FILE is a pack, or NAME one of those in the program; its cases stand beside it (my.yaml: my.test.yaml) or where
--cases says. CMD starts the server; {dir} in its arguments is a scratch folder, which is removed afterwards. It needs no hypervisor.
The exit code is 1 if a claim does not hold, or a tool with an undo has no case.`,
		Example: `  hypervisor pack test filesystem -- mcp-server-filesystem {dir}
  hypervisor pack test memory -- env MEMORY_FILE_PATH={dir}/memory.jsonl mcp-server-memory
  hypervisor pack test mine.yaml --cases mine-cases.yaml -- my-server --root {dir}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			pack, cases, err := g.readPack(args[0], casesFile)
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "hypervisor-pack-")
			if err != nil {
				return unopened(err)
			}
			defer os.RemoveAll(dir)
			if dir, err = filepath.EvalSymlinks(dir); err != nil { // the server says where it is, too
				return unopened(err)
			}
			report, err := g.testPack(cmd.Context(), args[1:], dir, pack, cases)
			if err != nil {
				return unopened(err)
			}
			if g.json {
				if err := g.printJSON(report); err != nil {
					return err
				}
			} else {
				g.printPackReport(report)
			}
			if !report.OK {
				return &failure{exitRefused, silent{errors.New("a claim of the pack does not hold")}}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&casesFile, "cases", "", "file with the cases (default: beside FILE)")
	return cmd
}

// readPack returns a pack, by file or name, and its cases.
func (g *globals) readPack(name, casesFile string) (map[string]action.Claim, *packtest.Cases, error) {
	text, bundled := packs.Read(name)
	casesText, _ := packs.Cases(name)
	casesName := name + ".test.yaml"
	if !bundled {
		var err error
		if text, err = os.ReadFile(name); err != nil {
			return nil, nil, unopened(fmt.Errorf("%w; it is no pack of the program either (there are %s)", err, strings.Join(packs.Names(), ", ")))
		}
		ending := filepath.Ext(name)
		casesName = strings.TrimSuffix(name, ending) + ".test" + ending
	}
	if casesFile != "" {
		casesName = casesFile
	}
	if casesFile != "" || !bundled {
		var err error
		if casesText, err = os.ReadFile(casesName); err != nil {
			return nil, nil, unopened(err)
		}
	}
	pack, err := config.ParsePack(name, text)
	if err != nil {
		return nil, nil, g.configFault(err)
	}
	cases, err := packtest.ParseCases(casesName, casesText)
	if err != nil {
		return nil, nil, g.configFault(err)
	}
	return pack, cases, nil
}

// testPack starts the server and tries the cases on it.
func (g *globals) testPack(ctx context.Context, command []string, dir string, pack map[string]action.Claim, cases *packtest.Cases) (packtest.Report, error) {
	argv := make([]string, len(command))
	for i, arg := range command {
		argv[i] = strings.ReplaceAll(arg, "{dir}", dir)
	}
	said := &lastWords{}
	up := gateway.NewUpstream("server", gateway.Command{Path: argv[0], Args: argv[1:], Env: gateway.InheritedEnvironment(os.Environ())},
		&gateway.UpstreamOptions{Stderr: said, Version: version().Version})
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- up.Run(ctx) }()
	defer func() { stop(); <-ended }()
	if err := up.Ready(ctx); err != nil {
		said.copyTo(g.err)
		return packtest.Report{}, err
	}
	return packtest.Run(ctx, pack, cases, &packServer{g, up}, dir)
}

// lastWords keep the last of what a server says on stderr, for when it does not start. It is safe for concurrent use.
type lastWords struct {
	mu   sync.Mutex
	last []byte
}

// maxTail bounds what is kept.
const maxTail = 16 << 10

func (t *lastWords) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	t.last = t.last[max(0, len(t.last)-maxTail):]
	return len(b), nil
}

func (t *lastWords) copyTo(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(t.last)) {
		fmt.Fprintln(w, clean(strings.TrimSuffix(line, "\n")))
	}
}

// A packServer is the real server, as the cases see it.
type packServer struct {
	g  *globals
	up *gateway.Upstream
}

func (s *packServer) Tools() []string {
	var names []string
	for _, t := range s.up.Tools() {
		names = append(names, t.Name)
	}
	return names
}

func (s *packServer) tool(name string) (gateway.Tool, error) {
	tools := s.up.Tools()
	i := slices.IndexFunc(tools, func(t gateway.Tool) bool { return t.Name == name })
	if i < 0 {
		return gateway.Tool{}, fmt.Errorf("the server lists no tool %s", name)
	}
	return tools[i], nil
}

func (s *packServer) Fits(tool string, args map[string]any) error {
	t, err := s.tool(tool)
	if err != nil {
		return err
	}
	return t.Check(args)
}

func (s *packServer) Call(ctx context.Context, tool string, args json.RawMessage) (json.RawMessage, error) {
	t, err := s.tool(tool)
	if err != nil {
		return nil, err
	}
	if s.g.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.g.timeout)
		defer cancel()
	}
	result, err := s.up.Call(ctx, t, args, nil)
	if errors.Is(err, gateway.ErrReported) {
		err = nil
	}
	return result, err
}

func (g *globals) printPackReport(r packtest.Report) {
	rows := make([][]string, len(r.Rows))
	failed := 0
	for i, row := range r.Rows {
		undone := string(row.Undone)
		if undone == "" {
			undone = "-"
		}
		holds := "yes"
		if !row.Holds {
			holds, failed = "NO", failed+1
		}
		rows[i] = []string{row.Tool, row.Case, row.Image, row.Reversibility.String(), undone, holds}
	}
	if len(rows) > 0 {
		g.printTable([]string{"TOOL", "CASE", "IMAGE", "REVERSIBILITY", "UNDONE", "HOLDS"}, rows)
		g.printf("\n")
	}
	for _, row := range r.Rows {
		for _, what := range row.What {
			if !row.Holds {
				g.printf("%s: %s: %s\n", row.At, row.Tool, what)
			}
		}
	}
	for _, tool := range r.Untested {
		g.printf("%s has an undo, and no case shows it\n", tool)
	}
	for _, tool := range r.Unlisted {
		g.printf("%s is in the pack, and the server does not list it\n", tool)
	}
	for _, tool := range r.Undescribed {
		g.printf("%s is listed by the server, and the pack does not know it: decided as none\n", tool)
	}
	g.printf("%s: %s\n", count(len(r.Rows), "case", "cases"), map[bool]string{true: "all hold", false: fmt.Sprintf("%d failed", failed)}[failed == 0])
}
