package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

func sessionVouch(g *globals) *cobra.Command {
	var in api.Vouch
	var bond, expires string
	cmd := &cobra.Command{
		Use: "vouch ID --vouchee DID [--bond S] [--expires DUR]", Short: "Put up some of an agent's σ for another, with its token", Args: cobra.ExactArgs(1),
		Long: `Put up some of an agent's σ for another participant: with the agent's token, for nobody bonds another's. It lifts the other in this session
only, and is lost if the other is slashed for what it does here. A bond is 20 % of the voucher's σ unless --bond says another; all its bonds
together, in all sessions, are at most 80 %. It ends with the session, or when --expires is over.`,
		Example: "  hypervisor session vouch dev --vouchee did:mesh:new --bond 0.20 --server http://127.0.0.1:7700 --token-file ann.token",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if in.Bond, err = decimal("--bond", bond); err != nil {
				return err
			}
			if expires != "" {
				d, err := document.ParseDuration(expires)
				if err != nil || d <= 0 {
					return usage("--expires: want a duration such as 10m, got %q", expires)
				}
				at := time.Now().UTC().Add(d)
				in.Expires = &at
			}
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			c, _, err := oneSession(ctx, g, args[0])
			if err != nil {
				return err
			}
			b, err := c.Vouch(ctx, args[0], in, "")
			return printed(g, b, err, func() {
				g.printf("%s: %s vouches for %s with %s; to withdraw it: %s\n", b.ID, b.Voucher, b.Vouchee, b.Bond,
					g.again("session", "withdraw", b.Session+"/"+b.ID))
			})
		},
	}
	cmd.Flags().StringVar(&in.Vouchee, "vouchee", "", "the other agent's DID")
	cmd.Flags().StringVar(&bond, "bond", "", "how much σ, from 0 to 1")
	cmd.Flags().StringVar(&expires, "expires", "", "how long, such as 10m; with the session where nothing is said")
	required(cmd, "vouchee")
	return cmd
}

func sessionVouches(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "vouches ID", Short: "List who vouches for whom in a session", Args: cobra.ExactArgs(1), Example: "  hypervisor session vouches dev",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.askIn(cmd, args[0], func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Vouches(ctx, args[0]), []string{"VOUCH", "VOUCHER", "FOR", "BOND", "STATUS", "EXPIRES"}, func(b api.Bond) []string {
					expires := "-"
					if b.Expires != nil {
						expires = when(*b.Expires)
					}
					return []string{b.Session + "/" + b.ID, b.Voucher, b.Vouchee, string(b.Bond), b.Status, expires}
				})
			})
		},
	}
}

func sessionWithdraw(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "withdraw SESSION/ID", Short: "Withdraw a vouch; it still answers for calls that were admitted under it", Args: cobra.ExactArgs(1),
		Example: "  hypervisor session withdraw dev/vch-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id := api.SplitID(args[0])
			if session == "" {
				return usage("say which session's: SESSION/%s", id)
			}
			return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.Withdraw(ctx, session, id)
			}, id+" is withdrawn")
		},
	}
}
