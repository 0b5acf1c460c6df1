package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/bench/suite"
)

// A benchmark is what `bench` was told.
type benchmark struct {
	quick, long, json bool
	only              []string
	dir               string
	out, err          io.Writer
}

func newBenchCommand(g *globals) *cobra.Command {
	b := &benchmark{}
	cmd := &cobra.Command{
		Use:   "bench [--quick|--long] [--only NAME]… [--dir DIR]",
		Short: "Measure this hypervisor on this machine, beside the bare work it stands on",
		Long: `bench measures every row of the project's table of speeds, each beside the shortest program on the same library that does the
work without governing it. The two run in turns and medians are compared: a busy machine slows both, so it is the ratio that
tells. The hypervisor's clock runs a thousand times as fast as the machine's, so that no rate limit bounds what is measured.

Measurements: ` + strings.Join(measurements(), ", ") + ".",
		Args:    cobra.NoArgs,
		Example: "  hypervisor bench --quick\n  hypervisor bench --long --dir /var/lib\n  hypervisor bench --only gateway --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.out, b.err, b.json = g.out, g.err, g.json
			return b.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&b.quick, "quick", false, "small sizes: under two minutes")
	f.BoolVar(&b.long, "long", false, "full sizes: a million records, 20,000 sessions")
	f.StringSliceVar(&b.only, "only", nil, "only the measurement of this name")
	f.StringVar(&b.dir, "dir", "", "directory on the disk to measure (default the system's for temporary files)")
	cmd.MarkFlagsMutuallyExclusive("quick", "long")
	for _, part := range []struct {
		name, short string
		run         func(ctx context.Context, args []string) error
	}{
		{suite.ToolServer, "Be the tool server that is measured with", func(ctx context.Context, _ []string) error { return suite.ServeTools(ctx) }},
		{suite.PassThrough, "Be the bare proxy that is measured beside: of a command, at an address or on standard input", suite.PassOn},
	} {
		cmd.AddCommand(&cobra.Command{Use: part.name, Short: part.short, Hidden: true, Example: "  hypervisor bench " + part.name,
			RunE: func(cmd *cobra.Command, args []string) error { return part.run(cmd.Context(), args) }})
	}
	return cmd
}

func measurements() (names []string) {
	for _, m := range suite.All() {
		names = append(names, m.Name)
	}
	return names
}

func (b *benchmark) run(ctx context.Context) error {
	for _, name := range b.only {
		if !slices.Contains(measurements(), name) {
			return usage("--only: there is no measurement %q; there are %s", name, strings.Join(measurements(), ", "))
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program, which is also the tool server: %w", err)
	}
	opts := suite.Options{Size: suite.Normal, Dir: b.dir, Program: self}
	switch {
	case b.quick:
		opts.Size = suite.Quick
	case b.long:
		opts.Size = suite.Long
	}
	var rows []suite.Row
	for _, m := range suite.All() {
		if len(b.only) > 0 && !slices.Contains(b.only, m.Name) {
			continue
		}
		opts.Progress = b.progress(m)
		made, err := m.Run(ctx, opts)
		if err != nil {
			return err
		}
		for _, row := range made {
			if err := b.printJSON(row); err != nil {
				return err
			}
		}
		rows = append(rows, made...)
	}
	return b.printTable(rows)
}

// progress tells what a measurement does, once it has taken two seconds and then at most every two.
func (b *benchmark) progress(m suite.Measurement) func(text string) {
	const silence = 2 * time.Second
	told := time.Now()
	return func(text string) {
		if time.Since(told) < silence {
			return
		}
		told = time.Now()
		fmt.Fprintf(b.err, "%s: %s\n", m.Name, text)
	}
}

// printJSON prints a row as soon as it is there.
func (b *benchmark) printJSON(row suite.Row) error {
	if !b.json {
		return nil
	}
	return json.NewEncoder(b.out).Encode(row)
}

func (b *benchmark) printTable(rows []suite.Row) error {
	if b.json {
		return nil
	}
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WORK\tMEASURED\tREACH\t\tRATIO\tBESIDE")
	for _, r := range rows {
		verdict, ratio, beside := "ok", "", r.Beside
		switch {
		case !r.OK:
			verdict = "missed"
		case r.Reach == "":
			verdict = "reported"
		}
		if r.Baseline > 0 {
			ratio, beside = fmt.Sprintf("%.2f", r.Ratio), fmt.Sprintf("%s: %s", r.Beside, figure(r.Baseline, r.Unit))
		}
		if r.Note != "" {
			beside = strings.TrimPrefix(beside+"; "+r.Note, "; ")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Work, figure(r.Value, r.Unit), r.Reach, verdict, ratio, beside)
	}
	return w.Flush()
}

// figure shows three digits of what is small.
func figure(v float64, unit string) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f %s", v, unit)
	case v >= 10:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}
