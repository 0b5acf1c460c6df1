package main

import (
	"cmp"
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func newKillCommand(g *globals) *cobra.Command {
	var in api.Killing
	var lift, list bool
	cmd := &cobra.Command{
		Use: "kill (--session ID | --agent DID [--session ID] | --all) [--reason R]", Short: "Stop an agent, a session, or everything, at once", Args: cobra.NoArgs,
		Long: `Stop an agent, an agent in one session, a session, or everything, at once: what runs is cancelled, nothing more is sent, tokens are
revoked and open approvals closed. It is said what could not be cancelled, who does the agent's steps of sagas from now on, and how many
of its calls stand that changed something, in the sessions at hand. It works with the disk full, and survives a crash.
--lift lets an agent, or everything, go on; a killed session has ended. Revoked tokens stay revoked.
R is one of drift, rate, breach, manual, quarantine_timeout, session_timeout, or a few words of your own.`,
		Example: `  hypervisor kill --agent did:mesh:ann --reason "deletes what it should not"
  hypervisor kill --agent did:mesh:ann --session dev
  hypervisor kill --agent did:mesh:ann --substitute did:mesh:bob
  hypervisor kill --session dev --reason breach
  hypervisor kill --all
  hypervisor kill --list
  hypervisor kill --lift --agent did:mesh:ann`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case list && (lift || in != api.Killing{}):
				return usage("--list stands alone")
			case list:
				return listKills(cmd, g)
			case in.All && (in.Agent != "" || in.Session != ""):
				return usage("--all names no session and no agent; say one")
			case !in.All && in.Agent == "" && in.Session == "":
				return usage("say what: --agent DID, --session ID, both, or --all; see %s --help", cmd.CommandPath())
			case lift && (in.Reason != "" || in.Substitute != ""):
				return usage("--lift takes no reason and no substitute")
			case in.Substitute != "" && in.Agent == "":
				return usage("--substitute is for an agent; say which with --agent")
			case lift:
				return liftKill(cmd, g, in)
			}
			return kill(cmd, g, in)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Agent, "agent", "", "the agent's DID")
	f.StringVar(&in.Session, "session", "", "the session's id, or a name")
	f.BoolVar(&in.All, "all", false, "everything")
	f.StringVar(&in.Reason, "reason", "", "why, for the record")
	f.StringVar(&in.Substitute, "substitute", "", substituteUsage)
	f.BoolVar(&lift, "lift", false, "end a kill")
	f.BoolVar(&list, "list", false, "list the kills in force")
	return cmd
}

func agentKill(g *globals) *cobra.Command {
	var in api.Killing
	cmd := &cobra.Command{
		Use: "kill DID [--session ID] [--reason R]", Short: "Stop an agent at once", Args: cobra.ExactArgs(1),
		Long:    "Stop an agent at once, everywhere or in one session: as 'kill --agent DID' does, which also tells how to lift it.",
		Example: "  hypervisor agent kill did:mesh:ann --reason drift\n  hypervisor agent kill did:mesh:ann --session dev",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Agent = args[0]
			return kill(cmd, g, in)
		},
	}
	cmd.Flags().StringVar(&in.Session, "session", "", "in this session only")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	cmd.Flags().StringVar(&in.Substitute, "substitute", "", substituteUsage)
	return cmd
}

const substituteUsage = "agent that does its steps of sagas from now on, if its ring suffices"

// whoKills returns the hypervisor that is meant: the one that has the session, where several run here.
func (g *globals) whoKills(ctx context.Context, in api.Killing) (*client.Client, error) {
	clients, err := g.clients()
	if err != nil {
		return nil, err
	}
	if len(clients) > 1 && in.Session != "" {
		c, _, err := oneSession(ctx, g, in.Session)
		return c, err
	}
	return g.one()
}

func kill(cmd *cobra.Command, g *globals, in api.Killing) error {
	ctx, cancel := g.context(cmd, false)
	defer cancel()
	c, err := g.whoKills(ctx, in)
	if err != nil {
		return err
	}
	r, err := c.Kill(ctx, in)
	return printed(g, r, err, func() { g.printKilled(r, in) })
}

func (g *globals) printKilled(r api.KillReport, in api.Killing) {
	g.printf("killed: %s (%s, %s)\n", killed(r.Kill), because(r.Kill), r.Kill.ID)
	for _, call := range r.Cancelled {
		g.printf("cancelled: %s/%s %s: %s\n", call.Session, call.ID, call.Action, call.Outcome)
	}
	for _, call := range r.StillRunning {
		if call.ID == "" {
			g.printf("still running: a look at what an action of session %s touches\n", call.Session)
			continue
		}
		g.printf("still running: %s/%s %s: it does not heed its cancelling\n", call.Session, call.ID, call.Action)
	}
	for _, t := range r.Tasks {
		to := "nobody does it in its place"
		if t.To != "" {
			to = "handed on to " + t.To
		}
		g.printf("saga %s/%s: %s of %s (%s): %s\n", t.Session, t.Saga, t.Step, t.Agent, t.State, to)
	}
	for _, w := range r.Work {
		g.printf("stands: %s of %s in session %s\n", count(w.Stands, "call that changed something", "calls that changed something"), w.Agent, w.Session)
	}
	g.printf("%s revoked, %s closed\n", count(r.TokensRevoked, "token", "tokens"), count(r.ApprovalsClosed, "approval", "approvals"))
	if !r.Recorded {
		g.printf("its record is owed: the log could not take it yet; it is in force, and stays so over a restart\n")
	}
	if r.Kill.Agent != "" {
		g.printf("to see what of its work can be taken back: %s\n", g.again("action", "undo", "--agent", r.Kill.Agent, "--since", "1h", "--plan"))
	}
	if in.Session == "" || in.Agent != "" {
		g.printf("to lift it: %s\n", g.again(liftArgs(r.Kill)...))
	}
}

// killed says what a kill is of.
func killed(k api.Kill) string {
	switch {
	case k.All:
		return "everything"
	case k.Agent == "":
		return "session " + k.Session
	case k.Session == "":
		return k.Agent
	}
	return k.Agent + " in session " + k.Session
}

func because(k api.Kill) string {
	return strings.Join(strings.Fields(k.Reason+" "+k.Note), " ")
}

func liftArgs(k api.Kill) []string {
	args := []string{"kill", "--lift"}
	if k.All {
		args = append(args, "--all")
	}
	if k.Agent != "" {
		args = append(args, "--agent", k.Agent)
	}
	if k.Session != "" {
		args = append(args, "--session", k.Session)
	}
	return args
}

func liftKill(cmd *cobra.Command, g *globals, in api.Killing) error {
	ctx, cancel := g.context(cmd, false)
	defer cancel()
	c, err := g.whoKills(ctx, in)
	if err != nil {
		return err
	}
	d, err := c.LiftKill(ctx, in)
	return printed(g, d, err, func() {
		g.printf("lifted: %s may go on\n", killed(api.Kill{All: in.All, Agent: in.Agent, Session: in.Session}))
		if in.Agent != "" {
			g.printf("its tokens stay revoked; for a new one: %s\n", g.again("agent", "token", in.Agent, "--session", cmp.Or(in.Session, "NAME")))
		}
	})
}

func listKills(cmd *cobra.Command, g *globals) error {
	return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
		return printList(g, c.Kills(ctx), []string{"KILL", "AGENT", "SESSION", "REASON", "BY", "SINCE"}, func(k api.Kill) []string {
			return []string{k.ID, cmp.Or(k.Agent, "all"), cmp.Or(k.Session, "all"), because(k), k.By, when(k.At)}
		})
	})
}

func agentQuarantine(g *globals) *cobra.Command {
	var in api.QuarantineRequest
	var severity string
	cmd := &cobra.Command{
		Use: "quarantine DID [--reason R] [--severity S] [--for DUR]", Short: "Let an agent only read for a time", Args: cobra.ExactArgs(1),
		Long: `Let an agent only read, in every session, for a time: it calls nothing that changes anything, does not vote, and is not elevated. A second
time extends the first. When the time is over the agent is released, or, if a reason was drift or breach, killed.
R is one of drift, rate, breach, manual, quarantine_timeout, session_timeout, or a few words of your own. S is what its ledger counts.`,
		Example: "  hypervisor agent quarantine did:mesh:ann --reason \"odd calls at night\" --for 15m\n  hypervisor agent quarantine did:mesh:ann --reason drift --severity 0.8",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if in.Severity, err = decimal("--severity", severity); err != nil {
				return err
			}
			return agentAct(cmd, g, args[0]+" is in quarantine", func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.Quarantine(ctx, args[0], in)
			})
		},
	}
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	cmd.Flags().StringVar(&severity, "severity", "", "from 0 to 1; 0.50 where nothing is said")
	cmd.Flags().StringVar(&in.For, "for", "", "how long, such as 15m or 2h; 300s where nothing is said")
	return cmd
}

func agentRelease(g *globals) *cobra.Command {
	var in api.Release
	cmd := &cobra.Command{
		Use: "release DID [--reason R]", Short: "End an agent's quarantine", Args: cobra.ExactArgs(1),
		Example: "  hypervisor agent release did:mesh:ann --reason \"looked at, harmless\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			return agentAct(cmd, g, args[0]+" is released", func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.Release(ctx, args[0], in)
			})
		},
	}
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	return cmd
}
