package main

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
)

func newApprovalCommand(g *globals) *cobra.Command {
	return group("approval", "List, show, grant and deny approvals", "  hypervisor approval list\n  hypervisor approval show apr-7",
		approvalList(g), approvalShow(g),
		approvalDecide(g, "grant", "Let the call an approval is for pass, once", (*client.Client).Grant),
		approvalDecide(g, "deny", "Refuse the call an approval is for until the approval would have expired", (*client.Client).Deny))
}

func approvalList(g *globals) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use: "list", Short: "List approvals of sessions that have not ended", Args: cobra.NoArgs,
		Example: "  hypervisor approval list\n  hypervisor approval list --session ses-0123456789abcdef0123 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			clients, err := g.clients()
			if err != nil {
				return err
			}
			if session != "" {
				c, _, err := oneSession(ctx, g, session)
				if err != nil {
					return err
				}
				clients = []*client.Client{c}
			}
			approvals := client.Merge(clients, func(c *client.Client) iter.Seq2[api.Approval, error] { return c.Approvals(ctx, session) })
			return printList(g, approvals, []string{"APPROVAL", "STATUS", "AGENT", "ACTION", "BY", "EXPIRES"}, func(a api.Approval) []string {
				return []string{a.Session + "/" + a.ID, a.Status, a.Agent, a.Action, strings.Join(a.By, " or "), when(a.Expires)}
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "of this session only")
	return cmd
}

func approvalShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an approval and the call it is for", Args: cobra.ExactArgs(1),
		Long:    "Show an approval by SESSION/ID, or by its id alone where only one session has it open.",
		Example: "  hypervisor approval show ses-0123456789abcdef0123/apr-7\n  hypervisor approval show apr-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			_, a, err := oneApproval(ctx, g, args[0])
			return printed(g, a, err, func() { g.printApproval(a) })
		},
	}
}

// oneApproval finds an approval and the hypervisor that has it.
func oneApproval(ctx context.Context, g *globals, text string) (*client.Client, api.Approval, error) {
	clients, err := g.clients()
	if err != nil {
		return nil, api.Approval{}, err
	}
	session, id := api.SplitID(text)
	return client.One(ctx, clients, func(ctx context.Context, c *client.Client) (api.Approval, error) { return c.Approval(ctx, session, id) },
		func(a api.Approval) string { return a.Session + "/" + a.ID })
}

func (g *globals) printApproval(a api.Approval) {
	g.printFields(field{"approval", a.Session + "/" + a.ID}, field{"status", a.Status}, field{"agent", a.Agent}, field{"action", a.Action},
		field{"args", cmp.Or(string(a.Args), "(collected)")}, field{"digest", a.Digest}, field{"by", strings.Join(a.By, " or ")},
		field{"policy", a.Policy}, field{"electors", strings.Join(a.Electors, ", ")}, field{"for", strings.Join(a.For, ", ")},
		field{"against", strings.Join(a.Against, ", ")}, field{"granted by", a.GrantedBy}, field{"opened", when(a.Opened)}, field{"expires", when(a.Expires)})
}

// approvalDecide makes grant and deny. Both repeat the digest that was shown, so that what is decided is what was seen.
func approvalDecide(g *globals, verb, short string, do func(*client.Client, context.Context, string, string, string) (api.Decision, error)) *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use: verb + " ID [--digest] D", Short: short, Args: cobra.RangeArgs(1, 2),
		Long:    short + ".\nWithout a digest it shows what would be decided and the command that decides it.",
		Example: "  hypervisor approval " + verb + " apr-7\n  hypervisor approval " + verb + " apr-7 --digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if digest != "" && digest != args[1] {
					return usage("two digests are said: %s and %s", digest, args[1])
				}
				digest = args[1]
			}
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			c, a, err := oneApproval(ctx, g, args[0])
			if err != nil {
				return err
			}
			if !g.json {
				g.printApproval(a)
			}
			if digest == "" {
				return usage("nothing was decided; to %s exactly this call: %s", verb, g.again("approval", verb, a.Session+"/"+a.ID, "--digest", a.Digest))
			}
			d, err := do(c, ctx, a.Session, a.ID, digest)
			var answer *client.Error
			switch {
			case errors.As(err, &answer): // a digest of something else is a check that failed, and no misuse
				return &failure{exitRefused, err}
			case err != nil:
				return err
			case g.json:
				return g.printJSON(d)
			}
			g.printf("\n%s\n", map[string]string{"grant": "granted: it passes once, when the agent asks again", "deny": "denied"}[verb])
			return nil
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "the digest that the approval showed")
	return cmd
}

// again returns a command line of this program that means the same hypervisor.
func (g *globals) again(args ...string) string {
	line := append([]string{"hypervisor"}, args...)
	for _, f := range []field{{"--data", g.data}, {"--server", g.server}, {"--token-file", g.tokenFile}} {
		if f.value != "" {
			line = append(line, f.name, f.value)
		}
	}
	for i, word := range line {
		if strings.ContainsFunc(word, func(r rune) bool { return !strings.ContainsRune(plainInShell, r) }) {
			line[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(line, " ")
}

const plainInShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:="
