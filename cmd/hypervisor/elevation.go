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

func newElevationCommand(g *globals) *cobra.Command {
	return group("elevation", "Ask for, list and end elevations: a ring for a while",
		"  hypervisor elevation ask --session dev --agent did:mesh:ann --ring 2 --reason 'to write the report'\n  hypervisor elevation list --session dev",
		elevationAsk(g), elevationList(g), elevationEnd(g))
}

func elevationAsk(g *globals) *cobra.Command {
	var in api.ElevationRequest
	var session string
	cmd := &cobra.Command{
		Use: "ask --session ID --ring N [--agent DID] [--for DUR]", Short: "Ask that an agent be in a more privileged ring for a while", Args: cobra.NoArgs,
		Long: `Ask that an agent be in a more privileged ring for a while: five minutes unless --for says otherwise, an hour at most. It opens an approval,
and takes effect when a sponsor grants that: an approver, or for ring 2 a participant of ring 2 by its own score. With an agent's token the agent
asks for itself; an operator names it.`,
		Example: "  hypervisor elevation ask --session dev --agent did:mesh:ann --ring 2 --for 10m --reason 'to write the report'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.askIn(cmd, session, func(ctx context.Context, c *client.Client) error {
				e, err := c.Elevate(ctx, session, in)
				return printed(g, e, err, func() {
					g.printf("%s waits for its sponsor, %s: %s\n", e.ID, strings.Join(e.Approval.By, " or "),
						g.again("approval", "grant", e.Session+"/"+e.Approval.ID, "--digest", e.Approval.Digest))
				})
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	cmd.Flags().StringVar(&in.Agent, "agent", "", "the agent's DID")
	cmd.Flags().IntVar(&in.Ring, "ring", 2, "the ring, 2 or 1")
	cmd.Flags().StringVar(&in.For, "for", "", "how long, such as 10m; at most 1h (default 5m)")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "why, for who sponsors it")
	required(cmd, "session")
	return cmd
}

func elevationList(g *globals) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use: "list --session ID", Short: "List a session's elevations that are asked for or in effect", Args: cobra.NoArgs,
		Example: "  hypervisor elevation list --session dev --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.askIn(cmd, session, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Elevations(ctx, session), []string{"ELEVATION", "AGENT", "RING", "STATUS", "BY", "UNTIL", "REASON"}, func(e api.Elevation) []string {
					return []string{e.Session + "/" + e.ID, e.Agent, strconv.Itoa(e.Ring), e.Status, cmp.Or(e.By, strings.Join(e.Approval.By, " or ")), when(e.Until), e.Reason}
				})
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	required(cmd, "session")
	return cmd
}

func elevationEnd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "end SESSION/ID", Short: "Revoke an elevation, or withdraw the request for one", Args: cobra.ExactArgs(1),
		Example: "  hypervisor elevation end dev/elv-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id := api.SplitID(args[0])
			if session == "" {
				return usage("say which session's: SESSION/%s", id)
			}
			return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.EndElevation(ctx, session, id)
			}, id+" has ended")
		},
	}
}

func sessionLiftDemotion(g *globals) *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use: "lift-demotion ID --agent DID", Short: "End what holds an agent in ring 3 since a breach or drift", Args: cobra.ExactArgs(1),
		Example: "  hypervisor session lift-demotion dev --agent did:mesh:ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			return inSession(cmd, g, args[0], func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.LiftDemotion(ctx, args[0], agent)
			}, agent+" is held no more")
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the agent's DID")
	required(cmd, "agent")
	return cmd
}

// inSession does something in a session and says that it is done.
func inSession(cmd *cobra.Command, g *globals, session string, do func(context.Context, *client.Client) (api.Decision, error), done string) error {
	return g.askIn(cmd, session, func(ctx context.Context, c *client.Client) error {
		d, err := do(ctx, c)
		return printed(g, d, err, func() { g.printf("%s\n", done) })
	})
}
