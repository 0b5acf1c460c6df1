package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// Options are what a demo needs. All fields are wanted.
type Options struct {
	Dir    string   // an empty or missing directory: data, and the notes
	Server []string // the command of the tool server, to which the notes' directory is added
	Verify func(ctx context.Context, dir string) (audit.Summary, error)
	Report func(Line) error // is told each line of the story as it happens
}

// A Line is one step as it went.
type Line struct {
	Say      string           `json:"say"` // empty: it is part of what was said before, as a saga's steps are
	Who      string           `json:"who,omitempty"`
	Did      string           `json:"did,omitempty"`
	Decision *policy.Decision `json:"decision,omitempty"`
	Result   string           `json:"result,omitempty"`
	OK       bool             `json:"ok"`
}

// ErrOtherwise is returned, wrapped with the step, when something went otherwise than told.
var ErrOtherwise = errors.New("the demo went otherwise than told")

// A stage is the demo while it plays.
type stage struct {
	opts    Options
	hv      *hypervisor.Hypervisor
	session *hypervisor.Session
	agents  map[policy.DID]*mcp.ClientSession
	pending policy.ApprovalRef // the approval that was opened last
	begun   chan struct{}      // receives when a tool says that it is at work
}

// Run plays the story and verifies the log it leaves. It returns ErrOtherwise if a step goes otherwise than told.
func Run(ctx context.Context, opts Options) (err error) {
	notes := filepath.Join(opts.Dir, "notes")
	if err := os.MkdirAll(notes, 0o700); err != nil {
		return fmt.Errorf("making the demo's directory: %w", err)
	}
	data := filepath.Join(opts.Dir, "data")
	if err := play(ctx, opts, data, notes); err != nil {
		return err
	}
	sum, err := opts.Verify(ctx, data)
	if err != nil {
		return fmt.Errorf("verifying the demo's log: %w", err)
	}
	return opts.Report(Line{Say: "The log verifies from its bytes, offline.", OK: true,
		Result: fmt.Sprintf("%d session, %d records, root %s", sum.Sessions, sum.Records, sum.Root)})
}

// play opens everything, tells the story, and closes everything.
func play(ctx context.Context, opts Options, data, notes string) (err error) {
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: data, Program: "demo"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hv.Close(context.WithoutCancel(ctx))) }()
	admin := policy.Operator("did:mesh:admin")
	s, err := hv.CreateSession(ctx, admin, &session.Config{Name: "demo"})
	if err != nil {
		return err
	}
	st := &stage{opts: opts, hv: hv, session: s, agents: map[policy.DID]*mcp.ClientSession{}, begun: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	var fronts sync.WaitGroup
	defer fronts.Wait()
	defer cancel()
	for _, c := range cast {
		p, err := s.Join(ctx, admin, session.Join{Agent: c.did, Sigma: ring.MustSigma(c.sigma)})
		if err != nil {
			return err
		}
		if err := st.enter(ctx, &fronts, p, notes); err != nil {
			return err
		}
	}
	if err := s.Activate(ctx, admin); err != nil {
		return err
	}
	for i := range story {
		if err := st.do(ctx, &story[i]); err != nil {
			return err
		}
	}
	for _, c := range st.agents {
		if err := c.Close(); err != nil {
			return fmt.Errorf("closing an agent's connection: %w", err)
		}
	}
	sum, err := s.Terminate(ctx, admin)
	if err != nil {
		return err
	}
	return opts.Report(Line{Say: "The session ends; its summary covers every record.", OK: true,
		Result: fmt.Sprintf("%d records, summary %s", sum.Records, sum.Hash)})
}

// enter puts an agent on the stage: a real MCP client, before it a governed server, behind that a tool server of its own.
func (st *stage) enter(ctx context.Context, fronts *sync.WaitGroup, p hypervisor.Participant, notes string) error {
	command := append(append([]string(nil), st.opts.Server...), notes)
	up := gateway.NewUpstream("notes", gateway.Command{Path: command[0], Args: command[1:], Env: gateway.BasicEnvironment(os.Environ(), nil)},
		&gateway.UpstreamOptions{Log: st.hv.Logger()})
	front := gateway.NewFront(st.hv, st.session, policy.Agent(p.Agent).Through("stdio"), up, &gateway.FrontOptions{Claims: claims})
	fromAgent, toFront := io.Pipe()
	fromFront, toAgent := io.Pipe()
	fronts.Go(func() {
		err := front.Run(ctx, fromAgent, toAgent)
		toAgent.CloseWithError(errors.Join(io.EOF, err)) // what the agent's client reads next tells it why
	})
	name := strings.TrimPrefix(string(p.Agent), "did:mesh:")
	client, err := mcp.NewClient(&mcp.Implementation{Name: name, Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { st.begun <- struct{}{} },
	}).
		Connect(ctx, &mcp.IOTransport{Reader: fromFront, Writer: toFront}, nil)
	if err != nil {
		return fmt.Errorf("connecting %s: %w", name, err)
	}
	st.agents[p.Agent] = client
	return st.opts.Report(Line{Say: fmt.Sprintf("%s joins with σ %s: ring %d.", name, p.SigmaEff, p.Ring), Who: string(p.Agent), OK: true})
}

// do plays one step, reports it, and fails if it went otherwise.
func (st *stage) do(ctx context.Context, s *step) error {
	line := Line{Say: s.say, Who: string(s.who)}
	var err error
	switch {
	case s.kill != "":
		err = st.kill(ctx, s, &line)
	case s.decide != "":
		err = st.decide(ctx, s, &line)
	case s.undo != "":
		err = st.undo(ctx, s, &line)
	case s.saga != nil:
		err = st.saga(ctx, s, &line)
	case s.blame != "":
		err = st.blame(ctx, s, &line)
	default:
		err = st.call(ctx, s, &line)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", s.who, line.Did, err)
	}
	if err := st.opts.Report(line); err != nil {
		return err
	}
	if !line.OK {
		return fmt.Errorf("%w: %s %s: wanted %s, got %+v %q", ErrOtherwise, s.who, line.Did, s.want, line.Decision, line.Result)
	}
	return nil
}

// call makes an agent call a tool. A refusal is in the result's structured content, as every client sees it.
func (st *stage) call(ctx context.Context, s *step, line *Line) error {
	line.Did = s.tool
	args := s.args
	if args == nil {
		args = struct{}{}
	}
	res, err := st.agents[s.who].CallTool(ctx, &mcp.CallToolParams{Name: s.tool, Arguments: args})
	if err != nil {
		return err
	}
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			line.Result += t.Text
		}
	}
	if !res.IsError {
		line.OK = s.want == policy.OK && (s.text == "" || s.text == line.Result)
		return nil
	}
	if s.want == "" { // the tool itself says no
		line.OK = line.Result == s.text
		return nil
	}
	b, err := json.Marshal(res.StructuredContent)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &line.Decision); err != nil || line.Decision == nil {
		return fmt.Errorf("a refusal without a decision: %s", line.Result)
	}
	if ap := line.Decision.Approval; ap != nil {
		st.pending = *ap
	}
	line.OK = line.Decision.Code == s.want
	return nil
}

// undo takes back all that an agent did here.
func (st *stage) undo(ctx context.Context, s *step, line *Line) error {
	line.Did = "undo of " + strings.TrimPrefix(string(s.undo), "did:mesh:")
	r, err := st.hv.Undo(ctx, policy.Operator(s.who), hypervisor.UndoRequest{Session: st.session.ID(), Agent: s.undo})
	line.Result = fmt.Sprintf("%d undone, %d left", r.Undone, r.Left)
	line.OK = err == nil && line.Result == s.text
	return err
}

// decide grants the pending approval, or votes for it.
func (st *stage) decide(ctx context.Context, s *step, line *Line) error {
	line.Did = s.decide + " " + st.pending.ID
	var d policy.Decision
	var err error
	if s.decide == "grant" {
		d, err = st.session.Grant(ctx, policy.Approver(s.who), session.Grant{Approval: st.pending.ID, Digest: st.pending.Digest})
	} else {
		d, err = st.session.Vote(ctx, policy.Agent(s.who), session.Vote{Approval: st.pending.ID, Digest: st.pending.Digest})
	}
	line.OK = d.Allowed
	if !d.Allowed {
		line.Decision = &d
	}
	return err
}
