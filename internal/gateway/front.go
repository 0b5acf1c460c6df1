package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// FrontOptions are what a Front can do without. The zero value is ready for use.
type FrontOptions struct {
	Claims           func(tool string) []action.Claim // what the operator says of a tool, the strongest first; nil: nothing
	TrustAnnotations bool                             // the server's own hints are believed where the operator says nothing
	Version          string                           // of this program; empty: "dev"
	Log              *slog.Logger                     // tools left out; nil: nowhere
	Clock            Clock                            // nil: WallClock
}

// A Front stands one upstream, by its own tool names, before one agent in one session. It is a handle, safe for concurrent use.
type Front struct {
	hv      *hypervisor.Hypervisor
	session *hypervisor.Session
	agent   policy.Caller
	up      *Upstream
	opt     FrontOptions

	mu    sync.Mutex
	shown []Tool
}

// ErrUpstream is returned, wrapped with why, by Front.Run when the server could not be started at first.
var ErrUpstream = errors.New("the tool server does not start")

// NewFront returns a front; opt may be nil. The upstream's Run is the front's to call.
func NewFront(hv *hypervisor.Hypervisor, s *hypervisor.Session, agent policy.Caller, up *Upstream, opt *FrontOptions) *Front {
	f := &Front{hv: hv, session: s, agent: agent, up: up}
	if opt != nil {
		f.opt = *opt
	}
	if f.opt.Claims == nil {
		f.opt.Claims = func(string) []action.Claim { return nil }
	}
	if f.opt.Log == nil {
		f.opt.Log = slog.New(slog.DiscardHandler)
	}
	return f
}

// Run starts the upstream and serves the agent on in and out, as Server.Run does, until that returns; then it stops the upstream
// and waits for it. A server that does not start at first is ErrUpstream; one that ends later is started again.
func (f *Front) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	defer own.Wait()
	defer cancel()
	own.Go(func() { _ = f.up.Run(ctx) }) // it ends with ctx and says nothing else
	if err := f.up.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUpstream, f.up.Name(), err)
	}
	if err := f.refresh(ctx); err != nil {
		return err
	}
	server := NewServer(f, &ServerOptions{Instructions: f.up.Instructions(), Version: f.opt.Version, Log: f.opt.Log, Clock: f.opt.Clock})
	own.Go(func() { f.follow(ctx, server) })
	return server.Run(ctx, in, out)
}

// follow takes over every change of the upstream's list.
func (f *Front) follow(ctx context.Context, server *Server) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.up.Changed():
		}
		if err := f.refresh(ctx); err != nil {
			// What is registered stays, and a call of a tool that has changed since is not sent (Upstream.Call).
			f.opt.Log.Error("changed tools not taken over", "server", f.up.Name(), "error", err)
			continue
		}
		server.ToolsChanged()
	}
}

// refresh pins and registers the tools as the upstream lists them now.
func (f *Front) refresh(ctx context.Context) error {
	tools := f.up.Tools()
	pins := map[string]system.Seen{}
	registered := map[string]hypervisor.Tool{}
	for _, t := range tools {
		d := f.descriptor(t)
		if err := d.Validate(); err != nil {
			f.opt.Log.Warn("tool left out", "server", f.up.Name(), "error", err)
			continue
		}
		pins[d.ID] = system.Seen{Digest: t.Digest, Text: t.Definition}
		registered[t.Name] = hypervisor.Tool{Descriptor: d, Check: t.Check,
			Do: func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
				return f.up.Call(ctx, t, args, ProgressOf(ctx))
			}}
	}
	changed, err := f.hv.Pin(ctx, policy.System.Through("gateway"), pins)
	if err != nil {
		return fmt.Errorf("pinning tools of %s: %w", f.up.Name(), err)
	}
	var shown []Tool
	for _, t := range tools {
		r, ok := registered[t.Name]
		if !ok {
			continue
		}
		r.Changed = changed[r.Descriptor.ID]
		registered[t.Name] = r
		// A definition that is not the pinned one is text from nobody knows whom: it is not put before the model.
		if !r.Changed && !r.Descriptor.Admin {
			shown = append(shown, t)
		}
	}
	if err := f.session.SetTools(f.agent.DID, f.up.Name()+".", slices.Collect(maps.Values(registered))); err != nil {
		return fmt.Errorf("registering tools of %s: %w", f.up.Name(), err)
	}
	f.mu.Lock()
	f.shown = shown
	f.mu.Unlock()
	return nil
}

func (f *Front) descriptor(t Tool) action.Descriptor {
	claims := slices.Clone(f.opt.Claims(t.Name))
	if f.opt.TrustAnnotations {
		claims = append(claims, t.Annotations.Claim())
	}
	return action.Resolve(f.actionID(t.Name), claims...)
}

// actionID returns a tool's name as policies and records say it. A name that no tool can have is not put into a record as it is.
func (f *Front) actionID(tool string) string {
	if !toolName.MatchString(tool) {
		tool = fmt.Sprintf("no-such-name-%x", sha256.Sum256([]byte(tool)))[:len("no-such-name-")+12]
	}
	return f.up.Name() + "." + tool
}

// Tools returns the tools the agent is shown: those whose definition is the pinned one and that are not admin.
func (f *Front) Tools(context.Context) ([]Tool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shown, nil
}

// Act puts a call to the session.
func (f *Front) Act(ctx context.Context, tool string, args json.RawMessage) (Reply, error) {
	out, err := f.session.Act(ctx, f.agent, session.Act{Action: f.actionID(tool), Args: args})
	switch {
	case err == nil:
		return Reply{Decision: out.Decision, Result: out.Result, Err: out.Err}, nil
	case ctx.Err() != nil:
		return Reply{}, ctx.Err()
	case out.Allowed: // it was admitted and recorded, so it may have been done: the agent must not take this for a refusal
		return Reply{Decision: out.Decision, Err: fmt.Errorf("it was admitted as %s and may have been done, but how it ended stands in no record yet: %w", out.ID, err)}, nil
	case errors.Is(err, hypervisor.ErrOverloaded):
		return Reply{Decision: policy.Refuse(policy.Overloaded, "the hypervisor has too much to do; nothing was done, try again in a moment")}, nil
	case errors.Is(err, hypervisor.ErrStoreUnavailable):
		return Reply{Decision: policy.Refuse(policy.StoreUnavailable, "the hypervisor cannot record at present, so it does nothing that must be recorded; an operator must look at its disk")}, nil
	}
	return Reply{}, err
}

// Status is what hypervisor__status answers.
type Status struct {
	Session   string           `json:"session"`
	State     string           `json:"state"`
	Ends      time.Time        `json:"ends"`
	Agent     policy.DID       `json:"agent"`
	Ring      *ring.Ring       `json:"ring,omitempty"` // absent: not a participant
	SigmaEff  *ring.Sigma      `json:"sigma_eff,omitempty"`
	Running   int              `json:"running"`   // calls under way
	Approvals []StatusApproval `json:"approvals"` // the agent's own, open or granted and not used
}

// A StatusApproval is an approval of the agent's.
type StatusApproval struct {
	ID      string         `json:"id"`
	Action  string         `json:"action"`
	Status  session.Status `json:"status"`
	By      []string       `json:"by"`
	Expires time.Time      `json:"expires"`
}

// Status returns the agent's standing in the session as a Status.
func (f *Front) Status(ctx context.Context) (any, error) {
	state, err := f.session.State(ctx)
	if err != nil {
		return nil, err
	}
	s := Status{Session: state.ID, State: state.Lifecycle.String(), Ends: state.Ends, Agent: f.agent.DID, Approvals: []StatusApproval{}}
	if p := state.Participants[f.agent.DID]; p != nil {
		now, err := f.session.Participant(ctx, f.agent.DID)
		if err != nil {
			return nil, err
		}
		s.Ring, s.SigmaEff, s.Running = &now.Ring, &now.SigmaEff, p.Running
	}
	for _, a := range slices.SortedFunc(maps.Values(state.Approvals), func(a, b *session.Approval) int { return int(a.Seq) - int(b.Seq) }) {
		if a.Agent == f.agent.DID && (a.Status == session.Open || a.Status == session.Granted) {
			s.Approvals = append(s.Approvals, StatusApproval{a.ID, a.Action, a.Status, a.By, a.Expires})
		}
	}
	return s, nil
}
