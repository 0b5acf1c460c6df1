package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// When a server that ended is started again: after a second, twice that each time, half a minute at most, each less up to
// half of it at random. One that stood for half a minute begins anew.
const (
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	startTimeout = time.Minute // to start, shake hands and list its tools; npx may download first
)

// UpstreamOptions are what an Upstream can do without. The zero value is ready for use.
type UpstreamOptions struct {
	Stderr  io.Writer      // where what the server says on stderr goes, each line after "[name] "; nil: nowhere
	Log     *slog.Logger   // starts, ends, tools left out; nil: nowhere
	Clock   Clock          // nil: WallClock
	Jitter  func() float64 // in [0, 1); nil: math/rand
	Version string         // of this program, as the server is told; empty: "dev"
	Legacy  bool           // speak 2025-11-25 with it if it can, as the agent does: a server may ask in another way then
	Again   bool           // it ran before, and agents know what it had then
	Shared  bool           // several agents use it: it can ask and tell none of them anything during a call

	Questions Questions // that it may ask
}

// An Upstream is one MCP server: a child process with everything it starts, or an endpoint over HTTP. It is a handle, safe for
// concurrent use.
type Upstream struct {
	name     string
	command  Command
	endpoint *Endpoint // nil: the command
	opt      UpstreamOptions
	tokens   atomic.Int64                   // progress tokens given out
	barred   func() (bool, <-chan struct{}) // whether its process must not run, and what is closed when that may have changed; nil: it may
	answered atomic.Int64                   // when a call was answered last; Unix nanoseconds
	tried    chan struct{}
	changed  chan struct{} // one slot

	mu       sync.Mutex
	link     *link // nil: not running
	attempts int
	down     error     // why link is nil; nil before the first attempt has ended
	retry    time.Time // when it is started again; zero: nothing is planned
	tools    []Tool    // as last listed; they stay while it is down
	has      Features
	lists    editions
	watched  map[string]map[*watch]struct{} // by the URI

	watching chan struct{} // one slot: a subscription begins or ends
}

// NewUpstream returns an upstream that Run will start. Its name is for people and records; opt may be nil.
func NewUpstream(name string, command Command, opt *UpstreamOptions) *Upstream {
	u := &Upstream{name: name, command: command, tried: make(chan struct{}), changed: make(chan struct{}, 1), watching: make(chan struct{}, 1)}
	if opt != nil {
		u.opt = *opt
	}
	if u.opt.Stderr == nil {
		u.opt.Stderr = io.Discard
	}
	if u.opt.Log == nil {
		u.opt.Log = slog.New(slog.DiscardHandler)
	}
	if u.opt.Clock == nil {
		u.opt.Clock = WallClock{}
	}
	if u.opt.Jitter == nil {
		u.opt.Jitter = rand.Float64
	}
	return u
}

// NewRemoteUpstream returns an upstream over Streamable HTTP, which Run will connect to; opt may be nil.
func NewRemoteUpstream(name string, at Endpoint, opt *UpstreamOptions) *Upstream {
	u := NewUpstream(name, Command{}, opt)
	u.endpoint = &at
	return u
}

// Name returns the upstream's name.
func (u *Upstream) Name() string { return u.name }

// Run starts the server, starts it again whenever it ends, and returns when ctx ends, with ctx's cause, once no process and
// goroutine of it is left. It is called once.
func (u *Upstream) Run(ctx context.Context) error {
	delay := firstBackoff
	for {
		life, end := u.unbarred(ctx)
		began := u.opt.Clock.Now()
		err := u.serve(life)
		end()
		now := u.opt.Clock.Now()
		if ctx.Err() != nil {
			u.setDown(context.Cause(ctx), time.Time{})
			return context.Cause(ctx)
		}
		if errors.Is(context.Cause(life), errBarred) {
			delay = firstBackoff
			continue
		}
		if now.Sub(began) >= maxBackoff {
			delay = firstBackoff
		}
		wait := delay - time.Duration(u.opt.Jitter()*float64(delay/2))
		delay = min(2*delay, maxBackoff)
		u.opt.Log.Warn("server is down", "server", u.name, "error", err, "again_in", wait)
		u.setDown(err, now.Add(wait))
		select {
		case <-u.opt.Clock.After(wait):
		case <-ctx.Done():
			u.setDown(context.Cause(ctx), time.Time{})
			return context.Cause(ctx)
		}
	}
}

// errBarred is why the process of who was killed does not run.
var errBarred = errors.New("it was stopped by a kill and is started again once that is lifted; try again in a moment")

// unbarred waits until the server may run, and returns a context that ends when it must not any more, with errBarred, and what
// ends it before.
func (u *Upstream) unbarred(ctx context.Context) (context.Context, func()) {
	life, cancel := context.WithCancelCause(ctx)
	if u.barred == nil || u.endpoint != nil { // what runs elsewhere cannot be stopped, only not be called
		return life, func() { cancel(nil) }
	}
	barred, changed := u.barred()
	for barred && ctx.Err() == nil {
		u.setDown(errBarred, time.Time{})
		select {
		case <-changed:
		case <-ctx.Done():
		}
		barred, changed = u.barred()
	}
	var own sync.WaitGroup
	own.Go(func() {
		for {
			select {
			case <-changed:
			case <-life.Done():
				return
			}
			if barred, changed = u.barred(); barred {
				cancel(errBarred)
				return
			}
		}
	})
	return life, func() { cancel(nil); own.Wait() }
}

// killed returns when a server that works for an agent in a session is barred.
func killed(hv *hypervisor.Hypervisor, session string, agent policy.DID) func() (bool, <-chan struct{}) {
	return func() (bool, <-chan struct{}) {
		changed := hv.KillsChanged() // first, so that no change is missed
		return hv.KilledIn(session, agent), changed
	}
}

// serve is one life of the server.
func (u *Upstream) serve(ctx context.Context) error {
	// A server that never answers server/discover, which it may not know, is asked the old way the next time.
	u.mu.Lock()
	legacy := u.opt.Legacy
	if u.attempts%2 == 1 && (legacy || errors.Is(u.down, errStartTimeout)) {
		legacy = !legacy
	}
	u.attempts++
	u.mu.Unlock()

	l, tools, err := u.start(ctx, legacy)
	if err != nil {
		return err
	}
	u.mu.Lock()
	first := u.tools == nil
	changed := !sameTools(u.tools, tools) && (!first || u.attempts > 1)
	u.link, u.down, u.retry, u.tools, u.has = l, nil, time.Time{}, tools, l.features()
	again := u.opt.Again
	u.opt.Again = true
	u.noteTried()
	u.mu.Unlock()
	if again { // it may have come back as another; what else it has is kept nowhere
		u.listsChanged(promptsChanged)
		u.listsChanged(resourcesChanged)
	}
	u.opt.Log.Info("server is up", "server", u.name, "tools", len(tools))
	if changed {
		u.toolsChanged()
	}
	return l.run(ctx)
}

func (u *Upstream) setDown(why error, retry time.Time) {
	u.mu.Lock()
	u.link, u.down, u.retry = nil, why, retry
	u.noteTried()
	u.mu.Unlock()
}

// noteTried says that an attempt to start has ended. The caller holds mu.
func (u *Upstream) noteTried() {
	select {
	case <-u.tried:
	default:
		close(u.tried) // only Run comes here, so it is closed once
	}
}

func (u *Upstream) setTools(tools []Tool) {
	u.mu.Lock()
	changed := !sameTools(u.tools, tools)
	u.tools = tools
	u.mu.Unlock()
	if changed {
		u.toolsChanged()
	}
}

func (u *Upstream) toolsChanged() {
	select {
	case u.changed <- struct{}{}:
	default: // whoever looks will see both changes
	}
}

// Changed returns a channel that receives once Tools has changed, but for a first listing that Ready has waited for. It has one
// reader.
func (u *Upstream) Changed() <-chan struct{} { return u.changed }

func sameTools(a, b []Tool) bool {
	return slices.EqualFunc(a, b, func(x, y Tool) bool { return x.Digest == y.Digest })
}

// capabilities are what we tell the server that it can ask. Whether the client of a call can be asked shows when it is.
func (u *Upstream) capabilities() *mcp.ClientCapabilities {
	c := &mcp.ClientCapabilities{}
	if u.opt.Shared {
		return c
	}
	c.Elicitation = &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}}
	if u.opt.Questions.allow(askModel, false) {
		c.Sampling = &mcp.SamplingCapabilities{}
	}
	if u.opt.Questions.allow(askRoots, false) {
		c.RootsV2 = &mcp.RootCapabilities{}
	}
	return c
}

// known returns the tools, and whether they were ever listed.
func (u *Upstream) known() ([]Tool, bool) {
	tools := u.Tools()
	return tools, tools != nil
}

// use returns the upstream itself, which its Run keeps up.
func (u *Upstream) use(context.Context, bool) (*Upstream, func(), error) { return u, func() {}, nil }

// Ready waits until the first attempt to start the server has ended, and returns why it failed, or nil.
func (u *Upstream) Ready(ctx context.Context) error {
	select {
	case <-u.tried:
	case <-ctx.Done():
		return ctx.Err()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.link == nil {
		return u.down
	}
	return nil
}

// Tools returns the tools as last listed, in the server's order; nil before the first listing. The result is not to be changed.
func (u *Upstream) Tools() []Tool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tools
}

// Features returns what the server has beside tools, as it last said.
func (u *Upstream) Features() Features {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.has
}

func (u *Upstream) features() (Features, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.has, u.tools != nil
}

// ErrReported is returned, wrapped, beside a result by which the tool itself says that it failed (isError).
var ErrReported = errors.New("the tool reports an error")

// Call calls a tool, if it is still listed as t defines it, and returns its result (a CallToolResult) as the server wrote it. Progress, if wanted, is reported in
// order before Call returns; progress may block, and then holds up all of the server's answers.
//
// Errors: action.ErrNotDispatched: the server was not running, or certainly did not get the call. action.ErrUnknownOutcome: it
// may have, and the connection broke. ctx's own: it may have, and has been told that the answer is not wanted any more.
// ErrReported beside a result. Any other: the server answered with a protocol error, which is the error's text.
func (u *Upstream) Call(ctx context.Context, t Tool, args json.RawMessage, progress func(Progress)) (json.RawMessage, error) {
	u.mu.Lock()
	l, err := u.link, u.whyDown()
	listed := slices.ContainsFunc(u.tools, func(x Tool) bool { return x.Name == t.Name && x.Digest == t.Digest })
	u.mu.Unlock()
	switch {
	case l == nil:
		return nil, err
	case !listed: // it may have come back as another program
		return nil, fmt.Errorf("%w: server %s has changed the definition of %s; list the tools again", action.ErrNotDispatched, u.name, t.Name)
	}
	wire := &tap{}
	if progress != nil {
		wire.progressToken, wire.progress = u.tokens.Add(1), progress
	}
	if u.endpoint != nil {
		wire.headers = t.wantedHeaders(args)
	}
	if !u.opt.Shared && !hypervisor.InSystemsName(ctx) {
		wire.caller = callerOf(ctx)
	}
	result, err := l.call(ctx, wire, t.Name, args)
	if err == nil || errors.Is(err, ErrReported) {
		u.answered.Store(u.opt.Clock.Now().UnixNano())
	}
	return result, err
}

// answerLife is how long a server that has answered is taken for one that answers.
const answerLife = 30 * time.Second

// Answers returns why the server does not answer now; nil: it does, or has within answerLife.
func (u *Upstream) Answers(ctx context.Context) error {
	u.mu.Lock()
	l, err := u.link, u.whyDown()
	u.mu.Unlock()
	switch {
	case l == nil:
		return err
	case u.opt.Clock.Now().Sub(time.Unix(0, u.answered.Load())) < answerLife:
		return nil
	}
	var said *jsonrpc.Error // that it knows no ping is an answer too
	if err := l.session.Ping(ctx, nil); err != nil && !errors.As(err, &said) {
		return fmt.Errorf("server %s does not answer: %w", u.name, err)
	}
	u.answered.Store(u.opt.Clock.Now().UnixNano())
	return nil
}

// Request does one of readMethods and returns its result as the server wrote it. Progress and errors are as Call's.
func (u *Upstream) Request(ctx context.Context, method string, params json.RawMessage, progress func(Progress)) (json.RawMessage, error) {
	u.mu.Lock()
	l, err := u.link, u.whyDown()
	u.mu.Unlock()
	if l == nil {
		return nil, err
	}
	wire := &tap{}
	if progress != nil {
		wire.progressToken, wire.progress = u.tokens.Add(1), progress
	}
	if !u.opt.Shared {
		wire.caller = callerOf(ctx)
	}
	return l.request(ctx, wire, method, params)
}

// whyDown says why there is no link and what to do. The caller holds mu.
func (u *Upstream) whyDown() error {
	switch {
	case u.link != nil:
		return nil
	case u.down == nil:
		return fmt.Errorf("%w: server %s is being started; try again in a moment", action.ErrNotDispatched, u.name)
	case errors.Is(u.down, errBarred): // who is still killed is refused at the door; whom a lift let go on is here before the server
		return fmt.Errorf("%w: server %s: %w", action.ErrNotDispatched, u.name, u.down)
	case u.retry.IsZero():
		return fmt.Errorf("%w: server %s is stopped", action.ErrNotDispatched, u.name)
	}
	in := max(0, u.retry.Sub(u.opt.Clock.Now())).Round(100 * time.Millisecond)
	return fmt.Errorf("%w: server %s is not running (%w); it is started again in %s, try then", action.ErrNotDispatched, u.name, u.down, in)
}
