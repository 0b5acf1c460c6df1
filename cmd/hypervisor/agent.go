package main

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func newAgentCommand(g *globals) *cobra.Command {
	return group("agent", "Register agents, give them tokens, look at their standing, stop them",
		"  hypervisor agent register did:mesh:ann --sigma 0.80\n  hypervisor agent token did:mesh:ann --session dev",
		agentRegister(g), agentToken(g), agentList(g), agentShow(g), agentKill(g), agentQuarantine(g), agentRelease(g), agentLedger(g), agentReinstate(g), agentSlash(g))
}

func agentRegister(g *globals) *cobra.Command {
	var sigma string
	cmd := &cobra.Command{
		Use: "register DID [--sigma S]", Short: "Make an agent known, and say how far it is trusted", Args: cobra.ExactArgs(1),
		Long:    "Make an agent known. Above 0.60 an agent stands in ring 2, above 0.95 in ring 1. A new one that nothing is said of has 0.50.",
		Example: "  hypervisor agent register did:mesh:ann --sigma 0.80",
		RunE: func(cmd *cobra.Command, args []string) error {
			figure, err := decimal("--sigma", sigma)
			if err != nil {
				return err
			}
			return agentDo(cmd, g, func(ctx context.Context, c *client.Client) (api.Agent, error) {
				return c.Register(ctx, api.Registration{DID: args[0], Sigma: figure})
			})
		},
	}
	cmd.Flags().StringVar(&sigma, "sigma", "", "its σ, from 0 to 1")
	return cmd
}

func agentShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show DID", Short: "Show an agent: its σ with the entries it came from, its bonds, how sessions admit it", Args: cobra.ExactArgs(1), Example: "  hypervisor agent show did:mesh:ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			return agentDo(cmd, g, func(ctx context.Context, c *client.Client) (api.Agent, error) { return c.Agent(ctx, args[0]) })
		},
	}
}

// agentDo asks for an agent and prints it.
func agentDo(cmd *cobra.Command, g *globals, ask func(context.Context, *client.Client) (api.Agent, error)) error {
	return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
		a, err := ask(ctx, c)
		return printed(g, a, err, func() { g.printAgent(a) })
	})
}

func (g *globals) printAgent(a api.Agent) {
	stopped, apart, changed := "", "", ""
	if q := a.Quarantine; q != nil {
		apart = "until " + when(q.Until) + ": " + strings.Join(q.Reasons, "; ")
		if q.Kills {
			apart += "; then it is killed"
		}
	}
	if k := a.Killed; k != nil {
		stopped = "since " + when(k.At) + " by " + k.By + ": " + because(*k)
	}
	if a.Records > 0 {
		changed = when(a.Changed)
	}
	g.printFields(field{"agent", a.DID}, field{"σ", string(a.Sigma)}, field{"risk", string(a.Risk)}, field{"ring", strconv.Itoa(a.Ring) + " by its σ alone"},
		field{"admission", admissions[a.Admission]}, field{"bonded", string(a.Bonded) + ", and may bond " + string(a.MayBond) + " more"},
		field{"quarantine", apart}, field{"killed", stopped}, field{"entries", strconv.FormatUint(a.Records, 10)}, field{"changed", changed})
	for _, b := range a.Bonds {
		cut := ""
		if b.Cut {
			cut = ", cut since its σ fell"
		}
		g.printf("bond       %s/%s: %s for %s%s\n", b.Session, b.ID, b.Bond, b.Vouchee, cut)
	}
	for _, s := range a.Seats {
		g.printf("in         %s: ring %d with σ_eff %s (%s)\n", s.Session, s.Ring, s.SigmaEff, explained(s.Explanation))
	}
	for _, e := range a.Entries {
		g.printf("entry      %d: %s by %s, σ %s from then on (%s)\n", e.Seq, e.Source, e.Caller.DID, e.Sigma, why(e))
	}
}

// admissions says how sessions admit an agent.
var admissions = map[string]string{
	"yes": "yes", "probation": "on probation: its risk holds it in ring 3", "risk_denied": "none: its risk is too high",
	"blacklisted": "none: blacklisted, until 'agent reinstate'",
}

func agentList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the agents that are known", Args: cobra.NoArgs, Example: "  hypervisor agent list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Agents(ctx), []string{"AGENT", "σ", "ENTRIES", "CHANGED", "HELD"}, func(a api.Agent) []string {
					return []string{a.DID, string(a.Sigma), strconv.FormatUint(a.Records, 10), when(a.Changed), held(a)}
				})
			})
		},
	}
}

// held says what keeps an agent from acting freely in every session; "-": nothing does.
func held(a api.Agent) string {
	switch {
	case a.Killed != nil:
		return "killed"
	case a.Quarantine != nil:
		return "quarantined until " + when(a.Quarantine.Until)
	case a.Admission != "yes":
		return a.Admission
	}
	return "-"
}

func agentLedger(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "ledger DID", Short: "List what moved an agent's standing, oldest first", Args: cobra.ExactArgs(1),
		Example: "  hypervisor agent ledger did:mesh:ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Ledger(ctx, args[0]), []string{"ENTRY", "TIME", "BY", "σ", "RISK", "SOURCE", "SESSION", "WHY"}, func(e api.LedgerEntry) []string {
					return []string{strconv.FormatUint(e.Seq, 10), when(e.Time), e.Caller.DID, string(e.Sigma), cmp.Or(string(e.Risk), "-"), e.Source, cmp.Or(e.Session, "-"), why(e)}
				})
			})
		},
	}
}

// why says what an entry followed from.
func why(e api.LedgerEntry) string {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"share ", string(e.Share)}, {"severity ", string(e.Severity)}, {"", e.Cause}, {"witness ", e.Witness},
	} {
		if f.value != "" {
			parts = append(parts, f.name+f.value)
		}
	}
	if e.Unwitnessed {
		parts = append(parts, "unwitnessed")
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

func agentReinstate(g *globals) *cobra.Command {
	var in api.Reinstatement
	var sigma string
	cmd := &cobra.Command{
		Use: "reinstate DID [--sigma S] [--reason R]", Short: "Lift an agent's blacklist, and say how far it is trusted from now on", Args: cobra.ExactArgs(1),
		Long:    "Lift an agent's blacklist. Its σ is 0.30 unless another is said, and its risk 0. With two operators configured it is done when the second asks for the same.",
		Example: "  hypervisor agent reinstate did:mesh:ann --reason \"the tool was at fault\"",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if in.Sigma, err = decimal("--sigma", sigma); err != nil {
				return err
			}
			return agentAct(cmd, g, args[0]+" is reinstated", func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.Reinstate(ctx, args[0], in)
			})
		},
	}
	cmd.Flags().StringVar(&sigma, "sigma", "", "its σ from now on, from 0 to 1")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	return cmd
}

func agentSlash(g *globals) *cobra.Command {
	var in api.Slash
	var severity, session string
	cmd := &cobra.Command{
		Use: "slash DID [--session ID] [--severity S] [--reason R]", Short: "Take an agent's standing: its σ is 0, and no session admits it until it is reinstated", Args: cobra.ExactArgs(1),
		Long:    "Take an agent's standing: its σ is 0, and no session admits it until it is reinstated. With --session who\nvouched for it there loses what it put up. With two operators configured it is done when the second asks for the same.",
		Example: "  hypervisor agent slash did:mesh:ann --session dev --reason \"leaked a key\"",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if in.Severity, err = decimal("--severity", severity); err != nil {
				return err
			}
			if session != "" {
				return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
					return c.SlashIn(ctx, session, api.SessionSlash{Agent: args[0], Severity: in.Severity, Reason: in.Reason})
				}, args[0]+" is slashed, and who vouched for it here has lost its bond")
			}
			return agentAct(cmd, g, args[0]+" is slashed", func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.Slash(ctx, args[0], in)
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "for what it did in this session, by id or name: who vouched for it there loses its bond")
	cmd.Flags().StringVar(&severity, "severity", "", "from 0 to 1; 1 where nothing is said")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for the record")
	return cmd
}

// agentAct has something done and prints that it was.
func agentAct(cmd *cobra.Command, g *globals, done string, do func(context.Context, *client.Client) (api.Decision, error)) error {
	return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
		d, err := do(ctx, c)
		return printed(g, d, err, func() { g.printf("%s\n", done) })
	})
}

func agentToken(g *globals) *cobra.Command {
	var in api.SeatRequest
	var file string
	cmd := &cobra.Command{
		Use: "token DID --session ID|NAME [--for DUR]", Short: "Make a token with which an agent comes to a session", Args: cobra.ExactArgs(1),
		Long: `Make a token with which an agent comes to a session, and print it: this once, for it is kept nowhere. NAME is a session's name: a call
on a name whose session has ended opens its successor with the same settings.`,
		Example: `  hypervisor agent token did:mesh:ann --session dev --for 90d
  hypervisor agent token did:mesh:ann --session dev --out ann.token`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return giveToken(cmd, g, file, func(ctx context.Context, c *client.Client) (api.IssuedToken, error) { return c.Seat(ctx, args[0], in) })
		},
	}
	cmd.Flags().StringVar(&in.Session, "session", "", "the session's id, or a name")
	required(cmd, "session")
	tokenFlags(cmd, &in.For, &file)
	return cmd
}
