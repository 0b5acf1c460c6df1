package main

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
)

func newIncidentCommand(g *globals) *cobra.Command {
	return group("incident", "Raise, list and show incidents, and who bears how much of them",
		"  hypervisor incident raise --action dev/act-12 --severity 0.7 --reason 'the report was lost'\n  hypervisor incident show dev/inc-14",
		incidentRaise(g), incidentList(g), incidentShow(g))
}

func incidentRaise(g *globals) *cobra.Command {
	var in api.IncidentRequest
	var session, severity string
	cmd := &cobra.Command{
		Use: "raise (--action SESSION/ID | --agent DID --session ID) --reason R [--severity S]", Short: "Report that something went wrong, and have the blame divided",
		Args: cobra.NoArgs,
		Long: `Report that something went wrong. An operator's incident is divided among the agents whose actions led to it, and costs each its share of
standing; from a share of 0.80 on the agent is slashed, as is who is named by --agent, which bears all. An action that timed out or failed is nobody's fault: it is recorded only. With an agent's
token it is the agent's own report, which moves nobody's standing.`,
		Example: "  hypervisor incident raise --action dev/act-12 --severity 0.7 --reason 'the report was lost'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			if (in.Action == "") == (in.Agent == "") {
				return usage("say either the action or the agent: --action SESSION/ID, or --agent DID --session ID")
			}
			var err error
			if in.Severity, err = decimal("--severity", severity); err != nil {
				return err
			}
			of, id := api.SplitID(in.Action)
			if session = cmp.Or(session, of); session == "" {
				return usage("say in which session: --session ID, or --action SESSION/ID")
			}
			in.Action = id
			c, s, err := oneSession(ctx, g, session)
			if err != nil {
				return err
			}
			i, err := c.RaiseIncident(ctx, s.ID, in, "")
			return printed(g, i, err, func() { g.printIncident(i) })
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	cmd.Flags().StringVar(&in.Action, "action", "", "the action that it is about")
	cmd.Flags().StringVar(&in.Agent, "agent", "", "the agent's DID, where it is about no single action")
	cmd.Flags().StringVar(&severity, "severity", "", "how bad it is, from 0 to 1 (default 0.50)")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "what went wrong")
	required(cmd, "reason")
	return cmd
}

func incidentList(g *globals) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use: "list --session ID", Short: "List a session's incidents, oldest first", Args: cobra.NoArgs,
		Example: "  hypervisor incident list --session dev --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			c, s, err := oneSession(ctx, g, session)
			if err != nil {
				return err
			}
			return printList(g, c.Incidents(ctx, s.ID), []string{"INCIDENT", "ACTION", "AGENT", "SEVERITY", "BORNE BY", "TIME", "REASON"}, func(i api.Incident) []string {
				return []string{i.Session + "/" + i.ID, i.Action, i.Agent, string(i.Severity), borne(i.Shares, i.Faultless), when(i.Time), i.Reason}
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	required(cmd, "session")
	return cmd
}

// borne says in a few words who bears something, or why nobody does.
func borne(shares []api.Share, faultless string) string {
	if len(shares) == 0 {
		return "nobody (" + faultless + ")"
	}
	all := make([]string, len(shares))
	for n, s := range shares {
		all[n] = s.Agent + " " + string(s.Share)
	}
	return strings.Join(all, ", ")
}

func incidentShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show SESSION/ID", Short: "Show an incident and who bears how much of it", Args: cobra.ExactArgs(1),
		Example: "  hypervisor incident show dev/inc-14",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			session, id := api.SplitID(args[0])
			if session == "" {
				return usage("say which session's: SESSION/%s", id)
			}
			c, s, err := oneSession(ctx, g, session)
			if err != nil {
				return err
			}
			i, err := c.Incident(ctx, s.ID, id)
			return printed(g, i, err, func() { g.printIncident(i) })
		},
	}
}

func (g *globals) printIncident(i api.Incident) {
	drawn := ""
	if i.Drawn {
		drawn = "of more than can be counted, by seed; standard error " + string(i.StandardError)
	}
	g.printFields(field{"incident", i.Session + "/" + i.ID}, field{"about", cmp.Or(i.Action, i.Agent)}, field{"severity", string(i.Severity)},
		field{"reason", i.Reason}, field{"by", i.By}, field{"raised", when(i.Time)}, field{"borne by", map[bool]string{true: borne(i.Shares, i.Faultless)}[len(i.Shares) == 0]},
		field{"drawn", drawn}, field{"slashed", strings.Join(i.Slashed, ", ")})
	g.printShares(i.Shares)
}

// printShares prints who bears how much and why, if anybody does.
func (g *globals) printShares(shares []api.Share) {
	if len(shares) == 0 {
		return
	}
	var rows [][]string
	for _, s := range shares {
		rows = append(rows, []string{s.Agent, string(s.Share), strings.Join(s.Why, "; ")})
	}
	g.printf("\n")
	g.printTable([]string{"AGENT", "SHARE", "WHY"}, rows)
}
