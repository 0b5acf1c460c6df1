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
	"strings"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
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

// A Front stands upstreams before one agent in one session: one by its own tool names (NewFront), or many, whose tools are then
// shown as server__tool (Hub). It is a handle, safe for concurrent use.
type Front struct {
	hv      *hypervisor.Hypervisor
	session *hypervisor.Session
	agent   policy.Caller
	up      *Upstream // of NewFront; nil: a hub's
	opt     FrontOptions
	render  func(server string, t Tool) Tool // a tool as the agent is shown it

	spawn      func(func())   // starts a goroutine that ends a subscription
	own        sync.WaitGroup // of spawn, where Run waits
	refreshing sync.Mutex     // one at a time, so that what is shown is what was registered last

	mu     sync.Mutex
	faces  []*face
	told   bool      // the agent has been shown a list
	reach  ring.Ring // as it was told
	routes routing

	subscriptions map[*subscription]struct{}
}

// A face is one upstream as a front shows it.
type face struct {
	source
	claims func(tool string) []action.Claim
	trust  bool

	// Guarded by the front's mu.
	loaded bool              // its tools are registered
	shown  []Tool            // as the agent sees them, if its ring could ever do
	from   []ring.Ring       // from which ring on, in the places of shown
	names  map[string]string // a name the agent knows → the server's own; tools that are not shown are in it too
}

// A source is where an upstream's connection comes from. Safe for concurrent use.
type source interface {
	Name() string
	// known returns the tools as last listed, and whether they ever were.
	known() ([]Tool, bool)
	// features returns what the server has beside tools, and whether that is known.
	features() (Features, bool)
	// use returns the upstream, being started if it was not running, and keeps it until release is called. An error wraps
	// action.ErrNotDispatched.
	// To keep it is for more than a call: only so many are.
	use(ctx context.Context, keep bool) (up *Upstream, release func(), err error)
}

// ErrUpstream is returned, wrapped with why, by Front.Run when the server could not be started at first.
var ErrUpstream = errors.New("the tool server does not start")

// NewFront returns a front; opt may be nil. The upstream's Run is the front's to call.
func NewFront(hv *hypervisor.Hypervisor, s *hypervisor.Session, agent policy.Caller, up *Upstream, opt *FrontOptions) *Front {
	f := &Front{hv: hv, session: s, agent: agent, up: up, render: asItIs}
	if opt != nil {
		f.opt = *opt
	}
	if f.opt.Claims == nil {
		f.opt.Claims = func(string) []action.Claim { return nil }
	}
	if f.opt.Log == nil {
		f.opt.Log = slog.New(slog.DiscardHandler)
	}
	up.barred = killed(hv, s.ID(), agent.DID)
	f.spawn = f.own.Go
	f.faces = []*face{{source: up, claims: f.opt.Claims, trust: f.opt.TrustAnnotations}}
	return f
}

// asItIs shows a tool under its own name.
func asItIs(_ string, t Tool) Tool {
	t.Definition, _ = neutralised(t.Definition)
	return t
}

// Run starts the upstream and serves the agent on in and out, as Server.Run does, until that returns; then it stops the upstream
// and waits for it. A server that does not start at first is ErrUpstream; one that ends later is started again.
func (f *Front) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	defer f.own.Wait()
	defer own.Wait()
	defer cancel()
	own.Go(func() { _ = f.up.Run(ctx) }) // it ends with ctx and says nothing else
	if err := f.up.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUpstream, f.up.Name(), err)
	}
	if _, err := f.refresh(ctx, f.faces[0]); err != nil {
		return err
	}
	server := NewServer(f, &ServerOptions{Reads: f, Peer: f, Version: f.opt.Version, Log: f.opt.Log, Clock: f.opt.Clock})
	own.Go(func() { f.follow(ctx, server) })
	return server.Run(ctx, in, out)
}

// follow takes over every change of the upstream's list, and every definition that an operator accepts.
func (f *Front) follow(ctx context.Context, server *Server) {
	var told editions
	for {
		accepted := f.hv.Accepted()
		select {
		case <-ctx.Done():
			return
		case <-f.up.Changed():
		case <-accepted:
		}
		was := told
		told = f.up.editions()
		f.tellLists(server, told.since(was))
		if _, err := f.refresh(ctx, f.faces[0]); err != nil {
			// What is registered stays, and a call of a tool that has changed since is not sent (Upstream.Call).
			f.opt.Log.Error("changed tools not taken over", "server", f.up.Name(), "error", err)
			continue
		}
		server.ToolsChanged()
	}
}

// refresh pins and registers a face's tools as its upstream lists them now, and reports whether a list that the agent was shown
// before is otherwise now.
func (f *Front) refresh(ctx context.Context, c *face) (bool, error) {
	f.refreshing.Lock()
	defer f.refreshing.Unlock()
	tools, registered, err := f.prepare(ctx, c)
	if err != nil {
		return false, err
	}
	// What is kept is as large as it must be: it is kept for every agent.
	shown := make([]Tool, 0, len(registered))
	from := make([]ring.Ring, 0, len(registered))
	names := make(map[string]string, len(registered))
	for _, t := range tools {
		r, ok := registered[t.Name]
		if !ok {
			continue
		}
		seen := f.render(c.Name(), t)
		names[seen.Name] = t.Name
		// A definition that is not the pinned one is text from nobody knows whom: it is not put before the model.
		if !r.Changed && !r.Descriptor.Admin {
			shown, from = append(shown, seen), append(from, session.AllowedFrom(r.Descriptor))
		}
	}
	others := f.withQuestions(c)
	all := slices.AppendSeq(append(make([]hypervisor.Tool, 0, len(others)+len(registered)), others...), maps.Values(registered))
	if err := f.session.SetTools(f.agent.DID, c.Name()+".", all); err != nil {
		return false, fmt.Errorf("registering tools of %s: %w", c.Name(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.told && !sameTools(c.shown, shown)
	c.loaded, c.shown, c.from, c.names = true, shown, from, names
	return changed, nil
}

// Equip is a hypervisor.Equipper: it brings the front's tools into another session, where its agent's actions are taken back.
func (f *Front) Equip(ctx context.Context, s *hypervisor.Session, agent policy.DID) error {
	if agent != f.agent.DID {
		return nil // nothing stands before that agent
	}
	for _, c := range f.all() {
		_, registered, err := f.prepare(ctx, c)
		if err != nil {
			return err
		}
		if err := s.SetTools(policy.System.DID, c.Name()+".", slices.Collect(maps.Values(registered))); err != nil {
			return fmt.Errorf("registering tools of %s: %w", c.Name(), err)
		}
	}
	return nil
}

// prepare pins a face's tools as its upstream lists them now, and returns them, and those that can be registered by their names.
func (f *Front) prepare(ctx context.Context, c *face) ([]Tool, map[string]hypervisor.Tool, error) {
	tools, _ := c.known()
	server := c.Name()
	pins := map[string]system.Seen{}
	registered := map[string]hypervisor.Tool{}
	for i := range tools {
		t := &tools[i] // all agents' functions share it
		d := c.descriptor(*t)
		err := d.Validate()
		if !mayBeTool(t.Name) {
			err = fmt.Errorf("%w: name %q is of what is no tool", ErrTool, t.Name)
		}
		if err != nil {
			f.opt.Log.Warn("tool left out", "server", server, "error", err)
			continue
		}
		if pins[d.ID], err = t.pinned(); err != nil {
			return nil, nil, fmt.Errorf("pinning %s: %w", d.ID, err)
		}
		registered[t.Name] = hypervisor.Tool{Server: server, Descriptor: d, Answers: c.answers, Do: f.call(c, t), Prompt: true,
			Check: func(args map[string]any) error { return t.Check(args) }}
	}
	otherwise, err := f.hv.Pin(ctx, policy.System.Through("gateway"), pins)
	if err != nil {
		return nil, nil, fmt.Errorf("pinning tools of %s: %w", server, err)
	}
	for name, r := range registered {
		r.Changed = otherwise[r.Descriptor.ID]
		registered[name] = r
	}
	return tools, registered, nil
}

// answers returns why the server does not answer; nil: it does.
func (c *face) answers(ctx context.Context) error {
	up, release, err := c.use(ctx, false)
	if err != nil {
		return err
	}
	defer release()
	return up.Answers(ctx)
}

// call returns what does a call of a tool.
func (f *Front) call(c *face, t *Tool) action.Func {
	return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
		up, release, err := c.use(ctx, false)
		if err != nil {
			return nil, err
		}
		defer release()
		return up.Call(withQuestioner(ctx, f.questioner(c)), *t, args, ProgressOf(ctx))
	}
}

func (c *face) descriptor(t Tool) action.Descriptor {
	claims := slices.Clone(c.claims(t.Name))
	if c.trust {
		claims = append(claims, t.Annotations.Claim())
	}
	return action.Resolve(c.Name()+"."+t.Name, claims...)
}

// actionID returns a tool's name, as the agent knows it, as policies and records say it. A name that no tool can have is not put
// into a record as it is.
func (f *Front) actionID(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.faces {
		if own, ok := c.names[name]; ok {
			return c.Name() + "." + own
		}
	}
	server := ownServer
	if f.up != nil {
		if server = f.up.Name(); mayBeTool(name) {
			return server + "." + name
		}
	}
	for _, c := range f.faces {
		rest, ok := strings.CutPrefix(name, c.Name()+"__")
		if ok && f.up == nil && mayBeTool(rest) && !slices.Contains(slices.Collect(maps.Values(c.names)), rest) {
			return c.Name() + "." + rest
		}
	}
	return server + "." + noSuchName + fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:12]
}

// noSuchName begins what stands in records for a name that no tool can have.
const noSuchName = "no-such-name-"

// loaded reports whether a face's tools are registered.
func (f *Front) loaded(c *face) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return c.loaded
}

// shownTool returns a tool by the name that the agent is shown.
func (f *Front) shownTool(name string) (Tool, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.faces {
		if at := slices.IndexFunc(c.shown, func(t Tool) bool { return t.Name == name }); at >= 0 {
			return c.shown[at], true
		}
	}
	return Tool{}, false
}

// all returns the faces as they are now.
func (f *Front) all() []*face {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.faces)
}

// replace puts other faces in the place of those there are, forgets the tools of those that are gone, and reports whether the
// agent was shown any of them.
func (f *Front) replace(faces []*face) (changed bool) {
	defer f.dropGone()
	f.refreshing.Lock()
	defer f.refreshing.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.faces
	f.faces = faces
	for _, c := range old {
		if !slices.Contains(faces, c) {
			_ = f.session.SetTools(f.agent.DID, c.Name()+".", nil) // nothing in it that could be wrong
			changed = changed || len(c.shown) > 0
			f.routes = routing{} // some of them lead to it
		}
	}
	return changed && f.told
}

// Tools returns the tools the agent is shown: those whose definition is the pinned one, that are not admin, and that no approval or
// elevation is too little for.
func (f *Front) Tools(ctx context.Context) ([]Tool, error) {
	reach, err := f.session.Reach(ctx, f.agent.DID)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.reach = true, reach
	var all []Tool
	for _, c := range f.faces {
		for i, t := range c.shown {
			if reach <= c.from[i] {
				all = append(all, t)
			}
		}
	}
	return all, nil
}

// outgrown reports, once, that the list the agent was told is another now: its reach has changed since.
func (f *Front) outgrown(ctx context.Context) bool {
	reach, err := f.session.Reach(ctx, f.agent.DID)
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := err == nil && f.told && reach != f.reach // with an error the next call is asked again
	if changed {
		f.reach = reach
	}
	return changed
}

// Act puts a call to the session.
func (f *Front) Act(ctx context.Context, tool string, args json.RawMessage) (Reply, error) {
	id := f.actionID(tool)
	out, err := f.session.Act(ctx, f.agent, session.Act{Action: id, Args: args})
	switch {
	case err == nil:
		if _, name, _ := strings.Cut(id, "."); out.Code == policy.UnknownAction && strings.HasPrefix(name, noSuchName) {
			out.Reason = fmt.Sprintf("there is no tool %q here; the list of tools names those there are", document.Clip(neutralText(tool)))
		}
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
	Until     *time.Time       `json:"quarantined_until,omitempty"` // it may only read until then; absent: it is in no quarantine
	Running   int              `json:"running"`                     // calls under way
	Approvals []StatusApproval `json:"approvals"`                   // the agent's own, open or granted and not used
	Votes     []StatusVote     `json:"votes"`                       // others' that wait for the agent's vote, or for it as a sponsor
	Elevation *StatusElevation `json:"elevation,omitempty"`         // absent: none
}

// A StatusElevation is an elevation in effect.
type StatusElevation struct {
	ID    string    `json:"id"`
	Ring  ring.Ring `json:"ring"`
	Until time.Time `json:"until"`
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
		switch known, err := f.hv.Agent(ctx, f.agent.DID); {
		case errors.Is(err, hypervisor.ErrNotFound): // it has no ledger yet
		case err != nil:
			return nil, err
		case known.Quarantine != nil:
			s.Until = &known.Quarantine.Until
		}
	}
	for _, a := range slices.SortedFunc(maps.Values(state.Approvals), func(a, b *session.Approval) int { return int(a.Seq) - int(b.Seq) }) {
		if a.Agent == f.agent.DID && (a.Status == session.Open || a.Status == session.Granted) {
			s.Approvals = append(s.Approvals, StatusApproval{a.ID, a.Action, a.Status, a.By, a.Expires})
		}
	}
	if e := state.Elevations[f.agent.DID]; e != nil {
		s.Elevation = &StatusElevation{e.ID, e.Ring, e.Until}
	}
	if s.Votes, err = f.votes(ctx, state); err != nil {
		return nil, err
	}
	return s, nil
}
