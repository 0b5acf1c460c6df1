package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/client"
)

func newSessionCommand(g *globals) *cobra.Command {
	return group("session", "Create, fill, list, show and end sessions", "  hypervisor session create --name dev\n  hypervisor session list\n  hypervisor session log ID --follow",
		sessionCreate(g), sessionJoin(g), sessionLeave(g), sessionActivate(g), sessionVouch(g), sessionVouches(g), sessionWithdraw(g), sessionDrift(g), sessionLiftDemotion(g), sessionList(g), sessionShow(g), sessionLog(g), sessionTerminate(g))
}

func sessionList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List sessions", Args: cobra.NoArgs,
		Example: "  hypervisor session list\n  hypervisor session list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			clients, err := g.clients()
			if err != nil {
				return err
			}
			return printList(g, allSessions(ctx, clients),
				[]string{"SESSION", "STATE", "AGENTS", "RECORDS", "RUNNING", "APPROVALS", "OPENED", "ENDS"},
				func(s api.Session) []string {
					return []string{s.ID, s.Lifecycle, strconv.Itoa(len(s.Participants)), strconv.FormatUint(s.Records, 10),
						strconv.Itoa(len(s.Running)), strconv.Itoa(len(s.OpenApprovals)), when(s.Opened), when(s.Ends)}
				})
		},
	}
}

func allSessions(ctx context.Context, clients []*client.Client) iter.Seq2[api.Session, error] {
	return client.Merge(clients, func(c *client.Client) iter.Seq2[api.Session, error] { return c.Sessions(ctx) })
}

// oneSession finds a session and the hypervisor that has it.
func oneSession(ctx context.Context, g *globals, id string) (*client.Client, api.Session, error) {
	clients, err := g.clients()
	if err != nil {
		return nil, api.Session{}, err
	}
	return client.One(ctx, clients, func(ctx context.Context, c *client.Client) (api.Session, error) { return c.Session(ctx, id) },
		func(s api.Session) string { return s.ID })
}

func sessionShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a session", Args: cobra.ExactArgs(1),
		Example: "  hypervisor session show ses-0123456789abcdef0123",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			_, s, err := oneSession(ctx, g, args[0])
			return printed(g, s, err, func() { g.printSession(s) })
		},
	}
}

func (g *globals) printSession(s api.Session) {
	g.printFields(field{"session", s.ID}, field{"state", s.Lifecycle}, field{"opened", when(s.Opened) + " by " + s.Opener},
		field{"ends", when(s.Ends)}, field{"records", fmt.Sprintf("%d, the newest of %s", s.Records, when(s.Changed))},
		field{"running", strings.Join(s.Running, ", ")}, field{"approvals", strings.Join(s.OpenApprovals, ", ")},
		field{"settings", string(s.Config)})
	if len(s.Participants) == 0 {
		return
	}
	rows := make([][]string, len(s.Participants))
	for i, p := range s.Participants {
		rows[i] = []string{p.Agent, strconv.Itoa(p.Ring), strconv.Itoa(p.Running), when(p.Joined), "-"}
		switch {
		case p.Killed:
			rows[i][4] = "killed"
		case p.Held > 0:
			rows[i][4] = fmt.Sprintf("in ring %d, since a breach or drift", p.Held)
		}
	}
	g.printf("\n")
	g.printTable([]string{"AGENT", "RING", "RUNNING", "JOINED", "HELD"}, rows)
}

func sessionTerminate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "terminate ID", Short: "End a session: running calls finish or are cancelled after 30 s", Args: cobra.ExactArgs(1),
		Example: "  hypervisor session terminate ses-0123456789abcdef0123",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.askIn(cmd, args[0], func(ctx context.Context, c *client.Client) error {
				sum, err := c.Terminate(ctx, args[0])
				return printed(g, sum, err, func() {
					g.printf("session %s has ended: %s, summary %s\n", args[0], count(sum.Records, "record", "records"), sum.SummaryHash)
				})
			})
		},
	}
}

func sessionLog(g *globals) *cobra.Command {
	var from uint64
	var follow bool
	cmd := &cobra.Command{
		Use: "log ID", Short: "Print a session's records", Args: cobra.ExactArgs(1),
		Long:    "Print a session's records, a line each; with --json each as it is stored and hashed.",
		Example: "  hypervisor session log ses-0123456789abcdef0123 --follow\n  hypervisor session log ses-0123456789abcdef0123 --from 40 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, follow)
			defer cancel()
			c, _, err := oneSession(ctx, g, args[0])
			if err != nil {
				return err
			}
			for line, err := range c.Log(ctx, args[0], from, follow) {
				if err == nil {
					err = g.printRecord(line)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 1, "sequence number to begin at")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with records as they come, until the session ends")
	return cmd
}

func (g *globals) printRecord(line json.RawMessage) error {
	if g.json {
		return g.printLine(line)
	}
	r, err := audit.ParseRecord(line)
	if err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	var events []map[string]any
	if err := json.Unmarshal(r.Events, &events); err != nil {
		return fmt.Errorf("reading record %d: %w", r.Seq, err)
	}
	parts := make([]string, len(events))
	for i, e := range events {
		parts[i] = eventText(e)
	}
	g.printf("%6d  %s  %s  %s\n", r.Seq, when(r.Time), r.Caller.DID, strings.Join(parts, "; "))
	return nil
}

// told are the members of events that a line has room for, in this order.
var told = []string{"id", "agent", "action", "code", "count", "ring", "approval", "why", "reason", "by", "voter"}

// eventText tells an event in a few words.
func eventText(e map[string]any) string {
	text := fmt.Sprint(e["type"])
	for _, name := range told {
		if v, ok := e[name]; ok {
			text += fmt.Sprintf(" %s=%v", name, v)
		}
	}
	return text
}
