package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// live.go: a session in memory, from load to eviction, and the one path every command takes.

// A live is a session's state in memory. The handle's lock guards it.
type live struct {
	state    *session.State
	st       *stream
	tallies  map[policy.DID]session.Tally
	agents   gallery
	secret   [32]byte
	armed    time.Time // what the timer is set to
	snapshot uint64    // the newest snapshot's record

	stamped session.Env // what env returned
	random  [56]byte    // of the command: salts derive from the first 32; the rest is public, so it is not of them
}

// submit decides a command, records what it brought about and waits for what must be waited for. stamp adds to what the
// decision may know; nil adds nothing.
func (s *Session) submit(ctx context.Context, caller policy.Caller, c session.Command, stamp func(*session.Env)) (session.Outcome, error) {
	out, t, err := s.propose(ctx, caller, c, errand{stamp: stamp})
	if err != nil {
		return out, err
	}
	return out, s.hv.wait(ctx, t)
}

// An errand is what who gives a command does about it on its way. The session's lock is held in its functions. The zero errand does
// nothing.
type errand struct {
	stamp   func(*session.Env)    // adds to what the decision may know
	decided func(session.Outcome) // is called with an outcome that will be recorded, before the record is handed over
	goesOn  func(*call)           // is called with the call of a saga's step that stands in the same record (goOn); nil: none does
}

// propose is submit that leaves the waiting to its caller: for t, nil if nothing is to be waited for.
func (s *Session) propose(ctx context.Context, caller policy.Caller, c session.Command, e errand) (session.Outcome, *ticket, error) {
	// The slot is taken before Decide: once State has the record there is no way back, so a full queue must be found out first.
	if err := s.hv.reserve(); err != nil {
		return session.Outcome{}, nil, err
	}
	out, t, err := s.decide(ctx, caller, c, e)
	if err != nil || len(out.Events) == 0 {
		s.hv.committer.Release()
	} else {
		s.hv.help(ctx)
	}
	return out, t, err
}

// consider decides a command and lets the decision be: nothing is applied or recorded.
func (s *Session) consider(ctx context.Context, caller policy.Caller, c session.Command, stamp func(*session.Env)) (session.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return session.Outcome{}, err
	}
	env, _, err := s.env(caller)
	if err != nil {
		return session.Outcome{}, err
	}
	if stamp != nil {
		stamp(env)
	}
	return session.Decide(s.live.state, env, c)
}

// decide is steps 3 to 6 of a command. A slot is reserved; it is used exactly if events come out.
func (s *Session) decide(ctx context.Context, caller policy.Caller, c session.Command, e errand) (session.Outcome, *ticket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, create := c.(session.Create)
	if create && s.gone {
		return session.Outcome{}, nil, errForgotten
	}
	if err := s.load(ctx); err != nil {
		return session.Outcome{}, nil, err
	}
	if !create && s.live.state.Lifecycle == session.Absent {
		s.hv.forget(s)
		return session.Outcome{}, nil, fmt.Errorf("session %q: %w", s.id, ErrNotFound)
	}
	env, trace, err := s.env(caller)
	if err != nil {
		return session.Outcome{}, nil, err
	}
	if e.stamp != nil {
		e.stamp(env)
	}
	defer func() { env.Call = nil }() // what it was about is not held until the next command
	return s.record(ctx, env, trace, c, e)
}

// record decides, applies and hands over.
func (s *Session) record(ctx context.Context, env *session.Env, trace string, c session.Command, e errand) (session.Outcome, *ticket, error) {
	l := s.live
	out, err := session.Decide(l.state, env, c)
	if _, recovers := c.(session.Recover); err == nil && s.lost && len(out.Events) > 0 && !recovers {
		// Only now, so that while the store is away there still is an answer that needs no record.
		asked := *env
		if err := s.recover(ctx, true); err != nil {
			s.drop()
			return out, nil, err
		}
		s.lost, *env = false, asked
		out, err = session.Decide(l.state, env, c) // its ids are the new epoch's
	}
	if err != nil {
		return out, nil, err
	}
	s.tally(out.Tallies)
	if len(out.Events) == 0 {
		s.rearm()
		if out.Durable {
			return out, l.st.newest, nil // what the answer rests on may still be on its way
		}
		return out, nil, nil
	}
	if err := s.hv.putOutside(ctx, out.Parts); err != nil {
		return out, nil, fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
	}
	if e.decided != nil {
		e.decided(out)
	}
	s.known = true
	effects := session.Apply(l.state, session.Stamp{Seq: l.st.seq + 1, Time: env.Now, Caller: env.Caller.DID}, out.Events)
	early := forward(out.Events)
	if early {
		left := s.goOn(ctx, env, &out, &effects, e)
		if early = forward(out.Events); early { // else a step that was refused has turned a saga
			early = left > 0
			effects = slices.DeleteFunc(effects, func(e session.Effect) bool { _, try := e.(session.Try); return try })
		}
	}
	effects = slices.DeleteFunc(effects, s.ownDispatch)
	l.agents.follow(l.state, out.Events)
	l.st.events = session.AppendEvents(l.st.events[:0], out.Events)
	d := draft{at: env.Now, caller: env.Caller, trace: trace, events: l.st.events, payload: encode(out.Parts),
		deadline: s.rearm(), owes: session.Owes(l.state), durable: out.Durable} // the timer before the record can be lost, which sets one too
	if len(effects) > 0 && out.Durable {
		d.then = func() { s.owe(effects) }
	}
	t := l.st.write(d)
	if len(effects) > 0 && !out.Durable {
		s.owe(effects) // a read-only call of an eventual session goes out at once
	}
	if early {
		s.hv.offer(s.sendTries)
	}
	s.keepSnapshot(ctx)
	if !out.Durable {
		t = nil
	}
	return out, t, nil
}

// env stamps what every decision may know. It is valid until it is stamped anew. The lock is held.
func (s *Session) env(caller policy.Caller) (*session.Env, string, error) {
	l, rules := s.live, s.hv.rules.Load()
	b := &l.random
	if err := s.hv.random(b[:]); err != nil {
		return nil, "", err
	}
	s.used = s.hv.now(l.state.Time)
	l.stamped = session.Env{
		Now: s.used, Caller: caller, Standings: l.agents.current(s.hv.agents, l.state), Scores: l.agents.scores,
		Rules: rules.rules, RulesID: rules.version, Random: [32]byte(b[:32]), Secret: l.secret,
		Incarnation: s.hv.incarnation, NodeEpoch: s.hv.system.epoch(), Operators: len(s.hv.opts.Operators), Tallies: l.tallies,
		Kills: s.hv.kills.current(),
	}
	return &l.stamped, traceParent([16]byte(b[32:48]), [8]byte(b[48:])), nil
}

// tally keeps what a decision made of the tallies that it read. The lock is held.
func (s *Session) tally(tallies []session.TallyOf) {
	for _, t := range tallies {
		s.live.tallies[t.Agent] = t.Tally
	}
}

// putOutside makes each large part of a record a blob, durable before the record that speaks of it.
func (hv *Hypervisor) putOutside(ctx context.Context, parts []audit.Part) error {
	for i := range parts {
		p := &parts[i]
		if len(p.Bytes) <= audit.MaxInline {
			continue
		}
		p.Outside = p.Commitment()
		// If we crash here the blob is an orphan: never read, harmless.
		if err := hv.store.PutBlob(ctx, p.Outside, p.Bytes); err != nil {
			return fmt.Errorf("storing a blob: %w", err)
		}
		p.External, p.Bytes = true, nil
	}
	return nil
}

// encode returns what stands beside a record; nil: nothing does.
func encode(parts []audit.Part) []byte {
	if len(parts) == 0 {
		return nil
	}
	size := 1
	for i := range parts {
		size += len(parts[i].Name) + len(parts[i].Bytes) + 64
	}
	return audit.AppendPayload(make([]byte, 0, size), parts)
}

// load makes s.live sound: it reads the session unless it is in memory and nothing of it was lost. The lock is held.
func (s *Session) load(ctx context.Context) error {
	if s.live != nil {
		if s.live.st.lane.Err() == nil {
			return nil
		}
		s.drop()
	}
	s.hv.makeRoom(ctx, s)
	l, err := s.read(ctx)
	if err != nil {
		return err
	}
	absent := l.state.Lifecycle == session.Absent
	if s.gone && !absent && l.state.Lifecycle != session.Archived {
		return errForgotten
	}
	if absent { // a session that is being created, or none
		if err := s.hv.random(l.secret[:]); err != nil {
			return err
		}
	}
	s.live, s.used = l, s.hv.now(l.state.Time)
	s.hv.mu.Lock()
	s.hv.loaded[s] = struct{}{}
	s.hv.wake(s)
	s.hv.mu.Unlock()
	if absent {
		return nil
	}
	s.known = true
	if err := s.resume(ctx); err != nil {
		s.drop()
		return err
	}
	return nil
}

// errStale is returned by readFrom for a snapshot of records that are not in the log: they were lost in a crash.
var errStale = errors.New("snapshot is not of this log")

// read folds the session's records, from its newest snapshot if there is a sound one.
func (s *Session) read(ctx context.Context) (*live, error) {
	name := audit.SessionPrefix + s.id
	if snap, ok := readSnapshot(ctx, s.hv, name, session.NewState(s.id)); ok && snap.State.Seq == snap.Tree.Size {
		l, err := s.readFrom(ctx, name, snap)
		if !errors.Is(err, errStale) {
			return l, err
		}
		s.hv.opts.Logger.Warn("passing over a snapshot of records that were lost", "session", s.id)
	}
	return s.readFrom(ctx, name, snapshotJSON[*session.State]{State: session.NewState(s.id)})
}

// readFrom folds the records behind a snapshot, which may be of nothing.
func (s *Session) readFrom(ctx context.Context, name string, snap snapshotJSON[*session.State]) (*live, error) {
	l := &live{state: snap.State, tallies: map[policy.DID]session.Tally{}, snapshot: snap.State.Seq,
		agents: gallery{known: map[policy.DID]agent.Standing{}},
		st:     &stream{hv: s.hv, name: name, lane: &eventlog.Lane{}, lost: s.reviveLater, seq: snap.State.Seq, head: snap.Head, tree: snap.Tree}}
	if l.snapshot > 1 { // else it is among those that are read anyway
		for r, err := range s.hv.read(ctx, name, 1) {
			if err != nil {
				return nil, err
			}
			if err := l.readSecret(r); err != nil {
				return nil, err
			}
			break
		}
	}
	seen := l.snapshot == 0
	for r, err := range s.hv.read(ctx, name, max(1, l.snapshot)) {
		if err == nil && r.Seq == 1 {
			err = l.readSecret(r)
		}
		switch {
		case err != nil:
			return nil, err
		case r.Seq == l.snapshot && r.Leaf == l.st.head:
			seen = true // its own record: the log agrees
		case !seen:
			return nil, errStale
		default:
			if err := l.fold(r); err != nil {
				return nil, fmt.Errorf("%s, record %d: %w", name, r.Seq, err)
			}
		}
	}
	if !seen {
		return nil, errStale
	}
	return l, nil
}

func (l *live) fold(r *stored) error {
	events, err := session.ParseEvents(r.Events)
	if err != nil {
		return err
	}
	if r.Seq != l.st.seq+1 {
		return fmt.Errorf("%w: record %d is missing", eventlog.ErrCorrupt, l.st.seq+1)
	}
	session.Apply(l.state, session.Stamp{Seq: r.Seq, Time: r.Time, Caller: policy.DID(r.Caller.DID)}, events)
	l.st.seq, l.st.head = r.Seq, r.Leaf
	l.st.tree.Add(r.Leaf)
	return nil
}

// readSecret takes the session's key from beside its first record.
func (l *live) readSecret(first *stored) error {
	if first.Payload == nil {
		return nil // collected: nothing can be recognised again, everything can be read
	}
	parts, err := audit.ParsePayload(first.Payload)
	if err != nil {
		return fmt.Errorf("%s, record 1: %w", first.Stream, err)
	}
	for _, p := range parts {
		if p.Name == "secret" && len(p.Bytes) == len(l.secret) {
			l.secret = [32]byte(p.Bytes)
		}
	}
	return nil
}

// resume brings a session that another process left up to date. The lock is held.
func (s *Session) resume(ctx context.Context) error {
	state := s.live.state
	dids := participants(state)
	handles, err := s.hv.agents.know(ctx, dids...)
	if err != nil {
		return err
	}
	for i, did := range dids {
		s.live.agents.watch(did, handles[i])
	}
	s.live.agents.follow(state, nil)
	if len(state.Bonds) > 0 && slices.ContainsFunc(handles, func(h *agentHandle) bool { return h.standing.Load().Blacklisted }) {
		s.hv.timers.Set(s.id, s.hv.opts.Clock.Now()) // its bonds end
	}
	if state.Lifecycle == session.Archived {
		return nil
	}
	// Nothing may follow the first record before the opening is durable in the system stream: mostly it is, and nothing is written.
	if err := s.hv.announce(ctx, s.id); err != nil {
		return err
	}
	if err := s.recover(ctx, false); err != nil {
		return err
	}
	s.recovered = true
	if len(state.Owed) > 0 {
		s.tellSoon() // who uses a session before the start's timer fires sets that timer anew, to the next deadline
	}
	if len(session.Tries(state)) > 0 {
		s.hv.offer(s.sendTries) // what was to be tried when the last process died
	}
	if len(s.heldForTools()) > 0 {
		s.hv.offer(s.toolsCame)
	}
	if session.Attends(state) {
		s.hv.offer(s.tick) // what it waits for may have come while nobody had the session; who uses it has set the start's timer anew
	}
	if state.Attributing > 0 {
		s.hv.offer(s.attributeSagas)
	}
	if state.Lifecycle == session.Terminating && state.Grace.IsZero() {
		s.cancelCalls(errGrace) // the effect that does so was lost if the record was reported lost and is there all the same
	}
	return nil
}

// recover records what another process, or a loss, left to be told. The lock is held.
func (s *Session) recover(ctx context.Context, lost bool) error {
	if err := s.hv.reserve(); err != nil {
		return err
	}
	env, trace, err := s.env(policy.System)
	var out session.Outcome
	var t *ticket
	if err == nil {
		// Only the first load of a process can find that its clock was set back. What is granted later is granted by this clock.
		env.ClockBehind = !s.recovered && (s.hv.clockBehind || s.hv.opts.Clock.Now().Before(s.live.state.Time))
		out, t, err = s.record(ctx, env, trace, session.Recover{Lost: lost}, errand{})
	}
	if err != nil || len(out.Events) == 0 {
		s.hv.committer.Release()
	}
	if err != nil {
		return err
	}
	// Waited for with the lock held: in an eventual session an id of the new epoch must not be out before the epoch is.
	return s.hv.wait(ctx, t)
}

func participants(state *session.State) []policy.DID {
	return slices.Sorted(maps.Keys(state.Participants))
}

// rearm sets the session's timer, and returns when its state alone wants that. The lock is held.
func (s *Session) rearm() (deadline time.Time) {
	deadline = session.Due(s.live.state)
	due := deadline
	for _, t := range s.live.tallies {
		if at := t.NextFlush(); !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	if !due.Equal(s.live.armed) {
		s.live.armed = due
		s.hv.timers.Set(s.id, due)
	}
	return deadline
}
