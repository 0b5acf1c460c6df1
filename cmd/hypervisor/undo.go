package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func actionUndo(g *globals) *cobra.Command {
	var action, session, saga string
	var in api.UndoRequest
	cmd := &cobra.Command{
		Use: "undo (--action ID | --agent DID --since DUR | --saga ID | --session ID) [--plan]", Short: "Take back what was done", Args: cobra.NoArgs,
		Long: `Take back one action, what an agent did since a time, what a saga did that has ended, or what was done in a session, newest first
across agents; to undo a saga that has not ended, cancel it. --session may be narrowed with --agent and --since. --plan only says what each step would be:

  reversible   what was there before comes back, byte for byte
  compensable  something is done about it; not all is as before
  expired      its undo window is closed
  impossible   nothing takes it back
  conflict     somebody has changed the same since

Each undo is an action of its own: governed, and recorded beside what it takes back. The first surprise stops it, with what was
done and what is left. Exit code 1 if anything is left.`,
		Example: `  hypervisor action undo --session dev --plan
  hypervisor action undo --action ses-0123456789abcdef0123/act-12
  hypervisor action undo --saga dev/sag-7
  hypervisor action undo --agent did:mesh:ann --since 30m`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if saga != "" && (action != "" || session != "") {
				return usage("--saga names a session's saga; leave --action and --session out")
			}
			if saga != "" {
				var err error
				if session, in.Saga, err = sagaID(saga); err != nil {
					return err
				}
			}
			switch {
			case action != "" && (session != "" || in.Agent != "" || in.Since != ""):
				return usage("--action names one action alone; leave --session, --agent and --since out")
			case action == "" && session == "" && (in.Agent == "" || in.Since == ""):
				return usage("say what: --action ID, --saga SESSION/ID, --session ID, or --agent DID with --since DUR")
			}
			ctx, cancel := g.context(cmd, true)
			defer cancel()
			return g.undo(ctx, action, session, in)
		},
	}
	f := cmd.Flags()
	f.StringVar(&action, "action", "", "this action: SESSION/act-12, or act-12 where only one session has it")
	f.StringVar(&saga, "saga", "", "what was done as a step of this saga: SESSION/sag-7")
	f.StringVar(&session, "session", "", "what was done in this session; an id, or a name")
	f.StringVar(&in.Agent, "agent", "", "only what this agent did")
	f.StringVar(&in.Since, "since", "", "only what was done so long ago or later, such as 30m")
	f.BoolVar(&in.Plan, "plan", false, "only say what would be done")
	return cmd
}

func (g *globals) undo(ctx context.Context, action, session string, in api.UndoRequest) error {
	c, session, action, err := g.undoTarget(ctx, action, session)
	if err != nil {
		return err
	}
	told := g.tellStep
	if g.json {
		told = func(api.UndoStep) {} // the whole is printed at the end
	}
	u, err := c.Undo(ctx, session, action, in, told)
	if err != nil {
		return err
	}
	switch {
	case g.json:
		err = g.printJSON(u)
	case in.Plan:
		g.printPlan(u)
	default:
		g.printf("%d undone, %d left\n", u.Undone, u.Left)
	}
	switch {
	case err != nil || in.Plan || u.Left == 0:
		return err
	case u.Stopped != "":
		return fmt.Errorf("stopped: %s", u.Stopped)
	}
	return fmt.Errorf("%s left; see the reasons above, or --plan", count(u.Left, "action is", "actions are"))
}

// undoTarget finds the hypervisor that is meant, and the session of an action that is named alone.
func (g *globals) undoTarget(ctx context.Context, action, session string) (*client.Client, string, string, error) {
	switch {
	case action != "":
		clients, err := g.clients()
		if err != nil {
			return nil, "", "", err
		}
		in, id := api.SplitID(action)
		c, a, err := client.One(ctx, clients, func(ctx context.Context, c *client.Client) (api.Action, error) { return c.Action(ctx, in, id) },
			func(a api.Action) string { return a.Session + "/" + a.ID })
		return c, a.Session, a.ID, err
	case session != "":
		c, _, err := oneSession(ctx, g, session)
		return c, session, "", err
	}
	c, err := g.one()
	return c, "", "", err
}

func (g *globals) printPlan(u api.Undo) {
	rows := make([][]string, len(u.Steps))
	possible := 0
	for i, s := range u.Steps {
		if s.State == "planned" {
			possible++
		}
		rows[i] = []string{s.Session + "/" + s.ID, s.Agent, s.Action, s.Resource, s.Kind, s.Reason}
	}
	g.printTable([]string{"ACTION", "AGENT", "DID", "TO", "UNDO", "WHY"}, rows)
	g.printf("%d of %d can be taken back\n", possible, len(u.Steps))
}

// tellStep prints a step as it ends, and what a refused one shows.
func (g *globals) tellStep(s api.UndoStep) {
	text := fmt.Sprintf("%-8s %s/%s  %s %s", s.State, s.Session, s.ID, s.Action, s.Resource)
	if s.By != "" {
		text += "  by " + strings.TrimPrefix(s.By, s.Session+"/")
	}
	g.printf("%s\n", text)
	if s.Reason != "" {
		g.printf("         %s\n", s.Reason)
	}
	for line := range strings.Lines(s.Diff) {
		g.printf("         %s\n", strings.TrimSuffix(line, "\n"))
	}
}
