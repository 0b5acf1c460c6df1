package main

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func newActionCommand(g *globals) *cobra.Command {
	return group("action", "List, show and take back what was done", "  hypervisor action list\n  hypervisor action show SESSION/act-12\n  hypervisor action undo --session SESSION --plan",
		actionList(g), actionShow(g), actionUndo(g))
}

func actionList(g *globals) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use: "list", Short: "List admitted actions, oldest first in each session", Args: cobra.NoArgs,
		Example: "  hypervisor action list\n  hypervisor action list --session ses-0123456789abcdef0123",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			actions, err := g.actions(ctx, session)
			if err != nil {
				return err
			}
			return printList(g, actions, []string{"ACTION", "AGENT", "DOES", "RING", "ω", "OUTCOME", "TIME"}, func(a api.Action) []string {
				return []string{a.Session + "/" + a.ID, a.Agent, a.Action, strconv.Itoa(a.Ring), string(a.RiskWeight), outcome(a), when(a.Time)}
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "of this session only")
	return cmd
}

// actions returns a session's actions, or those of all sessions.
func (g *globals) actions(ctx context.Context, session string) (iter.Seq2[api.Action, error], error) {
	if session != "" {
		c, _, err := oneSession(ctx, g, session)
		if err != nil {
			return nil, err
		}
		return c.Actions(ctx, session), nil
	}
	clients, err := g.clients()
	return client.Merge(clients, func(c *client.Client) iter.Seq2[api.Action, error] {
		return func(yield func(api.Action, error) bool) {
			for s, err := range c.Sessions(ctx) {
				if err != nil {
					yield(api.Action{}, err)
					return
				}
				for a, err := range c.Actions(ctx, s.ID) {
					if !yield(a, err) || err != nil {
						return
					}
				}
			}
		}
	}), err
}

func outcome(a api.Action) string {
	if a.Why != "" {
		return a.Outcome + " (" + a.Why + ")"
	}
	return a.Outcome
}

func actionShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an action", Args: cobra.ExactArgs(1),
		Long:    "Show an action by SESSION/ID, or by its id alone where only one session has it.",
		Example: "  hypervisor action show ses-0123456789abcdef0123/act-12\n  hypervisor action show act-12",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			clients, err := g.clients()
			if err != nil {
				return err
			}
			session, id := api.SplitID(args[0])
			_, a, err := client.One(ctx, clients, func(ctx context.Context, c *client.Client) (api.Action, error) { return c.Action(ctx, session, id) },
				func(a api.Action) string { return a.Session + "/" + a.ID })
			return printed(g, a, err, func() { g.printAction(a) })
		},
	}
}

// explained tells an explanation in one line.
func explained(e *api.Explanation) string {
	if e == nil {
		return ""
	}
	var parts []string
	if e.Requires != "" {
		parts = append(parts, e.Requires)
	}
	if e.ByScore != nil {
		parts = append(parts, fmt.Sprintf("ring %d by score", *e.ByScore))
	}
	if e.Elevated != nil {
		parts = append(parts, fmt.Sprintf("elevated to ring %d", *e.Elevated))
	}
	for _, c := range e.Ceilings {
		parts = append(parts, fmt.Sprintf("held to ring %d: %s", c.Ring, c.Why))
	}
	return strings.Join(append(parts, e.ToPass...), "; ")
}

// until is when the undo window of an action closes; empty: no end is known.
func until(a api.Action) string {
	if a.UndoUntil == nil {
		return ""
	}
	return when(*a.UndoUntil)
}

func (g *globals) printAction(a api.Action) {
	ended := ""
	if a.Ended != nil {
		ended = fmt.Sprintf("%s, record %d", when(*a.Ended), a.OutcomeSeq)
	}
	kind := a.Reversibility
	if a.ReadOnly {
		kind = "read-only"
	}
	g.printFields(field{"action", a.Session + "/" + a.ID}, field{"agent", a.Agent}, field{"does", a.Action}, field{"args", string(a.Args)},
		field{"to", a.Resource}, field{"undoes", a.Undoes}, field{"undo until", until(a)},
		field{"admitted", fmt.Sprintf("%s, record %d", when(a.Time), a.Seq)},
		field{"ring", fmt.Sprintf("%d, needs %d (σ %s)", a.Ring, a.RequiredRing, a.SigmaEff)}, field{"because", explained(a.Explanation)},
		field{"risk", fmt.Sprintf("ω %s, reversibility %s", a.RiskWeight, kind)},
		field{"approval", a.Approval}, field{"asked during", a.During}, field{"outcome", outcome(a)}, field{"ended", ended}, field{"result", string(a.Result)})
}
