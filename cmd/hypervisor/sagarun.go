package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/client"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/saga"
)

func sagaRun(g *globals) *cobra.Command {
	var session, replay string
	var detach bool
	cmd := &cobra.Command{
		Use: "run (FILE --session ID | --replay SESSION/ID)", Short: "Run a saga", Args: cobra.MaximumNArgs(1),
		Long: `Run a saga: several actions of a session's agents that end either all done or undone. Each step is admitted as its agent's action.
The command waits until the saga has ended or waits for somebody, and exits with 0 only when it is completed; the saga itself goes on whether
anybody waits or not, also after a crash of the hypervisor. With an agent's token every step must be that agent's.
--replay does again what a saga that has ended has not reached: steps whose checkpoints stand are skipped, and those that only such steps need.`,
		Example: "  hypervisor saga run release.yaml --session dev\n  hypervisor saga run release.yaml --session dev --detach\n  hypervisor saga run --replay dev/sag-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			var start func(context.Context, *client.Client) (api.Saga, error)
			switch {
			case replay != "" && (len(args) > 0 || session != ""):
				return usage("--replay takes neither a file nor --session")
			case replay != "":
				in, id, err := sagaID(replay)
				if err != nil {
					return err
				}
				session = in
				start = func(ctx context.Context, c *client.Client) (api.Saga, error) {
					return c.ReplaySaga(ctx, in, id, !detach)
				}
			case len(args) == 0 || session == "":
				return usage("say which: FILE --session ID, or --replay SESSION/ID; see %s --help", cmd.CommandPath())
			default:
				in, err := g.readDefinitionFor(args[0])
				if err != nil {
					return err
				}
				start = func(ctx context.Context, c *client.Client) (api.Saga, error) {
					return c.RunSaga(ctx, session, in, !detach)
				}
			}
			ctx, cancel := g.context(cmd, !detach)
			defer cancel()
			c, _, err := oneSession(ctx, g, session)
			if err != nil {
				return err
			}
			s, err := start(ctx, c)
			if err != nil {
				return err
			}
			if err := g.showSaga(s); err != nil || detach {
				return err
			}
			return unlessCompleted(s)
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	cmd.Flags().StringVar(&replay, "replay", "", "the saga to replay, SESSION/ID")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait until it rests")
	return cmd
}

// readDefinitionFor reads a definition and makes it the body that starts it. Its faults are told.
func (g *globals) readDefinitionFor(file string) (in api.SagaDefinition, err error) {
	b, err := readDefinition(file)
	if err != nil {
		return in, unopened(err)
	}
	parse := saga.ParseYAML
	if strings.HasSuffix(file, ".json") {
		parse = saga.ParseJSON
	}
	d, err := parse(file, b, saga.Known{})
	var faults document.Faults
	if errors.As(err, &faults) {
		for _, f := range faults {
			fmt.Fprintln(g.err, clean(f.Error()))
		}
		return in, &failure{exitRefused, silent{err}}
	}
	in.Saga, in.Isolation, in.Fault = d.Name, string(d.Isolation), d.Fault
	for _, s := range d.Steps {
		step := api.SagaDefinitionStep{ID: s.ID, Agent: string(s.Agent), Action: s.Action, Execute: s.Execute, Undo: s.Undo, Args: json.RawMessage(s.Args),
			Needs: s.Needs, Retries: s.Retries, Checkpoint: s.Checkpoint}
		for _, did := range s.Substitutes {
			step.Substitutes = append(step.Substitutes, string(did))
		}
		if s.Timeout != 0 {
			step.Timeout = s.Timeout.String()
		}
		in.Steps = append(in.Steps, step)
	}
	for _, f := range d.FanOut {
		in.FanOut = append(in.FanOut, api.SagaFanOut{Policy: string(f.Policy), Branches: f.Branches})
	}
	return in, nil
}

// unlessCompleted is the error of a saga that is not: exit code 1.
func unlessCompleted(s api.Saga) error {
	if s.State == "completed" {
		return nil
	}
	return fmt.Errorf("saga %s/%s is %s%s", s.Session, s.ID, s.State, withWhy(s.Why))
}

func withWhy(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func (g *globals) showSaga(s api.Saga) error {
	if g.json {
		return g.printJSON(s)
	}
	g.printf("%s/%s  %s  %s%s\n", s.Session, s.ID, s.Saga, s.State, withWhy(s.Why))
	rows := make([][]string, len(s.Steps))
	for i, step := range s.Steps {
		more := step.Why
		if step.Waits != "" {
			more = waitsFor(&step)
		}
		agent := step.Agent
		if step.InPlaceOf != "" {
			agent += " for " + step.InPlaceOf
		}
		rows[i] = []string{step.ID, agent, step.Action, strings.Join(step.Needs, ", "), step.State, step.ActionID, strconv.Itoa(step.Tries), more}
	}
	g.printTable([]string{"STEP", "AGENT", "DOES", "NEEDS", "STATE", "ACTION", "TRIES", ""}, rows)
	for i, f := range s.FanOut {
		g.printf("fan_out[%s] %s of %s: %s\n", strconv.Itoa(i), f.Policy, strings.Join(f.Branches, ", "), f.Verdict)
	}
	if s.Faultless != "" {
		g.printf("borne by %s\n", borne(nil, s.Faultless))
	}
	g.printShares(s.Shares)
	return nil
}

// waitsFor is what a step waits for, until when, and why it must.
func waitsFor(step *api.SagaStep) string {
	text := "waits for " + step.Waits
	if step.Until != nil {
		text += " until " + when(*step.Until)
	}
	if step.Why != "" {
		text += " (" + step.Why + ")"
	}
	return text
}

func sagaList(g *globals) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use: "list --session ID", Short: "List a session's sagas: those that have not ended, and the last that have", Args: cobra.NoArgs,
		Example: "  hypervisor saga list --session dev --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.askIn(cmd, session, func(ctx context.Context, c *client.Client) error {
				return printList(g, c.Sagas(ctx, session), []string{"SAGA", "NAME", "BY", "STATE", "STEPS", "WHY"}, func(s api.Saga) []string {
					return []string{s.Session + "/" + s.ID, s.Saga, s.By, s.State, strconv.Itoa(len(s.Steps)), s.Why}
				})
			})
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the session's id, or a name")
	required(cmd, "session")
	return cmd
}

func sagaShow(g *globals) *cobra.Command {
	var wait, follow bool
	cmd := &cobra.Command{
		Use: "show SESSION/ID", Short: "Show a saga and its steps", Args: cobra.ExactArgs(1),
		Long: `Show a saga and its steps. --follow goes on until it has ended: on a terminal the steps are drawn anew as they change, as many as it
has room for and all of them at the end; else there is a line for each change, with --json the saga as it is then. It exits with 0 only if the saga is completed.`,
		Example: "  hypervisor saga show dev/sag-7\n  hypervisor saga show dev/sag-7 --wait\n  hypervisor saga show dev/sag-7 --follow",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id, err := sagaID(args[0])
			switch {
			case err != nil:
				return err
			case wait && follow:
				return usage("--wait and --follow are two ways to wait; say one")
			}
			ctx, cancel := g.context(cmd, wait || follow)
			defer cancel()
			c, _, err := oneSession(ctx, g, session)
			if err != nil {
				return err
			}
			s, err := c.Saga(ctx, session, id, wait)
			switch {
			case err != nil:
				return err
			case follow:
				return g.followSaga(ctx, c, s)
			}
			return g.showSaga(s)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has ended, or waits for somebody")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as its steps change, until it has ended")
	return cmd
}

func sagaInvalidate(g *globals) *cobra.Command {
	var step string
	cmd := &cobra.Command{
		Use: "invalidate SESSION/ID --step STEP", Short: "Say that a goal is reached no more", Args: cobra.ExactArgs(1),
		Long: `Say that the goal which a step's checkpoint names is reached no more, nor what depends on it. The saga must have ended. A replay of it does those
steps again.`,
		Example: "  hypervisor saga invalidate dev/sag-7 --step west\n  hypervisor saga run --replay dev/sag-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id, err := sagaID(args[0])
			if err != nil {
				return err
			}
			return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.InvalidateGoal(ctx, session, id, step)
			}, "the goal of "+step+" of "+id+" is reached no more")
		},
	}
	cmd.Flags().StringVar(&step, "step", "", "the step's id")
	required(cmd, "step")
	return cmd
}

func sagaID(text string) (session, id string, err error) {
	if session, id = api.SplitID(text); session == "" {
		return "", "", usage("say which session's: SESSION/%s", id)
	}
	return session, id, nil
}

func sagaResolve(g *globals) *cobra.Command {
	var step, how string
	cmd := &cobra.Command{
		Use: "resolve SESSION/ID --step STEP --how happened|not|retry", Short: "End what a step of a saga waits for", Args: cobra.ExactArgs(1),
		Long: `End what a step of a saga waits for. Of an outcome that is not known, say whether the step (or its undo) happened or not; a step that
waits for a tool, a release or an approval can be told to retry.`,
		Example: "  hypervisor saga resolve dev/sag-7 --step east --how happened",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id, err := sagaID(args[0])
			if err != nil {
				return err
			}
			return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.ResolveSaga(ctx, session, id, step, how)
			}, step+" of "+id+" waits no longer")
		},
	}
	cmd.Flags().StringVar(&step, "step", "", "the step's id")
	cmd.Flags().StringVar(&how, "how", "", "happened, not or retry")
	required(cmd, "step", "how")
	return cmd
}

func sagaCancel(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "cancel SESSION/ID", Short: "Have a saga undone", Args: cobra.ExactArgs(1),
		Long:    "Have a saga undone: nothing new begins, what is under way ends, and what was done is taken back in reverse order.",
		Example: "  hypervisor saga cancel dev/sag-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			session, id, err := sagaID(args[0])
			if err != nil {
				return err
			}
			return inSession(cmd, g, session, func(ctx context.Context, c *client.Client) (api.Decision, error) {
				return c.CancelSaga(ctx, session, id)
			}, id+" is being undone")
		},
	}
}
