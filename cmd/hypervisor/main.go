package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/policy"
)

// The exit codes.
const (
	exitDone    = 0
	exitRefused = 1 // the operation was refused, or a check failed
	exitUsage   = 2 // wrong usage or configuration, whoever finds it: the program or the hypervisor it asks
	exitNoReach = 3 // what it needs could not be reached or opened
)

func main() { os.Exit(run()) }

// run is the program; it returns its exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// commands makes the program's commands, in the order help lists them.
var commands = []func(*globals) *cobra.Command{
	newServeCommand, newWrapCommand, newDemoCommand, newDemoServerCommand,
	newSessionCommand, newAgentCommand, newTokenCommand, newToolsCommand, newActionCommand, newApprovalCommand, newElevationCommand, newIncidentCommand,
	newKillCommand, newSagaCommand, newAuditCommand, newPolicyCommand, newPackCommand, newBenchCommand, newVersionCommand,
}

// globals are what all commands share: the flags that stand behind any of them, and where to read and print.
type globals struct {
	json      bool
	data      string
	server    string
	tokenFile string
	timeout   time.Duration

	in       io.Reader
	out, err io.Writer

	timed bool // --timeout was said
	begun bool // the command line was understood
}

const defaultTimeout = time.Minute // the end of a session has a grace time of 30 s

func execute(ctx context.Context, args []string, in io.Reader, out, errout io.Writer) int {
	g := &globals{in: in, out: out, err: errout}
	root := newRoot(g)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if f := (*failure)(nil); !g.begun && !errors.As(err, &f) {
		err = usage("%w; see %s --help", err, cmd.CommandPath())
	}
	var answer *client.Error
	if errors.As(err, &answer) && answer.Status == http.StatusUnauthorized {
		err = fmt.Errorf("%w; say which hypervisor with --data DIR on its machine, or a token with --token-file or $HYPERVISOR_TOKEN", err)
	}
	if text := oneLine(err); text != "" {
		fmt.Fprintln(errout, text)
	}
	return exitCode(err)
}

func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "hypervisor",
		Short: "Govern what agents do: sessions, approvals, and a log anyone can verify",
		Example: `  hypervisor session list
  hypervisor approval list
  hypervisor audit verify ./hypervisor-data`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return needsSubcommand(cmd) },
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := cmp.Or(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()); err != nil {
				return usage("%w; see %s --help", err, cmd.CommandPath())
			}
			if len(args) > 0 && args[0] == "" {
				return usage("its argument is empty; see %s --help", cmd.CommandPath())
			}
			if name := emptyFlag(cmd); name != "" {
				return usage("--%s is empty; leave it out, or say what; see %s --help", name, cmd.CommandPath())
			}
			if g.timeout < 0 {
				return usage("--timeout %s: want a time such as 30s, or 0 to wait on", g.timeout)
			}
			g.begun = true
			g.timed = cmd.Flags().Changed("timeout")
			return nil
		},
	}
	f := root.PersistentFlags()
	f.BoolVar(&g.json, "json", false, "print JSON: one value, or a line for each entry of a stream")
	f.StringVar(&g.data, "data", "", "data directory of the hypervisor that is meant")
	f.StringVar(&g.server, "server", "", "address of the hypervisor that is meant (default $HYPERVISOR_SERVER, else "+client.DefaultServer+")")
	f.StringVar(&g.tokenFile, "token-file", "", "file with the token for --server (default: the token in $HYPERVISOR_TOKEN)")
	f.DurationVar(&g.timeout, "timeout", defaultTimeout, "how long to wait for an answer; 0 waits on")
	for _, command := range commands {
		root.AddCommand(command(g))
	}
	root.SetIn(g.in)
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.InitDefaultCompletionCmd() // it takes the output as it stands
	root.InitDefaultHelpCmd()
	exampleOf(root)
	return root
}

// emptyFlag returns the name of a flag that was said with nothing behind it. A script's variable that is not set would else widen
// what is asked for: kill --agent DID --session "$S".
func emptyFlag(cmd *cobra.Command) (name string) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" {
			name = f.Name
		}
	})
	return name
}

// exampleOf gives cobra's own commands an example each.
func exampleOf(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  hypervisor help session log"
		case "completion":
			cmd.Example = "  hypervisor completion bash > /etc/bash_completion.d/hypervisor"
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return needsSubcommand(cmd) }
			for _, shell := range cmd.Commands() {
				shell.Example = "  hypervisor completion " + shell.Name()
			}
		}
	}
}

// group makes a command that only holds others.
func group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return needsSubcommand(cmd) }}
	cmd.AddCommand(subs...)
	return cmd
}

func needsSubcommand(cmd *cobra.Command) error {
	return usage("%s wants a command; see %s --help", cmd.CommandPath(), cmd.CommandPath())
}

// A failure is an error with the exit code it ends the program with.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// required has a command refuse to run without these of its flags. A name that is none of its flags is a slip of ours.
func required(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic("hypervisor: " + cmd.Name() + ": " + err.Error())
		}
	}
}

// usage is the error of a command line or a configuration that is wrong.
func usage(format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...)}
}

// unopened is the error of a thing that could not be opened.
func unopened(err error) error { return &failure{exitNoReach, err} }

// misuses are the codes of a hypervisor's answer that what it was asked is none, or says what cannot be.
var misuses = []string{api.CodeMalformed, api.CodeTooLarge, string(policy.InvalidArguments)}

func exitCode(err error) int {
	var f *failure
	var lost *client.UnreachableError
	var answer *client.Error
	switch {
	case errors.As(err, &f):
		return f.code
	case errors.As(err, &lost):
		return exitNoReach
	case errors.As(err, &answer) && slices.Contains(misuses, answer.API.Code):
		return exitUsage
	}
	return exitRefused
}

// A silent error has been told already.
type silent struct{ error }

// oneLine is what is printed of an error: one line, but for a list of faults, each of which is one.
func oneLine(err error) string {
	var told silent
	if errors.As(err, &told) {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return "hypervisor: interrupted"
	}
	return "hypervisor: " + clean(strings.Join(strings.Fields(err.Error()), " "))
}

// clients returns the hypervisors that are meant.
func (g *globals) clients() ([]*client.Client, error) {
	if g.data != "" && g.server != "" {
		return nil, usage("--data and --server name two hypervisors; say one")
	}
	clients, err := client.Find(client.Target{Dir: g.data, Server: g.server, Fallback: os.Getenv("HYPERVISOR_SERVER"),
		TokenFile: g.tokenFile, Token: g.envToken()})
	var lost *client.UnreachableError
	if err == nil || errors.As(err, &lost) {
		return clients, err
	}
	if g.tokenFile != "" {
		return nil, unopened(err)
	}
	return nil, &failure{exitUsage, err}
}

// envToken returns the token in the environment; a file that is named goes before it.
func (g *globals) envToken() string {
	if g.tokenFile != "" {
		return ""
	}
	return os.Getenv("HYPERVISOR_TOKEN")
}

// context returns the command's context, ended by --timeout; a stream is bounded only where that was said.
func (g *globals) context(cmd *cobra.Command, stream bool) (context.Context, context.CancelFunc) {
	if g.timeout <= 0 || stream && !g.timed {
		return context.WithCancel(cmd.Context())
	}
	return context.WithTimeout(cmd.Context(), g.timeout)
}
