package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// killed.go: what follows a kill: its records, which are owed until they stand, and what they end; and the report.

// killPatience is how long Kill waits for cancelled calls to end and for its records.
const killPatience = 2 * time.Second

// A KilledCall is a call that was under way when it was killed.
type KilledCall struct {
	Session string
	ID      string // of the action; empty: a look at what an action touches, in the system's name
	Action  string // empty with an empty ID
	Outcome string // done, failed (nothing was sent, or the tool said so) or unknown; empty: it still runs
}

// A KillReport says what a kill brought about, as far as was known when it was answered.
type KillReport struct {
	Kill            policy.Kill
	Cancelled       []KilledCall // those that have ended
	StillRunning    []KilledCall // those that could not be cancelled so far
	TokensRevoked   int
	ApprovalsClosed int
	Tasks           []KilledTask // steps of sagas that were the killed agent's to do
	Work            []KilledWork // what it did that stands, in the sessions that are in memory
	Recorded        bool         // its record is in the log; false: it is owed
}

// Kill stops an agent, a session or everything at once (SPEC §7): when it returns, nothing of what was killed is dispatched any
// more but what StillRunning names. k says the Scope, the Reason and perhaps a Note; the rest is filled in. To kill what is
// killed changes nothing. An operator's; there is no witness to wait for. The error is *Refused where the rules say no, and
// ErrStoreUnavailable where neither the kill file nor the log took the kill: it is in force, and would not survive a crash.
func (hv *Hypervisor) Kill(ctx context.Context, caller policy.Caller, k policy.Kill) (KillReport, error) {
	if !caller.Runs() {
		return KillReport{}, &Refused{policy.Refuse(policy.Forbidden, "only an operator kills; %s is %s", caller.DID, caller.Role)}
	}
	if d := k.Fault(); d != nil {
		return KillReport{}, &Refused{*d}
	}
	if err := hv.enter(); err != nil {
		return KillReport{}, err
	}
	defer hv.leave()
	id, err := hv.newKillID()
	if err != nil {
		return KillReport{}, err
	}
	k.ID, k.By, k.At = id, caller.DID, hv.now(time.Time{})
	k, owed, calls, unsaved := hv.kills.stop(k, caller)
	report := KillReport{Kill: k, Recorded: true}
	waiting, stop := hv.soon(ctx)
	defer stop()
	for _, c := range calls {
		killed := KilledCall{Session: c.session, ID: c.id}
		if c.tool != nil {
			killed.Action = c.tool.Descriptor.ID
		}
		switch ended := hv.closes(waiting, c.ended); {
		case !ended:
			report.StillRunning = append(report.StillRunning, killed)
		case c.tool != nil: // a look that has ended is nobody's loss
			killed.Outcome = c.became
			report.Cancelled = append(report.Cancelled, killed)
		}
	}
	hv.kills.changed.pass() // the servers of the killed end now, when they have heard of the cancelling
	if owed != nil {
		hv.closes(waiting, owed.tried)
		refused := hv.kills.tell(owed, &report)
		switch {
		case refused != nil:
			return report, &Refused{*refused}
		case !report.Recorded && unsaved != nil:
			return report, fmt.Errorf("the kill of %s is in force, and would not survive a crash: %w", k.Scope, unsaved)
		}
	}
	hv.leaves(waiting, k, calls, &report)
	return report, nil
}

// closes reports whether a channel is closed before ctx ends.
func (hv *Hypervisor) closes(ctx context.Context, ch <-chan struct{}) bool {
	if hv.await(ctx, ch) == nil {
		return true
	}
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// LiftKill ends a kill of exactly this scope. A killed session has ended and cannot be lifted; tokens and approvals that a kill
// has ended stay so. An operator's.
func (hv *Hypervisor) LiftKill(ctx context.Context, caller policy.Caller, scope policy.Scope) (policy.Decision, error) {
	switch {
	case !caller.Runs():
		return policy.Refuse(policy.Forbidden, "only an operator lifts a kill; %s is %s", caller.DID, caller.Role), nil
	case scope.Session != "" && scope.Agent == "":
		return policy.Refuse(policy.SessionNotActive, "a killed session has ended; create another"), nil
	}
	if d := (policy.Kill{Scope: scope, Reason: policy.Manual}).Fault(); d != nil {
		return *d, nil
	}
	if err := hv.enter(); err != nil {
		return policy.Decision{}, err
	}
	defer hv.leave()
	hv.kills.mu.Lock()
	k, _ := hv.kills.current().In(scope)
	owed := hv.kills.owed[k.ID]
	hv.kills.mu.Unlock()
	if owed != nil { // so that the log tells what was lifted
		if err := hv.kills.record(ctx, owed); err != nil {
			return policy.Decision{}, err
		}
	}
	d, err := hv.submitLift(ctx, caller, scope)
	if err == nil && d.Allowed {
		hv.kills.drop(func(k policy.Kill) bool { return k.Scope == scope })
	}
	return d, err
}

func (hv *Hypervisor) submitLift(ctx context.Context, caller policy.Caller, scope policy.Scope) (policy.Decision, error) {
	switch {
	case scope.All:
		return hv.system.submit(ctx, caller, system.LiftKill{})
	case scope.Session == "":
		return hv.agents.submit(ctx, caller, scope.Agent, agent.LiftKill{})
	}
	s, err := hv.Session(ctx, scope.Session)
	if err != nil {
		return policy.Decision{}, err
	}
	out, err := s.submit(ctx, caller, session.LiftKill{Agent: scope.Agent}, nil)
	return out.Decision, err
}

// Kills returns the kills in force that this process knows of, oldest first: all but those of agents that nobody has asked for
// since it started, and of agents in sessions that are not loaded.
func (hv *Hypervisor) Kills() []policy.Kill { return hv.kills.current().All() }

// Stopped returns the kill that stops an agent wherever it comes: of the agent, or of everything. It returns false where there is
// none.
func (hv *Hypervisor) Stopped(ctx context.Context, did policy.DID) (policy.Kill, bool, error) {
	if _, err := hv.agents.know(ctx, did); err != nil {
		return policy.Kill{}, false, err
	}
	k, stopped := hv.kills.of("", did)
	return k, stopped, nil
}

// KilledIn reports whether an agent is stopped in a session, by a kill of whatever scope.
func (hv *Hypervisor) KilledIn(session string, agent policy.DID) bool {
	_, killed := hv.kills.ofAny(session, hv.line(session, agent))
	return killed
}

// line returns an agent and those who brought it, as far as the session is in memory.
func (hv *Hypervisor) line(id string, agent policy.DID) []policy.DID {
	hv.mu.Lock()
	s := hv.sessions[id]
	hv.mu.Unlock()
	if s == nil {
		return []policy.DID{agent}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return []policy.DID{agent}
	}
	return s.live.state.Line(agent)
}

// KillsChanged returns a channel that is closed when a kill begins or ends next: a gateway then stops the servers of who is
// killed.
func (hv *Hypervisor) KillsChanged() <-chan struct{} { return hv.kills.changed.wait() }

// tell puts into a report what is known of a kill's records, and returns why there are none.
func (ks *killSwitch) tell(o *owedKill, report *KillReport) *policy.Decision {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	_, owed := ks.owed[o.kill.ID]
	report.Recorded = !owed
	report.TokensRevoked, report.ApprovalsClosed = o.tokens, o.approvals
	return o.refused
}

// pursue records a kill, and tries again until its streams have it.
func (ks *killSwitch) pursue(o *owedKill) {
	ks.hv.exec.Insist() // it stands behind no call
	ks.hv.exec.Offer(func(ctx context.Context) {
		if err := ks.record(ctx, o); err != nil && !ks.hv.closing.Load() {
			ks.hv.opts.Logger.Warn("a kill could not be recorded; it is in force, and recording it is tried again", "of", o.kill.Scope.String(), "error", err)
			ks.hv.later(settleRetry, func(context.Context) { ks.pursue(o) })
		}
	})
}

// record brings a kill into its streams. It may be called again, also at the same time. An error says that it must be.
func (ks *killSwitch) record(ctx context.Context, o *owedKill) error {
	defer o.once.Do(func() { close(o.tried) })
	k := o.kill
	var told toldKill
	var err error
	switch {
	case k.All:
		told, err = ks.recordAll(ctx, o)
	case k.Session == "":
		told, err = ks.recordAgent(ctx, o)
	default:
		told, err = ks.recordIn(ctx, o)
	}
	if err == nil && told.refused == nil {
		told.tokens, err = ks.hv.system.revokeTokensOf(ctx, o.caller, k.Scope)
	}
	if err != nil {
		return err
	}
	ks.mu.Lock()
	_, first := ks.owed[k.ID]
	delete(ks.owed, k.ID)
	if first {
		o.refused, o.tokens, o.approvals = told.refused, told.tokens, told.approvals
	}
	ks.mu.Unlock()
	if told.over || told.refused != nil {
		ks.drop(func(other policy.Kill) bool { return other.ID == k.ID })
	}
	return nil
}

// A toldKill is what a kill's stream says of it.
type toldKill struct {
	refused           *policy.Decision // no stream has it
	over              bool             // it was lifted, or what it stopped has ended
	tokens, approvals int
}

func (ks *killSwitch) recordAll(ctx context.Context, o *owedKill) (told toldKill, err error) {
	d, err := ks.hv.system.submit(ctx, o.caller, system.Kill{Kill: o.kill})
	if err != nil {
		return told, err
	}
	ks.hv.system.mu.Lock()
	defer ks.hv.system.mu.Unlock()
	told.over = ks.hv.system.state.Killed == nil
	return told.decided(d), nil
}

func (ks *killSwitch) recordAgent(ctx context.Context, o *owedKill) (told toldKill, err error) {
	did := o.kill.Agent
	d, err := ks.hv.agents.submit(ctx, o.caller, did, agent.Kill{Kill: o.kill})
	if err != nil {
		return told, err
	}
	h := ks.hv.agents.handle(did)
	h.mu.Lock()
	told.over = h.state.Killed == nil
	h.mu.Unlock()
	if !told.over {
		told.approvals, err = ks.hv.closeApprovals(ctx, did)
	}
	return told.decided(d), err
}

// recordIn records a kill of a session, or of an agent in it.
func (ks *killSwitch) recordIn(ctx context.Context, o *owedKill) (told toldKill, err error) {
	s, err := ks.hv.Session(ctx, o.kill.Session)
	if errors.Is(err, ErrNotFound) {
		d := policy.Refuse(policy.NotFound, "there is no session %s", o.kill.Session)
		told.refused = &d
		return told, nil
	} else if err != nil {
		return told, err
	}
	out, err := s.submit(ctx, o.caller, session.Kill{Kill: o.kill}, func(*session.Env) {
		state := s.live.state
		_, there := state.Kills[o.kill.Agent]
		told.over = state.Lifecycle == session.Archived || !there && state.Lifted[o.kill.Agent] == o.kill.ID
	})
	if err != nil {
		return told, err
	}
	for _, e := range out.Events {
		if _, ok := e.(session.ApprovalExpired); ok {
			told.approvals++
		}
	}
	return told.decided(out.Decision), nil
}

func (t toldKill) decided(d policy.Decision) toldKill {
	if !d.Allowed {
		t.refused = &d
	}
	return t
}

// closeApprovals ends what a killed agent waits for, in the sessions that are loaded; the others do it when they are loaded.
func (hv *Hypervisor) closeApprovals(ctx context.Context, did policy.DID) (closed int, err error) {
	for _, s := range hv.inMemory(func(s *Session) bool { return s.hasApprovals(did) }) {
		out, err := s.submit(ctx, policy.System, session.Tick{}, nil)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errForgotten) {
			return closed, err
		}
		for _, e := range out.Events {
			if _, ok := e.(session.ApprovalExpired); ok {
				closed++
			}
		}
	}
	return closed, nil
}

func (s *Session) hasApprovals(did policy.DID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return false
	}
	for _, a := range s.live.state.Approvals {
		if slices.Contains(s.live.state.Line(a.Agent), did) {
			return true
		}
	}
	return false
}

// revokeTokensOf ends the tokens that a kill ends, and returns how many.
func (h *systemHandle) revokeTokensOf(ctx context.Context, caller policy.Caller, scope policy.Scope) (revoked int, err error) {
	for {
		h.mu.Lock()
		left := len(h.state.TokensOf(scope))
		h.mu.Unlock()
		if left == 0 {
			return revoked, nil
		}
		d, err := h.submit(ctx, caller, system.RevokeTokensOf{Scope: scope})
		if err := refusedOr(d, err); err != nil {
			return revoked, err
		}
		h.mu.Lock()
		revoked += left - len(h.state.TokensOf(scope))
		h.mu.Unlock()
	}
}
