package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func newTokenCommand(g *globals) *cobra.Command {
	return group("token", "Make, list and revoke tokens of those who are not agents",
		"  hypervisor token create did:mesh:kim --role approver\n  hypervisor token list", tokenCreate(g), tokenList(g), tokenRevoke(g))
}

func tokenFlags(cmd *cobra.Command, life, file *string) {
	cmd.Flags().StringVar(life, "for", "", "how long it lives, such as 12h or 90d (default 30d)")
	cmd.Flags().StringVar(file, "out", "", "write the token to this new file, readable by its user alone, and do not print it")
}

func tokenCreate(g *globals) *cobra.Command {
	var in api.RoleRequest
	var file string
	cmd := &cobra.Command{
		Use: "create DID --role ROLE [--for DUR]", Short: "Make a token of an operator, approver, auditor or service", Args: cobra.ExactArgs(1),
		Long:    "Make a token and print it: this once, for it is kept nowhere.",
		Example: "  hypervisor token create did:mesh:kim --role approver --for 90d --out kim.token",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.DID = args[0]
			return giveToken(cmd, g, file, func(ctx context.Context, c *client.Client) (api.IssuedToken, error) { return c.IssueToken(ctx, in) })
		},
	}
	cmd.Flags().StringVar(&in.Role, "role", "", "operator, approver, auditor or service")
	required(cmd, "role")
	tokenFlags(cmd, &in.For, &file)
	return cmd
}

// giveToken has a token made and hands it over: on stdout, or in a file. The file is made first, so that no token is made that
// cannot be handed over.
func giveToken(cmd *cobra.Command, g *globals, file string, ask func(context.Context, *client.Client) (api.IssuedToken, error)) (err error) {
	ctx, cancel := g.context(cmd, false)
	defer cancel()
	c, err := g.one()
	if err != nil {
		return err
	}
	var f *os.File
	if file != "" {
		if f, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return unopened(fmt.Errorf("--out: %w", err))
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(file)
			}
		}()
	}
	t, err := ask(ctx, c)
	if err != nil {
		return err
	}
	if f != nil {
		if _, err := fmt.Fprintln(f, t.Token); err != nil {
			return unopened(fmt.Errorf("--out: %w; revoke it: %s", err, g.again("token", "revoke", t.ID)))
		}
		t.Token = ""
	}
	if g.json {
		return g.printJSON(t)
	}
	if f == nil {
		g.printf("%s\n", t.Token)
	}
	fmt.Fprintf(g.err, "hypervisor: %s counts until %s; to end it: %s\n", t.ID, when(t.Expires), g.again("token", "revoke", t.ID))
	return nil
}

func tokenList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens that count, agents' too, without their secrets", Args: cobra.NoArgs,
		Example: "  hypervisor token list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Tokens(ctx), []string{"TOKEN", "FOR", "ROLE", "SESSION", "EXPIRES"}, func(t api.Token) []string {
					return []string{t.ID, t.DID, t.Role, cmp.Or(t.Session, t.Alias), when(t.Expires)}
				})
			})
		},
	}
}

func tokenRevoke(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End a token before its time", Args: cobra.ExactArgs(1),
		Long:    "End a token before its time. ID is the token's name, not its secret: see 'token list'.",
		Example: "  hypervisor token revoke tok-0123456789abcdef0123",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				d, err := c.RevokeToken(ctx, args[0])
				return printed(g, d, err, func() { g.printf("revoked %s\n", args[0]) })
			})
		},
	}
}
