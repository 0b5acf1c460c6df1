package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

func newPolicyCommand(g *globals) *cobra.Command {
	return group("policy", "Check a configuration", "  hypervisor policy check hypervisor.yaml", policyCheck(g))
}

func policyCheck(g *globals) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Check a configuration and explain what it makes of each action", Args: cobra.ExactArgs(1),
		Long: `Check a configuration: every fault is printed as FILE:LINE:COL: what.
Where there is none, each action the file or a pack of its names is explained: the ring it needs, its risk weight ω, how far it can be taken
back, by which calls, which tool reads what was there before, and why; and each policy. It needs no hypervisor.`,
		Example: "  hypervisor policy check hypervisor.yaml\n  hypervisor policy check wrap.yaml --name files",
		RunE: func(_ *cobra.Command, args []string) error {
			if name != "" {
				if err := config.CheckServerName(name); err != nil {
					return usage("--name: %w", err)
				}
			}
			cfg, err := config.Load(args[0], &config.Options{Wrapped: name})
			if err != nil {
				return g.configFault(err)
			}
			report := cfg.Report()
			if g.json {
				return g.printJSON(report)
			}
			g.printReport(args[0], report)
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "a server that wrap will be given, and that mcpServers need not name")
	return cmd
}

// configFault tells what is wrong with a configuration.
func (g *globals) configFault(err error) error {
	var faults document.Faults
	if !errors.As(err, &faults) {
		return unopened(err)
	}
	for _, f := range faults {
		fmt.Fprintln(g.err, clean(f.Error()))
	}
	return &failure{exitUsage, silent{err}}
}

func (g *globals) printReport(file string, r config.Report) {
	if len(r.Actions) > 0 {
		rows := make([][]string, len(r.Actions))
		for i, a := range r.Actions {
			image := "no"
			if a.Image != "" {
				image = a.Image
			}
			rows[i] = []string{a.Action, fmt.Sprint(int(a.RequiredRing)), a.RiskWeight.String(), a.Reversibility.String(), undoOf(a), image, reason(a), a.Source}
		}
		g.printTable([]string{"ACTION", "RING", "ω", "REVERSIBILITY", "UNDO", "IMAGE", "WHY", "SAID AT"}, rows)
		g.printf("\n")
	}
	if len(r.Policies) > 0 {
		rows := make([][]string, len(r.Policies))
		for i, p := range r.Policies {
			rows[i] = []string{p.Name, p.Effect, p.When, p.Source}
		}
		g.printTable([]string{"POLICY", "EFFECT", "WHEN", "SAID AT"}, rows)
		g.printf("\n")
	}
	g.printf("%s is sound: %s, %s\n", file, count(len(r.Actions), "action", "actions"), count(len(r.Policies), "policy", "policies"))
}

// undoOf says which calls take an action back.
func undoOf(a config.ActionRow) string {
	say := func(calls []string) string {
		if len(calls) == 0 {
			return "nothing to call"
		}
		return strings.Join(calls, ", ")
	}
	switch {
	case a.UndoneBy == nil && a.UndoneAbsent == nil:
		return "no"
	case a.UndoneAbsent == nil:
		return say(a.UndoneBy)
	case a.UndoneBy == nil:
		return "if nothing was there: " + say(a.UndoneAbsent)
	}
	return say(a.UndoneBy) + "; if nothing was there: " + say(a.UndoneAbsent)
}

// reason says why an action needs the ring it needs.
func reason(a config.ActionRow) string {
	why := "can be taken back"
	switch {
	case a.Admin:
		why = "administrative: an operator's alone"
	case a.ReadOnly:
		why = "changes nothing"
	case a.RequiredRing == 1:
		why = "cannot be taken back"
	case a.Reversibility.String() == "partial":
		why = "can be taken back in part"
	}
	if a.Note != "" {
		why += "; " + a.Note
	}
	return why
}
