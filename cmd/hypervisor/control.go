package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/ring"
)

// control.go: the commands that make sessions and fill them.

// ask has the hypervisor that is meant asked something.
func (g *globals) ask(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	ctx, cancel := g.context(cmd, false)
	defer cancel()
	c, err := g.one()
	if err != nil {
		return err
	}
	return do(ctx, c)
}

// askIn is ask for the hypervisor that has a session.
func (g *globals) askIn(cmd *cobra.Command, session string, do func(context.Context, *client.Client) error) error {
	ctx, cancel := g.context(cmd, false)
	defer cancel()
	c, _, err := oneSession(ctx, g, session)
	if err != nil {
		return err
	}
	return do(ctx, c)
}

// one returns the only hypervisor that is meant: what makes a thing must know where.
func (g *globals) one() (*client.Client, error) {
	clients, err := g.clients()
	if err != nil {
		return nil, err
	}
	if len(clients) > 1 {
		return nil, usage("%d hypervisors run here; say which with --data or --server", len(clients))
	}
	return clients[0], nil
}

func sessionCreate(g *globals) *cobra.Command {
	var cfg api.SessionConfig
	var sigma, weight, key string
	var noAudit bool
	cmd := &cobra.Command{
		Use: "create [--name N] [--SETTING V]…", Short: "Create a session and print its id", Args: cobra.NoArgs,
		Long: "Create a session and print its id. What is not said is as the configuration says.",
		Example: `  hypervisor session create --name dev
  hypervisor session create --max-participants 5 --max-duration 2h --consistency eventual --network-allow api.example`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.MaxParticipants < 1 && cmd.Flags().Changed("max-participants") {
				return usage("--max-participants: want a number from 1 to 1000, got %d", cfg.MaxParticipants)
			}
			if cfg.MinSigmaEff, err = decimal("--min-sigma-eff", sigma); err != nil {
				return err
			}
			if cfg.VouchWeight, err = decimal("--vouch-weight", weight); err != nil {
				return err
			}
			if noAudit {
				no := false
				cfg.Audit = &no
			}
			if key == "" {
				key = rand.Text() // should the answer be lost on the way
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.CreateSession(ctx, cfg, key)
				return printed(g, s, err, func() { g.printf("%s\n", s.ID) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "", "a name that stands for the newest session that was given it")
	f.StringVar(&cfg.Consistency, "consistency", "", "strong or eventual")
	f.IntVar(&cfg.MaxParticipants, "max-participants", 0, "1 to 1000")
	f.StringVar(&cfg.MaxDuration, "max-duration", "", "1s to 7d")
	f.StringVar(&sigma, "min-sigma-eff", "", "below it an agent is held in ring 3")
	f.StringVar(&weight, "vouch-weight", "", "how much of a bond counts")
	f.StringVar(&cfg.ApprovalTTL, "approval-ttl", "", "how long an approval waits, and then a grant lasts")
	f.StringSliceVar(&cfg.NetworkAllow, "network-allow", nil, "hosts that ring 2 may reach")
	f.StringSliceVar(&cfg.FilesScope, "files-scope", nil, "places beneath which ring 2 may touch the host's files")
	f.BoolVar(&noAudit, "no-audit", false, "no leaf in the transparency log; the session's own log stays")
	f.StringVar(&key, "key", "", "idempotency key: the same key returns the same session")
	return cmd
}

// decimal reads a figure as it is written.
func decimal(flag, text string) (api.Decimal, error) {
	if text == "" {
		return "", nil
	}
	if _, err := ring.ParseMillionths(text); err != nil {
		return "", usage("%s: want a figure from 0 to 1 such as 0.80, got %q", flag, text)
	}
	return api.Decimal(text), nil
}

func sessionJoin(g *globals) *cobra.Command {
	var in api.Join
	var sigma, file, past string
	cmd := &cobra.Command{
		Use: "join ID --agent DID [--sigma S] [--manifest FILE] [--receipts FILE]", Short: "Bring an agent into a session", Args: cobra.ExactArgs(1),
		Long: `Bring an agent into a session. ID is a session's, or a name. --sigma sets the agent's standing first. --manifest is what the agent
says of itself (docs/manifest.schema.json): it holds the agent lower and makes its actions stricter, and never raises it. For an
agent that takes part already it takes the place of the manifest before. --receipts is a JSON list of receipts of its past
sessions, the one that ended first first: good ones raise nobody, bad ones hold it in ring 3 for a day.`,
		Example: `  hypervisor session join dev --agent did:mesh:ann
  hypervisor session join dev --agent did:mesh:ann --manifest ann.json
  hypervisor session join ses-0123456789abcdef0123 --agent did:mesh:ann --sigma 0.80`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			var err error
			if in.Sigma, err = decimal("--sigma", sigma); err != nil {
				return err
			}
			if file != "" {
				if in.Manifest, err = readManifest(file); err != nil {
					return err
				}
			}
			if past != "" {
				if in.Receipts, err = readReceipts(past); err != nil {
					return err
				}
			}
			c, _, err := oneSession(ctx, g, args[0])
			if err != nil {
				return err
			}
			j, err := c.Join(ctx, args[0], in, "")
			return printed(g, j, err, func() {
				g.printf("%s is in ring %d (σ_eff %s)\n", j.Agent, j.Ring, string(j.SigmaEff))
				if j.Manifest != "" {
					g.printf("manifest %s\n", j.Manifest)
				}
				if h := j.History; h != nil && h.Why != "" {
					g.printf("history %s: %s\n", h.Result, h.Why)
				} else if h != nil {
					g.printf("history %s\n", h.Result)
				}
			})
		},
	}
	cmd.Flags().StringVar(&in.Agent, "agent", "", "the agent's DID")
	cmd.Flags().StringVar(&sigma, "sigma", "", "its σ, from 0 to 1")
	cmd.Flags().StringVar(&file, "manifest", "", "its IATP manifest, a JSON file")
	cmd.Flags().StringVar(&past, "receipts", "", "receipts of its past sessions, a JSON file")
	required(cmd, "agent")
	return cmd
}

// maxReceiptsBytes bounds a file of receipts: the daemon takes no larger body.
const maxReceiptsBytes = 1 << 20

// readReceipts reads a list of receipts, and says what is wrong with its form before anything is sent.
func readReceipts(path string) (list []api.Receipt, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("--receipts: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxReceiptsBytes+1))
	switch {
	case err != nil:
		return nil, usage("--receipts %s: %w", path, err)
	case len(b) > maxReceiptsBytes:
		return nil, usage("--receipts %s: more than %d bytes", path, maxReceiptsBytes)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, usage("--receipts %s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, usage("--receipts %s: there is more behind the list", path)
	}
	return list, nil
}

// readManifest reads a manifest, and says what is wrong with one before anything is sent.
func readManifest(path string) (json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("--manifest: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, manifest.MaxBytes+1))
	if err == nil {
		_, err = manifest.Parse(b)
	}
	if err != nil {
		return nil, usage("--manifest %s: %w", path, err)
	}
	return b, nil
}

func sessionLeave(g *globals) *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use: "leave ID --agent DID", Short: "Take an agent out of a session", Args: cobra.ExactArgs(1),
		Example: "  hypervisor session leave dev --agent did:mesh:ann",
		RunE: sessionChange(g, func(ctx context.Context, c *client.Client, id string) (api.Session, error) {
			return c.Leave(ctx, id, agent)
		}, func() string { return agent + " has left" }),
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the agent's DID")
	required(cmd, "agent")
	return cmd
}

func sessionActivate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "activate ID", Short: "Let a session's participants act", Args: cobra.ExactArgs(1),
		Long:    "Let a session's participants act. An agent that comes with a token activates its session by itself.",
		Example: "  hypervisor session activate dev",
		RunE: sessionChange(g, func(ctx context.Context, c *client.Client, id string) (api.Session, error) {
			return c.Activate(ctx, id)
		}, func() string { return "active" }),
	}
}

// sessionChange makes a command that changes one session and says so.
func sessionChange(g *globals, do func(context.Context, *client.Client, string) (api.Session, error), said func() string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return g.askIn(cmd, args[0], func(ctx context.Context, c *client.Client) error {
			s, err := do(ctx, c, args[0])
			return printed(g, s, err, func() { g.printf("session %s: %s\n", s.ID, said()) })
		})
	}
}

func newToolsCommand(g *globals) *cobra.Command {
	return group("tools", "List pinned tools, look at changed ones, accept them", "  hypervisor tools list\n  hypervisor tools diff files.read_file",
		toolsList(g), toolsDiff(g), toolsAccept(g))
}

func toolsList(g *globals) *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use: "list", Short: "List the tools that are pinned or were seen", Args: cobra.NoArgs,
		Example: "  hypervisor tools list --server files",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Tools(ctx, server), []string{"TOOL", "STATE", "PINNED", "SEEN"}, func(t api.Tool) []string {
					return []string{t.Tool, toolState(t), short(t.Pinned), short(t.Seen)}
				})
			})
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "of this server only")
	return cmd
}

func toolState(t api.Tool) string {
	switch {
	case t.Changed:
		return "changed"
	case t.Seen == "":
		return "not seen yet"
	}
	return "as pinned"
}

func short(digest string) string { return digest[:min(len(digest), 12)] }

func toolsDiff(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "diff [TOOL]", Short: "Show the definitions of changed tools, as pinned and as seen", Args: cobra.MaximumNArgs(1),
		Long:    "Show what a server says of a tool now beside what is pinned, line by line, and the command that accepts it.",
		Example: "  hypervisor tools diff\n  hypervisor tools diff files.read_file",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				tools, err := changedTools(ctx, c, args)
				switch {
				case err != nil:
					return err
				case g.json:
					return g.printJSON(map[string]any{"items": tools})
				case len(tools) == 0:
					g.printf("every tool is as it was pinned\n")
					return nil
				}
				for _, t := range tools {
					g.printf("%s\n", t.Tool)
					for _, line := range diff(t.Was, t.Is) {
						g.printf("%s\n", line)
					}
					g.printf("to accept it: %s\n", g.again("tools", "accept", t.Tool, "--digest", t.Seen))
				}
				return nil
			})
		},
	}
}

// changedTools returns the changed tools: all, or the one that is named.
func changedTools(ctx context.Context, c *client.Client, args []string) ([]api.Tool, error) {
	tools, known := []api.Tool{}, false
	for t, err := range c.Tools(ctx, "") {
		if err != nil {
			return nil, err
		}
		if len(args) > 0 && t.Tool != args[0] {
			continue
		}
		if known = true; t.Changed {
			tools = append(tools, t)
		}
	}
	if len(args) > 0 && !known {
		return nil, fmt.Errorf("tool %s: not found; see 'tools list'", args[0])
	}
	return tools, nil
}

func toolsAccept(g *globals) *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use: "accept TOOL --digest D", Short: "Accept a tool's changed definition", Args: cobra.ExactArgs(1),
		Long:    "Accept the definition that was seen last. The digest is the one that 'tools diff' showed: what is accepted is what was looked at.",
		Example: "  hypervisor tools accept files.read_file --digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				if digest == "" {
					return usage("nothing was accepted; look at it first: %s", g.again("tools", "diff", args[0]))
				}
				d, err := c.Accept(ctx, args[0], digest)
				return printed(g, d, err, func() { g.printf("accepted: %s is pinned as it is now\n", args[0]) })
			})
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "the digest that 'tools diff' showed")
	return cmd
}
